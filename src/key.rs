//! The names under which tokens are kept.

use std::fmt::{self, Debug, Display};
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};

use crate::{Audience, Credentials};

/// What is encoded in a part of a key.
const IN_PART: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'-');

/// What is encoded in the name of a deployment: a host, a port, and a path.
const IN_DEPLOYMENT: &AsciiSet = &IN_PART.remove(b':').remove(b'/').remove(b'[').remove(b']');

/// The name under which a store keeps the token of one app.
///
/// [`TokenManager::key`](crate::TokenManager::key) returns it. It is `{kind}:{id}:{app}` for the public API of WeCom, and
/// `{kind}@{host}{path}:{id}:{app}` for any other base URL of the [`Audience`]. So two kinds of token and two deployments never share a token,
/// even in one store. Deployments are told apart by host, port and path: one port serves either `http` or `https`.
///
/// | part | what it is |
/// | --- | --- |
/// | `{kind}` | the [name](crate::TokenKind::name) of the kind of token, such as `access_token` |
/// | `{host}` | the host of the base URL, with `:{port}`, unless it is `https` on port 443 |
/// | `{path}` | the path of the base URL, without the slash at its end |
/// | `{id}` | the id of the credentials: the corp id, for access tokens |
/// | `{app}` | the first 32 hex digits of the SHA-256 of the app's secret, or the name given to [`Credentials::without_secret`] |
///
/// In each part, all characters except `A-Za-z0-9._~-` are percent-encoded. Host and path also keep `:`, `/`, `[` and `]`. To take a key
/// apart, split it at its last two colons. To use it as a file name, percent-encode `%`, `:` and `/` again.
///
/// The key never holds the secret, so you can log it. Its form is stable: you can use it in a database, and build it in other languages.
///
/// ```
/// use reqwest_wecom::{Credentials, GetToken, TokenManager};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let http = reqwest::Client::new();
/// let credentials = Credentials::new("ww1234", "secret");
///
/// let public = TokenManager::builder(GetToken::new(http.clone())).build();
/// let key = public.key(&credentials);
/// assert_eq!(key.as_str(), "access_token:ww1234:2bb80d537b1da3e38bd30361aa855686");
///
/// let gateway = GetToken::new(http).base_url("https://gateway.example:7443/proxy/".parse()?);
/// let key = TokenManager::builder(gateway).build().key(&credentials);
/// assert_eq!(key.as_str(), "access_token@gateway.example:7443/proxy:ww1234:2bb80d537b1da3e38bd30361aa855686");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenKey(Arc<str>);

impl TokenKey {
    pub(crate) fn new(audience: &Audience, credentials: &Credentials) -> Self {
        let name = credentials.name();
        Self(match name.split_once(':') {
            Some((kind, app)) if !audience.is_public() => {
                format!("{kind}@{}:{app}", deployment(audience)).into()
            }
            _ => name.clone(),
        })
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `{kind}:{id}:{app}`, each part encoded so that it has no colon. For the public API, this is the key.
pub(crate) fn name(kind: &str, id: &str, app: &str) -> Arc<str> {
    format!("{}:{}:{}", part(kind), part(id), part(app)).into()
}

/// A text as a part of a key, encoded so that it has no colon.
pub(crate) fn part(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, IN_PART)
}

fn deployment(audience: &Audience) -> String {
    let url = audience.base_url();
    let mut deployment = url.host_str().unwrap_or_default().to_owned();
    let port = match url.scheme() {
        "https" => url.port(),
        _ => url.port_or_known_default(),
    };
    if let Some(port) = port {
        deployment.push_str(&format!(":{port}"));
    }
    let path = url.path();
    deployment.push_str(path.strip_suffix('/').unwrap_or(path));
    utf8_percent_encode(&deployment, IN_DEPLOYMENT).to_string()
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
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::TokenKind;

    /// A text that is likely to be the same as another, or to be confused with it.
    fn text() -> impl Strategy<Value = &'static str> {
        proptest::sample::select(&["a", "a@h", "a:a"][..])
    }

    fn key(base_url: &str, credentials: &Credentials) -> TokenKey {
        TokenKey::new(&Audience::new(base_url.parse().unwrap()), credentials)
    }

