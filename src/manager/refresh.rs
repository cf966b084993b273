use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::Instrument;

use super::Shared;
use super::single_flight::{Outcome, OutcomeSender, PATIENCE, SingleFlight, Trigger};
use super::slot::{Slot, State};
use crate::fetch::{Fetch, Hearsay, Surroundings};
use crate::in_hand::{InHand, Unusable};
use crate::redact::in_one_line;
use crate::rejected::Rejected;
use crate::store::{STORE_LIMIT, StoreCalls};
use crate::{AccessToken, Credentials, Error, ErrorKind, FetchRequest};

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
        let Refresh { slot, trigger, .. } = &self.refresh;
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

/// How a refresh ended.
struct End {
    outcome: Outcome,
    /// Whether this refresh has fetched the token. Otherwise the store had it.
    is_fetched: bool,
    /// Whether the store has the token.
    is_kept: bool,
    /// If the source was asked, and not only the store: what was known to be rejected then.
    fetched: Option<Rejected>,
    /// The failure of another process that the store tells of, and that is the outcome.
    heard: Option<Hearsay>,
}

/// A token for the store that is on its way there.
#[derive(Clone, Debug)]
pub(super) struct PutUnderWay {
    /// Closed when the store has the token or has failed.
    ended: watch::Receiver<()>,
    until: Instant,
}

impl PutUnderWay {
    fn new() -> (watch::Sender<()>, Self) {
        let (sender, ended) = watch::channel(());
        let until = Instant::now() + STORE_LIMIT;
        (sender, Self { ended, until })
    }

