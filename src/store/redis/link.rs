//! The way to Redis: a connection that is made when it is first needed, and made anew when it is lost.

use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::RedisConnection;
use super::connection::{Connection, Origin};
use super::scripts::Reply;
use crate::redact::redact;

/// A command that meets a lost connection is sent once more on a new one.
const MOST_TRIES: usize = 2;

/// Connecting may take longer than a command: a cluster and a sentinel may ask one after the other.
const LONGEST_CONNECTING: Duration = Duration::from_secs(10);

/// Sends commands, each within a time limit.
pub(super) struct Link(Arc<Shared>);

struct Shared {
    origin: Origin,
    limit: Duration,
    made: Mutex<Made>,
}

/// The connection in use, and how many were before it.
#[derive(Default)]
struct Made {
    connection: Option<Connection>,
    lost: usize,
    attempt: Option<Attempt>,
}

/// A connection and its number.
type Numbered = (Connection, usize);

/// Connecting, under way in a task of its own, so that a command whose time is up does not end it for the others.
#[derive(Clone)]
struct Attempt {
    began: Instant,
    outcome: watch::Receiver<Option<RedisResult<Numbered>>>,
}

impl Attempt {
    /// Whether its runtime has ended, or seems to be run no more.
    fn is_dead(&self) -> bool {
        self.outcome.has_changed().is_err() || self.began.elapsed() > LONGEST_CONNECTING
    }
}

/// Why Redis gave no answer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("no answer from Redis within {0:?}")]
    TimedOut(Duration),
    /// Only its text is kept, without secrets.
    #[error("{text}")]
    Failed { text: String, may_pass: bool },
    #[error("Redis returned an unexpected reply")]
    Answer,
    #[error("the call was made outside a tokio runtime")]
    NoRuntime,
}

impl Failure {
    /// Whether the same command may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::TimedOut(_) => true,
            Self::Failed { may_pass, .. } => *may_pass,
            Self::Answer | Self::NoRuntime => false,
        }
    }
}

impl Link {
    pub(super) fn new(connection: RedisConnection, limit: Duration) -> Self {
        Self(Arc::new(Shared {
            origin: connection.0,
            limit,
            made: Mutex::default(),
        }))
    }

    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Reply, Failure> {
        if Handle::try_current().is_err() {
            return Err(Failure::NoRuntime);
        }
        let limit = self.limit();
        let mut used = None;
        match timeout(limit, self.send_or_send_again(command, &mut used)).await {
            Ok(Ok(value)) => Reply::read(value).ok_or(Failure::Answer),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_elapsed) => {
                if let Some((connection, number)) = used {
                    self.distrust(&connection, number);
                }
                Err(Failure::TimedOut(limit))
            }
        }
    }

    /// Leaves in `used` which connection was used last.
    async fn send_or_send_again(
        &self,
        command: &Cmd,
        used: &mut Option<Numbered>,
    ) -> RedisResult<Value> {
        let mut tries = 1;
        loop {
            let (connection, number) = used.insert(self.connection().await?);
            match connection.send(command).await {
                Err(error) if error.is_timeout() => {
                    self.distrust(connection, *number);
                    return Err(error);
                }
                Err(error) if is_lost(&error) => {
                    self.0.forget(*number);
                    if tries == MOST_TRIES {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
            tries += 1;
        }
    }

    /// Once a server has said nothing in time: it may have gone without a word, and another may be the master now.
    fn distrust(&self, connection: &Connection, number: usize) {
        if connection.leads_to_many() {
            self.replace(connection, number);
        } else {
            self.0.forget(number);
        }
    }

    /// Connects anew if that leads elsewhere. Meanwhile the connection in use serves those whose servers still answer.
    fn replace(&self, connection: &Connection, number: usize) {
        let mut made = self.0.lock();
        if made.lost == number && made.attempt.as_ref().is_none_or(Attempt::is_dead) {
            made.attempt = Some(self.begin_to_connect(number, Some(connection.clone())));
        }
    }

    /// The connection in use, or a new one, which one attempt makes for all.
    async fn connection(&self) -> RedisResult<Numbered> {
        loop {
            let mut outcome = {
                let mut made = self.0.lock();
                if let Some(connection) = &made.connection {
                    return Ok((connection.clone(), made.lost));
                }
                if made.attempt.as_ref().is_none_or(Attempt::is_dead) {
                    made.attempt = Some(self.begin_to_connect(made.lost, None));
                }
                made.attempt.clone().map(|attempt| attempt.outcome)
            };
            if let Some(outcome) = &mut outcome
                && let Ok(outcome) = outcome.wait_for(Option::is_some).await
                && let Some(outcome) = &*outcome
            {
                return outcome.clone();
            }
        }
    }

    fn begin_to_connect(&self, number: usize, before: Option<Connection>) -> Attempt {
        let (teller, outcome) = watch::channel(None);
        let this = outcome.clone();
        let shared = self.0.clone();
        tokio::spawn(async move {
            let connected = match before {
                Some(before)
                    if !before.has_moved(shared.limit).await && shared.is_in_use(number) =>
                {
                    Ok((before, number))
                }
                _ => {
                    let connected = shared.connect().await;
                    connected.map(|connection| shared.take(connection, number))
                }
            };
            // Another attempt may have taken this one for dead.
            let is_this = |attempt: &mut Attempt| attempt.outcome.same_channel(&this);
            shared.lock().attempt.take_if(is_this);
            teller.send_replace(Some(connected));
        });
        Attempt {
            began: Instant::now(),
            outcome,
        }
    }

    fn failure(&self, error: &RedisError) -> Failure {
        if error.is_timeout() {
            return Failure::TimedOut(self.limit());
        }
        Failure::Failed {
            text: redact(&error.to_string(), self.0.origin.password()),
            may_pass: is_lost(error) || passes(error),
        }
    }
}

impl Shared {
    async fn connect(&self) -> RedisResult<Connection> {
        let connecting = AssertUnwindSafe(self.origin.connect(self.limit)).catch_unwind();
        match timeout(LONGEST_CONNECTING, connecting).await {
            Ok(Ok(connected)) => connected,
            // As `rustls` does where there is no crypto provider.
            Ok(Err(_panic)) => Err((ErrorKind::Client, "connecting panicked").into()),
            Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        }
    }

    fn is_in_use(&self, number: usize) -> bool {
        let made = self.lock();
        made.connection.is_some() && made.lost == number
    }

    /// Takes a new connection into use, in the place of the one of this number, unless another has done so.
    fn take(&self, connection: Connection, number: usize) -> Numbered {
        let mut made = self.lock();
        if made.connection.is_some() && made.lost == number {
            made.connection = None;
            made.lost += 1;
        }
        let connection = made.connection.get_or_insert(connection).clone();
        (connection, made.lost)
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
}

/// Whether another connection may do better: this one is dead, or it leads to a server that is no longer the master.
fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_unrecoverable_error() || is_of_a_replica(error)
}

fn is_of_a_replica(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        // Up to version 6 this is how a script's error comes.
        || error.detail().is_some_and(|text| text.contains("-READONLY"))
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
