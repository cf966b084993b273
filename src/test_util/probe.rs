//! Calls of the database under test.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{BoxError, Kept, SharedDatabase};

/// What was found instead of what was promised.
pub(super) type Found = String;

/// A call that takes longer never returns, as far as the check is concerned.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// What rounding may add to the time that was asked for.
const ROUNDING: Duration = Duration::from_millis(1);
/// How much the time left may be wrong, because clocks run at different rates.
pub(super) const TOO_LONG: Duration = Duration::from_millis(250);
/// How much too early a value may expire: some databases count whole seconds.
const TOO_SHORT: Duration = Duration::from_millis(1_250);

/// A database, and a prefix for keys that no one else uses.
#[derive(Clone)]
pub(super) struct Probe {
    database: Arc<dyn SharedDatabase>,
    prefix: Arc<str>,
}

impl Probe {
    pub(super) fn new(database: impl SharedDatabase) -> Self {
        let prefix = format!("check_shared_database:{:032x}:", fastrand::u128(..));
        Self {
            database: Arc::new(database),
            prefix: prefix.into(),
        }
    }

    pub(super) fn key(&self, name: &str) -> Key {
        Key {
            database: self.database.clone(),
            key: format!("{}{name}", self.prefix),
        }
    }

    /// A key of exactly this length that ends with this text.
    pub(super) fn long_key(&self, length: usize, end: &str) -> Key {
        let filler = length.saturating_sub(self.prefix.len() + end.len());
        self.key(&("k".repeat(filler) + end))
    }
}

/// One key of the database.
#[derive(Clone)]
pub(super) struct Key {
    database: Arc<dyn SharedDatabase>,
    key: String,
}

impl Key {
    pub(super) async fn load(&self) -> Result<Option<Kept>, Found> {
        let load = self.database.load(&self.key);
        self.within_limit("load", load).await
    }

    pub(super) async fn swap(
        &self,
        expected: Option<&[u8]>,
        new: &[u8],
        left: Duration,
    ) -> Result<bool, Found> {
        let new = Kept::new(new, left);
        let swap = self.database.compare_and_swap(&self.key, expected, &new);
        self.within_limit("compare_and_swap", swap).await
    }

    async fn within_limit<T>(
        &self,
        name: &str,
        call: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, Found> {
        let key = self.key.escape_debug();
        match timeout(CALL_LIMIT, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(format!("`{name}` failed for the key \"{key}\": {error}")),
            Err(_elapsed) => Err(format!(
                "`{name}` took longer than {CALL_LIMIT:?} for the key \"{key}\""
            )),
        }
    }

    /// Makes a swap that must succeed.
    pub(super) async fn store(
        &self,
        expected: Option<&[u8]>,
        new: &[u8],
        left: Duration,
    ) -> Result<Stored, Found> {
        let began = Instant::now();
        if !self.swap(expected, new, left).await? {
            let there = shown_option(self.load().await?.as_ref().map(Kept::expose_secret));
            return Err(format!(
                "`compare_and_swap` returned false, expecting {} where `load` returns {there}",
                shown_option(expected)
            ));
        }
        Ok(Stored {
            key: self.clone(),
            bytes: new.to_vec(),
            left,
            began,
            ended: Instant::now(),
        })
    }

    /// Makes a swap that must fail.
    pub(super) async fn refuse(&self, expected: Option<&[u8]>, why: &str) -> Result<(), Found> {
        if self.swap(expected, b"must not be stored", MINUTE).await? {
            return Err(format!(
                "`compare_and_swap` returned true, expecting {}, although {why}",
                shown_option(expected)
            ));
        }
        Ok(())
    }

    /// Loads what must be missing.
    pub(super) async fn is_missing(&self, why: &str) -> Result<(), Found> {
        match self.load().await? {
            None => Ok(()),
            Some(kept) => Err(format!(
                "`load` returned {} with {:?} left, although {why}",
                shown(kept.expose_secret()),
                kept.left()
            )),
        }
    }
}

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// A value that the database has accepted between two moments.
pub(super) struct Stored {
    key: Key,
    bytes: Vec<u8>,
    left: Duration,
    began: Instant,
    ended: Instant,
}

impl Stored {
    /// Loads the value, and checks its bytes and its time left.
    pub(super) async fn is_there(&self) -> Result<(), Found> {
        let began = Instant::now();
        let found = self.key.load().await?;
        let ended = Instant::now();
        let most = self.left.saturating_sub(began - self.ended);
        let least = self.left.saturating_sub(ended - self.began);
        let Some(kept) = found else {
            if least <= TOO_SHORT {
                return Ok(());
            }
            return Err(format!(
                "`load` returned `None` for {}, which must have {least:?} left",
                shown(&self.bytes)
            ));
        };
        if kept.expose_secret() != self.bytes {
            return Err(format!(
                "`load` returned {}, after {} was stored",
                shown(kept.expose_secret()),
                shown(&self.bytes)
            ));
        }
        let left = kept.left();
        if left > self.left + ROUNDING {
            return Err(format!(
                "a value was stored for {:?}, and `load` says that it has {left:?} left",
                self.left
            ));
        }
        if left > most + TOO_LONG || left + TOO_SHORT < least {
            return Err(format!(
                "a value was stored for {:?}; when it had {most:?} left, `load` said {left:?}",
                self.left
            ));
        }
        Ok(())
    }

    /// Waits until the value must have expired.
    pub(super) async fn expired(&self) {
        tokio::time::sleep_until(self.ended + self.left + TOO_LONG).await;
    }
}

fn shown_option(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "`None`".to_owned(), shown)
}

/// Bytes for a message, shortened.
pub(super) fn shown(bytes: &[u8]) -> String {
    const MOST: usize = 32;
    let start = bytes.get(..MOST).unwrap_or(bytes).escape_ascii();
    if bytes.len() > MOST {
        format!("b\"{start}…\" ({} bytes)", bytes.len())
    } else {
        format!("b\"{start}\"")
    }
}
