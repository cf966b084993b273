//! The clocks: wall-clock time, which tests move by hand, and tokio's monotonic time.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Tells the time by which tokens expire: wall-clock time, so that a machine that slept knows how long.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    #[cfg(test)]
    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }

    /// This moment by both clocks.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            instant: Instant::now(),
            wall: self.now(),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(SystemTime::now))
    }
}

impl Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// A moment by both clocks. The monotonic clock stands still while a machine is suspended, and the wall clock can be set back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) wall: SystemTime,
}

impl Moment {
    /// Whether so much time has passed since then, by whichever clock says so first.
    pub(crate) fn is_past(&self, time: Duration, now: Self) -> bool {
        let by_wall = now.wall.duration_since(self.wall).unwrap_or_default();
        now.instant.duration_since(self.instant) >= time || by_wall >= time
    }

    /// How much of that time is left.
    pub(crate) fn left_of(&self, time: Duration, now: Self) -> Duration {
        let by_wall = now.wall.duration_since(self.wall).unwrap_or_default();
        let passed = now.instant.duration_since(self.instant).max(by_wall);
        time.saturating_sub(passed)
    }
}
