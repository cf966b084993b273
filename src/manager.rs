//! Local copies of tokens, and refreshing them.

mod builder;
mod guard;
mod refresh;
mod single_flight;
mod slot;
mod slots;
#[cfg(test)]
mod tests;
mod throttle;

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::Instrument;

pub use self::builder::TokenManagerBuilder;
pub use self::guard::RejectionScope;
use self::refresh::Refresh;
use self::single_flight::{Outcome, SingleFlight, Trigger};
use self::slot::{Slot, State};
use self::slots::Slots;
use crate::clock::Clock;
use crate::source::{Gate, Limits, StoreHealth};
use crate::token::MAX_LIFETIME;
use crate::{
    AccessToken, Audience, Credentials, Error, ErrorKind, TokenKey, TokenSource, TokenStore,
};

/// How often a caller waits for another refresh, after one that was lost or that brought nothing it can use.
const MOST_REFRESHES: usize = 4;

/// What the rejections have in common, for the guard, that callers report with [`TokenManager::refresh_rejected`].
const REPORTED: &str = "refresh_rejected";

/// Returns access tokens, and fetches new ones as rarely as possible.
///
/// Cloning is cheap, and clones share everything. Several clients of one program can use one manager, for any number of apps.
///
/// # Guarantees
///
/// - **One refresh at a time** for each key, however many callers wait for it. It runs on its own task, so callers can be dropped at any
///   time. All callers share its result, errors included.
/// - **A late rejection of an old token costs nothing.** [`refresh_rejected`](Self::refresh_rejected) first compares the rejected value with
///   the local copy.
/// - **A token is used until it expires.** Shortly before that, a request starts a refresh in the background. If the refresh fails, the
///   current token is still used.
/// - **A failing source gets a cooldown.** A transient failure is tried again up to 3 times within the fetch limit. After a failed fetch,
///   callers get the same error at once for a while: for 1 s after a transient failure, doubling to 30 s, and for 10 s after a refusal,
///   doubling to 10 min. After errcode 45009 this is so for all keys of the source, for 60 s, doubling to 10 min.
/// - **An API that rejects every token causes no flood.** A refresh is futile if its token is rejected too, on the same path. The next
///   refresh for that path is then held back, for 2 s, doubling to 5 min. All rejections of one key together have the refresh budget.
/// - **A store that fails costs a warning**, not a request.
///
/// # Events
///
/// The manager and the middleware emit events with [`tracing`], with the target `reqwest_wecom`. None shows a token or a secret. The
/// field `event` is stable, so you can filter and count by it.
///
/// | level | `event` | other fields | meaning |
/// | --- | --- | --- | --- |
/// | debug | `fetch_started` | `key` | The source is asked. This is one try. |
/// | info | `fetch_succeeded` | `key`, `elapsed`, `lifetime` | The source returned a token. |
/// | warn | `fetch_failed` | `key`, `elapsed`, `error` | The source returned an error. A transient failure is tried again. |
/// | warn | `cooldown_started` | `key`, `pause`, `error` | No fetches for this key for that long. |
/// | info | `cooldown_ended` | `key` | There is a token again. |
/// | warn | `rate_limited` | `pause`, `error` | Errcode 45009: no fetches for any key for that long. |
/// | info | `rate_limit_ended` | | The first success after that. |
/// | warn | `refresh_futile` | `key`, `path`, `held_back` | The API rejected the new token too. |
/// | warn | `refresh_held_back` | `key`, `path` | The refresh budget is used up. |
/// | warn | `store_failed` | `key`, `call`, `error` | The store failed, and the manager goes on without it. |
/// | debug | `store_still_failing` | `key`, `call`, `error` | It failed again, without a success in between. |
/// | info | `store_recovered` | `key` | The first success after that. |
/// | debug | `request_sent_again` | `key`, `path`, `errcode` | The API rejected the token, and the request is sent with the new one. |
/// | warn | `request_not_sent_again` | `key`, `path`, `errcode` | There is a new token, but the body is longer than the replay limit. |
/// | debug | `request_unchanged` | `path`, `reason` | A request to the API's host gets no token. |
/// | warn | `scheme_is_http` | `path` | A request gets no token because it is for `http`, and the base URL says `https`. |
/// | trace | `request_elsewhere` | `host` | A request gets no token because it is not below the base URL. |
///
/// Each refresh has a span `refresh` with the fields `key` and `trigger`: `cold` (there is no local copy), `expiring` (refresh ahead),
/// `expired`, `rejected`, or `stale` (the store is asked for a newer token). It is a child of the span of the request that started it.
pub struct TokenManager {
    shared: Arc<Shared>,
}

