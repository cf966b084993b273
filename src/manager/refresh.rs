use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tracing::Instrument;

use super::Shared;
use super::single_flight::{Outcome, OutcomeSender, SingleFlight, Trigger};
use super::slot::{Slot, State};
use crate::redact::in_one_line;
use crate::rejected::Rejected;
use crate::source::{Fetch, Hearsay, InHand, STORE_LIMIT, Surroundings, Unusable};
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
        let longest = shared.longest_refresh();
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
        let fetch = self.fetch();
        let end = match self.trigger {
            Trigger::Stale => self.look(&fetch).await,
            _ => self.refresh(&fetch).await,
        };
        // Without an outcome, those who wait start over.
        if self.leave(&end) {
            self.sender.send_replace(Some(end.outcome));
        }
    }

    /// Takes what the store holds, if that can serve. Otherwise keeps the local copy.
    async fn look(&self, fetch: &Fetch<'_>) -> End {
        let local = fetch.local().cloned();
        let outcome = match (self.look_into_store(fetch).await, local) {
            (Some(token), _) | (None, Some(token)) => Ok(token),
            (None, None) => return self.refresh(fetch).await,
        };
        End {
            outcome,
            is_fetched: false,
            is_kept: true,
            fetched: None,
            heard: None,
        }
    }

    async fn refresh(&self, fetch: &Fetch<'_>) -> End {
        let found = if self.shared.store.coordinates() {
            let token = self.through_store(fetch).await;
            token.map(|token| (token, true))
        } else {
            self.around_store(fetch).await
        };
        let fetched = fetch.result().is_some();
        End {
            is_fetched: match (&found, fetch.result()) {
                (Ok((token, _)), Some(Ok(fetched))) => token == fetched,
                _ => false,
            },
            is_kept: matches!(found, Ok((_, true))),
            outcome: found.map(|(token, _)| token),
            fetched: fetched.then(|| fetch.unusable().rejected.clone()),
            heard: fetch.heard().cloned(),
        }
    }

    /// With a store that only has `get` and `put`. Returns whether it has the token, too.
    async fn around_store(&self, fetch: &Fetch<'_>) -> Result<(AccessToken, bool), Error> {
        let may_race = self.trigger == Trigger::Rejected && self.shared.is_shared;
        if may_race && self.permit.is_ok() {
            sleep(LONGEST_WAIT.mul_f64(fastrand::f64())).await;
        }
        let began = Instant::now();
        let found = self.look_into_store(fetch).await;
        let looked = began.elapsed();
        if let Some(token) = found {
            return Ok((token, true));
        }
        let token = fetch.run().await?;
        let left = STORE_LIMIT.saturating_sub(looked);
        if may_race
            && let Ok(Some(newer)) = timeout(left, self.look_into_store(fetch)).await
            && newer.fetched_at() >= token.fetched_at()
        {
            // Another process has fetched one meanwhile, and that may have ended this one.
            return Ok((newer, true));
        }
        let is_kept = self.put(fetch, &token).await;
        Ok((token, is_kept))
    }

    /// With a store that lets one process fetch for all.
    async fn through_store(&self, fetch: &Fetch<'_>) -> Outcome {
        let (key, store) = (self.slot.key(), &self.shared.store);
        let limit = fetch.limit() + fetch.store_patience();
        // The call is made inside the future, so that a panic in it is caught too.
        let asking = async { store.get_or_fetch(key, fetch).await };
        let failure = match timeout(limit, AssertUnwindSafe(asking).catch_unwind()).await {
            Ok(Ok(Ok(token))) => {
                let fetched = matches!(fetch.result(), Some(Ok(fetched)) if *fetched == token);
                if fetched || fetch.can_serve(&token) {
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
        fetch.store_fails("get_or_fetch", &failure);
        let has_fetched = fetch.result().is_some();
        let token = fetch.run().await?;
        if !has_fetched {
            self.put(fetch, &token).await;
        }
        Ok(token)
    }

    /// What the store holds, if that can serve.
    async fn look_into_store(&self, fetch: &Fetch<'_>) -> Option<AccessToken> {
        let (key, store) = (self.slot.key(), &self.shared.store);
        let stored = fetch.asking_store("get", async { store.get(key).await });
        stored
            .await
            .flatten()
            .filter(|token| fetch.can_serve(token))
    }

    async fn put(&self, fetch: &Fetch<'_>, token: &AccessToken) -> bool {
        let (key, store) = (self.slot.key(), &self.shared.store);
        let putting = async { store.put(key, token).await };
        fetch.asking_store("put", putting).await.is_some()
    }

    fn fetch(&self) -> Fetch<'_> {
        let shared = &*self.shared;
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
        let surroundings = Surroundings {
            source: &*shared.source,
            fetches: shared.fetches,
            limits: shared.settings.limits,
            clock: &shared.clock,
            gate: &shared.gate,
            store_health: &shared.store_health,
        };
        Fetch::new(
            surroundings,
            self.slot.key(),
            request,
            self.permit.clone(),
            in_hand,
        )
    }

    /// Leaves the result in the slot. Returns whether it is of use: not if the token has expired meanwhile, or if the API has rejected it since
    /// this refresh was started.
    fn leave(&self, end: &End) -> bool {
        let now = self.shared.clock.moment();
        let key = self.slot.key();
        let mut state = self.slot.lock();
        let is_current = state
            .refresh
            .take_if(|refresh| refresh.is_of(&self.sender))
            .is_some();
        if self.trigger == Trigger::Rejected && self.permit.is_ok() {
            match (&end.fetched, &end.outcome) {
                (None, _) => state.guard.not_needed(),
                (Some(_), Ok(token)) => state.guard.fetched(token),
                (Some(_), Err(error)) if error.kind() == ErrorKind::NoSecret => {
                    state.guard.not_needed();
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
