//! Getting another token: from the store if another process has put one there, otherwise from the source.

pub(super) mod end;
mod leave;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use self::end::{End, Keep, Kept, PutUnderWay, keep_token};
pub(super) use self::leave::tell_cooldown;
use super::single_flight::{OutcomeSender, PATIENCE, SingleFlight, Trigger};
use super::slot::{Slot, State};
use super::{Shared, tell_lost};
use crate::fetch::{Fetch, Surroundings};
use crate::fleet::{self, Fleet, Task, Wait};
use crate::in_hand::{InHand, Unusable};
use crate::store::StoreCalls;
use crate::{AccessToken, Credentials, Error, FetchRequest};

/// How long the managers over one store wait at most after a rejection before they look into the store, each a different time. So
/// the first of them has put its new token there when the others look.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A refresh that is to be spawned, once no lock is held.
#[must_use = "callers wait for it"]
pub(super) struct Launch {
    refresh: Refresh,
    runtime: Handle,
    single_flight: SingleFlight,
}

impl Launch {
    pub(super) fn spawn(self) -> SingleFlight {
        let Refresh {
            shared,
            slot,
            trigger,
            ..
        } = &self.refresh;
        trigger.counter(&shared.counters).add_one();
        let span =
            tracing::info_span!(target: crate::TARGET, "refresh", key = %slot.key(), %trigger);
        self.runtime.spawn(self.refresh.run().instrument(span));
        self.single_flight
    }
}

/// One refresh. It runs on its own task.
pub(super) struct Refresh {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    credentials: Credentials,
    trigger: Trigger,
    /// Whether the source may be asked, and otherwise why not.
    permit: Result<(), Error>,
    /// The token that the API rejected, if that is why.
    rejected: Option<AccessToken>,
    sender: OutcomeSender,
}

impl Refresh {
    /// Prepares a refresh, and leaves word of it in the slot.
    pub(super) fn prepare(
        shared: &Arc<Shared>,
        slot: &Arc<Slot>,
        state: &mut State,
        credentials: &Credentials,
        trigger: Trigger,
        permit: Result<(), Error>,
        rejected: Option<AccessToken>,
    ) -> Result<Launch, Error> {
        credentials.check(shared.slots.audience().kind())?;
        let runtime = Handle::try_current().map_err(|_outside| Error::no_runtime())?;
        let may_fetch = permit.is_ok() && trigger != Trigger::Stale;
        let wait = state.put.as_ref().map_or(Duration::ZERO, PutUnderWay::left);
        let mut longest = shared.longest_refresh() + wait;
        if trigger == Trigger::Forced
            && let Some(before) = &state.refresh
        {
            longest += before.left(Instant::now());
        }
        let (sender, single_flight) = SingleFlight::new(trigger, may_fetch, longest);
        match trigger {
            Trigger::Forced => state.begin_forced(single_flight.clone()),
            _ => state.refresh = Some(single_flight.clone()),
        }
        let refresh = Self {
            shared: shared.clone(),
            slot: slot.clone(),
            credentials: credentials.clone(),
            trigger,
            permit,
            rejected,
            sender,
        };
        Ok(Launch {
            refresh,
            runtime,
            single_flight,
        })
    }

