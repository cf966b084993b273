use std::sync::Arc;
use std::time::Duration;

use super::link::Link;
use super::{Database, RedisConnection, RedisStore};
use crate::store::STORE_LIMIT;

/// Builds a [`RedisStore`]: see [`RedisStore::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct RedisStoreBuilder {
    connection: RedisConnection,
    key_prefix: String,
    operation_limit: Duration,
}

impl RedisStoreBuilder {
    pub(super) fn new(connection: RedisConnection) -> Self {
        Self {
            connection,
            key_prefix: "wecom".into(),
            operation_limit: STORE_LIMIT,
        }
    }

    /// The start of the keys in Redis, up to the first colon. Default: `wecom`.
    ///
    /// Programs with the same prefix share tokens.
    pub fn key_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.key_prefix = prefix.into();
        self
    }

    /// How long one call may take, including connecting. Default: 2 s, which is also the maximum.
    ///
    /// A connection that takes longer is still made, and later calls use it.
    pub fn operation_limit(mut self, limit: Duration) -> Self {
        self.operation_limit = limit;
        self
    }

    /// Builds the store.
    pub fn build(self) -> RedisStore {
        RedisStore(Arc::new(Database {
            link: Link::new(self.connection, self.operation_limit.min(STORE_LIMIT)),
            key_prefix: self.key_prefix,
            unusable: Default::default(),
        }))
    }
}
