//! What leads to Redis: one server, a cluster, or the master that sentinels know of.

use std::fmt::{self, Debug};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
#[cfg(feature = "redis-cluster")]
use redis::cluster::ClusterClient;
#[cfg(feature = "redis-sentinel")]
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, Cmd, RedisResult, Value};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;

/// Connecting to one server takes a few round trips, so it may take longer than a command.
const CONNECTING: Duration = Duration::from_secs(5);

/// Where the Redis of a [`RedisStore`](super::RedisStore) is: a client, with which the store connects on first use.
///
/// | made `From` | feature | what it is |
/// | --- | --- | --- |
/// | [`redis::Client`] | `redis` | one server |
/// | `redis::cluster::ClusterClient` | `redis-cluster` | a cluster |
/// | `redis::sentinel::SentinelClient` | `redis-sentinel` | the master that the sentinels know, asked for whenever it may have moved |
pub struct RedisConnection(pub(super) Origin);

pub(super) enum Origin {
    Client(Box<Client>),
    #[cfg(feature = "redis-cluster")]
    Cluster(Box<ClusterClient>),
    #[cfg(feature = "redis-sentinel")]
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
}

impl From<Client> for RedisConnection {
    fn from(client: Client) -> Self {
        Self(Origin::Client(Box::new(client)))
    }
}

#[cfg(feature = "redis-cluster")]
impl From<ClusterClient> for RedisConnection {
    fn from(client: ClusterClient) -> Self {
        Self(Origin::Cluster(Box::new(client)))
    }
}

#[cfg(feature = "redis-sentinel")]
impl From<SentinelClient> for RedisConnection {
    fn from(client: SentinelClient) -> Self {
        Self(Origin::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
    }
}

impl Origin {
    pub(super) async fn connect(
        &self,
        #[cfg_attr(
            not(feature = "redis-cluster"),
            expect(unused_variables, reason = "only a cluster has to be told")
        )]
        limit: Duration,
    ) -> RedisResult<Connection> {
        // The link limits the time of each command.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTING))
            .set_response_timeout(None);
        let connection = match self {
            Self::Client(client) => {
                client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(client) => {
                return Ok(Connection::Cluster(Cluster::connect(client, limit).await?));
            }
            // Limit of `redis` 1.8: it waits 500 ms at most for an answer of a sentinel, and for the master's answer to `ROLE`. To report there:
            // use the timeouts of the given configuration for these too.
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(client) => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(&config).await?
            }
        };
        Ok(Connection::Single(connection))
    }

    /// The password, if it is known, so that it can be removed from errors.
    pub(super) fn password(&self) -> Option<&str> {
        match self {
            Self::Client(client) => client.get_connection_info().redis_settings().password(),
            #[cfg(any(feature = "redis-cluster", feature = "redis-sentinel"))]
            _ => None,
        }
    }
}

#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    #[cfg(feature = "redis-cluster")]
    Cluster(Cluster),
}

impl Connection {
    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let connection: &mut (dyn ConnectionLike + Send) = match self {
            Self::Single(connection) => connection,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => &mut cluster.connection,
        };
        connection
            .req_packed_command(command)
            .await?
            .extract_error()
    }
}

impl Debug for RedisConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Origin::Client(_) => "RedisConnection(client)",
            #[cfg(feature = "redis-cluster")]
            Origin::Cluster(_) => "RedisConnection(cluster)",
            #[cfg(feature = "redis-sentinel")]
            Origin::Sentinel(_) => "RedisConnection(sentinel)",
        })
    }
}
