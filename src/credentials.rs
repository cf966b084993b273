//! What a token is fetched with.

use std::fmt::{self, Debug, Write};
use std::sync::Arc;

use secrecy::zeroize::Zeroize;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::key;
use crate::{Error, TokenKind};

/// The credentials of one app: the corp id and the app's secret, and the kind of token that they are for.
///
/// What they consist of depends on the source:
///
/// | source | id | secret | kind |
/// | --- | --- | --- | --- |
/// | [`GetToken`](crate::GetToken) | corp id (企业ID) | the app's secret (应用 Secret), or the permanent code of an app developed on a customer's behalf (代开发应用) | `access_token` |
/// | [`CorpToken`](crate::CorpToken) | the customer's corp id | permanent code (永久授权码) | `access_token` |
/// | [`DownstreamToken`](crate::DownstreamToken) | the downstream corp id | none: the agent id as the name of the app | `access_token` |
/// | [`SpecToken`](crate::SpecToken) | the provider's corp id | the zone's secret (专区 Secret) | `access_token` |
/// | [`SuiteToken`](crate::SuiteToken) | suite id | suite secret | `suite_access_token` |
/// | [`ProviderToken`](crate::ProviderToken) | the provider's corp id | provider secret | `provider_access_token` |
/// | [`JsapiTicket`](crate::JsapiTicket) | as for the access token | as for the access token | `jsapi_ticket` or `agent_config_ticket` |
///
/// Each app of a corp has its own secret and its own token (<https://developer.work.weixin.qq.com/document/path/91039>). Cloning is cheap,
/// but [`new`](Self::new) hashes the secret, so create the credentials of an app once and keep them. To send a request as a specific app,
/// attach its credentials with `with_extension`:
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
/// Leading and trailing whitespace and byte order marks are removed, so you can pass a secret read from a file, line break included. If
/// the id, the secret or the app is empty, calls fail with [`InvalidCredentials`](crate::ErrorKind::InvalidCredentials) before anything is
/// sent.
///
/// The secret is wiped from memory when the last clone is dropped, and [`Debug`] does not show it.
#[derive(Clone)]
pub struct Credentials(Arc<App>);

#[derive(Clone)]
struct App {
    kind: Arc<str>,
    id: String,
    app: String,
    secret: Option<SecretString>,
    name: Arc<str>,
}

impl Credentials {
    /// The credentials of the app with this secret, for access tokens. `id` is the corp id.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        let secret = SecretString::from(trimmed(secret.into()));
        let app = match secret.expose_secret() {
            "" => String::new(),
            secret => fingerprint(secret),
        };
        Self::of(id.into(), app, Some(secret))
    }

    /// Creates credentials for access tokens without a secret, for sources that don't need one, such as [`StoreOnly`](crate::StoreOnly).
    ///
    /// `app` becomes the last part of the [`TokenKey`](crate::TokenKey). To use the token that another program keeps in a shared store,
    /// pass what [`app`](Self::app) returns in that program: the first 32 hex digits of the secret's SHA-256. Otherwise any name works,
    /// such as the agent id.
    pub fn without_secret(id: impl Into<String>, app: impl Into<String>) -> Self {
        Self::of(id.into(), trimmed(app.into()), None)
    }

    fn of(id: String, app: String, secret: Option<SecretString>) -> Self {
        let id = trimmed(id);
        let kind = TokenKind::access_token().shared_name().clone();
        Self(Arc::new(App {
            name: key::name(&kind, &id, &app),
            kind,
            id,
            app,
            secret,
        }))
    }

    /// Makes these the credentials for another kind of token, such as those of a suite.
    ///
    /// ```
    /// # use reqwest_wecom::{Credentials, TokenKind};
    /// let suite = Credentials::new("ww_suite", "suite secret").of_kind(&TokenKind::suite_access_token());
    /// assert_eq!(suite.kind(), "suite_access_token");
    /// ```
    ///
    /// A middleware ignores an extension with credentials of another kind than its own. All other calls with them fail with
    /// [`InvalidCredentials`](crate::ErrorKind::InvalidCredentials).
    #[must_use]
    pub fn of_kind(mut self, kind: &TokenKind) -> Self {
        let app = Arc::make_mut(&mut self.0);
        app.kind = kind.shared_name().clone();
        app.name = key::name(&app.kind, &app.id, &app.app);
        self
    }

    /// The [name](TokenKind::name) of the kind of token that these credentials are for.
    pub fn kind(&self) -> &str {
        &self.0.kind
    }

    /// The corp id, or whatever id these credentials were created with.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The app's part of the [`TokenKey`](crate::TokenKey): the first 32 hex digits of its secret's SHA-256, or the name given to
    /// [`without_secret`](Self::without_secret). Safe to log.
    pub fn app(&self) -> &str {
        &self.0.app
    }

    /// The app's secret, if these credentials have one. Keep it out of logs.
    pub fn expose_secret(&self) -> Option<&str> {
        self.0.secret.as_ref().map(ExposeSecret::expose_secret)
    }

    /// The manager's name for this app: kind, id and app, without the deployment.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// An error if a text is empty, or if the credentials are for another kind of token.
    pub(crate) fn check(&self, kind: &TokenKind) -> Result<(), Error> {
        let App {
            id, app, secret, ..
        } = &*self.0;
        if self.kind() != kind.name() {
            Err(Error::other_kind(self.kind(), kind.name()))
        } else if id.is_empty() {
            Err(Error::invalid_credentials("id"))
        } else if !app.is_empty() {
            Ok(())
        } else if secret.is_some() {
            Err(Error::invalid_credentials("secret"))
        } else {
            Err(Error::invalid_credentials("app"))
        }
    }
}