    async fn run(self) {
        if self.trigger == Trigger::Forced {
            self.wait_for_turn().await;
        }
        let earlier_put = self.slot.lock().put.clone();
        if let Some(put) = earlier_put
            && self.shared.store_health.works()
        {
            put.wait().await;
        }
        let (in_hand, request) = self.known();
        let calls = StoreCalls {
            store: &self.shared.store,
            health: &self.shared.store_health,
            counters: &self.shared.counters,
            key: self.slot.key(),
            in_hand: &in_hand,
            request: &request,
        };
        let surroundings = Surroundings {
            source: &*self.shared.source,
            limits: self.shared.settings.limits,
            clock: &self.shared.clock,
            gate: &self.shared.gate,
            counters: &self.shared.counters,
        };
        let permit = self.permit.clone();
        let current = in_hand.local.clone();
        let fetch = Fetch::new(surroundings, self.slot.key(), &request, permit, current);
        let task = Task {
            calls: &calls,
            clock: &self.shared.clock,
        };
        let mut end = match self.trigger {
            Trigger::Stale => self.look(task, &fetch).await,
            _ => self.refresh(task, &fetch).await,
        };
        let mut keep = std::mem::replace(&mut end.keep, Keep::Nothing);
        if matches!(keep, Keep::Put) && !self.is_wanted(&end) {
            keep = Keep::Nothing;
        }
        let token = end.outcome.clone().ok();
        // Others may have fetched a newer one, if this took long.
        let may_be_old = matches!(&keep, Keep::Commit(_, lease) if lease.has_run_out());
        let mut put = pin!(keep_token(keep, token.as_ref(), task));
        // Callers don't wait for the store. If it answers at once, it has the token before they do.
        let put_at_once = if may_be_old {
            timeout(PATIENCE, put.as_mut()).await.ok()
        } else {
            put.as_mut().now_or_never()
        };
        let is_kept = match &put_at_once {
            Some(Kept::Newer(newer)) => {
                end.outcome = Ok(newer.clone());
                end.is_fetched = false;
                true
            }
            kept => matches!(kept, Some(Kept::This)),
        };
        let (put_ended, under_way) = PutUnderWay::new();
        let under_way = Some(under_way).filter(|_| put_at_once.is_none());
        // Without an outcome, those who wait start over.
        if self.leave(&end, is_kept, under_way) {
            self.sender.send(end.outcome);
        }
        if put_at_once.is_none() {
            self.note_kept(put.await, token.as_ref());
        }
        drop(put_ended);
    }

    /// Waits until the refresh of a request that is under way has ended, so that only one fetches at a time.
    async fn wait_for_turn(&self) {
        loop {
            let now = self.shared.clock.moment();
            let (before, lost) = {
                let mut state = self.slot.lock();
                let lost = state.end_lost_refresh(now);
                (state.refresh_before(&self.sender), lost)
            };
            tell_lost(self.slot.key(), lost);
            let Some(before) = before else { return };
            before.outcome().await;
        }
    }

    /// Whether the fetched token is of use: not if this refresh was given up as lost, or if the API has rejected the token by now.
    fn is_wanted(&self, end: &End) -> bool {
        let state = self.slot.lock();
        let current = state.refresh.as_ref();
        let is_rejected = |token| end.fetched.is_none() || state.rejected.covers(token);
        current.is_some_and(|refresh| refresh.is_of(&self.sender))
            && !end.outcome.as_ref().is_ok_and(is_rejected)
    }

