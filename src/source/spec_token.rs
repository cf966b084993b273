use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, TokenKind};

/// Fetches the access token of a program in the data and intelligence zone (数据与智能专区), with
/// `POST https://specapi.weixin.qq.com/spec/gettoken` (<https://developer.work.weixin.qq.com/document/path/99691>).
///
/// It needs [`Credentials`](crate::Credentials) with the provider's corp id and the zone's secret (专区 Secret).
///
/// These tokens come from `specapi.weixin.qq.com`, and are used at `qyapi.weixin.qq.com`. [`issuer_url`](Self::issuer_url) sets the first,
/// [`base_url`](Self::base_url) the second.
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, SpecToken, TokenManager};
///
/// # fn f(http: reqwest::Client) {
/// let zone = Credentials::new("ww_provider", "zone secret");
/// let manager = TokenManager::builder(SpecToken::new(http)).build();
/// let middleware = AccessTokenMiddleware::builder(manager).credentials(zone).build();
/// # }
/// ```
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors).
#[derive(Clone, Debug)]
pub struct SpecToken {
    issuer: Issuer,
    audience: Audience,
}

impl SpecToken {
    /// Calls `spec/gettoken` at `https://specapi.weixin.qq.com` through this client, for requests to `https://qyapi.weixin.qq.com`.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        let mut issuer = Issuer::new(http, TokenKind::access_token());
        issuer.set_base_url(public_issuer());
        Self {
            issuer,
            audience: Audience::default(),
        }
    }

    /// Sets the [base URL](crate::GetToken::base_url) of the API, which decides which requests get the token. Default:
    /// `https://qyapi.weixin.qq.com/`.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.audience = Audience::new(base_url);
        self
    }

    /// Sets where `spec/gettoken` is called: everything before `/spec/`. Default: `https://specapi.weixin.qq.com/`.
    #[must_use]
    pub fn issuer_url(mut self, issuer_url: Url) -> Self {
        self.issuer.set_base_url(issuer_url);
        self
    }
}

#[async_trait]
impl TokenSource for SpecToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let secret = request.secret()?;
        let call = Call {
            path: "spec/gettoken",
            field: "access_token",
            secrets: &[secret],
            scope: None,
        };
        let body = json!({ "corpid": request.credentials().id(), "secret": secret });
        self.issuer.post(&call, &body).await
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

#[expect(clippy::expect_used, reason = "a constant that a test parses")]
fn public_issuer() -> Url {
    Url::parse("https://specapi.weixin.qq.com/").expect("a valid URL")
}
