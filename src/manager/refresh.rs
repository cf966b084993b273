use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::single_flight::{Outcome, OutcomeSender, Trigger};
use super::slot::{LocalCopy, Slot, State};
use crate::redact::in_one_line;
use crate::rejected::Rejected;
use crate::source::{Fetch, Hearsay, InHand, Limits, STORE_LIMIT, Surroundings, Unusable};
use crate::{AccessToken, Credentials, Error, FetchRequest};

/// The longest time that a refresh takes, if it runs at all.
pub(super) fn limit(limits: &Limits) -> Duration {
    limits.store_patience() + limits.all_tries * 2 + STORE_LIMIT * 2
}

/// One refresh. It runs on its own task.
pub(super) struct Refresh {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    pub(super) credentials: Credentials,
    pub(super) trigger: Trigger,
    pub(super) sender: OutcomeSender,
}

/// How a refresh ended.
struct End {
    outcome: Outcome,
    /// Whether the source was asked, and not only the store. What was known to be rejected then.
    fetched: Option<Rejected>,
    /// The failure of another process that the store tells of, and that is the outcome.
    heard: Option<Hearsay>,
}

impl Refresh {
    pub(super) async fn run(self) {
        let end = match self.trigger {
            Trigger::Stale => self.look_into_store().await,
            _ => self.refresh().await,
        };
        self.leave(&end);
        self.sender.send_replace(Some(end.outcome));
    }

    /// Takes what the store holds, if that can serve. Otherwise keeps the local copy.
    async fn look_into_store(&self) -> End {
        let local = self
            .slot
            .lock()
            .local
            .as_ref()
            .map(|local| local.token.clone());
        let Some(local) = local else {
            return self.refresh().await;
        };
        let fetch = self.fetch();
        let (key, store) = (self.slot.key(), &self.shared.store);
        let stored = fetch
            .asking_store("get", async { store.get(key).await })
            .await
            .flatten();
        End {
            outcome: Ok(stored
                .filter(|token| fetch.can_serve(token))
                .unwrap_or(local)),
            fetched: None,
            heard: None,
        }
    }

    async fn refresh(&self) -> End {
        let end = self.get_or_fetch().await;
        if !self.has_expired(&end) {
            return end;
        }
        // The clock has jumped since the fetch started, or the issuer's clock and this one disagree. The second time tells.
        let end = self.get_or_fetch().await;
        if !self.has_expired(&end) {
            return end;
        }
        End {
            outcome: Err(Error::refused(
                "the source returns tokens that have expired already: check the clock of this machine",
            )),
            ..end
        }
    }

    fn has_expired(&self, end: &End) -> bool {
        let now = self.shared.clock.now();
        matches!(&end.outcome, Ok(token) if token.expires_at() <= now)
    }

    async fn get_or_fetch(&self) -> End {
        let fetch = self.fetch();
        let outcome = self.through_store(&fetch).await;
        let fetched = fetch.result().is_some();
        End {
            outcome,
            fetched: fetched.then(|| fetch.unusable().rejected.clone()),
            heard: fetch.heard().cloned(),
        }
    }

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
            let putting = async { store.put(key, &token).await };
            fetch.asking_store("put", putting).await;
        }
        Ok(token)
    }

    fn fetch(&self) -> Fetch<'_> {
        let shared = &*self.shared;
        let state = self.slot.lock();
        let local = state.local.as_ref().map(|local| local.token.clone());
        // In these two cases another token is wanted, even though the local copy is good.
        let wants_other = matches!(self.trigger, Trigger::Expiring | Trigger::Stale);
        let to_replace = local.clone().filter(|_| wants_other);
        let in_hand = InHand {
            local,
            unusable: Unusable {
                rejected: state.rejected.clone(),
                replaced: state.replaced.iter().cloned().chain(to_replace).collect(),
            },
            failures: state.throttle.failures(),
        };
        let mut request = FetchRequest::new(self.slot.credentials(&self.credentials));
        if let Some(rejected) = &state.to_replace {
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
        Fetch::new(surroundings, self.slot.key(), request, in_hand)
    }

    /// Leaves the result in the slot.
    fn leave(&self, end: &End) {
        let now = Instant::now();
        let key = self.slot.key();
        let mut state = self.slot.lock();
        let is_current = state
            .refresh
            .as_ref()
            .is_some_and(|refresh| refresh.is_of(&self.sender));
        if is_current {
            state.refresh = None;
        }
        if self.trigger == Trigger::Rejected && end.fetched.is_none() {
            state.guard.give_back();
        }
        match &end.outcome {
            Ok(token) => {
                // A refresh that was given up as lost may end late.
                let newest = state.local.as_ref().map(|local| local.token.fetched_at());
                if is_current || newest.is_none_or(|newest| newest < token.fetched_at()) {
                    if let Some(rejected) = &end.fetched {
                        state.rejected.fetched_after(rejected, token);
                    }
                    self.install(&mut state, token, end.fetched.is_some(), now);
                }
            }
            Err(error) if is_current => {
                state.not_refreshed(self.shared.clock.now());
                let pause = match &end.heard {
                    Some(heard) => state.throttle.start_as_heard(heard, now),
                    None => state.throttle.start(error, now),
                };
                if let Some(pause) = pause {
                    let error = in_one_line(error);
                    tracing::warn!(event = "cooldown_started", %key, ?pause, error, "no fetches for this key for now");
                } else if error.errcode() == Some(45009)
                    && let Some(until) = self.shared.gate.closed_until()
                {
                    state.throttle.hold(error, until);
                }
            }
            Err(_) => {}
        }
    }

    /// Makes the token the local copy, if it is not that already.
    fn install(&self, state: &mut State, token: &AccessToken, is_fetched: bool, now: Instant) {
        let refresh_ahead = self.shared.settings.refresh_ahead;
        let refresh_at = state.refresh_at(token, self.trigger, refresh_ahead);
        let is_known = match &mut state.local {
            Some(local) if local.token == *token => {
                if local.token.expires_at() != token.expires_at() {
                    // The clock has been set, and the store counts from another.
                    local.token = token.clone();
                    local.refresh_at = refresh_at;
                }
                local.checked_at = now;
                true
            }
            _ => false,
        };
        if !is_known {
            state.replace_local(LocalCopy {
                token: token.clone(),
                refresh_at,
                checked_at: now,
            });
        }
        // What the store has held all along says nothing about the source.
        if (is_fetched || !is_known) && state.throttle.end() {
            let key = self.slot.key();
            tracing::info!(event = "cooldown_ended", %key, "there is a token again");
        }
    }
}
