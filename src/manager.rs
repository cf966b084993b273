//! Local copies of tokens, and refreshing them.

mod budget;
mod builder;
mod feedback;
mod forced;
mod guard;
mod refresh;
mod rejection_scope;
mod shared;
mod single_flight;
mod slot;
mod slots;
mod status;
mod step;
mod tenant;
#[cfg(test)]
mod tests;
mod throttle;
mod valid_for;

use std::fmt::{self, Debug};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

pub use self::builder::TokenManagerBuilder;
use self::guard::{HeldBack, REPORTED};
use self::refresh::tell_cooldown;
pub use self::rejection_scope::RejectionScope;
use self::shared::{Settings, Shared};
use self::slot::State;
pub use self::status::TokenStatus;
use self::step::Step;
pub(crate) use self::tenant::{Served, Tenant};
use self::throttle::LOST;
use crate::clock::Moment;
use crate::{AccessToken, Audience, Credentials, Error, ErrorKind, TokenKey, TokenSource};

/// How many refreshes a caller waits for, if they are lost or return nothing that it can use.
const MOST_REFRESHES: usize = 4;

/// How long a reported value of unknown age stays rejected: the lifetime of WeCom's tokens.
const REPORTED_LIFETIME: Duration = Duration::from_secs(7200);

/// Returns access tokens, and fetches new ones as rarely as possible.
///
/// Cloning is cheap, and clones share everything. Several clients of one program can use one manager, for any number of apps.
///
/// ```
/// use std::time::Duration;
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, GetToken, TokenManager};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let http = reqwest::Client::builder().referer(false).build()?;
/// let manager = TokenManager::builder(GetToken::new(http))
///     .fetch_limit(Duration::from_secs(5))
///     .build();
///
/// // Share its tokens with a client.
/// let credentials = Credentials::new("ww1234", "secret");
/// let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(credentials.clone()).build();
///
/// // Or use a token directly.
/// let token = manager.token(&credentials).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Guarantees
///
/// - **One refresh at a time** for each key, however many callers wait for it. It runs on its own task, so callers can be dropped at any
///   time. All callers share its result, errors included. If its runtime shuts down or stops running it, a waiting caller replaces it.
/// - **A late rejection of an old token costs nothing.** [`refresh_rejected`](Self::refresh_rejected) first compares the rejected value with
///   the local copy. A rejected value is used again only if it was fetched after the rejection.
/// - **A token is used until it expires.** Shortly before that, a request starts a refresh in the background. If the refresh fails, the
///   current token is still used.
/// - **A failing source gets a cooldown.** The manager retries a transient failure up to 3 times within the
///   [fetch limit](TokenManagerBuilder::fetch_limit). After a failed fetch, callers without a token get the same error until the cooldown ends:
///   at once with the default store, and after a look into a store that you have set. It lasts 1 s after a transient failure, a panic or a
///   lost refresh, doubling to 30 s, and 10 s after a refusal, doubling to 5 min. If a transient failure comes with a longer `Retry-After`, it
///   lasts that long, at most 60 s. If there still was a token when the cooldown started, it is cut to 1 s from its start once that token has
///   expired or is rejected. After errcode 45009, no key of the manager is fetched for 60 s, doubling to 10 min. Over a shared database other
///   times apply: see [`SharedStore`](crate::SharedStore).
/// - **An API that rejects every token causes no flood, and a real revocation heals at once.** If the API rejects the new token too, on the
///   same path, the refresh was futile. The manager then holds back the next one for that path: for 2 s, doubling to 5 min. Futile
///   fetches use up the [refresh budget](TokenManagerBuilder::refresh_budget) of the key. Half of it, at most 5 fetches, is reserved for paths
///   that have accepted a token in the last hour, so that bad paths can't use up all of it. All fetches that rejections cause, futile or
///   not, are limited to 10 in a row, and 1 more every second.
/// - **An operator's [`refresh`](Self::refresh) fetches now**, whatever holds back other fetches. It uses up nothing that a revocation needs. Unless
///   it fails with errcode 45009, its failure changes nothing for requests.
/// - **A store is asked for a newer token first**, even during a cooldown or when a refresh is held back. A token that is older than the last
///   local copy is ignored. After a rejection, the manager waits for up to 100 ms before it asks a plain
///   [`TokenStore`](crate::TokenStore) that you have set, at random, so that several managers over one store don't fetch at the same time.
/// - **A store that fails or hangs costs a warning**, not a request. Callers get a fetched token before the store has it. The next refresh for
///   the same key waits for that, at most 2 s. A caller with a good local copy waits at most 50 ms for the store. Without one, a caller waits
///   at most 2 s for the store, and before that up to 2 s for the last write. After a failed read, or a call without an answer within 2 s,
///   the manager does not read the store for 1 s, doubling to 30 s, unless the token can't come from anywhere else. It still writes fetched
///   tokens.
/// - **Processes that share a database make one fetch for all**: see [`SharedStore`](crate::SharedStore).
/// - **Memory for an app is given back** within 10 minutes of its last use, as soon as the manager is used again. An app is kept for longer
///   if its token is not in the store, and as long as a cooldown, a budget or a rejected value has to be remembered.
///
/// # Operating
///
/// [`status`](Self::status) tells what the manager has in memory for one app: whether there is a token, which cooldown or rate limit stops
/// fetches, and which paths are held back, so that rejections there cause no fetch. It makes no call, so it suits a health check. [`stats`](Self::stats) counts fetches and failures, refreshes,
/// requests that were sent again, and calls to the store, for all apps together. Nothing is counted for a request whose token is in memory.
/// Both can be serialized. Alert on [`failed_refused`](crate::Stats::failed_refused) first: such a failure needs a person.
///
/// # Events
///
/// The manager and the middleware emit events with [`tracing`], with the target `reqwest_wecom`. None shows a token or a secret. The field `event` is stable, so you can filter and count by it. Durations are in Rust's `Debug` format, such as `1.5s`.
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
/// | warn | `store_failed` | `key`, `call`, `error` | The store failed, and the manager goes on without it. `call` is `get`, `put`, `load` or `compare_and_swap`. |
/// | debug | `store_still_failing` | `key`, `call`, `error` | It failed again, without a success in between. |
/// | info | `store_recovered` | `key` | The first success after that. Reads and writes are told apart. |
/// | warn | `document_unreadable` | `key` | A shared database has something under this key that is not a token document. It is replaced. |
/// | debug | `request_sent_again` | `key`, `path`, `errcode` | The API rejected the token, and the request is sent with the new one. |
/// | warn | `request_not_sent_again` | `key`, `path`, `errcode` | There is a new token, but the body is longer than the replay limit. |
/// | debug | `request_unchanged` | `path`, `reason` | A request to the API's host gets no token. |
/// | warn | `scheme_is_http` | `path` | A request gets no token because it is for `http`, and the base URL says `https`. |
/// | trace | `request_elsewhere` | `host` | A request gets no token because it is not below the base URL. |
///
/// Each refresh has a span `refresh` with the fields `key` and `trigger`: `cold` (there is no local copy), `expiring` (refresh ahead),
/// `expired`, `rejected`, `stale` (the store is asked for a newer token), `short` ([`token_valid_for`](Self::token_valid_for) needs a token
/// that lives longer), or `forced` ([`refresh`](Self::refresh)). It is a child of the span of the request that started it.
pub struct TokenManager {
    shared: Arc<Shared>,
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
    /// Fails if neither the store nor the source has a token: see [`ErrorKind`](crate::ErrorKind) for the reasons. During a cooldown, this is the failure that
    /// started it.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait for a token on a tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. A refresh that it started continues in the background.
    pub async fn token(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        self.token_of(&self.tenant(credentials)).await
    }

