use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::cool_down::CoolDown;
use super::flight::{Flight, Trigger};
use super::guard::Guard;
use crate::AccessToken;

/// So many tokens of one key that are of no use any more are kept in mind, in case the store gives one of them back.
const MOST_SPENT: usize = 4;

/// A renewal has moved the expiry only if by more than this: the way of an answer differs from fetch to fetch.
const SAME_EXPIRY: Duration = Duration::from_secs(10);

/// After an early renewal that failed, the next is not tried before this.
const EARLY_AGAIN: Duration = Duration::from_secs(1);

/// What a manager keeps of one key.
#[derive(Debug, Default)]
pub(super) struct Slot {
    state: Mutex<State>,
    used: AtomicBool,
}

impl Slot {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since this was last asked.
    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) local: Option<LocalCopy>,
    pub(super) flight: Option<Flight>,
    pub(super) cool_down: CoolDown,
    pub(super) guard: Guard,
    /// Tokens that were rejected or replaced, the latest last.
    pub(super) spent: VecDeque<AccessToken>,
}

/// The token that the manager itself holds for a key.
#[derive(Debug)]
pub(super) struct LocalCopy {
    pub(super) token: AccessToken,
    /// Whether it is just as it was fetched, and has not come from the store.
    pub(super) is_fetched: bool,
    /// From when on a request starts an early renewal.
    pub(super) renew_at: SystemTime,
    /// When it was last known to be what the store holds.
    pub(super) checked_at: Instant,
}

impl LocalCopy {
    /// Whether it is another token than the rejected one. The store may have cut the time of a fetch to whole seconds.
    pub(super) fn betters(&self, rejected: &AccessToken) -> bool {
        if self.is_fetched {
            self.token != *rejected
        } else {
            !self.token.is_likely(rejected)
        }
    }
}

impl State {
    /// The flight under way, if there is one that may yet land.
    pub(super) fn flight(&self, now: Instant) -> Option<&Flight> {
        self.flight.as_ref().filter(|flight| !flight.is_lost(now))
    }

    /// The local copy, unless it has expired.
    pub(super) fn unexpired(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.local
            .as_ref()
            .filter(|local| now < local.token.expires_at())
    }

    /// The local copy, if nothing is to be done about it yet.
    pub(super) fn settled(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.unexpired(now)
            .filter(|local| now < local.renew_at && self.flight.is_none())
    }

    pub(super) fn is_spent(&self, token: &AccessToken) -> bool {
        self.spent.contains(token)
    }

    pub(super) fn note_spent(&mut self, token: &AccessToken) {
        self.spent.retain(|other| other != token);
        self.spent.push_back(token.clone());
        if self.spent.len() > MOST_SPENT {
            self.spent.pop_front();
        }
    }

    /// From when on this token, which a renewal has brought, is to be renewed early.
    pub(super) fn renew_at(
        &self,
        token: &AccessToken,
        trigger: Trigger,
        early_renewal: Duration,
    ) -> SystemTime {
        match &self.local {
            Some(local)
                if trigger == Trigger::Expiring
                    && token.expires_at() <= local.token.expires_at() + SAME_EXPIRY =>
            {
                token.expires_at()
            }
            _ => token.expires_at() - early_renewal.min(token.lifetime() / 10),
        }
    }

    pub(super) fn replace_local(&mut self, local: LocalCopy) {
        if let Some(replaced) = self.local.replace(local) {
            self.note_spent(&replaced.token);
        }
    }

    /// A renewal has failed: a token in hand that was rejected is not used again, and any other is not renewed early at once.
    pub(super) fn not_renewed(&mut self, now: SystemTime) {
        if self
            .local
            .as_ref()
            .is_some_and(|local| self.is_spent(&local.token))
        {
            self.local = None;
        }
        if let Some(local) = &mut self.local {
            local.renew_at = local.renew_at.max(now + EARLY_AGAIN);
        }
    }

    /// Whether nothing would be lost with it that limits fetches.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.flight(now).is_none() && self.cool_down.is_over(now) && self.guard.is_at_rest(now)
    }
}
