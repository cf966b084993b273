mod builder;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod connection;
mod link;
mod script;

use std::collections::HashSet;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::{Client, IntoConnectionInfo, RedisResult, Value};

pub use self::builder::RedisStoreBuilder;
pub use self::connection::RedisConnection;
use self::link::{Again, Failure, Link};
use self::script::Loaded;
use super::{Kept, SharedDatabase, SharedStore, TokenStore};
use crate::{AccessToken, BoxError, TokenKey};

/// Unusable values are reported for this many keys at most.
const MOST_WARNINGS: usize = 1000;

/// Keeps tokens in Redis, so that many processes share them. Needs the feature `redis`.
///
/// Processes that share a Redis make one fetch for each token, however many of them need it at once: see [`SharedStore`](crate::SharedStore).
///
/// ```no_run
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, RedisStore};
///
/// # fn f(http: reqwest::Client, credentials: Credentials) -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisStore::connect("redis://127.0.0.1/")?;
/// let middleware = AccessTokenMiddleware::with_store(http, credentials, store);
/// # Ok(())
/// # }
/// ```
///
/// Clones share everything. You can create a store inside or outside a runtime, and use it from several runtimes. Each runtime has one
/// connection. The store connects on first use, and again when the connection is lost.
///
/// # When Redis is down
///
/// Requests still succeed if the process can reach WeCom. It goes on with its token, and fetches its own when that expires soon or is rejected.
/// It writes that token to Redis when Redis is back. A request that needs a token may wait up to 2 s first. With
/// [`StoreOnly`](crate::StoreOnly), requests fail once the local copy has expired or is rejected. The event `store_failed` says what is wrong.
///
/// A call to a server that hangs fails after the [operation limit](RedisStoreBuilder::operation_limit). A wrong password, a TLS error and a
/// refused connection fail at once.
///
/// # Cluster, Sentinel, TLS
///
/// With the feature `redis-cluster` you can [build](Self::builder) a store from a `ClusterClient`, and with `redis-sentinel` from a
/// `SentinelClient`: see [`RedisConnection`]. URLs with `rediss://` need the feature `redis-rustls`, or `redis-rustls-webpki-roots` for
/// Mozilla's root certificates instead of the system's. You can also enable another TLS feature of [`redis`] on your own dependency. `rustls`
/// needs a crypto provider: see its docs.
///
/// The crate [`redis`] is part of this interface, and re-exported as `reqwest_wecom::redis`. A new major version of it comes with a breaking
/// version of this crate.
///
/// # Keys and values
///
/// There is one key for each token:
///
/// | key | value | expires |
/// | --- | --- | --- |
/// | `wecom:{KEY}` | `{"value":"…","fetched_at":1700000000000,"expires_at":1700007200000,…}` | with the token, or later |
///
/// `{KEY}` stands for the [`TokenKey`], such as `access_token:ww1234:` and the first 32 hex digits of the SHA-256 of the app's secret. To start
/// keys with something other than `wecom`, set the [prefix](RedisStoreBuilder::key_prefix).
///
/// The value is a JSON document. Other programs can rely on three fields:
///
/// | field | type | meaning |
/// | --- | --- | --- |
/// | `value` | string, absent if there is no token | the access token |
/// | `fetched_at` | integer | the time just before the token was fetched, in milliseconds since the Unix epoch |
/// | `expires_at` | integer | when the token expires, in milliseconds since the Unix epoch |
///
/// All other fields belong to this crate. Both times are by the clock of the machine that fetched the token.
///
/// A program in another language reads a token like this (Python, with the package `redis`):
///
/// ```python
#[doc = include_str!("redis/reader.py")]
/// ```
///
/// A program that fetches tokens itself writes them like this:
///
/// ```python
#[doc = include_str!("redis/writer.py")]
/// ```
///
/// A writer must do four things:
///
/// - Replace the whole document in one step, with `SET` and `PX`. Don't edit the document that is there, and don't copy other fields from it.
/// - Set an expiry of the time that the token has left. The store ignores a value without an expiry, and may replace it.
/// - Write `value` as a string that is not empty, and both times as integers, in milliseconds. Fractions and seconds are wrong.
/// - Write a new `fetched_at` for each fetch, even if the API returned the same value. Processes tell tokens apart by it.
/// - This crate takes the expiry from the time to live, not from `expires_at`. A longer one makes it use a dead token.
///
/// # Rights
///
/// The store works with Redis 6.2 and later. Anyone who can read these keys can act as the app. An ACL user needs only these rights:
///
/// ```text
/// ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +pttl
/// ```
///
/// Add `+select` for a database other than 0, `+cluster|slots +ping` for a cluster (and `+readonly` to read replicas), and `+role` for
/// Sentinel. A program with [`StoreOnly`](crate::StoreOnly) writes nothing, so it does not need `+set`.
#[derive(Clone)]
pub struct RedisStore(Arc<Database>);

struct Database {
    link: Link,
    key_prefix: String,
    /// The keys whose values were reported.
    unusable: Mutex<HashSet<String>>,
}

impl RedisStore {
    /// Keeps tokens in the server at this URL: `redis://user:password@host:port/database`. It connects on first use.
    ///
    /// # Errors
    ///
    /// Fails if the URL is not valid, or if it starts with `rediss://` and no TLS feature is enabled. The error does not show the URL.
    pub fn connect(url: impl IntoConnectionInfo) -> RedisResult<Self> {
        Ok(Self::new(Client::open(url)?))
    }

    /// Keeps tokens in the Redis that this client leads to. It connects on first use.
    pub fn new(connection: impl Into<RedisConnection>) -> Self {
        Self::builder(connection).build()
    }

    /// Builds a store with other settings than the defaults.
    ///
    /// ```
    /// use std::time::Duration;
    /// use reqwest_wecom::{RedisStore, redis};
    ///
    /// # fn f() -> redis::RedisResult<()> {
    /// let client = redis::Client::open("redis://127.0.0.1/")?;
    /// let store = RedisStore::builder(client)
    ///     .key_prefix("staging")
    ///     .operation_limit(Duration::from_millis(300))
    ///     .build();
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(connection: impl Into<RedisConnection>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(connection.into())
    }
}

#[async_trait]
impl TokenStore for RedisStore {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        SharedStore::new(self.0.clone()).get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        SharedStore::new(self.0.clone()).put(key, token).await
    }

    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        Some(self.0.clone())
    }
}

#[async_trait]
impl SharedDatabase for Database {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        let key = self.key(key);
        let value = self.link.send(&script::load(&key), Again::Yes).await?;
        match script::loaded(value).ok_or(Failure::Answer)? {
            Loaded::Value(kept) => Ok(Some(kept)),
            Loaded::Nothing => Ok(None),
            Loaded::Unusable => {
                self.warn_once(key);
                Ok(None)
            }
        }
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        let swap = script::swap(&self.key(key), expected, new);
        match self.link.send(&swap, Again::No).await? {
            Value::Int(swapped) => Ok(swapped == 1),
            _ => Err(Failure::Answer.into()),
        }
    }
}

impl Database {
    fn key(&self, key: &str) -> String {
        format!("{}:{key}", self.key_prefix)
    }

    fn warn_once(&self, key: String) {
        let mut reported = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() < MOST_WARNINGS && reported.insert(key.clone()) {
            tracing::warn!(target: crate::TARGET, event = "document_unreadable", key, "the value in Redis is not a string with an expiry, and will be replaced: write it with SET and PX");
        }
    }
}

impl Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.0.key_prefix)
            .field("operation_limit", &self.0.link.limit())
            .finish_non_exhaustive()
    }
}
