use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{SharedDatabase, TokenStore};
use crate::{AccessToken, BoxError, TokenKey, fleet};

/// How often a `put` is tried again after another process was faster.
const MOST_SWAPS: usize = 16;

/// Keeps tokens in a database that many processes share. All of them together make one fetch for each token, unless it takes longer than 2 s.
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
/// - **A dead or slow process** is replaced when its lease expires, after 2.3 s. A process that was suspended and continues later does not
///   overwrite a newer token. A process that has waited 8 s for others fails with [`TimedOut`](crate::ErrorKind::TimedOut).
/// - **A failure about the credentials** stops all processes until its cooldown ends. Every errcode counts as one, except -1, 45009, 45033 and
///   60020.
/// - **Any other failure** may concern one host only: no connection, a timeout, an HTTP error, or one of these four errcodes. The process that
///   failed has a cooldown of its own: it waits as long as it would without a fleet, but at most 4 s after a transient failure. For the others
///   there is a shorter pause, in which up to three processes that have not failed yet try, one at a time. After the pause, such processes go
///   first. It lasts 1 s, doubling to 4 s after transient failures, to 5 min after refusals and to 10 min after 45009, or as long as
///   `Retry-After` asks, at most 60 s. Retries start within 1.5 s, and after a failure there are none.
/// - **An operator's [`refresh`](crate::TokenManager::refresh)** waits for a process that fetches, and then fetches, whatever failures say. Its
///   success ends the cooldown of all processes.
/// - **If the database is down or hangs**, each process goes on with its token, and fetches its own when that expires soon or is rejected. It
///   keeps trying to write that token to the database, with pauses of 0.1 s, doubling to 60 s.
/// - **Clocks** of the processes need not agree. The database's clock decides when a token expires.
///
/// Processes share a token only if they use the same base URL. A gateway and the direct route are two deployments with two tokens.
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
/// replaces the whole document in one step, with the remaining lifetime of the token as the document's time to live. This crate takes the
/// expiry from the time to live, not from `expires_at`. A document may outlive its token, so a reader checks `expires_at`. If something else
/// is under the key, the event `document_unreadable` says so once, and the next refresh replaces it.
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
