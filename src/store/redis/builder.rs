use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::{RedisConnection, RedisStore, Shared};
use crate::source::STORE_LIMIT;

/// Builds a [`RedisStore`]: see [`RedisStore::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RedisStoreBuilder {
    connection: RedisConnection,
    key_prefix: String,
    lock_time: Duration,
    operation_limit: Duration,
}

impl RedisStoreBuilder {
    pub(super) fn new(connection: RedisConnection) -> Self {
        Self {
            connection,
            key_prefix: "wecom".into(),
            lock_time: Duration::from_secs(10),
            operation_limit: Duration::from_secs(1),
        }
    }

    /// What the keys in Redis begin with, up to the first colon. Default: `wecom`.
    ///
    /// Programs share tokens if they have the same prefix. It should hold no braces, since in a cluster these decide where a key
    /// is kept.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// For how long a process that fetches is waited for, should it die meanwhile. Default: 10 s.
    ///
    /// It is never less than one second more than [`Fetch::limit`](crate::Fetch::limit), the `fetch_limit` of the manager, so that a
    /// fetch under way is not taken for dead, and never more than one second more than twice that, so that a dead one is outwaited.
    pub fn lock_time(mut self, time: Duration) -> Self {
        self.lock_time = time;
        self
    }

    /// How long Redis may take for one command, connecting included. Default: 1 s; at most 2 s, since no more is waited for any store.
    ///
    /// Where a token is needed and Redis is down, it is tried again for twice as long before the token is fetched without it.
    pub fn operation_limit(mut self, limit: Duration) -> Self {
        self.operation_limit = limit;
        self
    }

    /// The store.
    pub fn build(self) -> RedisStore {
        RedisStore(Arc::new(Shared {
            link: Link::new(self.connection, self.operation_limit.min(STORE_LIMIT)),
            key_prefix: self.key_prefix,
            lock_time: self.lock_time,
            write_back: Default::default(),
        }))
    }
}
