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

pub use self::builder::RedisStoreBuilder;
pub use self::connection::RedisConnection;
use self::link::{Failure, Link};
use self::scripts::{Keys, Reply, Seen, Text};
use self::turn::Turn;
use self::write_back::{Unwritten, WriteBack};
use super::TokenStore;
use crate::{AccessToken, BoxError, Error, Fetch, TokenKey};

/// So many others may have put their tokens in the place of ours before it is given up: it is used all the same.
const MOST_COMMITS: usize = 4;

/// Keeps tokens in Redis, so that many processes share them: one fetches, the others wait for it and use what it got.
///
/// A fleet makes one fetch for each token, however many processes ask at once. A fetch that failed counts for all as well: none makes
/// another until the cool-down of the one that failed is over, even after [`TokenManager::forget`](crate::TokenManager::forget). Needs
/// the feature `redis`.
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
/// Clones share everything. A store is made before or outside of a runtime as well as within one, and may be used from several: a connection
/// is made on first use, and made anew when it is lost.
///
/// # When Redis is in trouble
///
/// No request fails for it. Tokens in hand go on serving, and only where one is needed is Redis asked at all: it is tried again for twice
/// the [operation limit](RedisStoreBuilder::operation_limit), then the token is fetched without it, and written when Redis is back. Each process
/// is on its own meanwhile. A warning, `token store fails`, tells what is wrong.
///
/// A process that dies while it fetches is waited for no longer than the [lock time](RedisStoreBuilder::lock_time). One that was stopped for
/// longer and goes on does not put its token in the place of a newer one.
///
/// # Cluster, Sentinel, TLS
///
/// With the feature `redis-cluster` a store can be [built](Self::builder) from a `ClusterClient` or a `ClusterConnection`, with
/// `redis-sentinel` from a `SentinelClient`; see [`RedisConnection`]. URLs with `rediss://` need the feature `redis-rustls`, or
/// `redis-rustls-webpki-roots` for the root certificates of Mozilla in place of the system's. Other TLS features of [`redis`] work too where the program
/// enables them on its own dependency. `rustls` wants a crypto provider: see its docs.
///
/// The crate [`redis`] is part of this interface, and re-exported as `reqwest_wecom::redis`. A new major version of it comes with a new version
/// of this crate that counts as breaking.
///
/// # What is kept
///
/// This layout is stable, and other programs may rely on it. `{` and `}` are part of the key, so that a cluster keeps the three together.
///
/// | key | value | expires |
/// | --- | --- | --- |
/// | `wecom:{KEY}` | the token, as JSON: `{"value":"…","fetched_at":1700000000000,"expires_at":1700007200000}` | with the token |
/// | `wecom:{KEY}:lock` | who fetches, for as long as it does | after the lock time |
/// | `wecom:{KEY}:failure` | the last fetch, if it failed: `{"kind":{"errcode":40001},"message":"…","pause":10000}`; `kind` is else `"refused"` or `"transient"` | with the cool-down |
///
/// `KEY` is the [`TokenKey`]: `access_token:{corp id}:{first 32 hex digits of the SHA-256 of the app's secret}`. Times are in milliseconds, since the Unix
/// epoch by the clock of the machine that fetched. For the time that a token has left, ask Redis for `PTTL`, so that clocks need not agree. A key
/// that never expires is taken for none.
///
/// A program in another language that only uses tokens does this, in Python, and waits a little where there is none:
///
/// ```python
/// app = hashlib.sha256(secret.encode()).hexdigest()[:32]
/// kept = redis.get("wecom:{access_token:%s:%s}" % (corp_id, app))
/// token = json.loads(kept)["value"] if kept else None
/// ```
///
/// It works with Redis from version 6.2 on. Anyone who can read these keys can act as the app. An ACL user needs no more than this; a database other than 0 takes `+select` as well, a cluster
/// `+cluster|slots +ping` (and `+readonly` where replicas are read), and Sentinel `+role`:
///
/// ```text
/// ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +del +pttl
/// ```
///
/// A program with [`StoreOnly`](crate::StoreOnly), which lets others fetch, can do without `+set` and `+del`; where there is no token, its log
/// says that it may not take the lock.
#[derive(Clone)]
pub struct RedisStore(Arc<Shared>);

struct Shared {
    link: Link,
    key_prefix: String,
    lock_time: Duration,
    write_back: WriteBack,
}

impl RedisStore {
    /// Keeps tokens in the server at this URL: `redis://user:password@host:port/database`. Nothing is sent before the first use.
    ///
    /// # Errors
    ///
    /// The URL cannot be used. The error does not show it.
    pub fn connect(url: impl IntoConnectionInfo) -> RedisResult<Self> {
        Ok(Self::new(Client::open(url)?))
    }

    /// Keeps tokens in the Redis that this connection or client leads to.
    pub fn new(connection: impl Into<RedisConnection>) -> Self {
        Self::builder(connection).build()
    }

    /// Builds one with other settings than the defaults.
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
        other_than: Option<&AccessToken>,
        fetch: &Fetch<'_>,
    ) -> Result<AccessToken, Error> {
        let keys = self.0.keys(key);
        let token = match fetch.run().await {
            Ok(token) => token,
            Err(error) => {
                let failed = shared_failure::write(&error, fetch);
                return match self.0.fail(&keys, &owner, failed, &seen).await {
                    Ok(Some(token)) if fetch.can_serve(&token, other_than) => Ok(token),
                    Ok(_) => Err(error),
                    Err(failure) => {
                        fetch.store_fails(key, "fail", &failure.to_string());
                        Err(error)
                    }
                };
            }
        };
        let unwritten = Unwritten::new(token, owner, other_than, fetch);
        match self.0.commit(&keys, &unwritten, seen).await {
            Ok(committed) => {
                self.0.write_back.remove(key);
                match committed {
                    Committed::Another(kept) => Ok(kept),
                    Committed::Kept | Committed::AnotherFetches | Committed::GivenUp => {
                        Ok(unwritten.token)
                    }
                }
            }
            Err(failure) => {
                fetch.store_fails(key, "commit", &failure.to_string());
                let token = unwritten.token.clone();
                WriteBack::add(&self.0, key, unwritten);
                Ok(token)
            }
        }
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

    async fn get_or_fetch(
        &self,
        key: &TokenKey,
        other_than: Option<&AccessToken>,
        fetch: &Fetch<'_>,
    ) -> Result<AccessToken, Error> {
        WriteBack::go_on(&self.0, key, other_than);
        let owner = turn::owner();
        match self.0.turn(key, &owner, other_than, fetch).await {
            Turn::Found(token) => Ok(token),
            Turn::Failed(heard) => Err(fetch.hear(heard)),
            Turn::Ours(seen) => self.fetch(key, owner, seen, other_than, fetch).await,
            Turn::Alone(failure) => {
                fetch.store_fails(key, "get_or_fetch", &failure);
                let token = fetch.run().await?;
                let unwritten = Unwritten::new(token.clone(), owner, other_than, fetch);
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

    /// Tells the others that the fetch has failed. Gives the token that one of them has put there meanwhile, if one has.
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
    /// This one is there, and can serve as well.
    Another(AccessToken),
    /// Another process has the lock, and its token will be newer.
    AnotherFetches,
    GivenUp,
}

impl Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("key_prefix", &self.0.key_prefix)
            .field("lock_time", &self.0.lock_time)
            .field("operation_limit", &self.0.link.limit())
            .finish_non_exhaustive()
    }
}
