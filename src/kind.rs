//! The kinds of token.

mod paths;
mod wecom;

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::sync::Arc;

use percent_encoding::percent_decode;

use self::paths::Paths;
pub(crate) use self::wecom::other_kind_for;

/// The errcodes that reject a token of any kind, unless a kind has a list of its own.
const REJECTED_BY: [i64; 2] = [40014, 42001];

/// A kind of token: which paths take it, in which query parameter, and which errcodes reject it.
///
/// Five kinds are built in: [`access_token`](Self::access_token), [`suite_access_token`](Self::suite_access_token),
/// [`provider_access_token`](Self::provider_access_token), and the two tickets for web pages, [`jsapi_ticket`](Self::jsapi_ticket) and
/// [`agent_config_ticket`](Self::agent_config_ticket). A source says which kind its tokens are of, as part of its
/// [`Audience`](crate::Audience). [`Credentials`](crate::Credentials) are for one kind too.
///
/// Create a kind to use another API that works in the same way. The example `official_account` does that for Official Accounts and Mini
/// Programs:
///
/// ```
/// use reqwest_wecom::{Audience, Credentials, TokenKind};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let kind = TokenKind::new("official_account")
///     .takes("access_token", ["card/", "cgi-bin/", "customservice/", "datacube/", "wxa/"])
///     .except(["cgi-bin/token", "cgi-bin/stable_token"])
///     .rejected_by([40001, 40014, 42001]);
///
/// let credentials = Credentials::new("wx1234", "secret").of_kind(&kind);
/// let audience = Audience::new("https://api.weixin.qq.com/".parse()?).with_kind(kind);
/// # Ok(())
/// # }
/// ```
///
/// The middleware never adds a kind without paths to a request. Use one for tokens that you only read from the [`TokenManager`](crate::TokenManager), as the
/// tickets for web pages are.
///
/// # Several kinds in one client
///
/// Add one middleware for each kind to the client, in any order. Each path of WeCom takes one kind, so each request gets one token at most.
/// Kinds that you create for one base URL must not share paths. For two suites, use one middleware, and choose the suite of each request by its
/// [`Credentials`](crate::Credentials).
///
/// Cloning is cheap. Two kinds are equal if all parts are.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKind(Arc<Parts>);

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    name: Arc<str>,
    /// By query parameter.
    takes: Vec<(Cow<'static, str>, Paths)>,
    except: Paths,
    rejected_by: Vec<i64>,
}

impl TokenKind {
    /// Creates a kind that no path takes, and that errcodes 40014 and 42001 reject.
    ///
    /// The name is the first part of each [`TokenKey`](crate::TokenKey), and appears in errors and events. Choose one that no other kind has.
    pub fn new(name: impl Into<String>) -> Self {
        Self(Arc::new(Parts {
            name: name.into().into(),
            takes: Vec::new(),
            except: Paths::default(),
            rejected_by: REJECTED_BY.into(),
        }))
    }

    /// Adds paths that take the token, in this query parameter. If a path has several parameters, the first one counts.
    ///
    /// Paths are relative to the base URL of the [`Audience`](crate::Audience). A path that ends in `/` stands for all paths below it, and `/`
    /// alone for all paths. A leading slash makes no difference. Requests to all other paths are sent unchanged.
    #[must_use]
    pub fn takes(
        mut self,
        parameter: impl Into<Cow<'static, str>>,
        paths: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        let paths = paths.into_iter().collect();
        self.parts().takes.push((parameter.into(), paths));
        self
    }

    /// Adds paths that don't take the token, although [`takes`](Self::takes) has them. A request to a percent-encoded form of such a path is
    /// sent unchanged too.
    #[must_use]
    pub fn except(mut self, paths: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        self.parts().except.extend(paths);
        self
    }

