mod builder;
#[cfg(feature = "redis-cluster")]
mod cluster;
mod connection;
mod link;
mod scripts;
mod shared_failure;
mod turn;
mod write_back;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use redis::{Client, IntoConnectionInfo, RedisResult};
use tokio::time::timeout;

pub use self::builder::RedisStoreBuilder;
pub use self::connection::RedisConnection;
use self::link::{Failure, Link};
use self::scripts::{Keys, Reply, Seen, Text};
use self::turn::Turn;
use self::write_back::{Unwritten, WriteBack};
use super::TokenStore;
use crate::fetch::Fetch;
use crate::{AccessToken, BoxError, Error, TokenKey};

/// How many commits are tried while other processes replace the stored token. After that, the token is used without being stored.
const MOST_COMMITS: usize = 4;

/// How long callers wait until Redis has a fetched token. After that it is written in the background.
const PATIENCE: Duration = Duration::from_millis(50);

/// Keeps tokens in Redis, so that many processes share them. Needs the feature `redis`.
///
/// Processes that share a Redis make one fetch for each token, however many of them need it at once. A failed fetch counts for all of them
/// too: no process fetches again until the cooldown ends.
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
/// Clones share everything. You can create a store inside or outside a runtime, and use it from several runtimes. It connects on first use,
/// and again when the connection is lost.
///
/// # When Redis is down
///
/// Requests still succeed. Each process goes on using its local copy. When it needs another token, the store tries Redis for twice the
/// [operation limit](RedisStoreBuilder::operation_limit). Then the manager fetches without Redis, and the store writes the token once Redis
/// is back. Until then, each process fetches its own token. The event `store_failed` says what is wrong.
///
/// If a process dies while it fetches, the others wait until its lease expires, after the
/// [lease time](RedisStoreBuilder::lease_time) at most. A process that was suspended for longer than that does not overwrite a newer token.
///
/// # Cluster, Sentinel, TLS
///
/// With the feature `redis-cluster` you can [build](Self::builder) a store from a `ClusterClient` or a `ClusterConnection`, and with
/// `redis-sentinel` from a `SentinelClient`: see [`RedisConnection`]. URLs with `rediss://` need the feature `redis-rustls`, or
/// `redis-rustls-webpki-roots` for Mozilla's root certificates instead of the system's. You can also enable another TLS feature of [`redis`] on
/// your own dependency. `rustls` needs a crypto provider: see its docs.
///
/// The crate [`redis`] is part of this interface, and re-exported as `reqwest_wecom::redis`. A new major version of it comes with a breaking
/// version of this crate.
///
/// # Keys and values
///
/// This layout is stable, so other programs can rely on it. `{` and `}` are part of the key, so that a cluster keeps all three on one node.
///
/// | key | value | expires |
/// | --- | --- | --- |
/// | `wecom:{KEY}` | the token, as JSON: `{"value":"…","fetched_at":1700000000000,"expires_at":1700007200000}` | with the token |
/// | `wecom:{KEY}:lease` | the process that is fetching | after the lease time |
/// | `wecom:{KEY}:failure` | the last fetch, if it failed: `{"kind":{"errcode":40001},"message":"…","pause":10000}`; otherwise `kind` is `"refused"` or `"transient"` | with the cooldown |
///
/// `KEY` is the [`TokenKey`], such as `access_token:{corp id}:{first 32 hex digits of the SHA-256 of the app's secret}`. Times are in milliseconds since the
/// Unix epoch, by the clock of the machine that fetched. To get the remaining time of a token, use `PTTL`: it is not affected by clock skew.
/// The store ignores a key without an expiry.
///
/// A program in another language reads a token like this (in Python). If there is none, it waits a moment and tries again:
///
/// ```python
/// app = hashlib.sha256(secret.encode()).hexdigest()[:32]
/// kept = redis.get("wecom:{access_token:%s:%s}" % (corp_id, app))
/// token = json.loads(kept)["value"] if kept else None
/// ```
///
/// The store works with Redis 6.2 and later. Anyone who can read these keys can act as the app. An ACL user needs only these rights:
///
/// ```text
/// ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +del +pttl
/// ```
///
/// Add `+select` for a database other than 0, `+cluster|slots +ping` for a cluster (and `+readonly` to read replicas), and `+role` for
/// Sentinel. A program with [`StoreOnly`](crate::StoreOnly) takes no lease, so it needs neither `+set` nor `+del`.
#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

struct Shared {
    link: Link,
    key_prefix: String,
    lease_time: Duration,
    write_back: WriteBack,
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

    /// Keeps tokens in the Redis of this connection or client.
    pub fn new(connection: impl Into<RedisConnection>) -> Self {
        Self::builder(connection).build()
    }

    /// Builds a store with other settings than the defaults.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use reqwest_wecom::{RedisStore, redis};
    ///
    /// # async fn f() -> redis::RedisResult<()> {
    /// let connection = redis::Client::open("redis://127.0.0.1/")?.get_connection_manager().await?;
    /// let store = RedisStore::builder(connection)
    ///     .key_prefix("staging")
    ///     .operation_limit(Duration::from_millis(300))
    ///     .build();
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(connection: impl Into<RedisConnection>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(connection.into())
    }

