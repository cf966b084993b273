use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::{Budget, SLOW_REFILL};
use crate::AccessToken;

const FIRST_HOLD: Duration = Duration::from_secs(2);
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// How long a path has a record after a futile refresh, and how long it counts as proven after it accepted a token.
const MEMORY: Duration = Duration::from_secs(60 * 60);
const QUICK: u32 = 10;
/// In this time one fetch comes back to the quick budget.
const QUICK_REFILL: Duration = Duration::from_secs(1);
/// So much of the slow budget is only for proven paths.
const RESERVE: u32 = 5;
/// The API has fewer paths.
const MOST_PATHS: usize = 1024;

/// The path of all rejections that callers report with [`TokenManager::refresh_rejected`](super::TokenManager::refresh_rejected).
pub(super) const REPORTED: &str = "refresh_rejected";

/// Decides whether a rejection is a reason to fetch, for one key, so that an API that rejects every token causes no flood, and a token
/// that was really revoked is replaced at once.
///
/// - A path whose freshly fetched token was rejected too has a record. It is held back, twice as long each time. An acceptance does not
///   clear the record, since a path may reject some of its calls only.
/// - The slow budget limits futile fetches. Its reserve is for paths that accepted a token lately and have no record, so that bad paths can't
///   use it up.
/// - The quick budget limits all fetches after rejections.
#[derive(Debug, Default)]
pub(super) struct Guard {
    slow: Budget,
    quick: Budget,
    is_exhausted: bool,
    records: HashMap<Box<str>, Record>,
    /// When the last of them is forgotten.
    records_end_at: Option<Instant>,
    /// When paths accepted a token. This is only noted while there is a record.
    accepted: HashMap<Box<str>, Instant>,
    /// The last fetch that a rejection caused, until it is known whether it was futile.
    trial: Option<Trial>,
    /// Whether the last fetch that was taken has taken of the slow budget already.
    is_reported: bool,
}

#[derive(Debug)]
struct Trial {
    path: Box<str>,
    /// The new token, once it is there.
    token: Option<AccessToken>,
}

#[derive(Debug)]
struct Record {
    token: AccessToken,
    /// How often another token was futile before.
    times: u32,
    held_until: Instant,
    since: Instant,
}

/// Why a rejection is no reason to fetch.
#[derive(Debug, PartialEq)]
pub(super) enum HeldBack {
    /// The path has rejected a fresh token.
    Path,
    /// A budget is used up.
    Budget {
        /// Whether there was something left the last time.
        is_news: bool,
    },
}

impl Guard {
    /// Whether the path has rejected a fresh token in the last hour.
    pub(super) fn has_record(&self, path: &str, now: Instant) -> bool {
        let record = self.records.get(path);
        record.is_some_and(|record| now < record.since + MEMORY)
    }

    /// Whether the path is held back.
    pub(super) fn holds_back(&self, path: &str, now: Instant) -> bool {
        let record = self.records.get(path);
        record.is_some_and(|record| now < record.held_until)
    }

    /// The paths that are held back, and for how long.
    pub(super) fn held_paths(&self, now: Instant) -> impl Iterator<Item = (&str, Duration)> {
        self.records.iter().filter_map(move |(path, record)| {
            let left = record.held_until.saturating_duration_since(now);
            (!left.is_zero()).then_some((&**path, left))
        })
    }

    /// Takes one fetch because of a rejection on this path. `budget` is the size of the slow budget.
    pub(super) fn take(&mut self, path: &str, budget: u32, now: Instant) -> Result<(), HeldBack> {
        self.forget_old(now);
        if self.holds_back(path, now) {
            return Err(HeldBack::Path);
        }
        let accepted = self.accepted.get(path);
        let is_reported = path == REPORTED;
        let has_accepted = accepted.is_some_and(|at| now < *at + MEMORY);
        let is_proven = is_reported || (has_accepted && !self.records.contains_key(path));
        let reserve = if is_proven {
            0
        } else {
            RESERVE.min(budget / 2)
        };
        let has_both = self.quick.has(QUICK, QUICK_REFILL, now)
            && self.slow.has(budget - reserve, SLOW_REFILL, now);
        if !has_both {
            let is_news = !std::mem::replace(&mut self.is_exhausted, true);
            return Err(HeldBack::Budget { is_news });
        }
        self.is_exhausted = false;
        self.quick.take(QUICK_REFILL, now);
        self.is_reported = is_reported;
        if is_reported {
            // Nothing tells whether it is futile, so it counts.
            self.slow.take(SLOW_REFILL, now);
        } else {
            self.trial = Some(Trial {
                path: path.into(),
                token: None,
            });
        }
        Ok(())
    }

