use std::fmt::{self, Display};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::{AccessToken, Error};

/// How long a caller with a good token in hand waits for the store.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// What a refresh brings.
pub(super) type Outcome = Result<AccessToken, Error>;

/// One refresh under way, shared by all who wait for it.
#[derive(Clone, Debug)]
pub(crate) struct SingleFlight {
    trigger: Trigger,
    may_fetch: bool,
    outcome: watch::Receiver<Option<Outcome>>,
    began: Instant,
    deadline: Instant,
}

/// The end of a [`SingleFlight`] that the refresh itself holds. Dropping it without an outcome makes the refresh lost.
pub(super) type OutcomeSender = watch::Sender<Option<Outcome>>;

impl SingleFlight {
    /// A refresh that is lost if it has no outcome in this time.
    pub(super) fn new(
        trigger: Trigger,
        may_fetch: bool,
        longest: Duration,
    ) -> (OutcomeSender, Self) {
        let (sender, outcome) = watch::channel(None);
        let began = Instant::now();
        let single_flight = Self {
            trigger,
            may_fetch,
            outcome,
            began,
            deadline: began + longest,
        };
        (sender, single_flight)
    }

    pub(super) fn trigger(&self) -> Trigger {
        self.trigger
    }

    /// Whether it asks the source if the store has nothing.
    pub(super) fn may_fetch(&self) -> bool {
        self.may_fetch
    }

    /// Waits for the outcome. `None` if the refresh is lost, because its runtime ended or has stopped running it.
    pub(super) async fn outcome(self) -> Option<Outcome> {
        let deadline = self.deadline;
        self.outcome_until(deadline).await
    }

    /// Waits for the outcome, unless that takes longer than a caller with a good token waits.
    pub(super) async fn outcome_soon(self) -> Option<Outcome> {
        let deadline = self.began + PATIENCE;
        self.outcome_until(deadline).await
    }

    async fn outcome_until(mut self, deadline: Instant) -> Option<Outcome> {
        let outcome = timeout_at(deadline, self.outcome.wait_for(Option::is_some));
        outcome.await.ok()?.ok()?.clone()
    }

    /// Whether there will be no outcome.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        now >= self.deadline || self.outcome.has_changed().is_err()
    }

    pub(super) fn is_of(&self, sender: &OutcomeSender) -> bool {
        self.outcome.same_channel(&sender.subscribe())
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
}

impl Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cold => "cold",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::Stale => "stale",
        })
    }
}
