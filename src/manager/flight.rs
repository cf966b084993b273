use std::fmt::{self, Display};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::{AccessToken, Error};

/// What a flight brings.
pub(super) type Landing = Result<AccessToken, Error>;

/// One renewal under way, shared by all who wait for it.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    trigger: Trigger,
    landing: watch::Receiver<Option<Landing>>,
    deadline: Instant,
}

/// The other end of a [`Flight`]. Dropping it without a landing makes the flight lost.
pub(super) type Pilot = watch::Sender<Option<Landing>>;

impl Flight {
    /// A flight that is lost if it has not landed by then.
    pub(super) fn new(trigger: Trigger, deadline: Instant) -> (Pilot, Self) {
        let (pilot, landing) = watch::channel(None);
        let flight = Self {
            trigger,
            landing,
            deadline,
        };
        (pilot, flight)
    }

    pub(super) fn trigger(&self) -> Trigger {
        self.trigger
    }

    /// Waits for the landing: `None` if the flight is lost, because its runtime ended or has stopped running it.
    pub(super) async fn landed(mut self) -> Option<Landing> {
        let landing = timeout_at(self.deadline, self.landing.wait_for(Option::is_some));
        landing.await.ok()?.ok()?.clone()
    }

    /// Whether no landing is to be expected any more.
    pub(super) fn is_lost(&self, now: Instant) -> bool {
        now >= self.deadline || self.landing.has_changed().is_err()
    }

    pub(super) fn is_of(&self, pilot: &Pilot) -> bool {
        self.landing.same_channel(&pilot.subscribe())
    }
}

/// Why a renewal is made.
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
