//! Which requests get a token, and putting a token on a URL and taking it off.

use std::fmt::{self, Display};

use form_urlencoded::byte_serialize;
use http::Extensions;
use reqwest::Url;
use secrecy::zeroize::Zeroizing;

use crate::kind::{decoded, other_kind_for};
use crate::redact;
use crate::{AccessToken, Audience, TokenKind};

/// Request extension that makes the middleware send the request unchanged, without a token.
///
/// ```
/// # use reqwest_wecom::NoAccessToken;
/// # fn f(client: reqwest_middleware::ClientWithMiddleware) {
/// client
///     .get("https://qyapi.weixin.qq.com/cgi-bin/get_api_domain_ip")
///     .with_extension(NoAccessToken)
/// # ;}
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoAccessToken;

/// Which requests get a token: those to the API that the source's tokens are for, on the paths that take this kind.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    base_url: Url,
    kind: TokenKind,
}

impl Scope {
    pub(crate) fn of(audience: &Audience) -> Self {
        Self {
            base_url: audience.base_url().clone(),
            kind: audience.kind().clone(),
        }
    }

    pub(crate) fn kind(&self) -> &TokenKind {
        &self.kind
    }

    /// The query parameter for the token, if a request to this URL gets one. Otherwise emits an event that says why not.
    pub(crate) fn parameter(&self, url: &Url, extensions: &Extensions) -> Option<&str> {
        let is_at_home = self.is_at_home(url);
        if !is_at_home && !self.is_at_home_but_for_scheme(url) {
            // A path on another host may be a secret.
            let host = url.host_str();
            tracing::trace!(target: crate::TARGET, event = "request_elsewhere", host, "the request gets no token: it is not below the base URL");
            return None;
        }
        match self.parameter_at_home(url, extensions) {
            Ok(parameter) if is_at_home => Some(parameter),
            Ok(_) => {
                tracing::warn!(target: crate::TARGET, event = "scheme_is_http", path = url.path(), "the request gets no token: its scheme must be https, as in the base URL");
                None
            }
            Err(reason) => {
                tracing::debug!(target: crate::TARGET, event = "request_unchanged", path = url.path(), %reason, "the request gets no token");
                None
            }
        }
    }

    fn parameter_at_home<'s: 'u, 'u>(
        &'s self,
        url: &'u Url,
        extensions: &Extensions,
    ) -> Result<&'s str, Unchanged<'u>> {
        let path = self.below_base(url).ok_or(Unchanged::NotBelowBase)?;
        if extensions.get::<NoAccessToken>().is_some() {
            return Err(Unchanged::AskedFor);
        }
        let parameter = self.kind.parameter_on(path);
        let parameter = parameter.ok_or(Unchanged::Path(path, &self.kind))?;
        if may_lead_elsewhere(path) {
            Err(Unchanged::DotSegment)
        } else if has_credential(url, parameter) {
            Err(Unchanged::HasCredential)
        } else {
            Ok(parameter)
        }
    }

    /// Whether an answer from this URL is the API's own.
    pub(crate) fn is_api(&self, url: &Url) -> bool {
        let takes_token = |path| self.kind.parameter_on(path).is_some();
        self.is_at_home(url) && self.below_base(url).is_some_and(takes_token)
    }

    /// The path relative to the base URL.
    fn below_base<'a>(&self, url: &'a Url) -> Option<&'a str> {
        url.path().strip_prefix(self.base_url.path())
    }

    /// Whether this is the API over `http`, though the base URL says `https`.
    fn is_at_home_but_for_scheme(&self, url: &Url) -> bool {
        url.scheme() == "http"
            && self.base_url.scheme() == "https"
            && url.host_str() == self.base_url.host_str()
            && url.port() == self.base_url.port()
    }

    fn is_at_home(&self, url: &Url) -> bool {
        // This comparison is enough for nearly every URL of the API, because few have a user name or a password.
        url.as_str().starts_with(self.base_url.as_str())
            || url.host_str() == self.base_url.host_str()
                && url.scheme() == self.base_url.scheme()
                && url.port() == self.base_url.port()
    }
}

/// Why a request to the API's host gets no token.
enum Unchanged<'a> {
    NotBelowBase,
    AskedFor,
    Path(&'a str, &'a TokenKind),
    DotSegment,
    HasCredential,
}

