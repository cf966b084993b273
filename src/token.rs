//! The values: an access token, the credentials that it is fetched with, and the key it is kept under.

use std::fmt::{self, Debug, Display, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// The longest lifetime that is believed. Capping it keeps all arithmetic on times far from overflow.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// An access token: the secret value, when it was fetched, and when it expires.
///
/// Its identity, which `==` compares, is the value together with the time of the fetch: two fetches are two tokens, even
/// where the issuer repeated the value. Cloning it shares the value.
///
/// Times are kept to the millisecond, so that a token is still the same one after a way through a store; a lifetime of more
/// than 30 days is cut to 30 days. The value is wiped from memory when the last clone is dropped, and [`Debug`] does not
/// show it.
///
/// # Serialization
///
/// Stores may use [`Serialize`] and [`Deserialize`]. **The serialized form shows the secret.** Times are in
/// milliseconds since the Unix epoch:
///
/// ```json
/// {"value": "…", "fetched_at": 1700000000000, "expires_at": 1700007200000}
/// ```
#[derive(Clone)]
pub struct AccessToken(Arc<Parts>);

struct Parts {
    value: SecretString,
    fetched_at: SystemTime,
    expires_at: SystemTime,
}

impl AccessToken {
    /// A token fetched just now that lives for `lifetime`.
    ///
    /// A source that asks over the network does better to read the clock before it asks and to use
    /// [`from_parts`](Self::from_parts), so that the time of the answer's way does not count as life of the token.
    pub fn new(value: impl Into<SecretString>, lifetime: Duration) -> Self {
        let fetched_at = SystemTime::now();
        Self::from_parts(value, fetched_at, fetched_at + lifetime.min(MAX_LIFETIME))
    }

    /// A token from its parts, as a store keeps them.
    ///
    /// ```
    /// # use reqwest_wecom::AccessToken;
    /// # let token = AccessToken::new("value", std::time::Duration::from_secs(7200));
    /// let same = AccessToken::from_parts(token.expose_secret(), token.fetched_at(), token.expires_at());
    /// assert_eq!(same, token);
    /// ```
    pub fn from_parts(
        value: impl Into<SecretString>,
        fetched_at: SystemTime,
        expires_at: SystemTime,
    ) -> Self {
        let fetched_at = to_the_millisecond(fetched_at);
        let latest = fetched_at.checked_add(MAX_LIFETIME).unwrap_or(fetched_at);
        Self(Arc::new(Parts {
            value: value.into(),
            fetched_at,
            expires_at: to_the_millisecond(expires_at).min(latest),
        }))
    }

    /// The value itself, which gives access to all that the app may do. Keep it out of logs.
    pub fn expose_secret(&self) -> &str {
        self.0.value.expose_secret()
    }

    /// When the token was fetched.
    pub fn fetched_at(&self) -> SystemTime {
        self.0.fetched_at
    }

    /// When the token expires, unless the API ends it before.
    pub fn expires_at(&self) -> SystemTime {
        self.0.expires_at
    }

    /// Whether this may be the other one, from a store that has cut the time of the fetch to whole seconds.
    pub(crate) fn is_likely(&self, other: &Self) -> bool {
        let between = match self.fetched_at().duration_since(other.fetched_at()) {
            Ok(later) => later,
            Err(earlier) => earlier.duration(),
        };
        between < Duration::from_secs(1) && self.expose_secret() == other.expose_secret()
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.expires_at()
            .duration_since(self.fetched_at())
            .unwrap_or_default()
    }
}

impl PartialEq for AccessToken {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.fetched_at() == other.fetched_at()
                && self.expose_secret() == other.expose_secret())
    }
}

impl Eq for AccessToken {}

impl Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("fetched_at", &self.fetched_at())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Serialized<T> {
    value: T,
    fetched_at: u64,
    expires_at: u64,
}

impl Serialize for AccessToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Serialized {
            value: self.expose_secret(),
            fetched_at: unix_millis(self.fetched_at()),
            expires_at: unix_millis(self.expires_at()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AccessToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = Serialized::<String>::deserialize(deserializer)?;
        let time = |millis| {
            UNIX_EPOCH
                .checked_add(Duration::from_millis(millis))
                .unwrap_or(UNIX_EPOCH)
        };
        Ok(Self::from_parts(
            parts.value,
            time(parts.fetched_at),
            time(parts.expires_at),
        ))
    }
}

fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn to_the_millisecond(time: SystemTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(unix_millis(time)))
        .unwrap_or(UNIX_EPOCH)
}

/// The credentials of one app: the corp id and the app's secret.
///
/// Each app of a corp has its own secret and its own token. Cloning is cheap, and the [`key`](Self::key) is computed once,
/// so keep a `Credentials` for as long as the app is in use. Put one on a request with `with_extension` to send that
/// request as this app:
///
/// ```
/// # use reqwest_wecom::Credentials;
/// # fn f(client: reqwest_middleware::ClientWithMiddleware) {
/// let contacts = Credentials::new("ww1234", "secret of the contacts app");
/// client
///     .get("https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan")
///     .with_extension(contacts.clone())
/// # ;}
/// ```
///
/// The secret is wiped from memory when the last clone is dropped, and [`Debug`] does not show it.
#[derive(Clone)]
pub struct Credentials(Arc<App>);

