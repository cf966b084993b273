//! The values: an access token, and what a source returns.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use secrecy::{ExposeSecret, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer lifetimes are cut to this. It keeps all arithmetic on times far from overflow.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The longest value that is taken for an access token, in bytes. WeCom's have at most 512.
pub(crate) const LONGEST_VALUE: usize = 4096;

/// A token that is younger is not replaced because it expires too soon for a caller.
const JUST_NOW: Duration = Duration::from_secs(60);

/// An access token: the secret value, when it was fetched, and when it expires.
///
/// `==` compares the value and the time of the fetch. Two fetches are two tokens, even if the issuer returned the same value. Cloning
/// shares the value.
///
/// Times are kept to the millisecond, so that a token stays equal to itself after a round trip through a store. A lifetime of more than
/// 30 days is cut to 30 days. The value is wiped from memory when the last clone is dropped, and [`Debug`] does not show it.
///
/// # Serialization
///
/// Stores can use [`Serialize`] and [`Deserialize`]. **The serialized form shows the secret.** Times are in milliseconds since the Unix
/// epoch:
///
/// ```json
/// {"value": "…", "fetched_at": 1700000000000, "expires_at": 1700007200000}
/// ```
///
/// The error for anything else shows nothing of what was read.
#[derive(Clone)]
pub struct AccessToken(Arc<Parts>);

struct Parts {
    value: SecretString,
    fetched_at: SystemTime,
    expires_at: SystemTime,
    /// Between the fetch and the expiry by the clock of who fetched it. `expires_at` may be by another clock.
    lifetime: Duration,
}

impl AccessToken {
    /// A token from its parts, as a store keeps them.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use reqwest_wecom::AccessToken;
    ///
    /// let now = SystemTime::now();
    /// let token = AccessToken::from_parts("value", now, now + Duration::from_secs(7200));
    /// let same = AccessToken::from_parts(token.expose_secret(), token.fetched_at(), token.expires_at());
    /// assert_eq!(same, token);
    /// ```
    pub fn from_parts(
        value: impl Into<String>,
        fetched_at: SystemTime,
        expires_at: SystemTime,
    ) -> Self {
        Self::from_secret(value.into().into(), fetched_at, expires_at)
    }

    /// What a source returned when it was asked at this time.
    pub(crate) fn stamped(fetched: FetchedToken, asked_at: SystemTime) -> Self {
        let FetchedToken { value, expires_in } = fetched;
        Self::from_secret(value, asked_at, asked_at + expires_in.min(MAX_LIFETIME))
    }

    fn from_secret(value: SecretString, fetched_at: SystemTime, expires_at: SystemTime) -> Self {
        let fetched_at = to_the_millisecond(fetched_at);
        let latest = fetched_at.checked_add(MAX_LIFETIME).unwrap_or(fetched_at);
        let expires_at = to_the_millisecond(expires_at).min(latest);
        Self(Arc::new(Parts {
            value,
            fetched_at,
            expires_at,
            lifetime: expires_at.duration_since(fetched_at).unwrap_or_default(),
        }))
    }

    /// The same token, with its expiry by another clock than the one of who fetched it.
    pub(crate) fn expiring_at(&self, expires_at: SystemTime) -> Self {
        Self(Arc::new(Parts {
            value: self.0.value.clone(),
            fetched_at: self.0.fetched_at,
            expires_at: to_the_millisecond(expires_at),
            lifetime: self.0.lifetime,
        }))
    }

    /// The value itself. It gives access to everything that the app may do, so keep it out of logs.
    pub fn expose_secret(&self) -> &str {
        self.0.value.expose_secret()
    }

    /// When the token was fetched: the time just before the source was asked for it.
    pub fn fetched_at(&self) -> SystemTime {
        self.0.fetched_at
    }

    /// When the token expires, unless the API ends it before.
    pub fn expires_at(&self) -> SystemTime {
        self.0.expires_at
    }

    /// Whether the value can be a token: it is not blank, and not too long.
    pub(crate) fn is_plausible(&self) -> bool {
        let value = self.expose_secret();
        value.len() <= LONGEST_VALUE && !is_blank(value)
    }

    /// Whether both may be the same token: a store may round times to whole seconds.
    pub(crate) fn is_likely(&self, other: &Self) -> bool {
        let (one, two) = (self.fetched_at(), other.fetched_at());
        let between = one
            .duration_since(two)
            .unwrap_or_else(|error| error.duration());
        let is_whole = |time| to_the_second(time) == time;
        let is_cut = between < Duration::from_secs(1) && (is_whole(one) || is_whole(two));
        (one == two || is_cut) && self.expose_secret() == other.expose_secret()
    }

    /// When the token was fetched, by the clock of `expires_at`.
    pub(crate) fn began(&self) -> SystemTime {
        let began = self.expires_at().checked_sub(self.lifetime());
        began
            .filter(|_| !self.lifetime().is_zero())
            .unwrap_or(self.fetched_at())
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.0.lifetime
    }

    /// How long it lives from now.
    pub(crate) fn left(&self, now: SystemTime) -> Duration {
        self.expires_at().duration_since(now).unwrap_or_default()
    }

