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
/// # How processes work together
///
/// The process that needs a token first takes a lease in the database, fetches, and writes the token. The others wait and look every 20 to
/// 250 ms.
///
/// - **A dead process** is replaced when its lease expires, after 2 s. A process that was suspended and continues later does not overwrite a
///   newer token.
/// - **A failure about the credentials** (such as errcode 40001) counts for all processes until its cooldown ends.
/// - **Any other failure** may concern one process only: no connection, a timeout, errcode 60020 (untrusted IP address) or 45009 (rate limit).
///   Up to three processes try within each cooldown, one at a time, and those that have failed come last. The cooldown lasts 1 s, doubling to
///   4 s; 10 s to 5 min after 60020; 60 s to 10 min after 45009.
/// - **If the database is down or hangs**, each process uses its token until that expires, and then fetches its own. It writes that token to
///   the database when it works again, and retries with growing pauses of up to a minute.
/// - **Clocks** of the processes need not agree. The database's clock decides when a token expires.
///
/// Processes that share a database must use the same base URL. A gateway and the direct route are two deployments with two tokens.
///
/// # The document
///
/// The database keeps one document for each app, under its [`TokenKey`]. It is JSON, and it is deleted when it expires:
///
/// ```json
/// {"value": "…", "fetched_at": 1700000000000, "expires_at": 1700007200000}
/// ```
///
/// Times are in whole milliseconds since the Unix epoch, by the clock of the machine that fetched. While a process fetches and after a failed
/// fetch, there are more fields, and the first three may be missing. Another program may rely on those three only. To write a token, it
/// replaces the whole document in one step, with the remaining lifetime of the token as the document's time to live. If something else is
/// under the key, the event `document_unreadable` says so once, and the next token replaces it.
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
