use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::slot::Slot;
use crate::{Audience, Credentials, TokenKey};

/// Slots that were not used in this time are dropped.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// The slots of all apps that are in use.
///
/// When a new app appears and enough time has passed, the slots that were not used since the last time are dropped. A slot in use, with a
/// refresh under way or in a cooldown stays.
#[derive(Debug)]
pub(super) struct Slots {
    audience: Audience,
    table: RwLock<Table>,
}

#[derive(Debug)]
struct Table {
    /// By [`Credentials::name`]: the audience is the same for all.
    slots: HashMap<Arc<str>, Arc<Slot>>,
    tidied_at: Instant,
}

impl Slots {
    /// No slots yet, for tokens of this audience.
    pub(super) fn new(audience: Audience) -> Self {
        Self {
            audience,
            table: RwLock::new(Table {
                slots: HashMap::new(),
                tidied_at: Instant::now(),
            }),
        }
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    pub(super) fn of(&self, credentials: &Credentials) -> Arc<Slot> {
        let known = self.find(credentials);
        let slot = known.unwrap_or_else(|| {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.tidy(Instant::now());
            let new = || Arc::new(Slot::new(TokenKey::new(&self.audience, credentials)));
            let name = credentials.name().clone();
            table.slots.entry(name).or_insert_with(new).clone()
        });
        slot.mark_used();
        slot.learn_secret(credentials);
        slot
    }

    pub(super) fn find(&self, credentials: &Credentials) -> Option<Arc<Slot>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.slots.get(credentials.name()).cloned()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.read().unwrap().slots.len()
    }
}

impl Table {
    fn tidy(&mut self, now: Instant) {
        if now < self.tidied_at + IDLE {
            return;
        }
        self.slots.retain(|_, slot| {
            // A second reference is a middleware's own or a caller's.
            slot.was_used() || Arc::strong_count(slot) > 1 || !slot.lock().is_at_rest(now)
        });
        self.tidied_at = now;
    }
}