    /// Whether fetching another one is of no use to a caller who needs so much time: this one has it, or the source has given less, or has
    /// given this one just now.
    pub(crate) fn is_best_for(&self, min: Duration, now: SystemTime) -> bool {
        let (left, lifetime) = (self.left(now), self.lifetime());
        let age = lifetime.saturating_sub(left);
        left >= min || lifetime < min || age < JUST_NOW.min(lifetime / 10)
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
        let parts = Serialized::<String>::deserialize(deserializer).map_err(|_quotes_the_input| {
            D::Error::custom(
                "not an access token: expected the text `value` and the whole numbers `fetched_at` and `expires_at`",
            )
        })?;
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

/// What a [`TokenSource`](crate::TokenSource) returns: the value of a token, and how long it lives.
///
/// The manager turns it into an [`AccessToken`]. The lifetime counts from just before the manager called the source, so a slow answer
/// never makes a token look valid for too long. [`Debug`] does not show the value.
///
/// ```
/// use std::time::Duration;
/// use reqwest_wecom::FetchedToken;
///
/// let token = FetchedToken::new("value", Duration::from_secs(7200));
/// assert_eq!(token.expose_secret(), "value");
/// ```
#[derive(Clone)]
pub struct FetchedToken {
    value: SecretString,
    expires_in: Duration,
}

impl FetchedToken {
    /// Creates a token with this value and lifetime.
    ///
    /// The value must have 1 to 4,096 bytes and not be blank. Otherwise the fetch fails with [`Refused`](crate::ErrorKind::Refused). A token with no time left when
    /// it arrives is a [`Transient`](crate::ErrorKind::Transient) failure. A lifetime of more than 30 days is cut to 30 days.
    pub fn new(value: impl Into<String>, expires_in: Duration) -> Self {
        Self::from_secret(value.into().into(), expires_in)
    }

    pub(crate) fn from_secret(value: SecretString, expires_in: Duration) -> Self {
        Self { value, expires_in }
    }

    /// The value itself. Keep it out of logs.
    pub fn expose_secret(&self) -> &str {
        self.value.expose_secret()
    }

    /// The same token, which lives no longer than this.
    pub(crate) fn expiring_within(mut self, longest: Duration) -> Self {
        self.expires_in = self.expires_in.min(longest);
        self
    }

    /// How long the token lives, from the moment when the source was asked.
    pub fn expires_in(&self) -> Duration {
        self.expires_in
    }
}

impl Debug for FetchedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedToken")
            .field("expires_in", &self.expires_in)
            .finish_non_exhaustive()
    }
}

/// Whether a value has nothing that can be seen.
pub(crate) fn is_blank(value: &str) -> bool {
    value.chars().all(|c| c.is_whitespace() || c == '\u{feff}')
}

pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn to_the_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH
        .checked_add(Duration::from_secs(since.as_secs()))
        .unwrap_or(UNIX_EPOCH)
}

pub(crate) fn to_the_millisecond(time: SystemTime) -> SystemTime {
    UNIX_EPOCH
        .checked_add(Duration::from_millis(unix_millis(time)))
        .unwrap_or(UNIX_EPOCH)
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
    fn a_store_may_cut_times_to_seconds_but_not_to_fractions() {
        let at = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        let token = |millis| AccessToken::from_parts("same", at(millis), at(9_000_000));
        assert!(token(1500).is_likely(&token(1500)));
        assert!(token(1500).is_likely(&token(1000)) && token(1000).is_likely(&token(1500)));
        assert!(token(1500).is_likely(&token(2000)));
        assert!(!token(1500).is_likely(&token(1501)));
        assert!(!token(1500).is_likely(&token(3000)));
        let other = AccessToken::from_parts("other", at(1000), at(9_000_000));
        assert!(!token(1500).is_likely(&other));
    }

    #[test]
    fn a_token_is_the_same_after_serialization() {
        let now = SystemTime::now();
        let token = AccessToken::from_parts("value", now, now + Duration::from_secs(7200));
        let json = serde_json::to_string(&token).unwrap();
        let back: AccessToken = serde_json::from_str(&json).unwrap();
        assert_eq!(back, token);
        assert_eq!(back.expires_at(), token.expires_at());
    }

    #[test]
    fn what_is_no_token_is_an_error_that_shows_nothing_of_it() {
        for row in [
            r#""canary""#,
            r#"["canary"]"#,
            r#"{"value":"canary"}"#,
            r#"{"value":"canary","fetched_at":"canary","expires_at":1}"#,
            r#"{"value":["canary"],"fetched_at":1,"expires_at":1}"#,
            r#"{"canary":1}"#,
            "canary",
            "1234567",
        ] {
            let error = serde_json::from_str::<AccessToken>(row).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("canary"), "{shown}");
            assert!(!shown.contains("1234567"), "{shown}");
            assert!(!shown.contains("Serialized"), "{shown}");
            assert!(shown.contains("not an access token"), "{shown}");
        }
    }

    #[test]
    fn lifetimes_are_capped_and_never_overflow() {
        let fetched = FetchedToken::new("value", Duration::MAX);
        let longest = AccessToken::stamped(fetched, SystemTime::now());
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
        let token = AccessToken::from_parts("canary", at(1), at(2));
        let fetched = FetchedToken::new("canary", Duration::from_secs(1));
        let shown = format!("{token:?} {token:#?} {fetched:?} {fetched:#?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("expires_in"), "{shown}");
    }
}