    #[test]
    fn keys_have_the_documented_form() {
        let app = Credentials::without_secret("ww1", "1000002");
        for (base_url, expected) in [
            ("https://qyapi.weixin.qq.com", "access_token:ww1:1000002"),
            (
                "https://qyapi.weixin.qq.com:443/",
                "access_token:ww1:1000002",
            ),
            (
                "http://qyapi.weixin.qq.com/",
                "access_token@qyapi.weixin.qq.com:80:ww1:1000002",
            ),
            ("https://h:7443/", "access_token@h:7443:ww1:1000002"),
            ("https://h/a/b", "access_token@h/a/b:ww1:1000002"),
            ("https://h/a/b/", "access_token@h/a/b:ww1:1000002"),
            (
                "https://[::1]:7443/a:b@c",
                "access_token@[::1]:7443/a:b%40c:ww1:1000002",
            ),
        ] {
            assert_eq!(key(base_url, &app).as_str(), expected, "{base_url}");
        }
    }

    #[test]
    fn keys_tell_apps_corps_and_deployments_apart() {
        let credentials = [
            Credentials::new("corp", "a"),
            Credentials::new("corp", "b"),
            Credentials::new("other", "a"),
            Credentials::without_secret("ww1", "b:c"),
            Credentials::without_secret("ww1:b", "c"),
            Credentials::without_secret("ww1%3Ab", "c"),
            Credentials::without_secret("企业", "应用"),
        ];
        let base_urls = [
            "https://qyapi.weixin.qq.com/",
            "http://qyapi.weixin.qq.com/",
            "https://h/",
            "http://h/",
            "http://h:443/",
            "https://h:1/",
            "https://h//",
            "https://h/1",
            "https://h/1:corp",
            "https://h/1%3Acorp",
            "https://h/a*b",
            "https://h/a%2Ab",
        ];
        let mut seen = HashMap::new();
        for base_url in base_urls {
            for credentials in &credentials {
                let key = key(base_url, credentials);
                let before = seen.insert(key.clone(), (base_url, credentials));
                assert!(before.is_none(), "{key}: {base_url} and {before:?}");
            }
        }
    }

    #[test]
    fn the_secret_and_the_first_digits_of_its_digest_make_one_key() {
        let with = Credentials::new("ww1234", "secret");
        let without = Credentials::without_secret("ww1234", "2bb80d537b1da3e38bd30361aa855686");
        assert_eq!(key("https://h/", &with), key("https://h/", &without));
    }

    #[test]
    fn the_kind_comes_first() {
        let kind = TokenKind::new("a:b@c/d");
        let app = Credentials::without_secret("ww1", "x").of_kind(&kind);
        let public = key("https://qyapi.weixin.qq.com/", &app);
        assert_eq!(public.as_str(), "a%3Ab%40c%2Fd:ww1:x");
        assert_eq!(key("https://h/p", &app).as_str(), "a%3Ab%40c%2Fd@h/p:ww1:x");
    }

    proptest! {
        #[test]
        fn two_kinds_never_share_a_key(
            kinds in [text(), text()], ids in [text(), text()], apps in [text(), text()], public in [any::<bool>(), any::<bool>()],
        ) {
            let name = |n: usize| {
                let kind = TokenKind::new(kinds[n]);
                let credentials = Credentials::without_secret(ids[n], apps[n]).of_kind(&kind);
                let base_url = if public[n] { "https://qyapi.weixin.qq.com/" } else { "https://h/" };
                key(base_url, &credentials)
            };
            prop_assert!(kinds[0] == kinds[1] || name(0) != name(1), "{} {}", name(0), name(1));
        }

        #[test]
        fn a_key_can_be_taken_apart_again(id in "[ -~é张]{1,12}", app in "[ -~é张]{1,12}", path in "[ -~é张]{0,12}") {
            let mut url: reqwest::Url = "https://h:7443/".parse().unwrap();
            url.set_path(&path);
            let audience = Audience::new(url);
            let credentials = Credentials::without_secret(id, app);
            let key = TokenKey::new(&audience, &credentials);

            let decoded = |part: &str| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned();
            let parts: Vec<_> = key.as_str().rsplitn(3, ':').map(decoded).collect();
            let path = audience.base_url().path().strip_suffix('/').unwrap();
            prop_assert_eq!(&*parts[0], credentials.app());
            prop_assert_eq!(&*parts[1], credentials.id());
            prop_assert_eq!(&parts[2], &format!("access_token@h:7443{path}"));
            prop_assert!(!key.as_str().contains(['{', '}']), "they would end the hash tag of a Redis cluster");
        }
    }
}
