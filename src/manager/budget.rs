use std::time::Duration;

use tokio::time::Instant;

/// In this time one fetch comes back to a budget for what is rare.
pub(super) const SLOW_REFILL: Duration = Duration::from_secs(72);

/// A number of fetches, of which one comes back from time to time.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When all have come back.
    whole_at: Option<Instant>,
}

impl Budget {
    /// Whether one is left of so many.
    pub(super) fn has(&self, size: u32, refill: Duration, now: Instant) -> bool {
        self.next_in(size, refill, now).is_zero()
    }

    /// How long until one is left of so many.
    pub(super) fn next_in(&self, size: u32, refill: Duration, now: Instant) -> Duration {
        let missing = self
            .whole_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        (missing + refill).saturating_sub(refill.saturating_mul(size))
    }

    pub(super) fn take(&mut self, refill: Duration, now: Instant) {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        self.whole_at = Some(whole_at + refill);
    }

    pub(super) fn give_back(&mut self, refill: Duration) {
        self.whole_at = self.whole_at.and_then(|at| at.checked_sub(refill));
    }

    pub(super) fn is_whole(&self, now: Instant) -> bool {
        self.whole_at.is_none_or(|at| at <= now)
    }
}
