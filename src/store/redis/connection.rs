//! What leads to Redis: one server, a cluster, or the master that sentinels know of.

use std::fmt::{self, Debug};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, RedisResult, Value};
#[cfg(feature = "redis-sentinel")]
use redis::{aio::MultiplexedConnection, sentinel::SentinelClient};
#[cfg(feature = "redis-cluster")]
use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};

#[cfg(feature = "redis-cluster")]
use super::cluster::Cluster;

/// Reconnect delays. With the defaults of the connection manager, it would stay disconnected for 9 s after an outage of 20 s.
const SHORTEST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// The connection of a [`RedisStore`](super::RedisStore): one that your program already has, or a client that connects on first use.
///
/// | made `From` | feature | what it is |
/// | --- | --- | --- |
/// | [`redis::Client`] | `redis` | one server, connected on first use |
/// | [`redis::aio::ConnectionManager`] | `redis` | one server, already connected |
/// | `redis::cluster::ClusterClient` | `redis-cluster` | a cluster, connected on first use, and again when a replica takes over from a node that hangs |
/// | `redis::cluster_async::ClusterConnection` | `redis-cluster` | a cluster, already connected |
/// | `redis::sentinel::SentinelClient` | `redis-sentinel` | the master that the sentinels know, asked for on first use and whenever it may have moved |
///
/// Prefer a `ClusterClient` to a `ClusterConnection`. A `ClusterConnection` stops working when the runtime that created it shuts down, and it
/// does not fail over from a node that hangs.
pub struct RedisConnection(pub(super) Origin);

pub(super) enum Origin {
    Given(Connection),
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

impl From<ConnectionManager> for RedisConnection {
    fn from(connection: ConnectionManager) -> Self {
        Self(Origin::Given(Connection::Single(connection)))
    }
}

#[cfg(feature = "redis-cluster")]
impl From<ClusterClient> for RedisConnection {
    fn from(client: ClusterClient) -> Self {
        Self(Origin::Cluster(Box::new(client)))
    }
}

#[cfg(feature = "redis-cluster")]
impl From<ClusterConnection> for RedisConnection {
    fn from(connection: ClusterConnection) -> Self {
        Self(Origin::Given(Connection::Cluster(Cluster::given(
            connection,
        ))))
    }
}

#[cfg(feature = "redis-sentinel")]
impl From<SentinelClient> for RedisConnection {
    fn from(client: SentinelClient) -> Self {
        Self(Origin::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
    }
}

impl Origin {
    pub(super) async fn connect(&self, limit: Duration) -> RedisResult<Connection> {
        match self {
            Self::Given(connection) => Ok(connection.clone()),
            Self::Client(client) => {
                let config = ConnectionManagerConfig::new()
                    .set_number_of_retries(1)
                    .set_min_delay(SHORTEST_DELAY)
                    .set_max_delay(LONGEST_DELAY)
                    .set_connection_timeout(Some(limit))
                    .set_response_timeout(Some(limit));
                let client = Client::clone(client);
                let manager = ConnectionManager::new_with_config(client, config).await?;
                Ok(Connection::Single(manager))
            }
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(client) => {
                Ok(Connection::Cluster(Cluster::connect(client, limit).await?))
            }
            #[cfg(feature = "redis-sentinel")]
            Self::Sentinel(client) => {
                let config = redis::AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(limit))
                    .set_response_timeout(Some(limit));
                let mut client = client.lock().await;
                let connection = client.get_async_connection_with_config(&config).await?;
                Ok(Connection::Master(connection))
            }
        }
    }

    /// The password, if it is known, so that it can be removed from errors.
    pub(super) fn password(&self) -> Option<&str> {
        match self {
            Self::Client(client) => client.get_connection_info().redis_settings().password(),
            _ => None,
        }
    }
}

#[derive(Clone)]
pub(super) enum Connection {
    Single(ConnectionManager),
    #[cfg(feature = "redis-cluster")]
    Cluster(Cluster),
    #[cfg(feature = "redis-sentinel")]
    Master(MultiplexedConnection),
}

impl Connection {
    /// Whether other servers may still answer when one hangs.
    pub(super) fn leads_to_many(&self) -> bool {
        match self {
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(_) => true,
            _ => false,
        }
    }

    /// Whether a new one may lead to other servers.
    #[cfg_attr(
        not(feature = "redis-cluster"),
        expect(unused_variables, reason = "only a cluster has to be asked")
    )]
    pub(super) async fn has_moved(&self, limit: Duration) -> bool {
        match self {
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => cluster.has_moved(limit).await,
            _ => true,
        }
    }

    pub(super) async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let connection: &mut (dyn ConnectionLike + Send) = match self {
            Self::Single(connection) => connection,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(cluster) => &mut cluster.connection,
            #[cfg(feature = "redis-sentinel")]
            Self::Master(connection) => connection,
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
            Origin::Given(_) => "RedisConnection(given)",
            Origin::Client(_) => "RedisConnection(client)",
            #[cfg(feature = "redis-cluster")]
            Origin::Cluster(_) => "RedisConnection(cluster)",
            #[cfg(feature = "redis-sentinel")]
            Origin::Sentinel(_) => "RedisConnection(sentinel)",
        })
    }
}
