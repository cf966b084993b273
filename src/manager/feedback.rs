//! What the middleware tells the manager of the answers to its requests.

use std::borrow::Cow;

use tokio::time::Instant;

use super::single_flight::{SingleFlight, Trigger};
use super::{Tenant, TokenManager};
use crate::AccessToken;

impl TokenManager {
    /// A token was accepted on this path. Without a record of any path this needs no lock, and the path is not even asked for.
    pub(crate) fn accepted<'p>(&self, tenant: &Tenant, path: impl FnOnce() -> Cow<'p, str>) {
        if tenant.slot.has_records() {
            let now = Instant::now();
            let mut state = tenant.slot.lock();
            state.guard().accepted(&path(), now);
            tenant.slot.set_has_records(state.guard().has_records(now));
        }
    }

    /// The request was sent again with this token on this path, and it was accepted.
    pub(crate) fn healed(&self, tenant: &Tenant, token: &AccessToken, path: &str) {
        self.counters().replays_accepted.add_one();
        tenant.slot.lock().guard().healed(path, token);
    }

    /// The request was sent again with this token on this path, and it was rejected too.
    pub(crate) fn rejected_again(&self, tenant: &Tenant, token: &AccessToken, path: &str) {
        self.counters().replays_rejected.add_one();
        let now = self.shared.clock.moment();
        let mut state = tenant.slot.lock();
        let Some(local) = state.local.as_ref().filter(|local| local.token == *token) else {
            return;
        };
        if !local.is_fetched {
            // Only the store was asked so far. The next requests wait for a real fetch.
            drop(state);
            let _ = self.better(tenant, token, path);
            return;
        }
        // An operator's refresh under way may have ended this token at the issuer.
        let is_forced = |refresh: &SingleFlight| refresh.trigger() == Trigger::Forced;
        if state.refresh.as_ref().is_some_and(is_forced) {
            return;
        }
        let others_fetch = self.shared.is_shared && self.shared.fleet.is_none();
        let futile = state.guard().futile(path, token, others_fetch, now.instant);
        tenant.slot.set_has_records(true);
        drop(state);
        if let Some(held_back) = futile {
            let key = tenant.key();
            tracing::warn!(target: crate::TARGET, event = "refresh_futile", %key, path, ?held_back, "the API rejected the new token too");
        }
    }
}
