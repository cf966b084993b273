use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::{RedisConnection, RedisStore, Shared};
use crate::store::STORE_LIMIT;

/// Builds a [`RedisStore`]: see [`RedisStore::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RedisStoreBuilder {
    connection: RedisConnection,
    key_prefix: String,
    lease_time: Duration,
    operation_limit: Duration,
}

impl RedisStoreBuilder {
    pub(super) fn new(connection: RedisConnection) -> Self {
        Self {
            connection,
            key_prefix: "wecom".into(),
            lease_time: Duration::from_secs(10),
            operation_limit: Duration::from_secs(1),
        }
    }

    /// The start of the keys in Redis, up to the first colon. Default: `wecom`.
    ///
    /// Programs with the same prefix share tokens. Use no braces, because in a cluster they decide which node keeps a key.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// How long the lease of a fetching process lasts. If the process dies, the others wait this long. Default: 10 s.
    ///
    /// It is clamped to at least 1 s more than the manager's [`fetch_limit`](crate::TokenManagerBuilder::fetch_limit), so that it outlasts a
    /// running fetch, and to at most 1 s more than twice that limit. With the default fetch limit, that is 9 s to 17 s.
    pub fn lease_time(mut self, time: Duration) -> Self {
        self.lease_time = time;
        self
    }

    /// How long Redis may take for one command, including connecting. Default: 1 s, at most 2 s.
    ///
    /// If a token is needed and Redis is down, the store tries for twice this time.
    pub fn operation_limit(mut self, limit: Duration) -> Self {
        self.operation_limit = limit;
        self
    }

    /// Builds the store.
    pub fn build(self) -> RedisStore {
        RedisStore(Arc::new(Shared {
            link: Link::new(self.connection, self.operation_limit.min(STORE_LIMIT)),
            key_prefix: self.key_prefix,
            lease_time: self.lease_time,
            write_back: Default::default(),
        }))
    }
}