impl Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("kind", &self.kind())
            .field("id", &self.id())
            .field("app", &self.app())
            .finish_non_exhaustive()
    }
}

/// The text without whitespace and byte order marks at both ends.
pub(crate) fn without_margin(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// Trims whitespace and byte order marks at both ends, and wipes the original text.
fn trimmed(mut text: String) -> String {
    let kept = without_margin(&text);
    if kept.len() == text.len() {
        return text;
    }
    let kept = kept.to_owned();
    text.zeroize();
    kept
}

/// The first 32 hex digits of the SHA-256 of a secret.
fn fingerprint(secret: &str) -> String {
    let digest = Sha256::digest(secret);
    digest.iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn every_kind_of_text_will_do() {
        let (owned_id, owned) = (String::from("corp"), String::from("secret"));
        let app = Credentials::new("corp", "secret").app().to_owned();
        for credentials in [
            Credentials::new(&owned_id, &owned),
            Credentials::new(String::from("corp"), owned.clone()),
            Credentials::new(std::borrow::Cow::Borrowed("corp"), owned.as_str()),
        ] {
            assert_eq!((credentials.id(), credentials.app()), ("corp", &*app));
        }
    }

    #[test]
    fn white_space_and_a_byte_order_mark_at_the_ends_make_no_difference() {
        let plain = Credentials::new("corp", "a secret");
        for (before, after) in [
            ("", "\n"),
            ("\u{feff}", "\r\n"),
            (" \t", "\u{a0}"),
            ("\n\u{feff} ", "\u{3000}\u{feff}\u{feff}"),
        ] {
            let id = format!("{before}corp{after}");
            let read = Credentials::new(id.as_str(), format!("{before}a secret{after}"));
            assert_eq!(read.id(), "corp");
            assert_eq!(read.expose_secret(), Some("a secret"));
            assert_eq!(read.app(), plain.app());
            let named = Credentials::without_secret(id, format!("{before}1000002{after}"));
            assert_eq!((named.id(), named.app()), ("corp", "1000002"));
        }
    }

    #[test]
    fn an_empty_text_is_an_error_that_names_it() {
        for (credentials, empty) in [
            (Credentials::new("", "secret"), "id"),
            (Credentials::new("corp", " \u{feff}\n"), "secret"),
            (Credentials::without_secret("\t", "app"), "id"),
            (Credentials::without_secret("corp", ""), "app"),
        ] {
            let error = credentials.check(&TokenKind::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidCredentials);
            assert!(
                error.to_string().contains(&format!("the {empty} ")),
                "{error}"
            );
        }
        for good in [
            Credentials::new("corp", "secret"),
            Credentials::without_secret("corp", "app"),
        ] {
            assert!(good.check(&TokenKind::default()).is_ok());
        }
    }

    #[test]
    fn another_kind_is_an_error_that_names_both() {
        let suite = TokenKind::suite_access_token();
        let credentials = Credentials::new("suite", "secret").of_kind(&suite);
        assert!(credentials.check(&suite).is_ok());
        let error = credentials.check(&TokenKind::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCredentials);
        let text = error.to_string();
        assert!(
            text.contains("`suite_access_token`") && text.contains("`access_token`"),
            "{text}"
        );
    }

    #[test]
    fn another_kind_changes_nothing_else() {
        for access in [
            Credentials::new("corp", "secret"),
            Credentials::without_secret("corp", "app"),
        ] {
            let other = access.clone().of_kind(&TokenKind::new("other"));
            assert_eq!((access.kind(), other.kind()), ("access_token", "other"));
            let same = |it: &Credentials| {
                (
                    it.id().to_owned(),
                    it.app().to_owned(),
                    it.expose_secret().map(str::to_owned),
                )
            };
            assert_eq!(same(&access), same(&other));
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let credentials = Credentials::new("corp", "canary");
        let shown = format!("{credentials:?} {credentials:#?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(
            shown.contains("corp") && shown.contains(credentials.app()),
            "{shown}"
        );
    }
}
