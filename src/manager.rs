//! Local copies of tokens, and their renewal.

mod builder;
mod cool_down;
mod flight;
mod guard;
mod renewal;
mod slot;
mod slots;
#[cfg(test)]
mod tests;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::Instrument;

pub use self::builder::TokenManagerBuilder;
use self::flight::{Flight, Trigger};
use self::renewal::Renewal;
use self::slot::{Slot, State};
use self::slots::Slots;
use crate::clock::Clock;
use crate::source::{Gate, Limits, StoreHealth};
use crate::{AccessToken, Audience, Credentials, Error, TokenSource, TokenStore};

/// How often a caller waits for another flight, after one that was lost or that has brought the token it cannot use.
const MOST_FLIGHTS: usize = 4;

/// Gives out access tokens, and fetches new ones no more often than it must.
///
/// Cloning is cheap, and clones share everything: several clients of one program may use one manager, for any number of apps.
///
/// # What it promises
///
/// - **One renewal at a time** for each key, however many wait for it. It runs as a task of its own, so that callers may be
///   dropped at any time; all who wait share its result, failures included.
/// - **A late rejection of an old token costs nothing**: [`renew`](Self::renew) compares the rejected token with the one in hand.
/// - **A token is used until it expires.** Shortly before, a request starts a renewal in the background; if that fails, the token
///   in hand goes on serving.
/// - **A failing source is left in peace.** A transient failure is tried again up to 3 times within the fetch limit. After a fetch
///   has failed, callers get the same error at once for a while: 1 s after a transient failure, doubling up to 30 s; 10 s after a
///   refusal, doubling up to 10 min. After errcode 45009 that goes for all keys of the source: 60 s, doubling up to 10 min.
/// - **An API that rejects every token causes no flood.** A renewal whose token is rejected too, on the same path, holds the next one
///   for that path back by 2 s, then 4 s, up to 5 min; and rejections of one key cause no more fetches than the renewal budget.
/// - **A store that fails costs a warning**, not a request.
///
/// # What it logs
///
/// With [`tracing`], under the target `reqwest_wecom`; never a token or a secret. Each renewal has a span `renewal` with the fields `key`
/// and `trigger`: `cold` (no local copy), `expiring` (early), `expired`, `rejected`, or `stale` (the store is asked whether it has a newer
/// one). It is a child of the span of the request that started it.
///
/// | level | event | fields | meaning |
/// | --- | --- | --- | --- |
/// | debug | `fetch started` | `key` | one try: the source is asked |
/// | info | `fetch done` | `key`, `elapsed`, `lifetime` | it gave a token |
/// | warn | `fetch failed` | `key`, `elapsed`, `error` | it gave none; a transient failure is tried again |
/// | warn | `cool-down entered` | `key`, `pause`, `error` | no fetch for this key for so long |
/// | info | `cool-down left` | `key` | there is a token again |
/// | warn | `fetches stopped` | `pause`, `error` | no fetch for any key: errcode 45009 |
/// | info | `fetches go on` | | the first success after that |
/// | warn | `renewal futile` | `key`, `path`, `held_back` | the API rejects the new token too |
/// | warn | `renewals held back` | `key`, `path` | the renewal budget is exhausted |
/// | warn | `token store fails` | `key`, `call`, `error` | the store is passed by |
/// | debug | `token store still fails` | `key`, `call`, `error` | again, and nothing that it did has succeeded meanwhile |
/// | info | `token store is back` | `key` | the first success after that |
/// | debug | `request left untouched` | `path`, `reason` | a request to our host is given no token |
pub struct TokenManager {
    shared: Arc<Shared>,
}

/// What all clones of a manager share, and its renewals.
struct Shared {
    source: Arc<dyn TokenSource>,
    store: Arc<dyn TokenStore>,
    settings: Settings,
    clock: Clock,
    slots: Slots,
    gate: Gate,
    store_health: StoreHealth,
    /// Whether any renewal ever was.
    was_futile: AtomicBool,
}

#[derive(Clone, Debug)]
struct Settings {
    early_renewal: Duration,
    local_copy: Option<Duration>,
    limits: Limits,
    renewal_budget: u32,
}

