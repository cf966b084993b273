//! Refreshes that an operator forces.

use tokio::time::Instant;

use super::budget::{Budget, SLOW_REFILL};
use super::single_flight::{OutcomeSender, SingleFlight, Trigger};
use super::slot::State;
use super::step::Step;
use super::throttle::LOST;
use super::{MOST_REFRESHES, Served, Tenant, TokenManager};
use crate::clock::Moment;
use crate::{AccessToken, Credentials, Error};

/// How many refreshes operators may force in a row for one key.
const BUDGET: u32 = 10;

/// What is kept of the refreshes that operators have forced.
#[derive(Debug, Default)]
pub(super) struct Forced {
    /// The forced refresh that waits until the refresh under way has ended.
    pub(super) waiting: Option<SingleFlight>,
    budget: Budget,
}

impl Forced {
    /// Whether nothing would be lost with it.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        let is_lost = |waiting: &SingleFlight| waiting.is_lost(now);
        self.waiting.as_ref().is_none_or(is_lost) && self.budget.is_whole(now)
    }

    /// Takes one refresh out of the budget.
    fn take(&mut self, now: Instant) -> Result<(), Error> {
        let next_in = self.budget.next_in(BUDGET, SLOW_REFILL, now);
        if !next_in.is_zero() {
            return Err(Error::too_many_forced(next_in));
        }
        self.budget.take(SLOW_REFILL, now);
        Ok(())
    }

    /// The source was not asked.
    pub(super) fn not_needed(&mut self) {
        self.budget.give_back(SLOW_REFILL);
    }
}

impl State {
    /// The forced refresh that another operator can join.
    fn forced_refresh(&mut self, now: Moment) -> Option<SingleFlight> {
        let is_forced = |it: &&SingleFlight| it.trigger() == Trigger::Forced;
        let under_way = self.refresh.as_ref().filter(is_forced).cloned();
        let refresh = under_way.or_else(|| self.forced().waiting.clone())?;
        (!refresh.is_lost(now.instant)).then_some(refresh)
    }

    /// Begins a forced refresh. It waits for the end of a refresh under way that may fetch.
    pub(super) fn begin_forced(&mut self, forced: SingleFlight) {
        if self.refresh.as_ref().is_some_and(SingleFlight::may_fetch) {
            self.forced().waiting = Some(forced);
        } else {
            self.refresh = Some(forced);
        }
    }

    /// What this forced refresh has to wait for. `None` if it is under way: the end of the one before has made it the current one.
    pub(super) fn refresh_before(&self, forced: &OutcomeSender) -> Option<SingleFlight> {
        let before = self.refresh.as_ref();
        let before = before.filter(|it| it.may_fetch() && !it.is_of(forced));
        before.cloned()
    }
}

impl TokenManager {
    /// Fetches a new token now, even if the current one is good. For operators.
    ///
    /// Call it after you have fixed the cause of a failure, such as a missing trusted IP, or to replace a token. Cooldowns, rate limits (errcode
    /// 45009) and failures in a shared database do not stop it. Its success ends all of these in this manager. Over a
    /// shared database, it also ends the cooldown of this key for all processes, but not their rate limits.
    /// Only its own budget stops it: 10 fetches in a row for each key, and one comes back every 72 s. That is apart from the
    /// [refresh budget](crate::TokenManagerBuilder::refresh_budget), so forced refreshes use up nothing that a real revocation needs.
    ///
    /// It makes one try. If that fails, the current token stays in use, and no cooldown starts or grows. The exception is errcode 45009: it
    /// stops the fetches of all apps for at least 60 s, like any other fetch that fails with it.
    ///
    /// Requests use the current token until the new one is there. Concurrent calls of this method share one fetch. It never joins a refresh
    /// that a request has started: it waits for the end of that, and over a shared database for other processes that fetch, and then fetches.
    ///
    /// **This does not revoke the current token.** WeCom may return the same value while that is valid, and the manager then keeps it as the new
    /// token. To make a leaked token useless, reset the app's secret in the admin console.
    ///
    /// ```
    /// # use reqwest_wecom::{Credentials, Error, ErrorKind, TokenManager};
    /// # async fn f(manager: TokenManager, credentials: Credentials) {
    /// match manager.refresh(&credentials).await {
    ///     Ok(token) => println!("the new token expires at {:?}", token.expires_at()),
    ///     Err(error) if error.kind() == ErrorKind::HeldBack => println!("wait {:?}", error.retry_after()),
    ///     // Print its sources too: they say why.
    ///     Err(error) => println!("the token was not replaced: {error}"),
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if the source fails. The kind is [`HeldBack`](crate::ErrorKind::HeldBack) if the budget is used up, with
    /// [`retry_after`](Error::retry_after), and [`Refused`](crate::ErrorKind::Refused) if the source never fetches, like
    /// [`StoreOnly`](crate::StoreOnly). Neither makes a call.
    ///
    /// # Panics
    ///
    /// Panics if it is called on a tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. A refresh that it started continues in the background.
    pub async fn refresh(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        let tenant = self.tenant(credentials);
        for _ in 0..MOST_REFRESHES {
            let refresh = match self.force(&tenant)? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(refresh, _) => refresh,
            };
            if let Some(outcome) = refresh.outcome().await
                && !tenant.can_do_better(&outcome)
            {
                return outcome;
            }
        }
        Err(Error::interrupted(LOST))
    }

    /// The refresh of another operator, or a new one.
    fn force(&self, tenant: &Tenant) -> Result<Served, Error> {
        if !self.shared.fetches {
            return Err(Error::refused(
                "this program only reads tokens: call `refresh` in the program that fetches them",
            ));
        }
        let now = self.shared.clock.moment();
        self.decide(tenant, tenant.slot.lock(), now, |state| {
            match state.forced_refresh(now) {
                Some(refresh) => Step::Join(refresh, None),
                None => self.start_forced(state, tenant, now),
            }
        })
    }

    fn start_forced(&self, state: &mut State, tenant: &Tenant, now: Moment) -> Step {
        if let Err(too_many) = state.forced().take(now.instant) {
            return Step::Fail(too_many);
        }
        match self.prepare(state, tenant, Trigger::Forced, Ok(()), None) {
            Ok(launch) => Step::Start(launch, None),
            Err(error) => {
                state.forced().not_needed();
                Step::Fail(error)
            }
        }
    }
}
