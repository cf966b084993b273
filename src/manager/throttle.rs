use std::time::Duration;

use crate::Error;
use crate::clock::Moment;
use crate::fetch::{Hearsay, Pauses, pause_after, pause_in_fleet_after};

/// After a failure while a token was in hand, a fetch is made so soon after that token is of no use any more.
const WITHOUT_TOKEN: Duration = Duration::from_secs(1);

/// Why a refresh has no outcome.
pub(super) const LOST: &str = "its tokio runtime shut down or stopped running it";

/// Decides whether the source may be asked for a key now.
///
/// After a refresh that brought nothing better there is a cooldown. It doubles with each failure in a row, and ends with any success.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: u32,
    /// In a box, because most apps have none.
    cooldown: Option<Box<Cooldown>>,
}

#[derive(Debug)]
struct Cooldown {
    reason: Error,
    since: Moment,
    pause: Duration,
    /// Whether there was a token to go on with.
    had_token: bool,
}

impl Cooldown {
    fn pause(&self, has_token: bool) -> Duration {
        if self.had_token && !has_token {
            self.pause.min(WITHOUT_TOKEN)
        } else {
            self.pause
        }
    }
}

impl Throttle {
    /// During a cooldown: the failure that callers get instead of a fetch. A cooldown that started while a token was in hand is short once
    /// there is none.
    pub(super) fn reason(&self, now: Moment, has_token: bool) -> Option<&Error> {
        let (reason, _) = self.cooldown(now, has_token)?;
        Some(reason)
    }

    /// The [`reason`](Self::reason), and how much of the cooldown is left.
    pub(super) fn cooldown(&self, now: Moment, has_token: bool) -> Option<(&Error, Duration)> {
        let cooldown = self.cooldown.as_ref()?;
        let left = cooldown.since.left_of(cooldown.pause(has_token), now);
        (!left.is_zero()).then_some((&cooldown.reason, left))
    }

    /// Starts a cooldown after a failed fetch. Returns how long it lasts, if there is one.
    pub(super) fn start(
        &mut self,
        error: &Error,
        now: Moment,
        had_token: bool,
    ) -> Option<Duration> {
        self.start_over_if_other(error, had_token);
        let pause = pause_after(error, self.failures)?;
        self.failures += 1;
        self.set(error, pause, now, had_token);
        Some(pause)
    }

    /// Starts a cooldown after a failed fetch of which the fleet knows. This member is to wait at least for so long.
    pub(super) fn start_in_fleet(
        &mut self,
        error: &Error,
        at_least: Duration,
        now: Moment,
        had_token: bool,
    ) -> Option<Duration> {
        self.start_over_if_other(error, had_token);
        let pause = pause_in_fleet_after(error, self.failures)?.max(at_least);
        self.failures += 1;
        self.set(error, pause, now, had_token);
        Some(pause)
    }

    /// Failures of another kind, or those that a token made up for, say nothing of how long to wait now.
    fn start_over_if_other(&mut self, error: &Error, had_token: bool) {
        let starts_over = self.cooldown.as_ref().is_some_and(|before| {
            Pauses::after(&before.reason) != Pauses::after(error)
                || (before.had_token && !had_token)
        });
        if starts_over {
            self.failures = 0;
        }
    }

    /// Starts a cooldown after a refresh that will have no outcome. Returns how long it lasts, if there is one: the first in a row is
    /// replaced at once if there is no token to go on with.
    pub(super) fn lost(&mut self, now: Moment, had_token: bool) -> Option<Duration> {
        if self.failures == 0 && !had_token {
            self.failures = 1;
            return None;
        }
        self.start(&Error::interrupted(LOST), now, had_token)
    }

    /// Joins the cooldown of another process after a failed fetch there. Returns how long it lasts, if there is one.
    pub(super) fn start_as_heard(
        &mut self,
        heard: &Hearsay,
        now: Moment,
        had_token: bool,
    ) -> Option<Duration> {
        pause_after(&heard.error, 0)?;
        self.failures = self.failures.max(1);
        self.set(&heard.error, heard.left, now, had_token);
        Some(heard.left)
    }