    /// [`token`](Self::token) for an app whose slot is known.
    pub(crate) async fn token_of(&self, tenant: &Tenant) -> Result<AccessToken, Error> {
        self.wait_for(tenant, self.serve(tenant)).await
    }

    /// Goes on with what [`serve`](Self::serve) has brought.
    pub(crate) async fn wait_for(
        &self,
        tenant: &Tenant,
        mut served: Result<Served, Error>,
    ) -> Result<AccessToken, Error> {
        for _ in 0..MOST_REFRESHES {
            let refresh = match served? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(look, Some(token)) => {
                    let newer = look.outcome_soon().await.and_then(Result::ok);
                    return Ok(newer.unwrap_or(token));
                }
                Served::Refresh(refresh, None) => refresh,
            };
            if let Some(outcome) = tenant.outcome_of(refresh).await {
                return outcome;
            }
            served = self.serve(tenant);
        }
        Err(Error::interrupted(LOST))
    }

    /// Reports that the API rejected this value of a token with 40014 or 42001, and returns another token.
    ///
    /// The middleware does this for its own requests. Call it if you use tokens without the middleware, in a token server for example. If the
    /// local copy already has another value, you get that one. Otherwise the token comes from the store or the source.
    ///
    /// Each fetch that this method causes uses one of the key's [refresh budget](TokenManagerBuilder::refresh_budget), even if the API accepts the
    /// new token, because the manager can't see that. For a token server that many programs use, raise the budget.
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
    /// Fails if there is no other token. The kind is [`HeldBack`](crate::ErrorKind::HeldBack) if the refresh budget is used up.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait for a token on a tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. A refresh that it started continues in the background.
    pub async fn refresh_rejected(
        &self,
        credentials: &Credentials,
        value: impl Into<String>,
    ) -> Result<AccessToken, Error> {
        let now = self.shared.clock.now();
        let reported = AccessToken::from_parts(value, now, now + REPORTED_LIFETIME);
        let tenant = self.tenant(credentials);
        let rejected = tenant.slot.lock().known(reported);
        self.refresh_rejected_on(&tenant, &rejected, REPORTED).await
    }

    /// The key under which the store keeps the token for these credentials.
    pub fn key(&self, credentials: &Credentials) -> TokenKey {
        TokenKey::new(self.audience(), credentials)
    }

    /// The credentials and their slot, which is not dropped while the tenant exists.
    pub(crate) fn tenant(&self, credentials: &Credentials) -> Tenant {
        Tenant {
            slot: self.shared.slots.of(credentials),
            credentials: credentials.clone(),
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
        let other = self.other_than(tenant, rejected, path).await;
        if matches!(&other, Err(error) if error.kind() == ErrorKind::HeldBack) {
            self.counters().held_back.add_one();
        }
        other
    }

    async fn other_than(
        &self,
        tenant: &Tenant,
        rejected: &AccessToken,
        path: &str,
    ) -> Result<AccessToken, Error> {
        for _ in 0..MOST_REFRESHES {
            let refresh = match self.better(tenant, rejected, path)? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(refresh, _) => refresh,
            };
            if let Some(outcome) = tenant.outcome_of(refresh).await {
                return outcome;
            }
        }
        Err(Error::interrupted(LOST))
    }

    /// What a caller gets at once: the local copy, or a refresh to wait for.
    pub(crate) fn serve(&self, tenant: &Tenant) -> Result<Served, Error> {
        let wall = self.shared.clock.now();
        if self.shared.slots.is_sweep_due(wall) {
            self.sweep();
        }
        let state = tenant.slot.lock();
        if self.shared.settings.local_copy.is_none()
            && let Some(local) = state.settled(wall)
        {
            return Ok(Served::Token(local.token.clone()));
        }
        let now = Moment {
            instant: Instant::now(),
            wall,
        };
        self.decide(tenant, state, now, |state| self.step(state, tenant, now))
    }

    /// Decides what is to be done while the state is locked, and does it after that.
    fn decide(
        &self,
        tenant: &Tenant,
        mut state: MutexGuard<'_, State>,
        now: Moment,
        decide: impl FnOnce(&mut State) -> Step,
    ) -> Result<Served, Error> {
        let lost = state.end_lost_refresh(now);
        let step = decide(&mut state);
        drop(state);
        tell_lost(tenant.key(), lost);
        step.take()
    }

    /// Drops the slots that are no longer used, on a task if possible.
    fn sweep(&self) {
        let shared = self.shared.clone();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { shared.slots.sweep() })),
            Err(_outside) => shared.slots.sweep(),
        }
    }

    /// A better token than the rejected one, or a refresh that may bring one.
    fn better(&self, tenant: &Tenant, rejected: &AccessToken, path: &str) -> Result<Served, Error> {
        let now = self.shared.clock.moment();
        let mut held_back = None;
        let served = self.decide(tenant, tenant.slot.lock(), now, |state| {
            self.step_after_rejection(state, tenant, (rejected, path), now, &mut held_back)
        });
        if held_back == Some(HeldBack::Budget { is_news: true }) {
            let key = tenant.key();
            tracing::warn!(target: crate::TARGET, event = "refresh_held_back", %key, path, "the refresh budget is used up");
        }
        served
    }
}

fn tell_lost(key: &TokenKey, cooldown: Option<Duration>) {
    if let Some(pause) = cooldown {
        tell_cooldown(key, pause, &Error::interrupted(LOST));
    }
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