    /// The fetch that was taken brought this token.
    pub(super) fn fetched(&mut self, token: &AccessToken) {
        if let Some(trial) = &mut self.trial {
            trial.token = Some(token.clone());
        }
    }

    /// The fetch that was taken was not made.
    pub(super) fn not_needed(&mut self) {
        self.trial = None;
        self.quick.give_back(QUICK_REFILL);
        if std::mem::take(&mut self.is_reported) {
            self.slow.give_back(SLOW_REFILL);
        }
    }

    /// A request that was sent again with this token on this path was accepted.
    pub(super) fn healed(&mut self, path: &str, token: &AccessToken) {
        self.trial.take_if(|trial| trial.is_about(path, token));
    }

    /// A freshly fetched token was rejected too on this path. Returns how long the path is held back, if that is news.
    ///
    /// `others_fetch`: another manager may have ended the token by fetching at the same time. Then the first time holds nothing back.
    pub(super) fn futile(
        &mut self,
        path: &str,
        token: &AccessToken,
        others_fetch: bool,
        now: Instant,
    ) -> Option<Duration> {
        self.forget_old(now);
        if self
            .trial
            .take_if(|trial| trial.is_about(path, token))
            .is_some()
        {
            self.slow.take(SLOW_REFILL, now);
        }
        let before = self.records.get(path);
        let is_repeated = before.is_some_and(|record| record.token == *token);
        let times = before.map_or(0, |record| record.times + u32::from(!is_repeated));
        let hold = match times.checked_sub(u32::from(others_fetch)) {
            None => Duration::ZERO,
            Some(times) => FIRST_HOLD.saturating_mul(1 << times.min(16)),
        };
        let hold = hold.min(LONGEST_HOLD);
        // A crowd that was sent again with the same token says one thing only.
        let is_held = before.is_some_and(|record| now <= record.held_until);
        if is_repeated && (is_held || hold.is_zero()) {
            return None;
        }
        if self.records.len() >= MOST_PATHS && before.is_none() {
            return None;
        }
        let record = Record {
            token: token.clone(),
            times,
            held_until: now + hold,
            since: now,
        };
        self.records.insert(path.into(), record);
        self.records_end_at = Some(now + MEMORY);
        Some(hold)
    }

    /// A token was accepted on this path.
    pub(super) fn accepted(&mut self, path: &str, now: Instant) {
        if !self.has_records(now) {
            self.forget_old(now);
            return;
        }
        if let Some(at) = self.accepted.get_mut(path) {
            *at = now;
            return;
        }
        if self.accepted.len() < MOST_PATHS {
            self.accepted.insert(path.into(), now);
        }
    }

    /// Whether any path has a record.
    pub(super) fn has_records(&self, now: Instant) -> bool {
        self.records_end_at.is_some_and(|end| now < end)
    }

    /// Whether nothing would be lost with it.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.slow.is_whole(now) && self.quick.is_whole(now) && !self.has_records(now)
    }

    fn forget_old(&mut self, now: Instant) {
        if self.has_records(now) {
            self.records.retain(|_, record| now < record.since + MEMORY);
            self.accepted.retain(|_, at| now < *at + MEMORY);
        } else {
            self.records = HashMap::new();
            self.accepted = HashMap::new();
        }
    }
}

impl Trial {
    fn is_about(&self, path: &str, token: &AccessToken) -> bool {
        *self.path == *path && self.token.as_ref() == Some(token)
    }
}

#[cfg(test)]
mod tests;
