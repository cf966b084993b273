use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::slot::Slot;
use crate::TokenKey;

/// Keys that were not used in this time are let go.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// The slots of all keys that are in use.
///
/// When a new key comes and it has been so long, the slots that were not used since the last time are let go. One that is being used,
/// under flight or in cool-down stays.
#[derive(Debug, Default)]
pub(super) struct Slots(RwLock<Table>);

#[derive(Debug)]
struct Table {
    slots: HashMap<TokenKey, Arc<Slot>>,
    tidied_at: Instant,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            slots: HashMap::new(),
            tidied_at: Instant::now(),
        }
    }
}

impl Slots {
    pub(super) fn of(&self, key: &TokenKey) -> Arc<Slot> {
        let known = self.find(key);
        let slot = known.unwrap_or_else(|| {
            let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
            table.tidy(Instant::now());
            table.slots.entry(key.clone()).or_default().clone()
        });
        slot.mark_used();
        slot
    }

    pub(super) fn find(&self, key: &TokenKey) -> Option<Arc<Slot>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.slots.get(key).cloned()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.read().unwrap().slots.len()
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