    /// How long it may take from now.
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    async fn wait(mut self) {
        let _either_way = timeout_at(self.until, self.ended.changed()).await;
    }
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
        credentials.check()?;
        let runtime = Handle::try_current().map_err(|_outside| Error::no_runtime())?;
        let may_fetch = permit.is_ok() && trigger != Trigger::Stale;
        let wait = state.put.as_ref().map_or(Duration::ZERO, PutUnderWay::left);
        let longest = shared.longest_refresh() + wait;
        let (sender, single_flight) = SingleFlight::new(trigger, may_fetch, longest);
        state.refresh = Some(single_flight.clone());
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
        let earlier_put = self.slot.lock().put.clone();
        if let Some(put) = earlier_put {
            put.wait().await;
        }
        let (in_hand, request) = self.known();
        let calls = StoreCalls {
            store: &*self.shared.store,
            health: &self.shared.store_health,
            key: self.slot.key(),
            in_hand: &in_hand,
            request: &request,
        };
        let surroundings = Surroundings {
            source: &*self.shared.source,
            fetches: self.shared.fetches,
            limits: self.shared.settings.limits,
            clock: &self.shared.clock,
            gate: &self.shared.gate,
        };
        let permit = self.permit.clone();
        let known = (&in_hand, &calls);
        let fetch = Fetch::new(surroundings, self.slot.key(), &request, permit, known);
        let mut end = match self.trigger {
            Trigger::Stale => self.look(&calls, &fetch).await,
            _ => self.refresh(&calls, &fetch).await,
        };
        let to_put = end.outcome.clone().ok().filter(|_| !end.is_kept);
        let mut put = pin!(async {
            match &to_put {
                Some(token) => calls.put(token).await,
                None => true,
            }
        });
        // Callers don't wait for the store. If it answers at once, it has the token before they do.
        let put_at_once = put.as_mut().now_or_never();
        end.is_kept = put_at_once == Some(true);
        let (put_ended, under_way) = PutUnderWay::new();
        let under_way = Some(under_way).filter(|_| put_at_once.is_none());
        // Without an outcome, those who wait start over.
        if self.leave(&end, under_way) {
            self.sender.send(end.outcome);
        }
        if put_at_once.is_none()
            && put.await
            && let Some(local) = &mut self.slot.lock().local
        {
            local.is_kept |= Some(&local.token) == to_put.as_ref();
        }
        drop(put_ended);
    }

    /// Takes what the store holds, if that can serve. Otherwise keeps the local copy.
    async fn look(&self, calls: &StoreCalls<'_>, fetch: &Fetch<'_>) -> End {
        let local = calls.in_hand.local.clone();
        let outcome = match (self.look_into_store(calls).await, local) {
            (Some(token), _) | (None, Some(token)) => Ok(token),
            (None, None) => return self.refresh(calls, fetch).await,
        };
        End {
            outcome,
            is_fetched: false,
            is_kept: true,
            fetched: None,
            heard: None,
        }
    }

    async fn refresh(&self, calls: &StoreCalls<'_>, fetch: &Fetch<'_>) -> End {
        let coordinates = self.shared.store.coordinates();
        let outcome = if coordinates {
            self.through_store(calls, fetch).await
        } else {
            self.around_store(calls, fetch).await
        };
        let fetched = fetch.result();
        let is_fetched = match (&outcome, fetched) {
            (Ok(token), Some(Ok(fetched))) => token == fetched,
            _ => false,
        };
        End {
            outcome,
            is_fetched,
            is_kept: coordinates || !is_fetched,
            fetched: fetched.map(|_| calls.in_hand.unusable.rejected.clone()),
            heard: fetch.heard().cloned(),
        }
    }

    /// With a store that only has `get` and `put`.
    async fn around_store(&self, calls: &StoreCalls<'_>, fetch: &Fetch<'_>) -> Outcome {
        let may_race = self.trigger == Trigger::Rejected && self.shared.is_shared;
        if may_race && self.permit.is_ok() {
            sleep(LONGEST_WAIT.mul_f64(fastrand::f64())).await;
        }
        if let Some(token) = self.look_into_store(calls).await {
            return Ok(token);
        }
        let token = fetch.run().await?;
        if may_race
            && let Ok(Some(newer)) = timeout(PATIENCE, self.look_into_store(calls)).await
            && newer.fetched_at() >= token.fetched_at()
        {
            // Another process has fetched one meanwhile, and that may have ended this one.
            return Ok(newer);
        }
        Ok(token)
    }

    /// With a store that lets one process fetch for all.
    async fn through_store(&self, calls: &StoreCalls<'_>, fetch: &Fetch<'_>) -> Outcome {
        let limit = fetch.limit() + self.shared.settings.limits.store_patience();
        // The call is made inside the future, so that a panic in it is caught too.
        let asking = async { calls.store.get_or_fetch(calls.key, fetch).await };
        let failure = match timeout(limit, AssertUnwindSafe(asking).catch_unwind()).await {
            Ok(Ok(Ok(token))) => {
                let fetched = matches!(fetch.result(), Some(Ok(fetched)) if *fetched == token);
                if fetched || calls.in_hand.can_serve(&token, self.shared.clock.now()) {
                    return Ok(token);
                }
                "it returned a token that cannot serve".to_owned()
            }
            Ok(Ok(Err(error))) => match fetch.result() {
                Some(Ok(_)) => in_one_line(&error),
                _ => return Err(error),
            },
            Ok(Err(_panic)) => "it panicked".to_owned(),
            Err(_elapsed) => format!("no answer within {limit:?}"),
        };
        let fetched = fetch.result().and_then(|result| result.as_ref().ok());
        calls.fails("get_or_fetch", &failure, fetched);
        let has_fetched = fetch.result().is_some();
        let token = fetch.run().await?;
        if !has_fetched {
            calls.put(&token).await;
        }
        Ok(token)
    }

    /// What the store holds, if that can serve.
    async fn look_into_store(&self, calls: &StoreCalls<'_>) -> Option<AccessToken> {
        let now = || self.shared.clock.now();
        let stored = calls.get(self.permit.is_ok()).await;
        stored.filter(|token| calls.in_hand.can_serve(token, now()))
    }

    /// What is known of the key, and what the source is asked.
    fn known(&self) -> (InHand, FetchRequest) {
        let state = self.slot.lock();
        let local = state.local.as_ref().map(|local| local.token.clone());
        // In these two cases another token is wanted, even though the local copy is good.
        let wants_other = matches!(self.trigger, Trigger::Expiring | Trigger::Stale);
        let good = local.clone().filter(|_| wants_other);
        let in_hand = InHand {
            local,
            previous: state.previous.clone(),
            newest: state.newest,
            unusable: Unusable {
                rejected: state.rejected.clone(),
                to_replace: good.or_else(|| self.rejected.clone()),
            },
            failures: state.throttle.failures(),
        };
        let mut request = FetchRequest::new(self.slot.credentials(&self.credentials));
        if let Some(rejected) = state.to_replace.as_ref().or(self.rejected.as_ref()) {
            request = request.with_rejected(rejected.clone());
        }
        (in_hand, request)
    }

    /// Leaves the result in the slot. Returns whether it is of use: not if the token has expired meanwhile, or if the API has rejected it since
    /// this refresh was started.
    fn leave(&self, end: &End, put: Option<PutUnderWay>) -> bool {
        let now = self.shared.clock.moment();
        let key = self.slot.key();
        let mut state = self.slot.lock();
        state.put = put;
        let is_current = state
            .refresh
            .take_if(|refresh| refresh.is_of(&self.sender))
            .is_some();
        if self.trigger == Trigger::Rejected && self.permit.is_ok() {
            match (&end.fetched, &end.outcome) {
                (None, _) => state.guard().not_needed(),
                (Some(_), Ok(token)) => state.guard().fetched(token),
                (Some(_), Err(error)) if error.kind() == ErrorKind::NoSecret => {
                    state.guard().not_needed();
                }
                (Some(_), Err(_)) => {}
            }
        }
        match &end.outcome {
            Ok(token) => {
                if let Some(rejected) = &end.fetched
                    && end.is_fetched
                {
                    state.rejected.fetched_after(rejected, token);
                }
                if state.rejected.covers(token) || token.expires_at() <= now.wall {
                    state.not_refreshed(now.wall);
                    return false;
                }
                // A refresh that was given up as lost may end late.
                if !is_current
                    && state
                        .newest
                        .is_some_and(|newest| newest >= token.fetched_at())
                {
                    return true;
                }
                let is_fetched = end.is_fetched;
                let how = (self.trigger, self.shared.settings.refresh_ahead);
                let is_new = state.install(token, (is_fetched, end.is_kept), how, now.instant);
                if !self.shared.is_shared {
                    // The default store never fails, so no error can show it.
                    state.previous = None;
                }
                // What the store has held all along says nothing about the source.
                let has_ended = (is_fetched || is_new) && state.throttle.end();
                drop(state);
                if has_ended {
                    tracing::info!(target: crate::TARGET, event = "cooldown_ended", %key, "there is a token again");
                }
            }
            Err(error) if is_current && self.permit.is_ok() => {
                let pause = match &end.heard {
                    Some(heard) => {
                        state.not_refreshed(now.wall);
                        let has_token = state.usable(now.wall).is_some();
                        state.throttle.start_as_heard(heard, now, has_token)
                    }
                    None => state.failed(error, now),
                };
                drop(state);
                if let Some(pause) = pause {
                    tell_cooldown(key, pause, error);
                }
            }
            // The source was not asked, and the store held nothing.
            Err(error) if is_current && error.kind() != ErrorKind::HeldBack => {
                state.not_refreshed(now.wall);
            }
            Err(_) => {}
        }
        true
    }
}

pub(super) fn tell_cooldown(key: &crate::TokenKey, pause: Duration, error: &Error) {
    let error = in_one_line(error);
    tracing::warn!(target: crate::TARGET, event = "cooldown_started", %key, ?pause, error, "no fetches for this key for now");
}
