//! What a token is fetched with.

use std::fmt::{self, Debug, Write};
use std::sync::Arc;

use secrecy::zeroize::Zeroize;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::key;

/// The credentials of one app: the corp id and the app's secret.
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

struct App {
    id: String,
    app: String,
    secret: Option<SecretString>,
    name: Arc<str>,
}

impl Credentials {
    /// The credentials of the app with this secret. `id` is the corp id.
    pub fn new(id: impl Into<String>, secret: impl Into<String>) -> Self {
        let secret = SecretString::from(trimmed(secret.into()));
        let app = match secret.expose_secret() {
            "" => String::new(),
            secret => fingerprint(secret),
        };
        Self::of(id.into(), app, Some(secret))
    }

    /// Creates credentials without a secret, for sources that don't need one, such as [`StoreOnly`](crate::StoreOnly).
    ///
    /// `app` becomes the last part of the [`TokenKey`](crate::TokenKey). To use the token that another program keeps in a shared store,
    /// pass what [`app`](Self::app) returns in that program: the first 32 hex digits of the secret's SHA-256. Otherwise any name works,
    /// such as the agent id.
    pub fn without_secret(id: impl Into<String>, app: impl Into<String>) -> Self {
        Self::of(id.into(), trimmed(app.into()), None)
    }

    fn of(id: String, app: String, secret: Option<SecretString>) -> Self {
        let id = trimmed(id);
        Self(Arc::new(App {
            name: key::name(&id, &app),
            id,
            app,
            secret,
        }))
    }

    /// The corp id.
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

    /// The manager's name for this app: id and app, without the deployment.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// An error if a text is empty.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let App {
            id, app, secret, ..
        } = &*self.0;
        if id.is_empty() {
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
            .field("id", &self.id())
            .field("app", &self.app())
            .finish_non_exhaustive()
    }
}

/// Trims whitespace and byte order marks at both ends, and wipes the original text.
fn trimmed(mut text: String) -> String {
    let kept = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
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
            let error = credentials.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidCredentials);
            assert!(
                error.to_string().contains(&format!("the {empty} ")),
                "{error}"
            );
        }
        assert!(Credentials::new("corp", "secret").check().is_ok());
        assert!(Credentials::without_secret("corp", "app").check().is_ok());
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
