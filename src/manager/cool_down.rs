use std::time::Duration;

use tokio::time::Instant;

use crate::Error;
use crate::source::{Hearsay, failures_behind, pause_after};

/// The time after a failed fetch in which no fetch is made for the key: it doubles with each failure in a row.
#[derive(Debug, Default)]
pub(super) struct CoolDown {
    failures: u32,
    holds: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    error: Error,
    until: Instant,
}

impl CoolDown {
    /// The failure that callers get instead of a fetch, while it lasts.
    pub(super) fn error(&self, now: Instant) -> Option<&Error> {
        let hold = self.holds.as_ref()?;
        (now < hold.until).then_some(&hold.error)
    }

    /// Begins after a failed fetch. Tells how long it will last, if it does.
    pub(super) fn begin(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        let pause = pause_after(error, self.failures)?;
        self.failures += 1;
        self.hold(error, now + pause);
        Some(pause)
    }

    /// Begins after the failed fetch of another process, for as long as is left of that one's. Tells how long it will last, if it
    /// does.
    pub(super) fn begin_as_heard(&mut self, heard: &Hearsay, now: Instant) -> Option<Duration> {
        pause_after(&heard.error, 0)?;
        let failures = failures_behind(&heard.error, heard.pause);
        self.failures = self.failures.max(failures);
        self.hold(&heard.error, now + heard.left);
        Some(heard.left)
    }

    /// How many fetches have failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Holds fetches back until then, where the source as a whole is closed.
    pub(super) fn hold(&mut self, error: &Error, until: Instant) {
        self.holds = Some(Hold {
            error: error.clone(),
            until,
        });
    }

    /// Ends it. Tells whether there was one.
    pub(super) fn end(&mut self) -> bool {
        self.failures = 0;
        self.holds.take().is_some()
    }

    /// Whether a fetch may be made again.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.holds.as_ref().is_none_or(|hold| now >= hold.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses_after(error: &Error, failures: usize) -> Vec<u64> {
        let (mut cool_down, now) = (CoolDown::default(), Instant::now());
        (0..failures)
            .filter_map(|_| cool_down.begin(error, now))
            .map(|pause| pause.as_secs())
            .collect()
    }

    #[test]
    fn pauses_double_up_to_a_longest() {
        let transient = Error::transient("lost");
        assert_eq!(pauses_after(&transient, 7), [1, 2, 4, 8, 16, 30, 30]);
        let refused = Error::refused("no");
        assert_eq!(
            pauses_after(&refused, 8),
            [10, 20, 40, 80, 160, 320, 600, 600]
        );
        assert!(pauses_after(&Error::not_ready("wait"), 3).is_empty());
        assert_eq!(pauses_after(&transient, 100).len(), 100);
    }

    #[test]
    fn it_lasts_as_long_as_it_says_and_ends_with_a_success() {
        let (mut cool_down, now) = (CoolDown::default(), Instant::now());
        let second = Duration::from_secs(1);
        cool_down.begin(&Error::transient("lost"), now);
        assert!(cool_down.error(now + second / 2).is_some());
        assert!(cool_down.error(now + second).is_none());
        assert!(cool_down.end());
        assert!(cool_down.error(now).is_none());
        assert_eq!(
            cool_down.begin(&Error::transient("lost"), now),
            Some(second)
        );
    }
    #[test]
    fn what_is_heard_from_another_process_counts_like_a_failure_of_its_own() {
        let (mut cool_down, now) = (CoolDown::default(), Instant::now());
        let secs = Duration::from_secs;
        let error = Error::refused("no");
        let heard = Hearsay {
            error: error.clone(),
            pause: secs(20),
            left: secs(7),
        };
        assert_eq!(cool_down.begin_as_heard(&heard, now), Some(secs(7)));
        assert!(cool_down.error(now + secs(6)).is_some());
        assert!(cool_down.error(now + secs(7)).is_none());
        assert_eq!(cool_down.begin(&error, now + secs(7)), Some(secs(40)));
    }
}
