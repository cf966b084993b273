//! Where tokens are kept.

mod database;
mod moka;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::database::{Kept, SharedDatabase};
pub use self::moka::MokaStore;
#[cfg(feature = "redis")]
pub use self::redis::{RedisConnection, RedisStore, RedisStoreBuilder};
use crate::source::Fetch;
use crate::{AccessToken, BoxError, Error, TokenKey};

/// Where tokens are kept, so that other processes and later runs can use them.
///
/// To keep tokens somewhere else than in memory, implement [`get`](Self::get) and [`put`](Self::put). The README shows a store over a
/// table in under 30 lines. A [`TokenManager`](crate::TokenManager) holds local copies. It asks the store only when its copy can't serve,
/// never during an ordinary request.
///
/// A store may be slow, fail, hang or panic. That costs a warning in the log, and the manager goes on without the store. A store should
/// keep a token at least until [`expires_at`](AccessToken::expires_at). It may return expired tokens, they are not used. It is never told
/// to delete: a rejected token is replaced.
///
/// `Arc` and `Box` of a store are stores too. Methods that are added later always have a default.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// The token kept under this key, if there is one.
    ///
    /// # Errors
    ///
    /// Whatever went wrong. It is logged, without the secrets that the manager knows.
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future after 2 s.
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError>;

    /// Keeps the token under this key, and replaces any other.
    ///
    /// # Errors
    ///
    /// Whatever went wrong. It is logged, and the token is used anyway.
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future after 2 s.
    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError>;

    /// The database that several processes share, if this store is over one. Default: `None`.
    ///
    /// A store that wraps another one must forward this.
    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        None
    }

    /// A usable token: the one in the store, or a newly fetched one, which the store then has.
    ///
    /// Only stores of this crate implement this, for the processes that share a store.
    #[doc(hidden)]
    async fn get_or_fetch(&self, key: &TokenKey, fetch: &Fetch<'_>) -> Result<AccessToken, Error> {
        let stored = fetch.asking_store("get", async { self.get(key).await });
        if let Some(token) = stored.await.flatten()
            && fetch.can_serve(&token)
        {
            return Ok(token);
        }
        let token = fetch.run().await?;
        fetch
            .asking_store("put", async { self.put(key, &token).await })
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

    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        (**self).database()
    }

    async fn get_or_fetch(&self, key: &TokenKey, fetch: &Fetch<'_>) -> Result<AccessToken, Error> {
        (**self).get_or_fetch(key, fetch).await
    }
}

#[async_trait]
impl<T: TokenStore + ?Sized> TokenStore for Box<T> {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        (**self).get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        (**self).put(key, token).await
    }

    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        (**self).database()
    }

    async fn get_or_fetch(&self, key: &TokenKey, fetch: &Fetch<'_>) -> Result<AccessToken, Error> {
        (**self).get_or_fetch(key, fetch).await
    }
}
