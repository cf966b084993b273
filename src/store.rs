//! Where tokens are kept.

mod moka;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::moka::MokaStore;
#[cfg(feature = "redis")]
pub use self::redis::{RedisConnection, RedisStore, RedisStoreBuilder};
use crate::{AccessToken, BoxError, Error, Fetch, TokenKey};

/// Where tokens are kept, so that others may use them.
///
/// [`get`](Self::get) and [`put`](Self::put) are all that a store must have: see the README for one over a table in under 30
/// lines. A [`TokenManager`](crate::TokenManager) holds copies of its own and asks the store only when its copy cannot
/// serve, never on the way of an ordinary request.
///
/// A store may answer slowly, fail, hang or panic: that costs a warning in the log, and where a token is needed it is then
/// fetched without the store. A store should keep a token at least until its [`expires_at`](AccessToken::expires_at); it need
/// not drop expired ones, which are not used. It is never told to delete: a token that the API has rejected is replaced.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// The token kept under this key, if there is one.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; it is logged, and the token is got without the store.
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError>;

    /// Keeps the token under this key, in the place of any other.
    ///
    /// # Errors
    ///
    /// Whatever went wrong; it is logged, and the token is used all the same.
    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError>;

    /// A token other than `other_than`: the one in the store if it [can serve](Fetch::can_serve), else a newly fetched one,
    /// which the store then holds.
    ///
    /// It is called at most once at a time for a key and a manager. Override it for a store that can let one process fetch
    /// while others wait. The fetch is made with [`Fetch::run`], which takes no longer than [`Fetch::limit`]; a failure of
    /// the store itself should cost a warning, and not this call.
    ///
    /// # Errors
    ///
    /// The failure of the fetch.
    async fn get_or_fetch(
        &self,
        key: &TokenKey,
        other_than: Option<&AccessToken>,
        fetch: &Fetch<'_>,
    ) -> Result<AccessToken, Error> {
        if let Some(token) = fetch
            .asking_store(key, "get", async { self.get(key).await })
            .await
            .flatten()
            && fetch.can_serve(&token, other_than)
        {
            return Ok(token);
        }
        let token = fetch.run().await?;
        fetch
            .asking_store(key, "put", async { self.put(key, &token).await })
            .await;
        Ok(token)
    }
}

#[async_trait]
impl<T: TokenStore + ?Sized> TokenStore for Arc<T> {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        (**self).get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        (**self).put(key, token).await
    }

    async fn get_or_fetch(
        &self,
        key: &TokenKey,
        other_than: Option<&AccessToken>,
        fetch: &Fetch<'_>,
    ) -> Result<AccessToken, Error> {
        (**self).get_or_fetch(key, other_than, fetch).await
    }
}
