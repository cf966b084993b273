use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{SharedDatabase, TokenStore};
use crate::{AccessToken, BoxError, TokenKey, fleet};

/// How often a `put` is tried again after another process was faster.
const MOST_SWAPS: usize = 16;

/// Keeps tokens in a database that many processes share. All of them together make one fetch for each token.
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, SharedDatabase, SharedStore};
///
/// fn middleware(
///     http: reqwest::Client,
///     credentials: Credentials,
///     database: impl SharedDatabase,
/// ) -> AccessTokenMiddleware {
///     AccessTokenMiddleware::with_store(http, credentials, SharedStore::new(database))
/// }
/// ```
///
/// The database keeps one document for each app, under its [`TokenKey`]. The document is JSON. Other programs may read and write the token in
/// it: see [`RedisStore`](crate::TokenStore#shared-documents) for the format.
///
/// If the database is down, each process uses its token until that expires, and then fetches its own. It writes that one to the database when
/// that works again.
///
/// Clones share the database.
#[derive(Clone)]
pub struct SharedStore(Arc<dyn SharedDatabase>);

impl SharedStore {
    /// A store over this database.
    pub fn new(database: impl SharedDatabase) -> Self {
        Self(Arc::new(database))
    }
}

#[async_trait]
impl TokenStore for SharedStore {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let asked_at = Instant::now();
        let kept = self.0.load(key.as_str()).await?;
        Ok(kept.and_then(|kept| fleet::token(&kept, asked_at, SystemTime::now())))
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        let key = key.as_str();
        for _ in 0..MOST_SWAPS {
            let Some(new) = fleet::of_token(token, SystemTime::now()) else {
                return Ok(()); // It has expired.
            };
            let kept = self.0.load(key).await?;
            let expected = kept.as_ref().map(super::Kept::expose_secret);
            if self.0.compare_and_swap(key, expected, &new).await? {
                return Ok(());
            }
        }
        Err("other processes kept replacing the value".into())
    }

    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        Some(self.0.clone())
    }
}

impl Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStore").finish_non_exhaustive()
    }
}