struct App {
    corp_id: String,
    secret: Option<SecretString>,
    key: TokenKey,
}

impl Credentials {
    /// The credentials of the app that `secret` belongs to.
    pub fn new(corp_id: impl Into<String>, secret: impl Into<SecretString>) -> Self {
        let (corp_id, secret) = (corp_id.into(), secret.into());
        Self(Arc::new(App {
            key: TokenKey::new(&corp_id, &fingerprint(&secret)),
            corp_id,
            secret: Some(secret),
        }))
    }

    /// Names an app whose secret this program does not have, for sources and stores that need none.
    ///
    /// `app` stands in the [`TokenKey`] where the digest of the secret stands otherwise. To read what a program with the
    /// secret has put into a store, give the first 32 hex digits of the secret's SHA-256; where something else fills the
    /// store, any name will do, such as the agent id.
    pub fn without_secret(corp_id: impl Into<String>, app: impl AsRef<str>) -> Self {
        let corp_id = corp_id.into();
        Self(Arc::new(App {
            key: TokenKey::new(&corp_id, app.as_ref()),
            corp_id,
            secret: None,
        }))
    }

    /// The corp id.
    pub fn corp_id(&self) -> &str {
        &self.0.corp_id
    }

    /// The app's secret, if these credentials hold one. Keep it out of logs.
    pub fn expose_secret(&self) -> Option<&str> {
        self.0.secret.as_ref().map(ExposeSecret::expose_secret)
    }

    /// The key under which the token of this app is kept.
    pub fn key(&self) -> &TokenKey {
        &self.0.key
    }
}

impl Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("corp_id", &self.corp_id())
            .field("key", &self.key().as_str())
            .finish_non_exhaustive()
    }
}

/// The first 32 hex digits of the SHA-256 of a secret.
fn fingerprint(secret: &SecretString) -> String {
    let digest = Sha256::digest(secret.expose_secret());
    digest.iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The name under which the token of one app is kept: `access_token:{corp id}:{app}`.
///
/// `{app}` is the first 32 hex digits of the SHA-256 of the app's secret, or the name given to
/// [`Credentials::without_secret`]. It never holds the secret itself, so it may be logged. It is stable: it may be used as a
/// key in a database, and by programs in other languages.
///
/// ```
/// use reqwest_wecom::Credentials;
///
/// let credentials = Credentials::new("ww1234", "secret");
/// assert_eq!(credentials.key().as_str(), "access_token:ww1234:2bb80d537b1da3e38bd30361aa855686");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey(Arc<str>);

impl TokenKey {
    fn new(corp_id: &str, app: &str) -> Self {
        Self(format!("access_token:{corp_id}:{app}").into())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    #[test]
    fn two_fetches_of_one_value_are_two_tokens() {
        let first = AccessToken::from_parts("same", at(1), at(7201));
        let second = AccessToken::from_parts("same", at(2), at(7202));
        assert_ne!(first, second);
        assert_eq!(first, AccessToken::from_parts("same", at(1), at(9)));
    }

    #[test]
    fn a_token_is_the_same_after_serialization() {
        let token = AccessToken::new("value", Duration::from_secs(7200));
        let json = serde_json::to_string(&token).unwrap();
        let back: AccessToken = serde_json::from_str(&json).unwrap();
        assert_eq!(back, token);
        assert_eq!(back.expires_at(), token.expires_at());
    }

    #[test]
    fn lifetimes_are_capped_and_never_overflow() {
        let longest = AccessToken::new("value", Duration::MAX);
        assert_eq!(longest.lifetime(), MAX_LIFETIME);

        let json = format!(
            r#"{{"value":"v","fetched_at":{},"expires_at":{0}}}"#,
            u64::MAX
        );
        let far: AccessToken = serde_json::from_str(&json).unwrap();
        assert!(far.lifetime() <= MAX_LIFETIME);
        assert_eq!(
            AccessToken::from_parts("value", at(9), at(1)).lifetime(),
            Duration::ZERO
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let token = AccessToken::new("canary", Duration::from_secs(1));
        let credentials = Credentials::new("corp", "canary");
        let shown = format!("{token:?} {token:#?} {credentials:?} {credentials:#?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("corp"));
    }

    #[test]
    fn keys_tell_apps_and_corps_apart() {
        let keys = [
            Credentials::new("corp", "a"),
            Credentials::new("corp", "b"),
            Credentials::new("other", "a"),
            Credentials::without_secret("corp", "1000002"),
        ]
        .map(|credentials| credentials.key().clone());
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{key}");
        }
        assert_eq!(keys[0], *Credentials::new("corp", "a").key());
        assert_eq!(keys[3].as_str(), "access_token:corp:1000002");
    }
}
