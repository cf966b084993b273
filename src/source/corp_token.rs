use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, RejectionScope, TokenKind};

/// Fetches the access tokens of a suite's customers, with `POST {base URL}/cgi-bin/service/get_corp_token`
/// (<https://developer.work.weixin.qq.com/document/path/90605>).
///
/// It needs [`Credentials`](crate::Credentials) with the customer's corp id and permanent code, and a client with the suite's middleware:
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, CorpToken, Credentials, TokenManager};
/// use reqwest_middleware::ClientBuilder;
///
/// # fn f(http: reqwest::Client, suite: AccessTokenMiddleware, permanent_code: String) {
/// // `suite` is the middleware with the source `SuiteToken`.
/// let as_suite = ClientBuilder::new(http).with(suite).build();
/// let manager = TokenManager::builder(CorpToken::new(as_suite)).build();
/// let customer = Credentials::new("ww_customer", permanent_code);
/// let middleware = AccessTokenMiddleware::builder(manager).credentials(customer).build();
/// # }
/// ```
///
/// For an app that you develop on a customer's behalf (代开发应用), use [`GetToken`](crate::GetToken) instead.
///
/// If the API rejects the suite's token, the suite's middleware gets another one and repeats the call. WeCom answers 40082 to a good suite
/// token too, if the customer has not authorized the suite. The source sets a [`RejectionScope`] for each customer, so one that
/// withdrew its authorization does not hold back the others.
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors). If there is no suite token, the error is that of the suite: [`Error::not_ready`] while there
/// is no ticket, for example.
#[derive(Clone, Debug)]
pub struct CorpToken(Issuer);

impl CorpToken {
    /// Calls `get_corp_token` at `https://qyapi.weixin.qq.com` through this client, which adds the suite's token.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self(Issuer::new(http, TokenKind::access_token()))
    }

    /// Sets another [base URL](crate::GetToken::base_url). Default: `https://qyapi.weixin.qq.com/`. It must be that of the suite.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.0.set_base_url(base_url);
        self
    }
}

#[async_trait]
impl TokenSource for CorpToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let (corp, code) = (request.credentials().id(), request.secret()?);
        let call = Call {
            path: "cgi-bin/service/get_corp_token",
            field: "access_token",
            secrets: &[code],
            scope: Some(RejectionScope::new(corp)),
        };
        let body = json!({ "auth_corpid": corp, "permanent_code": code });
        self.0.post(&call, &body).await
    }

    fn audience(&self) -> Audience {
        self.0.audience().clone()
    }
}
