//! A clock that goes on with tokio's, and is moved by hand.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::clock::Moment;

/// Wall-clock time: it goes on with tokio's clock, and jumps when told to.
#[derive(Clone)]
pub(crate) struct HandClock {
    began: (Instant, SystemTime),
    jumped: Arc<Mutex<i64>>,
    pinned: Arc<Mutex<Option<SystemTime>>>,
}

impl HandClock {
    pub(super) fn new(now: SystemTime) -> Self {
        Self {
            began: (Instant::now(), now),
            jumped: Arc::default(),
            pinned: Arc::default(),
        }
    }

    /// A clock that shows the same now, and is moved on its own.
    pub(crate) fn apart(&self) -> Self {
        Self {
            jumped: Arc::default(),
            ..self.clone()
        }
    }

    /// What the clock shows.
    pub(crate) fn now(&self) -> SystemTime {
        let now = self.true_now();
        let jumped = *self.jumped.lock().unwrap();
        let distance = Duration::from_secs(jumped.unsigned_abs());
        if jumped < 0 {
            now - distance
        } else {
            now + distance
        }
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment {
            instant: Instant::now(),
            wall: self.now(),
        }
    }

    /// What it would show if it had never jumped.
    pub(super) fn true_now(&self) -> SystemTime {
        let pinned = *self.pinned.lock().unwrap();
        let (instant, time) = self.began;
        pinned.unwrap_or_else(|| time + instant.elapsed())
    }

    /// Stops the clock until it is told to go on. Outside of a runtime tokio's clock shows another time.
    pub(crate) fn stop(&self) {
        let now = self.true_now();
        *self.pinned.lock().unwrap() = Some(now);
    }

    pub(crate) fn go_on(&self) {
        *self.pinned.lock().unwrap() = None;
    }

    pub(crate) fn jump(&self, secs: i64) {
        *self.jumped.lock().unwrap() += secs;
    }
}
