use async_trait::async_trait;

use super::{Audience, FetchRequest, TokenSource};
use crate::{Error, FetchedToken, TokenKey};

/// A source that never fetches. Use it if another program fetches the tokens and puts them into a shared store.
///
/// If the store has no usable token, requests fail with [`NotReady`](crate::ErrorKind::NotReady). Each new request asks the store again.
/// [`TokenManager::refresh`](crate::TokenManager::refresh) fails: call it in the program that fetches.
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, MokaStore, StoreOnly, TokenManager};
///
/// # let shared_store = MokaStore::new();
/// // `Credentials::app` returns this in the program that fetches. It is not secret.
/// let app = "2bb80d537b1da3e38bd30361aa855686";
///
/// let manager = TokenManager::builder(StoreOnly::default()).store(shared_store).build();
/// let middleware = AccessTokenMiddleware::builder(manager)
///     .credentials(Credentials::without_secret("ww1234", app))
///     .build();
/// ```
#[derive(Clone, Debug, Default)]
pub struct StoreOnly {
    audience: Audience,
}

impl StoreOnly {
    /// Uses tokens for this API. For `qyapi.weixin.qq.com`, use `StoreOnly::default()`.
    pub fn new(audience: Audience) -> Self {
        Self { audience }
    }
}

#[async_trait]
impl TokenSource for StoreOnly {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let key = TokenKey::new(&self.audience, request.credentials());
        Err(Error::not_ready(format!(
            "the store has no usable token under {key}, and this program fetches none: check that the program that fetches is running"
        )))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }

    fn fetches(&self) -> bool {
        false
    }
}
