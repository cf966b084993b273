//! Where tokens are kept.

mod calls;
mod database;
mod moka;
#[cfg(feature = "redis")]
mod redis;
mod shared;

use std::sync::Arc;

use async_trait::async_trait;

pub(crate) use self::calls::{STORE_LIMIT, StoreCalls, StoreHealth};
pub use self::database::{Kept, SharedDatabase};
pub use self::moka::MokaStore;
#[cfg(feature = "redis")]
pub use self::redis::{RedisConnection, RedisStore, RedisStoreBuilder};
pub use self::shared::SharedStore;
use crate::{AccessToken, BoxError, TokenKey};

/// Where tokens are kept, so that other processes and later runs can use them.
///
/// To keep tokens somewhere other than in memory, implement [`get`](Self::get) and [`put`](Self::put). For an example, see
/// [*Your own store*](crate#your-own-store). A [`TokenManager`](crate::TokenManager) has a local copy of each token. It asks the store only
/// when the local copy is missing, expires soon, was rejected, or is older than [`local_copy`](crate::TokenManagerBuilder::local_copy).
///
/// If a store fails, hangs or panics, the manager logs a warning and continues without it. Keep a token at least until
/// [`expires_at`](AccessToken::expires_at). You may return expired tokens: the manager ignores them. The manager never deletes a token. It
/// replaces a rejected one with [`put`](Self::put).
///
/// `Arc` and `Box` of a store are stores too. Methods that are added later always have a default.
#[async_trait]
pub trait TokenStore: Send + Sync + 'static {
    /// The token kept under this key, if there is one.
    ///
    /// # Errors
    ///
    /// Any failure. The manager logs it, without the tokens and the secret that it knows.
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future after 2 s at the latest.
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError>;

    /// Keeps the token under this key, and replaces any other.
    ///
    /// # Errors
    ///
    /// Any failure. The manager logs it and uses the token anyway.
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future after 2 s at the latest.
    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError>;

    /// The shared database behind this store, if there is one. Default: `None`.
    ///
    /// If there is one, the manager uses the database in place of [`get`](Self::get) and [`put`](Self::put), so that the processes that share it
    /// make one fetch for all. It calls this method once, when it is built. If your store wraps another store, forward this method. To
    /// change what is kept, by encryption for example, wrap the database.
    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        None
    }
}

macro_rules! forwarded_by {
    ($($pointer:ident),*) => {
        $(
            #[async_trait]
            impl<T: TokenStore + ?Sized> TokenStore for $pointer<T> {
                async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
                    (**self).get(key).await
                }

                async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
                    (**self).put(key, token).await
                }

                fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
                    (**self).database()
                }
            }
        )*
    };
}

forwarded_by!(Arc, Box);
