use reqwest::Url;

use crate::TokenKind;

const QYAPI: &str = "https://qyapi.weixin.qq.com/";

/// What a source's tokens are for: the API below one base URL, and there the paths that take one kind of token. Default:
/// `https://qyapi.weixin.qq.com/` and the access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audience {
    base_url: Url,
    kind: TokenKind,
}

impl Audience {
    /// Creates an audience for access tokens from its base URL: scheme, host, port, and the path before `/cgi-bin/`, with or without a
    /// trailing slash.
    ///
    /// The query, the fragment, the user name and the password are removed. Requests to `http://` get a token only if the base URL starts
    /// with `http://`.
    ///
    /// ```
    /// # use reqwest_wecom::Audience;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let gateway = Audience::new("https://proxy.example/proxy/qyapi".parse()?);
    /// assert_eq!(gateway.base_url().as_str(), "https://proxy.example/proxy/qyapi/");
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(mut base_url: Url) -> Self {
        base_url.set_query(None);
        base_url.set_fragment(None);
        // Neither can fail where there is one to be taken off.
        let _ = base_url.set_username("");
        let _ = base_url.set_password(None);
        if !base_url.path().ends_with('/') {
            let path = format!("{}/", base_url.path());
            base_url.set_path(&path);
        }
        Self {
            base_url,
            kind: TokenKind::access_token(),
        }
    }

    /// Sets another kind of token. Default: [`TokenKind::access_token`].
    ///
    /// ```
    /// # use reqwest_wecom::{Audience, TokenKind};
    /// let suites = Audience::default().with_kind(TokenKind::suite_access_token());
    /// ```
    #[must_use]
    pub fn with_kind(mut self, kind: TokenKind) -> Self {
        self.kind = kind;
        self
    }

    /// The base URL, which ends in a slash.
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// The kind of token.
    pub fn kind(&self) -> &TokenKind {
        &self.kind
    }

    /// Whether this is the public API of WeCom.
    pub(crate) fn is_public(&self) -> bool {
        self.base_url.as_str() == QYAPI
    }
}

impl Default for Audience {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "a constant that a test parses")]
        Self::new(Url::parse(QYAPI).expect("a valid URL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_ends_in_a_slash_whichever_way_it_is_given() {
        let base = |url: &str| Audience::new(url.parse().unwrap()).base_url().to_string();
        assert_eq!(Audience::default().base_url().as_str(), QYAPI);
        assert_eq!(base("https://host:7443"), "https://host:7443/");
        assert_eq!(base("https://host/a/b"), "https://host/a/b/");
        assert_eq!(base("https://host/a/b/?x=1#y"), "https://host/a/b/");
        assert_eq!(base("https://user:password@host/a"), "https://host/a/");
    }
}