impl Display for Unchanged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBelowBase => f.write_str("the path is not below that of the base URL"),
            Self::AskedFor => f.write_str("the request has `NoAccessToken`"),
            Self::Path(path, kind) => match other_kind_for(path, kind) {
                Some(other) => write!(
                    f,
                    "the path takes the kind of token `{}`, not `{}`",
                    other.name(),
                    kind.name()
                ),
                None => write!(
                    f,
                    "the path is not one that takes the kind of token `{}`",
                    kind.name()
                ),
            },
            Self::DotSegment => f.write_str("the path has an encoded dot segment"),
            Self::HasCredential => f.write_str("the query has a credential"),
        }
    }
}

/// Whether a server that decodes the path before it resolves dot segments would see another path. [`Url`] has already resolved those
/// between plain slashes, even if the dots were encoded.
fn may_lead_elsewhere(path: &str) -> bool {
    let is_slash = |byte: &u8| matches!(byte, b'/' | b'\\');
    path.contains('%')
        && decoded(path.as_bytes())
            .split(is_slash)
            .any(|segment| segment == b".." || segment == b".")
}

/// Whether the query has one of the credentials of WeCom, or already this parameter.
fn has_credential(url: &Url, parameter: &str) -> bool {
    let query = url.query().unwrap_or_default().as_bytes();
    let mut pairs = query.split(|&byte| byte == b'&');
    pairs.any(|pair| {
        let name = pair.split(|&byte| byte == b'=').next();
        let name = decoded(name.unwrap_or_default());
        let end = &name[name.len().saturating_sub(ACCESS_TOKEN.len())..];
        end.eq_ignore_ascii_case(ACCESS_TOKEN)
            || name.eq_ignore_ascii_case(b"key")
            || name.eq_ignore_ascii_case(b"response_code")
            || name.eq_ignore_ascii_case(parameter.as_bytes())
    })
}

/// How the names end that tokens of WeCom have in a query.
const ACCESS_TOKEN: &[u8] = b"access_token";

/// A token as part of a query.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) parameter: &'a str,
    pub(crate) token: &'a AccessToken,
}

