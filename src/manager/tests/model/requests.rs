//! What callers are promised.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{History, LONGEST_WAIT, Who};
use crate::Error;

/// A request under way.
pub(super) struct Asked {
    /// The number of the request.
    pub(super) request: usize,
    pub(super) since: Instant,
    /// Whether there was a token that the API would take, in the local copy or in the store.
    pub(super) must_succeed: bool,
    /// How long the answer is on its way.
    pub(super) way: Duration,
    pub(super) answer: JoinHandle<Result<i64, Error>>,
}

impl History {
    /// Whether a request succeeds now, whatever the source does.
    pub(super) fn has_token(&self, who: Who) -> bool {
        let local = self.standing(who).and_then(|it| it.local);
        match local {
            Some(local) if local.serves => local.is_usable && !self.setup.looks,
            _ => self.store_has_token(who),
        }
    }

    /// No caller waits without a bound, none gets anything but an answer or an error of ours, and one that found a usable token
    /// succeeds at once.
    pub(super) fn check_requests(&mut self) {
        let now = self.in_time(|_| Instant::now());
        let mut waiting = VecDeque::new();
        for asked in std::mem::take(&mut self.asked) {
            let waited = now - asked.since;
            if !asked.answer.is_finished() {
                assert!(waited < LONGEST_WAIT, "a caller was left waiting");
                // A timer goes off in the next whole millisecond.
                let way = asked.way + Duration::from_millis(2);
                let is_on_its_way = !asked.way.is_zero() && waited < way;
                let may_wait = !asked.must_succeed || is_on_its_way;
                assert!(may_wait, "a caller waits, though there was a token");
                waiting.push_back(asked);
                continue;
            }
            let answer = self.runtime.block_on(asked.answer).expect("no panic");
            if asked.must_succeed {
                assert_eq!(answer.ok(), Some(0), "a usable token was at hand");
            }
        }
        self.asked = waiting;
    }
}
