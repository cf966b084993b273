//! The way to Redis: connections that are made when they are first needed, and made anew when they are lost.

use std::fmt::{self, Debug};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
#[cfg(feature = "redis-sentinel")]
use redis::{aio::MultiplexedConnection, sentinel::SentinelClient};
#[cfg(feature = "redis-cluster")]
use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use tokio::time::timeout;

use super::scripts::Reply;
use crate::redact::redact;

/// A command that meets a lost connection is sent once more on a new one.
const MOST_TRIES: usize = 2;

/// Delays of the connection manager, which by its defaults would go on for 9 s after an outage of 20 s.
const SHORTEST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_millis(500);

/// How a [`RedisStore`](super::RedisStore) comes to Redis: through a connection that the program has already, or a client, whose
/// connection is made on first use.
///
/// | made `From` | feature | what it is |
/// | --- | --- | --- |
/// | [`redis::Client`] | `redis` | one server, connected on first use |
/// | [`redis::aio::ConnectionManager`] | `redis` | one server, connected already |
/// | `redis::cluster::ClusterClient` | `redis-cluster` | a cluster, connected on first use |
/// | `redis::cluster_async::ClusterConnection` | `redis-cluster` | a cluster, connected already |
/// | `redis::sentinel::SentinelClient` | `redis-sentinel` | the master that sentinels know of, asked for on first use and whenever it may have moved |
pub struct RedisConnection(Origin);

enum Origin {
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
        Self(Origin::Given(Connection::Cluster(connection)))
    }
}

#[cfg(feature = "redis-sentinel")]
impl From<SentinelClient> for RedisConnection {
    fn from(client: SentinelClient) -> Self {
        Self(Origin::Sentinel(Box::new(tokio::sync::Mutex::new(client))))
    }
}

impl Origin {
    async fn connect(&self, limit: Duration) -> RedisResult<Connection> {
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
                let connection = client.get_async_connection().await?;
                Ok(Connection::Cluster(connection))
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

    /// The password, if it can be known, so that it can be kept out of texts.
    fn password(&self) -> Option<&str> {
        match self {
            Self::Client(client) => client.get_connection_info().redis_settings().password(),
            _ => None,
        }
    }
}

#[derive(Clone)]
enum Connection {
    Single(ConnectionManager),
    #[cfg(feature = "redis-cluster")]
    Cluster(ClusterConnection),
    #[cfg(feature = "redis-sentinel")]
    Master(MultiplexedConnection),
}

impl Connection {
    async fn send(&mut self, command: &Cmd) -> RedisResult<Value> {
        let connection: &mut (dyn ConnectionLike + Send) = match self {
            Self::Single(connection) => connection,
            #[cfg(feature = "redis-cluster")]
            Self::Cluster(connection) => connection,
            #[cfg(feature = "redis-sentinel")]
            Self::Master(connection) => connection,
        };
        connection
            .req_packed_command(command)
            .await?
            .extract_error()
    }
}

/// Sends commands, each within a time limit.
pub(super) struct Link {
    origin: Origin,
    limit: Duration,
    made: Mutex<Made>,
    /// Held by the one who connects, for all.
    connecting: tokio::sync::Mutex<()>,
}

/// The connection in use, and how many were before it.
#[derive(Default)]
struct Made {
    connection: Option<Connection>,
    lost: usize,
}

/// Why Redis gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer from Redis within {0:?}")]
    TimedOut(Duration),
    /// Only its text is kept, without secrets.
    #[error("{text}")]
    Failed { text: String, may_pass: bool },
    #[error("Redis gave an answer that cannot be understood")]
    Answer,
}

impl Failure {
    /// Whether the same command may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Failed { may_pass, .. } => *may_pass,
            Self::Answer => false,
        }
    }
}

impl Link {
    pub(super) fn new(connection: RedisConnection, limit: Duration) -> Self {
        Self {
            origin: connection.0,
            limit,
            made: Mutex::default(),
            connecting: Default::default(),
        }
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Reply, Failure> {
        let mut used = None;
        match timeout(self.limit, self.send_or_send_again(command, &mut used)).await {
            Ok(Ok(value)) => Reply::read(value).ok_or(Failure::Answer),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_elapsed) => {
                // The server may have gone without a word, and another may be the master now.
                if let Some(number) = used {
                    self.forget(number);
                }
                Err(Failure::TimedOut(self.limit))
            }
        }
    }

    /// Leaves in `used` which connection was used last.
    async fn send_or_send_again(
        &self,
        command: &Cmd,
        used: &mut Option<usize>,
    ) -> RedisResult<Value> {
        let mut tries = 1;
        loop {
            let (mut connection, number) = self.connection().await?;
            *used = Some(number);
            match connection.send(command).await {
                Err(error) if is_lost(&error) => {
                    self.forget(number);
                    if tries == MOST_TRIES || error.is_timeout() {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
            tries += 1;
        }
    }

    /// The connection in use and its number, or a new one.
    async fn connection(&self) -> RedisResult<(Connection, usize)> {
        if let Ok(made) = self.made() {
            return Ok(made);
        }
        // Who connects is not waited for to the end, since nobody knows whether its task is ever run again.
        let _turn = timeout(self.limit / 2, self.connecting.lock()).await;
        let number = match self.made() {
            Ok(made) => return Ok(made),
            Err(number) => number,
        };
        let connection = self.origin.connect(self.limit).await?;
        let mut made = self.lock();
        if made.lost != number {
            return Ok((connection, number));
        }
        let connection = made.connection.get_or_insert(connection).clone();
        Ok((connection, number))
    }

    /// The connection in use and its number, or the number of the next.
    fn made(&self) -> Result<(Connection, usize), usize> {
        let made = self.lock();
        match &made.connection {
            Some(connection) => Ok((connection.clone(), made.lost)),
            None => Err(made.lost),
        }
    }

    /// Lets the connection of this number go, unless that has been done.
    fn forget(&self, number: usize) {
        let mut made = self.lock();
        if made.lost == number {
            made.connection = None;
            made.lost += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, error: &RedisError) -> Failure {
        if error.is_timeout() {
            return Failure::TimedOut(self.limit);
        }
        Failure::Failed {
            text: redact(&error.to_string(), self.origin.password()),
            may_pass: is_lost(error) || passes(error),
        }
    }
}

/// Whether another connection may do better: this one is dead, or it leads to a server that is no longer the master.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

fn passes(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::Server(
                ServerErrorKind::BusyLoading
                    | ServerErrorKind::MasterDown
                    | ServerErrorKind::ClusterDown
                    | ServerErrorKind::TryAgain
            )
    )
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
