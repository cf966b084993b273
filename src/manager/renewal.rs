use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::Shared;
use super::flight::{Landing, Pilot, Trigger};
use super::slot::{LocalCopy, Slot, State};
use crate::source::{Hearsay, InHand, Limits, STORE_LIMIT};
use crate::{AccessToken, Credentials, Error, Fetch};

/// The longest time that a renewal takes, if it runs at all.
pub(super) fn limit(limits: &Limits) -> Duration {
    limits.store_patience() + limits.all_tries * 2 + STORE_LIMIT * 2
}

/// One renewal: it runs as a task of its own.
pub(super) struct Renewal {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    pub(super) credentials: Credentials,
    pub(super) trigger: Trigger,
    pub(super) pilot: Pilot,
}

/// What a renewal has come by.
struct Outcome {
    landing: Landing,
    /// Whether the source was asked, and not only the store.
    fetched: bool,
    /// The failure of another process that the store tells of, and that is the landing.
    heard: Option<Hearsay>,
}

impl Renewal {
    pub(super) async fn run(self) {
        let outcome = match self.trigger {
            Trigger::Stale => self.look_into_store().await,
            _ => self.renew().await,
        };
        self.land(&outcome);
        self.pilot.send_replace(Some(outcome.landing));
    }

    /// Takes what the store holds, if that can serve, else goes on with the local copy.
    async fn look_into_store(&self) -> Outcome {
        let local = self
            .slot
            .lock()
            .local
            .as_ref()
            .map(|local| local.token.clone());
        let Some(local) = local else {
            return self.renew().await;
        };
        let fetch = self.fetch();
        let key = self.credentials.key();
        let store = &self.shared.store;
        let stored = fetch
            .asking_store(key, "get", async { store.get(key).await })
            .await
            .flatten();
        Outcome {
            landing: Ok(stored
                .filter(|token| fetch.can_serve(token, Some(&local)))
                .unwrap_or(local)),
            fetched: false,
            heard: None,
        }
    }

    async fn renew(&self) -> Outcome {
        let outcome = self.get_or_fetch().await;
        if !self.has_expired(&outcome) {
            return outcome;
        }
        // The clock has jumped since the fetch began, or else the issuer's clock and this one disagree: the second time tells.
        let outcome = self.get_or_fetch().await;
        if !self.has_expired(&outcome) {
            return outcome;
        }
        Outcome {
            landing: Err(Error::refused(
                "the source gives tokens that have expired already: is the clock of this machine right?",
            )),
            ..outcome
        }
    }

    fn has_expired(&self, outcome: &Outcome) -> bool {
        let now = self.shared.clock.now();
        matches!(&outcome.landing, Ok(token) if token.expires_at() <= now)
    }

    async fn get_or_fetch(&self) -> Outcome {
        let fetch = self.fetch();
        let landing = self.through_store(&fetch).await;
        Outcome {
            landing,
            fetched: fetch.result().is_some(),
            heard: fetch.heard().cloned(),
        }
    }

    async fn through_store(&self, fetch: &Fetch<'_>) -> Landing {
        let (key, store) = (self.credentials.key(), &self.shared.store);
        let other_than = self.other_than();
        let limit = fetch.limit() + fetch.store_patience();
        // The call is made within the future, so that a panic in it is caught too.
        let asking = async { store.get_or_fetch(key, other_than.as_ref(), fetch).await };
        let failure = match timeout(limit, AssertUnwindSafe(asking).catch_unwind()).await {
            Ok(Ok(Ok(token))) => {
                let fetched = matches!(fetch.result(), Some(Ok(fetched)) if *fetched == token);
                if fetched || fetch.can_serve(&token, other_than.as_ref()) {
                    return Ok(token);
                }
                let mut state = self.slot.lock();
                if state.is_spent(&token) {
                    // It may well give it again, so this one must be kept in mind.
                    state.note_spent(&token);
                }
                "it gave a token that cannot serve".to_owned()
            }
            Ok(Ok(Err(error))) => match fetch.result() {
                Some(Ok(_)) => error.to_string(),
                _ => return Err(error),
            },
            Ok(Err(_panic)) => "it panicked".to_owned(),
            Err(_elapsed) => format!("no answer within {limit:?}"),
        };
        fetch.store_fails(key, "get_or_fetch", &failure);
        let has_fetched = fetch.result().is_some();
        let token = fetch.run().await?;
        if !has_fetched {
            let putting = async { store.put(key, &token).await };
            fetch.asking_store(key, "put", putting).await;
        }
        Ok(token)
    }