    /// Takes what the store holds, if that can serve. Otherwise keeps the local copy.
    async fn look<'a>(&'a self, task: Task<'_>, fetch: &Fetch<'a>) -> End {
        let local = task.calls.in_hand.local.clone();
        match (self.look_into_store(task).await, local) {
            (Some(token), _) | (None, Some(token)) => End::found(token),
            (None, None) => self.refresh(task, fetch).await,
        }
    }

    async fn refresh<'a>(&'a self, task: Task<'_>, fetch: &Fetch<'a>) -> End {
        let mut end = match &self.shared.fleet {
            Some(fleet) => self.through_fleet(fleet, task, fetch).await,
            None => self.around_store(task, fetch).await,
        };
        let asked = fetch.result().is_some();
        end.fetched = asked.then(|| task.calls.in_hand.unusable.rejected.clone());
        end
    }

    /// With a store that only has `get` and `put`.
    async fn around_store(&self, task: Task<'_>, fetch: &Fetch<'_>) -> End {
        let may_race = self.trigger == Trigger::Rejected && self.shared.is_shared;
        if may_race && self.permit.is_ok() {
            sleep(LONGEST_WAIT.mul_f64(fastrand::f64())).await;
        }
        if self.trigger != Trigger::Forced
            && let Some(token) = self.look_into_store(task).await
        {
            return End::found(token);
        }
        let fetched = fetch.run().await;
        if may_race
            && let Ok(token) = &fetched
            && let Ok(Some(newer)) = timeout(PATIENCE, self.look_after(task, token)).await
            && newer.fetched_at() >= token.fetched_at()
        {
            // Another process has fetched one meanwhile, and that may have ended this one.
            return End::found(newer);
        }
        End::fetched(fetched, Keep::Put)
    }

    /// With a database by which the members of a fleet make one fetch for all.
    async fn through_fleet<'a>(
        &'a self,
        fleet: &Arc<Fleet>,
        task: Task<'_>,
        fetch: &Fetch<'a>,
    ) -> End {
        let may_fetch = self.permit.is_ok() && self.shared.fetches;
        match fleet.wait(task, &self.shared.gate, may_fetch).await {
            Wait::Found(token) => End::found(token),
            Wait::Failed(heard) => End::failed(heard.error.clone(), Some(heard)),
            Wait::Nothing => End::fetched(fetch.run().await, Keep::Nothing),
            Wait::Alone => End::fetched(fetch.run().await, Keep::Later(fleet.clone())),
            Wait::Ours(lease, pass) => {
                if let Some(token) = lease.token(self.shared.clock.now()) {
                    fetch.saw(token);
                }
                // After a failure, others may try as well, so one try is enough.
                let retries_within = if lease.is_after_failure() {
                    Duration::ZERO
                } else {
                    fleet::RETRIES
                };
                let mut fetching = pin!(fetch.run_with_retries_within(retries_within, pass));
                match timeout(fleet::LONGEST_SILENCE, fetching.as_mut()).await {
                    Ok(Ok(token)) => End::fetched(Ok(token), Keep::Commit(fleet.clone(), lease)),
                    Ok(Err(error)) => {
                        let told = fleet.fail(task, &error, lease).await;
                        End::failed(error, told)
                    }
                    Err(_elapsed) => {
                        // The others need not wait for the end of the lease, nor of this fetch.
                        let slow = Error::timed_out(fleet::LONGEST_SILENCE);
                        let (told, fetched) = join(fleet.fail(task, &slow, lease), fetching).await;
                        match fetched {
                            Ok(token) => End::fetched(Ok(token), Keep::Later(fleet.clone())),
                            Err(error) => End::failed(error, told),
                        }
                    }
                }
            }
        }
    }

    /// What the store holds, if that can serve.
    async fn look_into_store(&self, task: Task<'_>) -> Option<AccessToken> {
        if let Some(fleet) = &self.shared.fleet {
            return fleet.look(task).await;
        }
        let stored = task.calls.get(self.permit.is_ok(), None).await;
        self.usable(task, stored)
    }

    /// The same after this token was fetched, which the store may have from another process and show in an error.
    async fn look_after(&self, task: Task<'_>, fetched: &AccessToken) -> Option<AccessToken> {
        let stored = task.calls.get(true, Some(fetched)).await;
        self.usable(task, stored)
    }

    fn usable(&self, task: Task<'_>, stored: Option<AccessToken>) -> Option<AccessToken> {
        let now = self.shared.clock.now();
        stored.filter(|token| task.calls.in_hand.can_serve(token, now))
    }

    /// What is known of the key, and what the source is asked.
    fn known(&self) -> (InHand, FetchRequest) {
        let state = self.slot.lock();
        let local = state.local.as_ref().map(|local| local.token.clone());
        let wants_other = self.trigger.wants_other();
        let good = local.clone().filter(|_| wants_other);
        // Where the last token is of no use, what the members of a fleet have fetched since is newer.
        let may_find_older = wants_other || self.shared.fleet.is_none();
        let in_hand = InHand {
            local,
            previous: state.previous.clone(),
            newest: state.newest.filter(|_| may_find_older),
            unusable: Unusable {
                rejected: state.rejected.clone(),
                to_replace: good.or_else(|| self.rejected.clone()),
            },
        };
        let mut request = FetchRequest::new(self.slot.credentials(&self.credentials));
        if let Some(rejected) = state.to_replace.as_ref().or(self.rejected.as_ref()) {
            request = request.with_rejected(rejected.clone());
        }
        if self.trigger == Trigger::Forced {
            request = request.forced();
        }
        (in_hand, request)
    }
}
