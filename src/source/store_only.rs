use async_trait::async_trait;

use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, TokenKey};

/// A source that never fetches: for programs that only use the tokens that another program puts into a shared store.
///
/// While the store has no token that can serve, requests fail with an error of the kind [`NotReady`](crate::ErrorKind::NotReady). Each
/// request asks the store again.
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
    /// For the tokens of another deployment than `qyapi.weixin.qq.com`.
    pub fn new(audience: Audience) -> Self {
        Self { audience }
    }
}

#[async_trait]
impl TokenSource for StoreOnly {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let key = TokenKey::new(&self.audience, request.credentials());
        Err(Error::not_ready(format!(
            "the store has no usable token under {key}, and this program does not fetch any: check that the program that does is running"
        )))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }

    fn fetches(&self) -> bool {
        false
    }
}