    /// Sets the errcodes that mean that the API rejected the token. Default: 40014 and 42001. Your list replaces the default.
    ///
    /// List only codes that the API returns before a call has any effect, because the middleware sends the request again.
    #[must_use]
    pub fn rejected_by(mut self, errcodes: impl IntoIterator<Item = i64>) -> Self {
        self.parts().rejected_by = errcodes.into_iter().collect();
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn shared_name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The query parameter for the token on this path, relative to the base URL. `None` if the path does not take the token.
    pub(crate) fn parameter_on(&self, path: &str) -> Option<&str> {
        let mut takes = self.0.takes.iter();
        let (parameter, _) = takes.find(|(_, paths)| paths.have(path.as_bytes()))?;
        (!self.excepts(path)).then_some(parameter)
    }

    /// Whether a server may take this for one of the paths that don't take the token: it may decode the path, merge slashes, or drop the last one.
    fn excepts(&self, path: &str) -> bool {
        let as_read = without_double_slashes(decoded(path.as_bytes()));
        // The base URL ends in a slash already.
        let as_read = as_read.strip_prefix(b"/").unwrap_or(&as_read);
        let except = &self.0.except;
        except.have(as_read)
            || (as_read != path.as_bytes() && except.have(path.as_bytes()))
            || as_read.strip_suffix(b"/").is_some_and(|it| except.have(it))
    }

    pub(crate) fn is_rejected_by(&self, errcode: i64) -> bool {
        self.0.rejected_by.contains(&errcode)
    }

    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }
}

/// The access token.
impl Default for TokenKind {
    fn default() -> Self {
        Self::access_token()
    }
}

impl Debug for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenKind").field(&self.name()).finish()
    }
}

/// The text without percent-encoding.
pub(crate) fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    if text.contains(&b'%') {
        percent_decode(text).collect()
    } else {
        text.into()
    }
}

fn without_double_slashes(path: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    if !path.windows(2).any(|pair| pair == b"//") {
        return path;
    }
    let mut path = path.into_owned();
    path.dedup_by(|next, before| *next == b'/' && *before == b'/');
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters<'a>(kind: &'a TokenKind, paths: &[&str]) -> Vec<Option<&'a str>> {
        paths.iter().map(|path| kind.parameter_on(path)).collect()
    }

    #[test]
    fn a_new_kind_goes_into_no_query() {
        let kind = TokenKind::new("ticket");
        assert_eq!(parameters(&kind, &["", "/", "cgi-bin/x"]), [None; 3]);
        assert!(kind.is_rejected_by(40014) && kind.is_rejected_by(42001));
        assert!(!kind.is_rejected_by(0));
    }

    #[test]
    fn paths_and_what_is_below_them_take_the_token_except_some() {
        let kind = TokenKind::new("kind")
            .except(["a/no", "/a/none/", "a/with%20space"])
            .takes("one", ["a/", "/b"])
            .takes("other", [String::from("a/x"), String::from("c")])
            .rejected_by([7]);
        for (path, parameter) in [
            ("a/", Some("one")),
            ("a/x", Some("one")),
            ("a/no/x", Some("one")),
            ("a/none", Some("one")),
            ("a/no", None),
            ("a/%6eo", None),
            ("a/no/", None),
            ("a//no", None),
            ("a/%2Fno", None),
            ("a///none/x", None),
            ("a//x", Some("one")),
            ("a/with%20space", None),
            ("a/none/x", None),
            ("a/n%6Fne/x", None),
            ("a/none%2Fx", None),
            ("%61/x", None),
            ("a", None),
            ("aa/x", None),
            ("b", Some("one")),
            ("b/", None),
            ("c", Some("other")),
            ("d", None),
        ] {
            assert_eq!(kind.parameter_on(path), parameter, "{path}");
        }
        assert!(kind.is_rejected_by(7) && !kind.is_rejected_by(40014));
        let all = TokenKind::new("all").takes("it", ["/"]).except(["x/"]);
        assert_eq!(
            parameters(&all, &["", "a", "x/a", "/x/a", "//x/a", "%2Fx/a", "/a"]),
            [Some("it"), Some("it"), None, None, None, None, Some("it")]
        );
    }

    #[test]
    fn kinds_are_equal_if_all_parts_are() {
        let kind = || TokenKind::new("kind").takes("p", ["a/", "b"]);
        assert_eq!(kind(), kind());
        assert_eq!(TokenKind::default(), TokenKind::access_token());
        for other in [
            TokenKind::new("other").takes("p", ["a/", "b"]),
            kind().takes("q", ["c"]),
            kind().except(["a/c"]),
            kind().rejected_by([1]),
        ] {
            assert_ne!(kind(), other);
        }
        assert_eq!(
            format!("{:?}", TokenKind::default()),
            r#"TokenKind("access_token")"#
        );
    }
}