    fn set(&mut self, error: &Error, pause: Duration, now: Moment, had_token: bool) {
        self.cooldown = Some(Box::new(Cooldown {
            reason: error.clone(),
            since: now,
            pause,
            had_token,
        }));
    }

    /// Ends the cooldown. Returns whether there was one.
    pub(super) fn end(&mut self) -> bool {
        self.failures = 0;
        self.cooldown.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn later(now: Moment, secs: f64) -> Moment {
        let time = Duration::from_secs_f64(secs);
        Moment {
            instant: now.instant + time,
            wall: now.wall + time,
        }
    }

    fn pauses_after(error: &Error, failures: usize) -> Vec<u64> {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        (0..failures)
            .filter_map(|_| throttle.start(error, now, false))
            .map(|pause| pause.as_secs())
            .collect()
    }

    #[test]
    fn pauses_double_up_to_a_longest() {
        for like_transient in [
            Error::transient("lost"),
            Error::api(-1, "busy"),
            Error::timed_out(Duration::ZERO),
            Error::interrupted("the source panicked"),
        ] {
            assert_eq!(pauses_after(&like_transient, 7), [1, 2, 4, 8, 16, 30, 30]);
        }
        let refused = Error::refused("no");
        assert_eq!(pauses_after(&refused, 7), [10, 20, 40, 80, 160, 300, 300]);
        for error in [Error::not_ready("wait"), Error::no_secret("corp")] {
            assert!(pauses_after(&error, 3).is_empty());
        }
        assert_eq!(pauses_after(&refused, 100).len(), 100);
    }

    #[test]
    fn a_cooldown_lasts_as_long_as_it_says_and_ends_with_a_success() {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        throttle.start(&Error::transient("lost"), now, false);
        assert!(throttle.reason(later(now, 0.999), false).is_some());
        assert!(throttle.reason(later(now, 1.0), false).is_none());
        assert!(throttle.end());
        assert!(throttle.reason(now, false).is_none());
        let pause = throttle.start(&Error::transient("lost"), now, false);
        assert_eq!(pause, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_cooldown_that_started_with_a_token_in_hand_is_short_without() {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        throttle.start(&Error::refused("no"), now, true);
        assert!(throttle.reason(later(now, 9.9), true).is_some());
        assert!(throttle.reason(later(now, 0.9), false).is_some());
        assert!(throttle.reason(later(now, 1.0), false).is_none());
        throttle.start(&Error::refused("no"), now, false);
        assert!(throttle.reason(later(now, 9.9), false).is_some());
        assert!(throttle.reason(later(now, 10.0), false).is_none());
    }

    #[test]
    fn failures_of_another_kind_do_not_count() {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        for _ in 0..5 {
            throttle.start(&Error::transient("lost"), now, false);
        }
        let first = throttle.start(&Error::refused("no"), now, false);
        assert_eq!(first, Some(Duration::from_secs(10)));
        let second = throttle.start(&Error::api(40001, "no"), now, false);
        assert_eq!(second, Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_cooldown_ends_by_whichever_clock_says_so_first() {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        throttle.start(&Error::refused("no"), now, false);
        let suspended = Moment {
            wall: now.wall + Duration::from_secs(10),
            ..now
        };
        assert!(throttle.reason(suspended, false).is_none());
        let set_back = Moment {
            instant: now.instant + Duration::from_secs(10),
            wall: now.wall - Duration::from_secs(3600),
        };
        assert!(throttle.reason(set_back, false).is_none());
    }

    #[test]
    fn the_failure_of_another_process_counts_like_a_local_one() {
        let (mut throttle, now) = (Throttle::default(), Clock::default().moment());
        let secs = Duration::from_secs;
        let error = Error::refused("no");
        let heard = Hearsay {
            error: error.clone(),
            left: secs(7),
        };
        assert_eq!(throttle.start_as_heard(&heard, now, false), Some(secs(7)));
        assert!(throttle.reason(later(now, 6.0), false).is_some());
        assert!(throttle.reason(later(now, 7.0), false).is_none());
        let next = throttle.start(&error, later(now, 7.0), false);
        assert_eq!(next, Some(secs(20)));
    }
}
