use std::fmt::{self, Display};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::stats::{Counter, Counters};
use crate::{AccessToken, Error};

/// How long a caller with a good token in hand waits for the store.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// What a refresh brings.
pub(super) type Outcome = Result<AccessToken, Error>;

/// One refresh under way, shared by all who wait for it.
#[derive(Clone, Debug)]
pub(crate) struct SingleFlight(Arc<Flight>);

/// The end of a [`SingleFlight`] that the refresh itself holds. Dropping it without an outcome makes the refresh lost.
#[derive(Debug)]
pub(super) struct OutcomeSender(Arc<Flight>);

#[derive(Debug)]
struct Flight {
    trigger: Trigger,
    may_fetch: bool,
    /// `None` if the refresh is lost.
    end: OnceLock<Option<Outcome>>,
    ended: Notify,
    began: Instant,
    deadline: Instant,
    /// The tasks that end it at the deadline, one on each runtime on which callers wait. If each caller had a timer, the last of a crowd would
    /// be served about twice as late.
    watchdogs: Mutex<Vec<(Id, JoinHandle<()>)>>,
}

impl SingleFlight {
    /// A refresh that is lost if it has no outcome in this time.
    pub(super) fn new(
        trigger: Trigger,
        may_fetch: bool,
        longest: Duration,
    ) -> (OutcomeSender, Self) {
        let began = Instant::now();
        let flight = Arc::new(Flight {
            trigger,
            may_fetch,
            end: OnceLock::new(),
            ended: Notify::new(),
            began,
            deadline: began + longest,
            watchdogs: Mutex::default(),
        });
        (OutcomeSender(flight.clone()), Self(flight))
    }

    pub(super) fn trigger(&self) -> Trigger {
        self.0.trigger
    }

    /// Whether it asks the source if the store has nothing.
    pub(super) fn may_fetch(&self) -> bool {
        self.0.may_fetch
    }

    /// Waits for the outcome. `None` if the refresh is lost, because its runtime ended or has stopped running it. A caller outside a runtime
    /// has no timer to bound the wait, and so does not wait.
    pub(super) async fn outcome(self) -> Option<Outcome> {
        let Ok(runtime) = Handle::try_current() else {
            return Some(Err(Error::no_runtime()));
        };
        self.watch_deadline(&runtime);
        self.0.ended().await;
        self.0.end.get()?.clone()
    }

    /// Waits for the outcome, unless that takes longer than a caller with a good token waits. Outside a runtime it does not wait.
    pub(super) async fn outcome_soon(self) -> Option<Outcome> {
        Handle::try_current().ok()?;
        let limit = self.0.began + PATIENCE;
        timeout_at(limit, self.0.ended()).await.ok()?;
        self.0.end.get()?.clone()
    }

    /// How long until it is taken for lost.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.0.deadline.saturating_duration_since(now)
    }

    /// Whether there will be no outcome.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        now >= self.0.deadline || matches!(self.0.end.get(), Some(None))
    }

    pub(super) fn is_of(&self, sender: &OutcomeSender) -> bool {
        Arc::ptr_eq(&self.0, &sender.0)
    }

    /// Makes sure that a task on this runtime ends the wait at the deadline, since the runtime of the refresh may have stopped.
    fn watch_deadline(&self, runtime: &Handle) {
        let here = runtime.id();
        let watchdogs = self.0.watchdogs.lock();
        let mut watchdogs = watchdogs.unwrap_or_else(PoisonError::into_inner);
        if watchdogs
            .iter()
            .any(|(id, task)| *id == here && !task.is_finished())
        {
            return;
        }
        let flight = self.0.clone();
        // Created outside the task, so that the caller panics if the runtime has no timers.
        let ended = timeout_at(self.0.deadline, async move { flight.ended().await });
        let flight = self.0.clone();
        let task = runtime.spawn(async move {
            if ended.await.is_err() {
                flight.end(None);
            }
        });
        watchdogs.push((here, task));
    }
}

impl OutcomeSender {
    pub(super) fn send(&self, outcome: Outcome) {
        self.0.end(Some(outcome));
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

impl Flight {
    fn end(&self, end: Option<Outcome>) {
        if self.end.set(end).is_ok() {
            self.ended.notify_waiters();
        }
    }

    async fn ended(&self) {
        // Created before the check, so that it can't miss the end.
        let ended = self.ended.notified();
        if self.end.get().is_none() {
            ended.await;
        }
    }
}

/// Why a refresh is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    /// There is no local copy.
    Cold,
    /// The local copy will expire soon.
    Expiring,
    /// The local copy has expired.
    Expired,
    /// The API has rejected the local copy.
    Rejected,
    /// The local copy is old enough for the store to be asked again.
    Stale,
    /// The local copy expires too soon for a caller.
    Short,
    /// An operator wants another token.
    Forced,
}

impl Trigger {
    /// Whether another token is wanted even though the local copy is good.
    pub(super) fn wants_other(self) -> bool {
        matches!(
            self,
            Self::Expiring | Self::Stale | Self::Short | Self::Forced
        )
    }
}

impl Trigger {
    pub(super) fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Self::Cold => &counters.refreshes_cold,
            Self::Expiring => &counters.refreshes_expiring,
            Self::Expired => &counters.refreshes_expired,
            Self::Rejected => &counters.refreshes_rejected,
            Self::Stale => &counters.refreshes_stale,
            Self::Short => &counters.refreshes_short,
            Self::Forced => &counters.refreshes_forced,
        }
    }
}

impl Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cold => "cold",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Stale => "stale",
            Self::Short => "short",
            Self::Forced => "forced",
        })
    }
}