impl Pair<'_> {
    /// Puts the token at the end of the query. The rest of the URL stays byte for byte as it was.
    pub(crate) fn put_on(self, url: &mut Url) {
        url.query_pairs_mut()
            .append_pair(self.parameter, self.token.expose_secret());
    }

    /// The URL that the answer came from, without the token, if a redirect led to another one.
    pub(crate) fn moved(self, came_from: &Url, sent_to: &Url) -> Option<Url> {
        let mark = match sent_to.query() {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        let added = came_from.as_str().strip_prefix(sent_to.as_str());
        let value = added.and_then(|added| {
            let pair = added.strip_prefix(mark)?;
            pair.strip_prefix(self.parameter)?.strip_prefix('=')
        });
        // WeCom's tokens need no percent-encoding. A token that does is handled below.
        if value == Some(self.token.expose_secret()) {
            return None;
        }
        let mut url = came_from.clone();
        self.take_off(&mut url, sent_to);
        Some(url)
    }

    /// Removes the token from the URL. If this is not the URL that was asked for, a redirect may have moved or encoded the token, so that
    /// copy is removed too.
    pub(crate) fn take_off(self, url: &mut Url, asked: &Url) {
        let pair = self.encoded();
        if url.query() == Some(&**pair) {
            url.set_query(asked.query().filter(|query| query.is_empty()));
        } else if let Some(rest) = url
            .query()
            .and_then(|query| query.strip_suffix(&**pair)?.strip_suffix('&'))
        {
            let rest = rest.to_owned();
            url.set_query(Some(&rest));
        }
        // What was answered has no fragment.
        let is_as_asked = url == asked || asked.as_str().split('#').next() == Some(url.as_str());
        if !is_as_asked {
            redact::take_out(url, self.token.expose_secret());
        }
    }

    /// The parameter and the value as a query has them.
    fn encoded(self) -> Zeroizing<String> {
        let (name, value) = (
            self.parameter.as_bytes(),
            self.token.expose_secret().as_bytes(),
        );
        // As large as it may become, since a string that grows leaves a copy behind.
        let longest = 3 * name.len() + 1 + 3 * value.len();
        let mut pair = Zeroizing::new(String::with_capacity(longest));
        pair.extend(byte_serialize(name));
        pair.push('=');
        pair.extend(byte_serialize(value));
        pair
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn token(value: &str) -> AccessToken {
        let now = std::time::SystemTime::now();
        AccessToken::from_parts(value, now, now + Duration::from_secs(7200))
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn pair(token: &AccessToken) -> Pair<'_> {
        let parameter = "access_token";
        Pair { parameter, token }
    }

    fn takes_token(scope: &Scope, url: &Url) -> bool {
        scope.parameter(url, &Extensions::new()).is_some()
    }

    #[test]
    fn a_token_goes_on_and_comes_off_without_a_trace() {
        let token = token("a-b_c.d~e");
        for (before, with) in [
            ("https://h/p", "https://h/p?access_token=a-b_c.d%7Ee"),
            ("https://h/p?", "https://h/p?access_token=a-b_c.d%7Ee"),
            (
                "https://h/p?x=1",
                "https://h/p?x=1&access_token=a-b_c.d%7Ee",
            ),
            (
                "https://h/p?x=1&",
                "https://h/p?x=1&&access_token=a-b_c.d%7Ee",
            ),
            ("https://h/p#f", "https://h/p?access_token=a-b_c.d%7Ee#f"),
            (
                "https://h/p%20q?x=%e4+%2B&y='#f?g",
                "https://h/p%20q?x=%e4+%2B&y=%27&access_token=a-b_c.d%7Ee#f?g",
            ),
        ] {
            let before = url(before);
            let mut now = before.clone();
            pair(&token).put_on(&mut now);
            assert_eq!(now.as_str(), with);
            pair(&token).take_off(&mut now, &before);
            assert_eq!(now, before);
        }
    }

    #[test]
    fn a_token_of_any_characters_arrives_as_it_is() {
        let value = "&=#+% \n/?é'\"";
        let mut url = url("https://h/p?x=1");
        pair(&token(value)).put_on(&mut url);
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        assert_eq!(pairs[0], ("x".into(), "1".into()));
        assert_eq!(pairs[1], ("access_token".into(), value.into()));
        assert_eq!(pairs.len(), 2);
    }

    #[test]
    fn a_short_token_takes_nothing_else_along() {
        let token = token("a");
        let asked = url("https://h/cgi-bin/agent/get?a=1#a");
        let mut now = asked.clone();
        pair(&token).put_on(&mut now);
        pair(&token).take_off(&mut now, &asked);
        assert_eq!(now, asked);
    }

    #[test]
    fn a_token_is_taken_off_where_a_redirect_has_moved_it() {
        let token = token("TOKEN");
        for (with, without) in [
            ("https://h/p?access_token=TOKEN&x=1", "https://h/p?x=1"),
            (
                "https://h/p?a=1&access_token=TOKEN&x=1",
                "https://h/p?a=1&x=1",
            ),
            (
                "https://h/p?access_token=other",
                "https://h/p?access_token=other",
            ),
            (
                "https://h/p?a=1&back=/x?access_token=TOKEN",
                "https://h/p?a=1",
            ),
            (
                "https://h/p?a=1&back=%252Fx%253Faccess_token%253DTOKEN",
                "https://h/p?a=1",
            ),
            ("https://h/p?a=1#access_token=TOKEN", "https://h/p?a=1"),
            ("https://h/TOKEN/p?a=1", "https://h/?a=1"),
        ] {
            let mut with = url(with);
            pair(&token).take_off(&mut with, &url("https://h/p?a=1"));
            assert_eq!(with, url(without));
        }
    }

    #[test]
    fn only_the_api_at_the_base_url_is_ours() {
        let public = Scope::of(&Audience::default());
        let gateway = Scope::of(&Audience::new(url("http://gw.example:7443/a/b")));
        let ours = |scope: &Scope, text: &str| takes_token(scope, &url(text));
        for text in [
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=a",
            "https://QYAPI.weixin.qq.com:443/cgi-bin/message/send",
            "https://qyapi.weixin.qq.com/cgi-bin/corpgroup/corp/gettoken",
            "https://qyapi.weixin.qq.com/cgi-bin/gettoken/x",
            "https://qyapi.weixin.qq.com/cgi-bin/serviceable?keys=1&mykey=2",
        ] {
            assert!(ours(&public, text), "{text}");
            assert!(!ours(&gateway, text), "{text}");
        }
        for text in [
            "http://qyapi.weixin.qq.com/cgi-bin/user/get",
            "https://qyapi.weixin.qq.com:8443/cgi-bin/user/get",
            "https://qyapi.weixin.qq.com./cgi-bin/user/get",
            "https://qyapi.weixin.qq.com.evil.example/cgi-bin/user/get",
            "https://evilqyapi.weixin.qq.com/cgi-bin/user/get",
            "https://qyapi.weixin.qq.com@evil.example/cgi-bin/user/get",
            "https://qyapi.weixin.qq.com/cgi-bin",
            "https://qyapi.weixin.qq.com/other/cgi-bin/user/get",
            "https://qyapi.weixin.qq.com/cgi-bin/../user/get",
            "https://qyapi.weixin.qq.com//cgi-bin/user/get",
            "https://qyapi.weixin.qq.com/CGI-BIN/user/get",
            "https://qyapi.weixin.qq.com/cgi-bin%2Fuser/get",
            "https://qyapi.weixin.qq.com/cgi-bin/gettoken?corpid=a",
            "https://qyapi.weixin.qq.com/cgi-bin/%67ettoken?corpid=a",
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?access_token=x",
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?access%5Ftoken=",
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?suite_ACCESS_TOKEN=x",
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?key=x",
            "https://qyapi.weixin.qq.com/cgi-bin/user/get?response_code",
        ] {
            assert!(!ours(&public, text), "{text}");
        }
        assert!(ours(
            &gateway,
            "http://gw.example:7443/a/b/cgi-bin/user/get"
        ));
        assert!(!ours(&gateway, "http://gw.example:7443/cgi-bin/user/get"));
        assert!(!ours(
            &gateway,
            "http://gw.example:7443/a/bc/cgi-bin/user/get"
        ));
    }

    #[test]
    fn a_request_can_ask_to_be_left_alone() {
        let mut extensions = Extensions::new();
        extensions.insert(NoAccessToken);
        let url = url("https://qyapi.weixin.qq.com/cgi-bin/user/get");
        assert!(
            Scope::of(&Audience::default())
                .parameter(&url, &extensions)
                .is_none()
        );
    }

    #[test]
    fn odd_ways_to_write_the_origin_and_the_path_are_decided() {
        let public = Scope::of(&Audience::default());
        for (text, expected) in [
            // The host is compared as it is connected to.
            ("https://qYaPi.WeIxIn.Qq.CoM/cgi-bin/x", true),
            ("https://\u{ff51}yapi.weixin.qq.com/cgi-bin/x", true),
            ("https://qyapi\u{3002}weixin.qq.com/cgi-bin/x", true),
            ("https://%71yapi.weixin.qq.com/cgi-bin/x", true),
            ("https://\u{051b}yapi.weixin.qq.com/cgi-bin/x", false),
            ("https://qyapi.weixin.qq.com../cgi-bin/x", false),
            ("https://qyapi.weixin.qq.co/cgi-bin/x", false),
            ("https://weixin.qq.com/cgi-bin/x", false),
            ("https://[::1]/cgi-bin/x", false),
            ("https://127.0.0.1/cgi-bin/x", false),
            // A name and a password go to the same host.
            ("https://name:password@qyapi.weixin.qq.com/cgi-bin/x", true),
            (
                "https://qyapi.weixin.qq.com:443@evil.example/cgi-bin/x",
                false,
            ),
            (
                "https://qyapi.weixin.qq.com\\@evil.example/cgi-bin/x",
                false,
            ),
            (
                "https://evil.example\\@qyapi.weixin.qq.com/cgi-bin/x",
                false,
            ),
            ("https://evil.example#@qyapi.weixin.qq.com/cgi-bin/x", false),
            ("https://evil.example?@qyapi.weixin.qq.com/cgi-bin/x", false),
            ("https:qyapi.weixin.qq.com/cgi-bin/x", true),
            ("https://qyapi.weixin.qq.com:444/cgi-bin/x", false),
            ("wss://qyapi.weixin.qq.com/cgi-bin/x", false),
            // The path is compared as it is sent.
            ("https://qyapi.weixin.qq.com/a/../cgi-bin/x", true),
            ("https://qyapi.weixin.qq.com/cgi-bin/%2e%2e/x", false),
            ("https://qyapi.weixin.qq.com/cgi-bin/..%2fx", false),
            ("https://qyapi.weixin.qq.com/cgi-bin/a%2F..%5Cx", false),
            ("https://qyapi.weixin.qq.com/cgi-bin/a..%2Fx", true),
            ("https://qyapi.weixin.qq.com/cgi-bin/a%2Fb", true),
            ("https://qyapi.weixin.qq.com/cgi-bin//x", true),
            ("https://qyapi.weixin.qq.com\\cgi-bin\\x", true),
            ("https://qyapi.weixin.qq.com/%63gi-bin/x", false),
            ("https://qyapi.weixin.qq.com/Cgi-bin/x", false),
            // A credential is one however its name is written.
            (
                "https://qyapi.weixin.qq.com/cgi-bin/x?%61ccess_token=",
                false,
            ),
            (
                "https://qyapi.weixin.qq.com/cgi-bin/x?ACCESS_TOKEN=a",
                false,
            ),
            (
                "https://qyapi.weixin.qq.com/cgi-bin/x?access_token=a&access_token=b",
                false,
            ),
            ("https://qyapi.weixin.qq.com/cgi-bin/x?a=access_token", true),
            (
                "https://qyapi.weixin.qq.com/cgi-bin/x?access%255Ftoken=a",
                true,
            ),
            (
                "https://qyapi.weixin.qq.com/cgi-bin/x#?access_token=a",
                true,
            ),
        ] {
            let ours = Url::parse(text).is_ok_and(|url| takes_token(&public, &url));
            assert_eq!(ours, expected, "{text}");
        }
        let v6 = Scope::of(&Audience::new(url("https://[::1]:7443/")));
        let ours = |text: &str| takes_token(&v6, &url(text));
        assert!(ours("https://[0:0::1]:7443/cgi-bin/x"));
        assert!(!ours("https://[::2]:7443/cgi-bin/x"));
        assert!(!ours("https://[::1]/cgi-bin/x"));
    }

    #[test]
    fn what_a_kind_says_of_a_path_holds_below_the_base_url_alone() {
        let kind = TokenKind::new("k").takes("t", ["a/"]).except(["a/no"]);
        let audience = Audience::new(url("https://h/base"));
        let scope = Scope::of(&audience.with_kind(kind));
        let parameter = |text| scope.parameter(&url(text), &Extensions::new());
        assert_eq!(parameter("https://h/base/a/x"), Some("t"));
        for text in [
            "https://h/base/a/no",
            "https://h/base/b",
            "https://h/a/x",
            "https://h/base/a/x?t=mine",
            "https://h/base/a/x?%54=mine",
            "https://h/base/a/..%2fx",
            "https://h/base%2Fa/x",
        ] {
            assert_eq!(parameter(text), None, "{text}");
        }
        assert!(scope.is_api(&url("https://h/base/a/x?t=token")));
        assert!(!scope.is_api(&url("https://h/base/b")));
    }

    proptest! {
        #[test]
        fn a_token_comes_off_under_any_name(name in "[ -~é]{1,8}", value in "[ -~é]{1,12}", query in "(\\?[ -~é]{0,8})?") {
            let before = url(&format!("https://h/p{}", query.replace('#', "")));
            let token = token(&value);
            let pair = Pair { parameter: &name, token: &token };
            let mut now = before.clone();
            pair.put_on(&mut now);
            let last = now.query_pairs().last();
            prop_assert_eq!(last, Some((name.as_str().into(), value.as_str().into())));
            pair.take_off(&mut now, &before);
            prop_assert_eq!(now.as_str(), before.as_str());
        }

        #[test]
        fn taking_a_token_off_gives_the_callers_url_back(
            path in "[ -~é张]{0,12}", query in "(\\?[ -~é张]{0,16})?", fragment in "(#[ -~é]{0,6})?",
            value in "[ -~é\\n]{1,24}",
        ) {
            let text = format!("https://h/{}{query}{fragment}", path.replace(['?', '#'], ""));
            let before = url(&text);
            let token = token(&value);
            let mut now = before.clone();
            pair(&token).put_on(&mut now);
            let last = now.query_pairs().last();
            prop_assert_eq!(last, Some(("access_token".into(), value.into())));
            pair(&token).take_off(&mut now, &before);
            prop_assert_eq!(now.as_str(), before.as_str());
        }

        #[test]
        fn only_a_url_of_our_origin_and_path_is_given_a_token(
            scheme in "https?", user in "(q{1,2}@|qyapi\\.weixin\\.qq\\.com@|a:b@)?",
            host in "(qyapi\\.weixin\\.qq\\.com|QYAPI\\.weixin\\.qq\\.com|h|127\\.0\\.0\\.1)(\\.|\\.evil\\.example)?",
            port in "(:(443|80|8443))?", path in "[/\\\\]{0,2}(cgi-bin|CGI-BIN|cgi%2Dbin|\\.\\.)?[/\\\\]{0,2}[a-z./%2ef]{0,8}",
            query in "(\\?(access_token=a|key=b|a=[a-z&=%]{0,5}))?",
        ) {
            let text = format!("{scheme}://{user}{host}{port}/{path}{query}");
            if let Ok(url) = Url::parse(&text)
                && takes_token(&Scope::of(&Audience::default()), &url)
            {
                prop_assert_eq!(url.origin().ascii_serialization(), "https://qyapi.weixin.qq.com");
                prop_assert!(url.path().starts_with("/cgi-bin/"), "{}", text);
                prop_assert!(!url.query().unwrap_or_default().contains("access_token"), "{}", text);
            }
        }
    }
}
