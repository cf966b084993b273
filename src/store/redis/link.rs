//! The way to Redis: a connection for each runtime, made on first use, and made again when it is lost.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::RedisConnection;
use super::connection::{Connection, Origin};
use crate::redact::redact;

/// A cluster and sentinels may be asked one after the other.
const LONGEST_CONNECTING: Duration = Duration::from_secs(10);

/// Sends commands, each within a time limit.
pub(super) struct Link(Arc<Shared>);

struct Shared {
    origin: Origin,
    limit: Duration,
    /// The connections in use. The task behind a connection only runs while its runtime does, so each runtime has its own.
    ways: Mutex<HashMap<Id, Way>>,
}

/// `None` while the attempt is under way.
type Connected = watch::Receiver<Option<RedisResult<Connection>>>;

/// A connection of one runtime, or the attempt to make it.
///
/// A task of that runtime makes the connection, so a caller who gives up does not end the attempt for others. The task ends with its runtime, or
/// when the last clone of its `Way` is dropped.
#[derive(Clone)]
struct Way {
    connected: Connected,
    #[cfg(feature = "redis-cluster")]
    doubt: Arc<tokio::sync::Notify>,
}

/// Whether a command may be sent again if the connection is lost before the answer.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Again {
    Yes,
    /// The server may have run it. A second run would then return that it changed nothing.
    No,
}

/// Why Redis gave no useful answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer from Redis within {0:?}")]
    TimedOut(Duration),
    /// Only its text is kept, without secrets.
    #[error("{0}")]
    Failed(String),
    #[error("Redis returned an unexpected reply")]
    Answer,
    #[error("the call was made outside a tokio runtime")]
    NoRuntime,
}

impl Link {
    pub(super) fn new(connection: RedisConnection, limit: Duration) -> Self {
        Self(Arc::new(Shared {
            origin: connection.0,
            limit,
            ways: Mutex::default(),
        }))
    }

    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }

    pub(super) async fn send(&self, command: &Cmd, again: Again) -> Result<Value, Failure> {
        let runtime = Handle::try_current().map_err(|_outside| Failure::NoRuntime)?;
        let limit = self.limit();
        match timeout(limit, self.try_to_send(command, again, runtime.id())).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if !error.is_timeout() => {
                let password = self.0.origin.password();
                Err(Failure::Failed(redact(&error.to_string(), password)))
            }
            _ => Err(Failure::TimedOut(limit)),
        }
    }

    async fn try_to_send(&self, command: &Cmd, again: Again, runtime: Id) -> RedisResult<Value> {
        let mut may_try_again = true;
        loop {
            let way = self.way(runtime);
            let mut connection = way.connection().await?;
            let silence = Silence::begins(&self.0, runtime, &way);
            let result = connection.send(command).await;
            silence.ends();
            match result {
                Err(error) if error.is_timeout() => {
                    self.0.distrust(runtime, &way);
                    return Err(error);
                }
                Err(error) if is_lost(&error) => {
                    self.0.forget(runtime, &way.connected);
                    // A replica has not done what it rejects.
                    let is_safe = again == Again::Yes || is_of_a_replica(&error);
                    if !may_try_again || !is_safe {
                        return Err(error);
                    }
                    may_try_again = false;
                }
                result => return result,
            }
        }
    }

    fn way(&self, runtime: Id) -> Way {
        let mut ways = self.0.lock();
        let is_alive = |way: &Way| way.connected.has_changed().is_ok();
        if let Some(way) = ways.get(&runtime).filter(|way| is_alive(way)) {
            return way.clone();
        }
        // The runtimes of the others have ended.
        ways.retain(|_, way| is_alive(way));
        let way = Way::begin(&self.0, runtime);
        ways.insert(runtime, way.clone());
        way
    }
}

impl Way {
    fn begin(shared: &Arc<Shared>, runtime: Id) -> Self {
        let (teller, connected) = watch::channel(None);
        let way = Self {
            connected,
            #[cfg(feature = "redis-cluster")]
            doubt: Arc::default(),
        };
        let shared = shared.clone();
        #[cfg(feature = "redis-cluster")]
        let doubt = way.doubt.clone();
        tokio::spawn(async move {
            let connected = shared.connect().await;
            if connected.is_err() {
                shared.forget(runtime, &teller.subscribe());
            }
            teller.send_replace(Some(connected));
            #[cfg(feature = "redis-cluster")]
            let weak = Arc::downgrade(&shared);
            drop(shared);
            #[cfg(feature = "redis-cluster")]
            replace_when_moved(&weak, &teller, &doubt).await;
            teller.closed().await;
        });
        way
    }