impl TokenManager {
    /// Builds a manager whose tokens come from this source.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder::new(source)
    }

    /// A token for these credentials: the local copy, or else one from the store or the source.
    ///
    /// # Errors
    ///
    /// Why none can be had. During a cool-down, the failure that it began with.
    ///
    /// # Cancel safety
    ///
    /// A renewal that the call has started goes on without it.
    pub async fn token(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        self.token_of(&self.tenant(credentials)).await
    }

    /// [`token`](Self::token) for one whose slot is known.
    pub(crate) async fn token_of(&self, tenant: &Tenant) -> Result<AccessToken, Error> {
        for _ in 0..MOST_FLIGHTS {
            let flight = match self.serve(tenant)? {
                Served::Token(token) => return Ok(token),
                Served::Flight(flight) => flight,
            };
            if let Some(landing) = flight.landed().await {
                return landing;
            }
        }
        Err(LOST)
    }

    /// A token other than the rejected one: the local copy if it is another already, else one from the store or the source.
    ///
    /// # Errors
    ///
    /// Why none can be had; [`Error::HeldBack`] if too many renewals were futile.
    ///
    /// # Cancel safety
    ///
    /// A renewal that the call has started goes on without it.
    pub async fn renew(
        &self,
        credentials: &Credentials,
        rejected: &AccessToken,
    ) -> Result<AccessToken, Error> {
        self.renew_for(&self.tenant(credentials), rejected, "")
            .await
    }

    /// Drops the local copy for these credentials and ends a cool-down, so that the next call asks the store anew, and the source
    /// if need be. The store keeps what it has; tokens known as rejected stay known.
    pub fn forget(&self, credentials: &Credentials) {
        if let Some(slot) = self.shared.slots.find(credentials.key()) {
            let mut state = slot.lock();
            state.local = None;
            state.cool_down.end();
        }
    }

    /// These credentials and their slot, which is not let go meanwhile.
    pub(crate) fn tenant(&self, credentials: &Credentials) -> Tenant {
        Tenant {
            slot: self.shared.slots.of(credentials.key()),
            credentials: credentials.clone(),
        }
    }

    /// What [`token`](Self::token) gives, if that need not be waited for.
    pub(crate) fn token_in_hand(&self, tenant: &Tenant) -> Option<AccessToken> {
        match self.serve(tenant) {
            Ok(Served::Token(token)) => Some(token),
            _ => None,
        }
    }

    /// What the tokens of the source are for.
    pub(crate) fn audience(&self) -> Audience {
        self.shared.source.audience()
    }

    /// [`renew`](Self::renew), after a rejection on this path.
    pub(crate) async fn renew_for(
        &self,
        tenant: &Tenant,
        rejected: &AccessToken,
        path: &str,
    ) -> Result<AccessToken, Error> {
        for _ in 0..MOST_FLIGHTS {
            let flight = match self.better(tenant, rejected, path)? {
                Served::Token(token) => return Ok(token),
                Served::Flight(flight) => flight,
            };
            // A flight that was joined may have set out before the token was rejected.
            let was_told = flight.trigger() == Trigger::Rejected;
            match flight.landed().await {
                Some(Ok(token)) if token == *rejected && !was_told => {}
                Some(landing) => return landing,
                None => {}
            }
        }
        Err(LOST)
    }

    /// A token was accepted on this path.
    pub(crate) fn accepted(&self, tenant: &Tenant, path: &str) {
        // Few programs ever see a futile renewal, and all others need no lock for this.
        if self.shared.was_futile.load(Ordering::Relaxed) {
            tenant.slot.lock().guard.accepted(path);
        }
    }

    /// The renewed token was rejected too on this path.
    pub(crate) fn rejected_again(&self, tenant: &Tenant, renewed: &AccessToken, path: &str) {
        let key = tenant.credentials.key();
        self.shared.was_futile.store(true, Ordering::Relaxed);
        let futile = tenant
            .slot
            .lock()
            .guard
            .futile(path, renewed, Instant::now());
        if let Some(held_back) = futile {
            tracing::warn!(%key, path, ?held_back, "renewal futile: the API rejects the new token too");
        }
    }

    fn serve(&self, tenant: &Tenant) -> Result<Served, Error> {
        let wall = self.shared.clock.now();
        let mut state = tenant.slot.lock();
        let state = &mut *state;
        if self.shared.settings.local_copy.is_none()
            && let Some(local) = state.settled(wall)
        {
            return Ok(Served::Token(local.token.clone()));
        }
        let now = Instant::now();
        let Some(local) = state.unexpired(wall) else {
            let trigger = match state.local {
                Some(_) => Trigger::Expired,
                None => Trigger::Cold,
            };
            return self.join_or_start(state, tenant, trigger, now);
        };
        let token = local.token.clone();
        let is_expiring = wall >= local.renew_at;
        let is_stale = self.is_stale(local.checked_at, now);
        match state.flight(now) {
            Some(flight) => {
                let is_looking = is_stale && flight.trigger() == Trigger::Stale;
                if is_looking || state.is_spent(&token) {
                    return Ok(Served::Flight(flight.clone()));
                }
            }
            None if is_expiring && state.cool_down.error(now).is_none() => {
                self.start(state, tenant, Trigger::Expiring, now)?;
            }
            None if is_stale => {
                let flight = self.start(state, tenant, Trigger::Stale, now)?;
                return Ok(Served::Flight(flight));
            }
            None => {}
        }
        Ok(Served::Token(token))
    }

    fn is_stale(&self, checked_at: Instant, now: Instant) -> bool {
        let limit = self.shared.settings.local_copy;
        limit.is_some_and(|limit| now.duration_since(checked_at) >= limit)
    }

    fn better(&self, tenant: &Tenant, rejected: &AccessToken, path: &str) -> Result<Served, Error> {
        let (now, wall) = (Instant::now(), self.shared.clock.now());
        let mut state = tenant.slot.lock();
        let state = &mut *state;
        if let Some(local) = state.unexpired(wall)
            && local.betters(rejected)
            && !state.is_spent(&local.token)
        {
            return Ok(Served::Token(local.token.clone()));
        }
        if state.flight(now).is_none() {
            if state.guard.holds_back(path, now) {
                return Err(Error::HeldBack);
            }
            if state.cool_down.error(now).is_none()
                && let Err(exhausted) = state.guard.spend(self.shared.settings.renewal_budget, now)
            {
                if exhausted.is_news {
                    let key = tenant.credentials.key();
                    tracing::warn!(%key, path, "renewals held back: the budget is exhausted");
                }
                return Err(Error::HeldBack);
            }
        }
        state.note_spent(rejected);
        let joined = self.join_or_start(state, tenant, Trigger::Rejected, now);
        if joined.is_err() {
            state.not_renewed(wall);
        }
        joined
    }

    /// The flight under way, or a new one, if no cool-down forbids it.
    fn join_or_start(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        now: Instant,
    ) -> Result<Served, Error> {
        if let Some(flight) = state.flight(now) {
            return Ok(Served::Flight(flight.clone()));
        }
        if let Some(error) = state.cool_down.error(now) {
            return Err(error.clone());
        }
        let flight = self.start(state, tenant, trigger, now)?;
        Ok(Served::Flight(flight))
    }

    fn start(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        now: Instant,
    ) -> Result<Flight, Error> {
        let runtime = Handle::try_current().map_err(|_outside| Error::NoRuntime)?;
        let limit = renewal::limit(&self.shared.settings.limits);
        let (pilot, flight) = Flight::new(trigger, now + limit);
        let renewal = Renewal {
            shared: self.shared.clone(),
            slot: tenant.slot.clone(),
            credentials: tenant.credentials.clone(),
            trigger,
            pilot,
        };
        let span = tracing::info_span!("renewal", key = %tenant.credentials.key(), %trigger);
        runtime.spawn(renewal.run().instrument(span));
        state.flight = Some(flight.clone());
        Ok(flight)
    }
}

const LOST: Error = Error::Interrupted {
    reason: "the runtime that it ran on ended, again and again",
};

/// Credentials and what the manager keeps of them.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    credentials: Credentials,
    slot: Arc<Slot>,
}

impl Tenant {
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }
}

/// What a caller gets at once.
enum Served {
    Token(AccessToken),
    Flight(Flight),
}

impl Clone for TokenManager {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("audience", &self.audience())
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}