    /// The token to better.
    fn other_than(&self) -> Option<AccessToken> {
        let state = self.slot.lock();
        match (self.trigger, &state.local) {
            (Trigger::Expiring, Some(local)) => Some(local.token.clone()),
            _ => state.spent.back().cloned(),
        }
    }

    fn fetch(&self) -> Fetch<'_> {
        let Shared {
            source,
            settings,
            gate,
            store_health,
            clock,
            ..
        } = &*self.shared;
        let state = self.slot.lock();
        let in_hand = InHand {
            local: state.local.as_ref().map(|local| local.token.clone()),
            spent: state.spent.iter().cloned().collect(),
        };
        Fetch::new(source, &self.credentials).of_a_manager(
            settings.limits,
            gate,
            store_health,
            clock.clone(),
            in_hand,
            state.cool_down.failures(),
        )
    }

    /// Leaves the result in the slot.
    fn land(&self, outcome: &Outcome) {
        let now = Instant::now();
        let key = self.credentials.key();
        let mut state = self.slot.lock();
        let is_current = state
            .flight
            .as_ref()
            .is_some_and(|flight| flight.is_of(&self.pilot));
        if is_current {
            state.flight = None;
        }
        if self.trigger == Trigger::Rejected && !outcome.fetched {
            state.guard.give_back();
        }
        match &outcome.landing {
            Ok(token) => {
                // One that was given up for lost may come back late.
                let newest = state.local.as_ref().map(|local| local.token.fetched_at());
                if is_current || newest.is_none_or(|newest| newest < token.fetched_at()) {
                    self.install(&mut state, token, outcome.fetched, now);
                }
            }
            Err(error) if is_current => {
                state.not_renewed(self.shared.clock.now());
                let pause = match &outcome.heard {
                    Some(heard) => state.cool_down.begin_as_heard(heard, now),
                    None => state.cool_down.begin(error, now),
                };
                if let Some(pause) = pause {
                    tracing::warn!(%key, ?pause, %error, "cool-down entered");
                } else if let Error::Errcode { errcode: 45009, .. } = error
                    && let Some(until) = self.shared.gate.closed_until()
                {
                    state.cool_down.hold(error, until);
                }
            }
            Err(_) => {}
        }
    }

    /// Makes the token the local copy, if it is not that already.
    fn install(&self, state: &mut State, token: &AccessToken, is_fetched: bool, now: Instant) {
        let early_renewal = self.shared.settings.early_renewal;
        let renew_at = state.renew_at(token, self.trigger, early_renewal);
        let is_known = match &mut state.local {
            Some(local) if local.token == *token => {
                if local.token.expires_at() != token.expires_at() {
                    // The clock has been set, and the store counts from another.
                    local.token = token.clone();
                    local.renew_at = renew_at;
                }
                local.checked_at = now;
                true
            }
            _ => false,
        };
        if !is_known {
            state.replace_local(LocalCopy {
                token: token.clone(),
                is_fetched,
                renew_at,
                checked_at: now,
            });
        }
        // What the store has held all along says nothing of the source.
        if (is_fetched || !is_known) && state.cool_down.end() {
            tracing::info!(key = %self.credentials.key(), "cool-down left");
        }
    }
}