    async fn connection(&self) -> RedisResult<Connection> {
        let mut connected = self.connected.clone();
        match connected.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(connected)) => connected.clone(),
            _ => Err((ErrorKind::Client, "the runtime is shutting down").into()),
        }
    }
}

/// Looks for the cluster again whenever a node has been silent. Meanwhile the connection in use serves those whose nodes still answer.
#[cfg(feature = "redis-cluster")]
async fn replace_when_moved(
    shared: &std::sync::Weak<Shared>,
    teller: &watch::Sender<Option<RedisResult<Connection>>>,
    doubt: &tokio::sync::Notify,
) {
    use futures_util::future::{Either, select};
    use std::pin::pin;

    while let Either::Left(_) = select(pin!(doubt.notified()), pin!(teller.closed())).await {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let connected = teller.borrow().clone();
        if let Some(Ok(Connection::Cluster(mut cluster))) = connected
            && cluster.has_moved(shared.limit).await
            && let Ok(connection) = shared.connect().await
        {
            teller.send_replace(Some(Ok(connection)));
        }
    }
}

impl Shared {
    async fn connect(&self) -> RedisResult<Connection> {
        // Workaround for `redis` 1.8: connecting with TLS panics if `rustls` has no crypto provider. To report there: return an error.
        let connecting = AssertUnwindSafe(self.origin.connect(self.limit)).catch_unwind();
        match timeout(LONGEST_CONNECTING, connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(_panic)) => Err((ErrorKind::Client, "connecting panicked").into()),
            Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    /// A server has been silent. It may be unreachable, and another one may be the master now.
    fn distrust(&self, runtime: Id, way: &Way) {
        #[cfg(feature = "redis-cluster")]
        if let Origin::Cluster(_) = self.origin {
            way.doubt.notify_one();
            return;
        }
        self.forget(runtime, &way.connected);
    }

    /// Lets a connection go, unless another one has already replaced it.
    fn forget(&self, runtime: Id, connected: &Connected) {
        let mut ways = self.lock();
        if ways
            .get(&runtime)
            .is_some_and(|way| way.connected.same_channel(connected))
        {
            ways.remove(&runtime);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command that waits for its answer. If it is dropped after most of the time limit, the server counts as silent, even if the caller's own time
/// limit ended first.
struct Silence<'a> {
    shared: &'a Shared,
    runtime: Id,
    way: &'a Way,
    began: Instant,
}

impl<'a> Silence<'a> {
    fn begins(shared: &'a Shared, runtime: Id, way: &'a Way) -> Self {
        Self {
            shared,
            runtime,
            way,
            began: Instant::now(),
        }
    }

    fn ends(self) {
        mem::forget(self);
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // A command that had to wait for the connection had less time.
        if self.began.elapsed() >= self.shared.limit / 4 * 3 {
            self.shared.distrust(self.runtime, self.way);
        }
    }
}

/// Whether another connection may do better: this one is dead, or it leads to a server that is no longer the master.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error() || is_of_a_replica(error)
}

/// Whether a replica has rejected a write.
fn is_of_a_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        // Redis 6 returns a script's error like this.
        || error.detail().is_some_and(|text| text.contains("-READONLY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_known_by_what_it_answers_to_a_script() {
        for (kind, text) in [
            (
                ServerErrorKind::ReadOnly,
                "You can't write against a read only replica.",
            ),
            (
                ServerErrorKind::ResponseError,
                "Error running script (call to f_1): @user_script:3: -READONLY You can't write against a read only replica.",
            ),
        ] {
            let error = RedisError::from((ErrorKind::Server(kind), "", text.to_owned()));
            assert!(is_lost(&error), "{error}");
        }
        let other = (
            ErrorKind::Server(ServerErrorKind::ResponseError),
            "",
            "no".to_owned(),
        );
        assert!(!is_lost(&RedisError::from(other)));
    }
}
