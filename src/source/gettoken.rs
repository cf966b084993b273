use std::fmt::{self, Debug};

use async_trait::async_trait;
use reqwest::{Method, Request, Url};
use reqwest_middleware::ClientWithMiddleware;

use super::{Audience, FetchRequest, TokenSource, answer};
use crate::redact;
use crate::{Error, FetchedToken};

/// Fetches tokens from WeCom, with `GET {base URL}/cgi-bin/gettoken`
/// (<https://developer.work.weixin.qq.com/document/path/91039>).
///
/// It needs [`Credentials`](crate::Credentials) with a secret.
///
/// You can pass a client with other middleware. The secret travels in the URL, so that middleware sees it and may log it.
///
/// # Errors
///
/// An errcode becomes an [`Error::api`]. A lost connection, a timeout and HTTP 408, 425, 429 and 5xx are [transient](Error::transient). Any
/// other HTTP status, and an answer without a usable token, is [refused](Error::refused). A header `Retry-After` becomes the error's
/// [`retry_after`](Error::retry_after), which the manager uses for transient failures only.
#[derive(Clone)]
pub struct GetToken {
    http: ClientWithMiddleware,
    audience: Audience,
}

impl GetToken {
    /// Calls `gettoken` at `https://qyapi.weixin.qq.com` through this client: a [`reqwest::Client`] or a [`ClientWithMiddleware`].
    ///
    /// Build the client with `.referer(false)`. Otherwise `reqwest` sends the whole URL, secret included, as `Referer` to the target of a
    /// redirect.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            http: http.into(),
            audience: Audience::default(),
        }
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
        self.audience = Audience::new(base_url);
        self
    }

    fn request(&self, id: &str, secret: &str) -> Result<Request, Error> {
        let mut url = self
            .audience
            .base_url()
            .join("cgi-bin/gettoken")
            .map_err(|error| Error::refused(format!("the base URL cannot be used: {error}")))?;
        url.query_pairs_mut()
            .append_pair("corpid", id)
            .append_pair("corpsecret", secret);
        Ok(Request::new(Method::GET, url))
    }
}

#[async_trait]
impl TokenSource for GetToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let credentials = request.credentials();
        let id = credentials.id();
        let secret = credentials
            .expose_secret()
            .ok_or_else(|| Error::no_secret(id))?;
        let request = self.request(id, secret)?;
        let response = self
            .http
            .execute(request)
            .await
            .map_err(|error| not_sent(error, secret))?;
        answer::read(response, secret).await
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

impl Debug for GetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetToken")
            .field("base_url", &self.audience.base_url().as_str())
            .finish_non_exhaustive()
    }
}

fn not_sent(error: reqwest_middleware::Error, secret: &str) -> Error {
    let lasting = |error: &reqwest::Error| error.is_builder() || error.is_redirect();
    if redact::request_error(&error).is_some_and(lasting) {
        Error::refused_without(secret, error)
    } else {
        Error::transient_without(secret, error)
    }
}
