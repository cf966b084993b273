use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::slot::Slot;
use crate::clock::Clock;
use crate::{Audience, Credentials, TokenKey};

/// The time between two sweeps. A slot that was not used in between is dropped.
const IDLE: Duration = Duration::from_secs(5 * 60);
const IDLE_MILLIS: u64 = 5 * 60 * 1000;

/// The slots of all apps that are in use.
///
/// A slot in use, with a refresh under way, in a cooldown or with something to remember of rejections stays.
#[derive(Debug)]
pub(super) struct Slots {
    audience: Audience,
    clock: Clock,
    /// By [`Credentials::name`]: the audience is the same for all.
    slots: RwLock<HashMap<Arc<str>, Arc<Slot>>>,
    /// When the next sweep is due, in milliseconds since the Unix epoch.
    sweep_at: AtomicU64,
    swept_at: Mutex<Instant>,
}

impl Slots {
    /// No slots yet, for tokens of this audience.
    pub(super) fn new(audience: Audience, clock: Clock) -> Self {
        Self {
            audience,
            slots: RwLock::default(),
            sweep_at: AtomicU64::new(millis(clock.now()).saturating_add(IDLE_MILLIS)),
            swept_at: Mutex::new(Instant::now()),
            clock,
        }
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    pub(super) fn of(&self, credentials: &Credentials) -> Arc<Slot> {
        let known = self.find(credentials);
        let slot = known.unwrap_or_else(|| {
            let new = || Arc::new(Slot::new(TokenKey::new(&self.audience, credentials)));
            let name = credentials.name().clone();
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            slots.entry(name).or_insert_with(new).clone()
        });
        slot.mark_used();
        slot.learn_secret(credentials);
        slot
    }

    pub(super) fn find(&self, credentials: &Credentials) -> Option<Arc<Slot>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(credentials.name()).cloned()
    }

    /// Whether a sweep is due at this time. Only the first caller to ask is told so.
    pub(super) fn is_sweep_due(&self, now: SystemTime) -> bool {
        let (now, due) = (millis(now), self.sweep_at.load(Ordering::Relaxed));
        // A clock that was set back must not put it off for ever.
        let next = now.saturating_add(IDLE_MILLIS);
        if now < due && due <= next {
            return false;
        }
        let claim = Ordering::Relaxed;
        self.sweep_at
            .compare_exchange(due, next, claim, claim)
            .is_ok()
    }

    /// Drops the slots that were not used since the last sweep.
    pub(super) fn sweep(&self) {
        let now = self.clock.moment();
        {
            let mut swept_at = self.swept_at.lock().unwrap_or_else(PoisonError::into_inner);
            if now.instant.duration_since(*swept_at) < IDLE / 2 {
                return; // The wall clock was set.
            }
            *swept_at = now.instant;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            // A second reference is a middleware's own or a caller's.
            slot.was_used() || Arc::strong_count(slot) > 1 || !slot.lock().is_at_rest(now)
        });
        // Most of the room of a table that was large once.
        if slots.capacity() > 4 * slots.len() {
            slots.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.read().unwrap().len()
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