    /// Makes the fetch and keeps what it brings.
    async fn fetch(
        &self,
        key: &TokenKey,
        owner: String,
        seen: Seen,
        fetch: &Fetch<'_>,
    ) -> Result<AccessToken, Error> {
        let keys = self.0.keys(key);
        let token = match fetch.run().await {
            Ok(token) => token,
            Err(error) if !fetch.fetches() => return Err(error),
            Err(error) => {
                let failed = shared_failure::write(&error, fetch);
                return match self.0.fail(&keys, &owner, failed, &seen).await {
                    Ok(Some(token)) if fetch.can_serve(&token) => Ok(token),
                    Ok(_) => Err(error),
                    Err(failure) => {
                        fetch.store_fails("fail", &failure.to_string());
                        Err(error)
                    }
                };
            }
        };
        let unwritten = Unwritten::new(token, owner, fetch);
        let committing = timeout(PATIENCE, self.0.commit(&keys, &unwritten, seen));
        let failure = match committing.await {
            Ok(Ok(committed)) => {
                self.0.write_back.remove(key);
                return match committed {
                    Committed::Another(kept) => Ok(kept),
                    Committed::Kept | Committed::AnotherFetches | Committed::GivenUp => {
                        Ok(unwritten.token)
                    }
                };
            }
            Ok(Err(failure)) => Some(failure),
            Err(_elapsed) => None,
        };
        if let Some(failure) = failure {
            fetch.store_fails("commit", &failure.to_string());
        }
        let token = unwritten.token.clone();
        WriteBack::add(&self.0, key, unwritten);
        Ok(token)
    }
}

#[async_trait]
impl TokenStore for RedisStore {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let asked_at = SystemTime::now();
        match self.0.link.send(&self.0.keys(key).get()).await? {
            Reply::Token(text) => Ok(text.token(asked_at)),
            Reply::None => Ok(None),
            _ => Err(Failure::Answer.into()),
        }
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        if let Some(text) = Text::of(token) {
            self.0.link.send(&self.0.keys(key).put(&text)).await?;
            self.0.write_back.remove(key);
        }
        Ok(())
    }

    fn coordinates(&self) -> bool {
        true
    }

    async fn get_or_fetch(&self, key: &TokenKey, fetch: &Fetch<'_>) -> Result<AccessToken, Error> {
        WriteBack::go_on(&self.0, key, fetch);
        let owner = turn::owner();
        match self.0.turn(key, &owner, fetch).await {
            Turn::Found(token) => Ok(token),
            Turn::Failed(heard) => Err(fetch.hear(heard)),
            Turn::Ours(seen) => self.fetch(key, owner, seen, fetch).await,
            Turn::Alone(failure) => {
                fetch.store_fails("get_or_fetch", &failure);
                let token = fetch.run().await?;
                let unwritten = Unwritten::new(token.clone(), owner, fetch);
                WriteBack::add(&self.0, key, unwritten);
                Ok(token)
            }
        }
    }
}

impl Shared {
    fn keys(&self, key: &TokenKey) -> Keys {
        Keys::new(&self.key_prefix, key)
    }

    /// Keeps a fetched token, unless another one that can serve is there by now.
    async fn commit(
        &self,
        keys: &Keys,
        unwritten: &Unwritten,
        mut seen: Seen,
    ) -> Result<Committed, Failure> {
        for _ in 0..MOST_COMMITS {
            let Some(text) = Text::of(&unwritten.token) else {
                return Ok(Committed::GivenUp);
            };
            let asked_at = SystemTime::now();
            let command = keys.commit(&unwritten.owner, &text, &seen);
            match self.link.send(&command).await? {
                Reply::Done => return Ok(Committed::Kept),
                Reply::Wait => return Ok(Committed::AnotherFetches),
                Reply::Token(text) => match text.token(asked_at) {
                    Some(kept) if unwritten.gives_way_to(&kept) => {
                        return Ok(Committed::Another(kept));
                    }
                    _ => seen = Seen::text(text),
                },
                _ => return Err(Failure::Answer),
            }
        }
        Ok(Committed::GivenUp)
    }

    /// Stores the failure for the other processes. Returns the token that one of them has stored in the meantime, if any.
    async fn fail(
        &self,
        keys: &Keys,
        owner: &str,
        failed: Option<(String, Duration)>,
        seen: &Seen,
    ) -> Result<Option<AccessToken>, Failure> {
        let (failure, pause) = failed.unwrap_or_default();
        let asked_at = SystemTime::now();
        match self
            .link
            .send(&keys.fail(owner, &failure, pause, seen))
            .await?
        {
            Reply::Done => Ok(None),
            Reply::Token(text) => Ok(text.token(asked_at)),
            _ => Err(Failure::Answer),
        }
    }
}

/// What has become of a fetched token.
enum Committed {
    Kept,
    /// Redis has this usable token, which stays.
    Another(AccessToken),
    /// Another process has the lease, and its token will be newer.
    AnotherFetches,
    GivenUp,
}

impl Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.0.key_prefix)
            .field("lease_time", &self.0.lease_time)
            .field("operation_limit", &self.0.link.limit())
            .finish_non_exhaustive()
    }
}
