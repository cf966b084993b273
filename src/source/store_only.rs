use async_trait::async_trait;

use super::{Audience, TokenSource};
use crate::{AccessToken, Credentials, Error};

/// A source that never fetches: for programs that may only use what the store holds, because another one fetches for all.
///
/// While the store holds no token that can serve, requests fail with [`Error::NotReady`]; each one asks the store again.
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, MokaStore, StoreOnly, TokenManager};
///
/// # let shared_store = MokaStore::new();
/// let manager = TokenManager::builder(StoreOnly::default()).store(shared_store).build();
/// let middleware = AccessTokenMiddleware::builder(manager)
///     .credentials(Credentials::without_secret("ww1234", "1000002"))
///     .build();
/// ```
#[derive(Clone, Debug, Default)]
pub struct StoreOnly {
    audience: Audience,
}

impl StoreOnly {
    /// For tokens of another deployment than `qyapi.weixin.qq.com`.
    pub fn new(audience: Audience) -> Self {
        Self { audience }
    }
}

#[async_trait]
impl TokenSource for StoreOnly {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        let key = credentials.key();
        Err(Error::not_ready(format!(
            "the store holds no usable token under {key}, and this program does not fetch any"
        )))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}