/// What all clones of a manager and its refreshes share.
struct Shared {
    source: Arc<dyn TokenSource>,
    /// Whether the source ever fetches.
    fetches: bool,
    store: Arc<dyn TokenStore>,
    settings: Settings,
    clock: Clock,
    slots: Slots,
    gate: Gate,
    store_health: StoreHealth,
    /// Whether any refresh ever was.
    was_futile: AtomicBool,
}

#[derive(Clone, Debug)]
struct Settings {
    refresh_ahead: Duration,
    local_copy: Option<Duration>,
    limits: Limits,
    refresh_budget: u32,
}

impl TokenManager {
    /// Builds a manager with this source of tokens.
    pub fn builder(source: impl TokenSource) -> TokenManagerBuilder {
        TokenManagerBuilder::new(source)
    }

    /// A token for these credentials: the local copy, or one from the store or the source.
    ///
    /// # Errors
    ///
    /// Why there is none. During a cooldown, this is the failure that started it.
    ///
    /// # Panics
    ///
    /// If a token has to be fetched on a tokio runtime without timers.
    ///
    /// # Cancel safety
    ///
    /// You can drop the call at any time. A refresh that it has started goes on.
    pub async fn token(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        self.token_of(&self.tenant(credentials)).await
    }

    /// [`token`](Self::token) for an app whose slot is known.
    pub(crate) async fn token_of(&self, tenant: &Tenant) -> Result<AccessToken, Error> {
        for _ in 0..MOST_REFRESHES {
            let refresh = match self.serve(tenant)? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(refresh) => refresh,
            };
            if let Some(outcome) = refresh.outcome().await
                && !tenant.can_do_better(&outcome)
            {
                return outcome;
            }
        }
        Err(lost())
    }

    /// Reports that the API rejected this value of a token with 40014 or 42001, and returns another token.
    ///
    /// Requests of the middleware need no report. This is for programs that use tokens outside of it, such as a token server. If the local copy
    /// has another value already, that is the answer. Otherwise the token comes from the store or the source.
    ///
    /// ```
    /// # use reqwest_wecom::{AccessToken, Credentials, Error, TokenManager};
    /// # async fn f(manager: TokenManager, credentials: Credentials, call: impl AsyncFn(&AccessToken) -> i64) -> Result<(), Error> {
    /// let token = manager.token(&credentials).await?;
    /// if let 40014 | 42001 = call(&token).await {
    ///     let token = manager.refresh_rejected(&credentials, token.expose_secret()).await?;
    ///     call(&token).await;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Why there is no other token. The kind is [`HeldBack`](ErrorKind::HeldBack) if the API rejected too many new tokens.
    ///
    /// # Panics
    ///
    /// If a token has to be fetched on a tokio runtime without timers.
    ///
    /// # Cancel safety
    ///
    /// You can drop the call at any time. A refresh that it has started goes on.
    pub async fn refresh_rejected(
        &self,
        credentials: &Credentials,
        value: impl Into<String>,
    ) -> Result<AccessToken, Error> {
        let now = self.shared.clock.now();
        let reported = AccessToken::from_parts(value, now, now + MAX_LIFETIME);
        let tenant = self.tenant(credentials);
        let rejected = tenant.slot.lock().known(reported);
        self.refresh_rejected_on(&tenant, &rejected, REPORTED).await
    }

    /// Drops the local copy for these credentials and ends a cooldown, so that the next call asks the store, and the source if needed.
    /// The store keeps what it has, and rejected tokens are still known as rejected.
    pub fn forget(&self, credentials: &Credentials) {
        if let Some(slot) = self.shared.slots.find(credentials) {
            let mut state = slot.lock();
            state.local = None;
            state.throttle.end();
        }
    }

    /// The key under which the store keeps the token for these credentials.
    pub fn key(&self, credentials: &Credentials) -> TokenKey {
        TokenKey::new(self.audience(), credentials)
    }

    /// These credentials and their slot, which is not dropped meanwhile.
    pub(crate) fn tenant(&self, credentials: &Credentials) -> Tenant {
        Tenant {
            slot: self.shared.slots.of(credentials),
            credentials: credentials.clone(),
        }
    }

    /// What [`token`](Self::token) returns, if there is no need to wait for it.
    pub(crate) fn token_in_hand(&self, tenant: &Tenant) -> Option<AccessToken> {
        match self.serve(tenant) {
            Ok(Served::Token(token)) => Some(token),
            _ => None,
        }
    }

    /// What the tokens of the source are for.
    pub(crate) fn audience(&self) -> &Audience {
        self.shared.slots.audience()
    }

    /// A token other than this one, which the API rejected on this path.
    pub(crate) async fn refresh_rejected_on(
        &self,
        tenant: &Tenant,
        rejected: &AccessToken,
        path: &str,
    ) -> Result<AccessToken, Error> {
        for _ in 0..MOST_REFRESHES {
            let refresh = match self.better(tenant, rejected, path)? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(refresh) => refresh,
            };
            match refresh.outcome().await {
                // A refresh that was joined may have started before the token was rejected.
                Some(Ok(token)) if tenant.slot.lock().rejected.covers(&token) => {}
                Some(outcome) if !tenant.can_do_better(&outcome) => return outcome,
                _ => {}
            }
        }
        Err(lost())
    }

    /// Whether [`accepted`](Self::accepted) has any effect. Few programs ever see a futile refresh, and the others need no lock.
    pub(crate) fn notes_accepted(&self) -> bool {
        self.shared.was_futile.load(Ordering::Relaxed)
    }

    /// A token was accepted on this path.
    pub(crate) fn accepted(&self, tenant: &Tenant, path: &str) {
        tenant.slot.lock().guard.accepted(path);
    }

    /// The new token was rejected too on this path.
    pub(crate) fn rejected_again(&self, tenant: &Tenant, token: &AccessToken, path: &str) {
        let key = tenant.key();
        self.shared.was_futile.store(true, Ordering::Relaxed);
        let futile = tenant.slot.lock().guard.futile(path, token, Instant::now());
        if let Some(held_back) = futile {
            tracing::warn!(event = "refresh_futile", %key, path, ?held_back, "the API rejected the new token too");
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
        let is_expiring = wall >= local.refresh_at;
        let is_stale = self.is_stale(local.checked_at, now);
        match state.refresh(now) {
            Some(refresh) => {
                let is_looking = is_stale && refresh.trigger() == Trigger::Stale;
                if is_looking || state.rejected.covers(&token) {
                    return Ok(Served::Refresh(refresh.clone()));
                }
            }
            None if is_expiring && state.throttle.error(now).is_none() => {
                self.start(state, tenant, Trigger::Expiring, now)?;
            }
            None if is_stale => {
                let refresh = self.start(state, tenant, Trigger::Stale, now)?;
                return Ok(Served::Refresh(refresh));
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
        if let Some(token) = state.better_than(rejected, wall) {
            return Ok(Served::Token(token.clone()));
        }
        if state.refresh(now).is_none() {
            if state.guard.holds_back(path, now) {
                return Err(Error::held_back());
            }
            if state.throttle.error(now).is_none()
                && let Err(exhausted) = state.guard.spend(self.shared.settings.refresh_budget, now)
            {
                if exhausted.is_news {
                    let key = tenant.key();
                    tracing::warn!(event = "refresh_held_back", %key, path, "the refresh budget is used up");
                }
                return Err(Error::held_back());
            }
        }
        state.note_rejected(rejected, wall);
        let joined = self.join_or_start(state, tenant, Trigger::Rejected, now);
        if joined.is_err() {
            state.not_refreshed(wall);
        }
        joined
    }

    /// The refresh under way, or a new one, unless there is a cooldown.
    fn join_or_start(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        now: Instant,
    ) -> Result<Served, Error> {
        if let Some(refresh) = state.refresh(now) {
            return Ok(Served::Refresh(refresh.clone()));
        }
        if let Some(error) = state.throttle.error(now) {
            return Err(error.clone());
        }
        let refresh = self.start(state, tenant, trigger, now)?;
        Ok(Served::Refresh(refresh))
    }

    fn start(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        now: Instant,
    ) -> Result<SingleFlight, Error> {
        tenant.credentials.check()?;
        let runtime = Handle::try_current().map_err(|_outside| Error::no_runtime())?;
        let limit = refresh::limit(&self.shared.settings.limits);
        let (sender, single_flight) = SingleFlight::new(trigger, now + limit);
        let refresh = Refresh {
            shared: self.shared.clone(),
            slot: tenant.slot.clone(),
            credentials: tenant.credentials.clone(),
            trigger,
            sender,
        };
        let span = tracing::info_span!("refresh", key = %tenant.key(), %trigger);
        runtime.spawn(refresh.run().instrument(span));
        state.refresh = Some(single_flight.clone());
        Ok(single_flight)
    }
}

fn lost() -> Error {
    Error::interrupted("the runtime that it ran on ended, again and again")
}

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

    pub(crate) fn key(&self) -> &TokenKey {
        self.slot.key()
    }

    /// Whether the refresh only failed because nobody had the secret when it started, while this caller has it.
    fn can_do_better(&self, outcome: &Outcome) -> bool {
        let lacked_secret = |error: &Error| error.kind() == ErrorKind::NoSecret;
        outcome.as_ref().is_err_and(lacked_secret) && self.credentials.expose_secret().is_some()
    }
}

/// What a caller gets at once.
enum Served {
    Token(AccessToken),
    Refresh(SingleFlight),
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
