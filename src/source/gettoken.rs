use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, TokenKind};

/// Fetches tokens from WeCom, with `GET {base URL}/cgi-bin/gettoken`
/// (<https://developer.work.weixin.qq.com/document/path/91039>).
///
/// It needs [`Credentials`](crate::Credentials) with a secret. For an app that you develop on a customer's behalf (代开发应用), that is the
/// customer's permanent code: `Credentials::new(customer_corp_id, permanent_code)`.
///
/// You can pass a client with other middleware. The secret travels in the URL, so that middleware sees it and may log it.
///
/// # Errors
///
/// An errcode becomes an [`Error::api`]. A lost connection, a timeout and HTTP 408, 425, 429 and 5xx are [transient](Error::transient). Any
/// other HTTP status, and an answer without a usable token, is [refused](Error::refused). A header `Retry-After` becomes the error's
/// [`retry_after`](Error::retry_after), which the manager uses for transient failures only.
#[derive(Clone, Debug)]
pub struct GetToken(Issuer);

impl GetToken {
    /// Calls `gettoken` at `https://qyapi.weixin.qq.com` through this client: a [`reqwest::Client`] or a [`ClientWithMiddleware`].
    ///
    /// Build the client with `.referer(false)`. Otherwise `reqwest` sends the whole URL, secret included, as `Referer` to the target of a
    /// redirect.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self(Issuer::new(http, TokenKind::access_token()))
    }

    /// Sets the base URL of a private deployment or a gateway: everything before `/cgi-bin/`. Default: `https://qyapi.weixin.qq.com/`.
    ///
    /// It decides where `gettoken` is called and which requests get the token. The scheme counts too: requests over `http` get no token if the
    /// base URL says `https`, and cause the event `scheme_is_http`.
    ///
    /// Give the URL that the server itself uses, scheme and host included. If the server redirects to another one, `reqwest` follows, but turns
    /// a POST that is answered 301, 302 or 303 into a GET without a body.
    ///
    /// ```
    /// # use reqwest_wecom::GetToken;
    /// # fn f(http: reqwest::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let source = GetToken::new(http).base_url("https://wecom.internal:7443/proxy".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.0.set_base_url(base_url);
        self
    }
}

#[async_trait]
impl TokenSource for GetToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let secret = request.secret()?;
        let call = Call {
            path: "cgi-bin/gettoken",
            field: "access_token",
            secrets: &[secret],
            scope: None,
        };
        let query = [
            ("corpid", request.credentials().id()),
            ("corpsecret", secret),
        ];
        self.0.get(&call, &query).await
    }

    fn audience(&self) -> Audience {
        self.0.audience().clone()
    }
}
