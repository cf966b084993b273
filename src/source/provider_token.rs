use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, TokenKind};

/// Fetches the token of a service provider, with `POST {base URL}/cgi-bin/service/get_provider_token`
/// (<https://developer.work.weixin.qq.com/document/path/91200>).
///
/// It needs [`Credentials`](crate::Credentials) of the kind [`provider_access_token`](TokenKind::provider_access_token): the provider's own
/// corp id and its provider secret.
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, ProviderToken, TokenKind, TokenManager};
///
/// # fn f(http: reqwest::Client) {
/// let provider = Credentials::new("ww_provider", "provider secret").of_kind(&TokenKind::provider_access_token());
/// let manager = TokenManager::builder(ProviderToken::new(http)).build();
/// let middleware = AccessTokenMiddleware::builder(manager).credentials(provider).build();
/// # }
/// ```
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors).
#[derive(Clone, Debug)]
pub struct ProviderToken(Issuer);

impl ProviderToken {
    /// Calls `get_provider_token` at `https://qyapi.weixin.qq.com` through this client. Other middleware on it sees the secret in the body.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self(Issuer::new(http, TokenKind::provider_access_token()))
    }

    /// Sets another [base URL](crate::GetToken::base_url). Default: `https://qyapi.weixin.qq.com/`.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.0.set_base_url(base_url);
        self
    }
}

#[async_trait]
impl TokenSource for ProviderToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let secret = request.secret()?;
        let call = Call {
            path: "cgi-bin/service/get_provider_token",
            field: "provider_access_token",
            secrets: &[secret],
            scope: None,
        };
        let body = json!({ "corpid": request.credentials().id(), "provider_secret": secret });
        self.0.post(&call, &body).await
    }

    fn audience(&self) -> Audience {
        self.0.audience().clone()
    }
}
