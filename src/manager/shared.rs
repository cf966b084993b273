use std::sync::Arc;
use std::time::Duration;

use super::slots::Slots;
use crate::clock::Clock;
use crate::fetch::{Gate, Limits};
use crate::fleet::{self, Fleet};
use crate::stats::Counters;
use crate::store::{STORE_LIMIT, StoreHealth};
use crate::{TokenSource, TokenStore};

/// What all clones of a manager and its refreshes share.
pub(super) struct Shared {
    pub(super) source: Arc<dyn TokenSource>,
    /// Whether the source ever fetches.
    pub(super) fetches: bool,
    pub(super) store: Arc<dyn TokenStore>,
    /// Whether the store was given to the builder, so that others may use it too.
    pub(super) is_shared: bool,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) slots: Slots,
    pub(super) gate: Gate,
    pub(super) store_health: Arc<StoreHealth>,
    pub(super) counters: Arc<Counters>,
    /// If the store has a shared database.
    pub(super) fleet: Option<Arc<Fleet>>,
}

impl Shared {
    /// The time after which a refresh is taken for lost: one second more than the longest that it takes if it runs at all.
    pub(super) fn longest_refresh(&self) -> Duration {
        let store = match &self.fleet {
            Some(_) => fleet::LONGEST_WAIT,
            None => STORE_LIMIT,
        };
        self.settings.limits.all_tries + store + Duration::from_secs(1)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) refresh_ahead: Duration,
    pub(super) local_copy: Option<Duration>,
    pub(super) limits: Limits,
    pub(super) refresh_budget: u32,
}
