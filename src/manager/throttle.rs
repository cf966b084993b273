use std::time::Duration;

use tokio::time::Instant;

use crate::Error;
use crate::source::{Hearsay, failures_behind, pause_after};

/// Whether the source may be asked for a key. After a failed fetch there is a cooldown, which doubles with each failure in a row.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: u32,
    holds: Option<Hold>,
}

#[derive(Debug)]
struct Hold {
    error: Error,
    until: Instant,
}

impl Throttle {
    /// The failure that callers get instead of a fetch, during a cooldown.
    pub(super) fn error(&self, now: Instant) -> Option<&Error> {
        let hold = self.holds.as_ref()?;
        (now < hold.until).then_some(&hold.error)
    }

    /// Starts a cooldown after a failed fetch. Returns how long it lasts, if there is one.
    pub(super) fn start(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        let pause = pause_after(error, self.failures)?;
        self.failures += 1;
        self.hold(error, now + pause);
        Some(pause)
    }

    /// Joins the cooldown of another process after a failed fetch there. Returns how long it lasts, if there is one.
    pub(super) fn start_as_heard(&mut self, heard: &Hearsay, now: Instant) -> Option<Duration> {
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

    /// No fetches until then, because the source as a whole is rate limited.
    pub(super) fn hold(&mut self, error: &Error, until: Instant) {
        self.holds = Some(Hold {
            error: error.clone(),
            until,
        });
    }

    /// Ends the cooldown. Returns whether there was one.
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
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        (0..failures)
            .filter_map(|_| throttle.start(error, now))
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
    fn a_cooldown_lasts_as_long_as_it_says_and_ends_with_a_success() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let second = Duration::from_secs(1);
        throttle.start(&Error::transient("lost"), now);
        assert!(throttle.error(now + second / 2).is_some());
        assert!(throttle.error(now + second).is_none());
        assert!(throttle.end());
        assert!(throttle.error(now).is_none());
        assert_eq!(throttle.start(&Error::transient("lost"), now), Some(second));
    }

    #[test]
    fn the_failure_of_another_process_counts_like_a_local_one() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let secs = Duration::from_secs;
        let error = Error::refused("no");
        let heard = Hearsay {
            error: error.clone(),
            pause: secs(20),
            left: secs(7),
        };
        assert_eq!(throttle.start_as_heard(&heard, now), Some(secs(7)));
        assert!(throttle.error(now + secs(6)).is_some());
        assert!(throttle.error(now + secs(7)).is_none());
        assert_eq!(throttle.start(&error, now + secs(7)), Some(secs(40)));
    }
}
