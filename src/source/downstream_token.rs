use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, RejectionScope, TokenKind};

/// Fetches the access tokens of the corps to which yours has shared an app, with `POST {base URL}/cgi-bin/corpgroup/corp/gettoken`
/// (<https://developer.work.weixin.qq.com/document/path/95816>).
///
/// It needs [`Credentials::without_secret`](crate::Credentials::without_secret) with the corp id and the agent id of the downstream corp, and a
/// client with the middleware of your own app:
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, DownstreamToken, TokenManager};
/// use reqwest_middleware::ClientBuilder;
///
/// # fn f(http: reqwest::Client, upstream: AccessTokenMiddleware) {
/// let as_upstream = ClientBuilder::new(http).with(upstream).build();
/// let manager = TokenManager::builder(DownstreamToken::new(as_upstream).business_type(1)).build();
/// let branch = Credentials::without_secret("ww_branch", "1000002");
/// let middleware = AccessTokenMiddleware::builder(manager).credentials(branch).build();
/// # }
/// ```
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors). If there is no token of the upstream corp, the error is that of the upstream corp. If the app
/// of the credentials is not a number, the fetch is [refused](Error::refused) without a call.
#[derive(Clone, Debug)]
pub struct DownstreamToken {
    issuer: Issuer,
    business_type: u32,
}

impl DownstreamToken {
    /// Calls `corpgroup/corp/gettoken` at `https://qyapi.weixin.qq.com` through this client, which adds the upstream corp's token.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            issuer: Issuer::new(http, TokenKind::access_token()),
            business_type: 0,
        }
    }

    /// Sets how the corps are connected: 0 within a corp group (企业互联, 局校互联), 1 along a supply chain (上下游). Default: 0.
    #[must_use]
    pub fn business_type(mut self, business_type: u32) -> Self {
        self.business_type = business_type;
        self
    }

    /// Sets another [base URL](crate::GetToken::base_url). Default: `https://qyapi.weixin.qq.com/`. It must be that of the upstream corp.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.issuer.set_base_url(base_url);
        self
    }
}

#[async_trait]
impl TokenSource for DownstreamToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let (corp, app) = (request.credentials().id(), request.credentials().app());
        let agent: u64 = app.parse().map_err(|_not_a_number| {
            Error::refused(
                "the app of the credentials is not an agent id: create them with `Credentials::without_secret(corp_id, agent_id)`",
            )
        })?;
        let call = Call {
            path: "cgi-bin/corpgroup/corp/gettoken",
            field: "access_token",
            secrets: &[],
            scope: Some(RejectionScope::new(corp)),
        };
        let business = self.business_type;
        let body = json!({ "corpid": corp, "agentid": agent, "business_type": business });
        self.issuer.post(&call, &body).await
    }

    fn audience(&self) -> Audience {
        self.issuer.audience().clone()
    }
}
