//! How a store is asked: within a time limit, with a warning in place of an error, and not again just after it has failed.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::TokenStore;
use crate::in_hand::InHand;
use crate::redact::{in_one_line, redact};
use crate::stats::Counters;
use crate::{AccessToken, BoxError, FetchRequest, TokenKey};

/// How long a store may take for one answer.
pub(crate) const STORE_LIMIT: Duration = Duration::from_secs(2);

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The calls of one refresh to the store.
pub(crate) struct StoreCalls<'a> {
    pub(crate) store: &'a Arc<dyn TokenStore>,
    pub(crate) health: &'a Arc<StoreHealth>,
    pub(crate) counters: &'a Arc<Counters>,
    pub(crate) key: &'a TokenKey,
    /// A store may quote its tokens in an error.
    pub(crate) in_hand: &'a InHand,
    /// A store may quote its secret and the rejected token.
    pub(crate) request: &'a FetchRequest,
}

impl StoreCalls<'_> {
    /// What the store holds. `None` too if it fails. If it has just failed, it is asked only if the token can't come from anywhere else.
    pub(crate) async fn get(
        &self,
        has_alternative: bool,
        fetched: Option<&AccessToken>,
    ) -> Option<AccessToken> {
        let turn = self.health.reads.turn(Instant::now());
        if turn == Turn::Skip && has_alternative {
            return None;
        }
        self.counters.store_reads.add_one();
        let getting = async { self.store.get(self.key).await };
        let call = Call {
            name: "get",
            health: &self.health.reads,
            turn,
            is_made_again: false,
            tokens: fetched.as_slice(),
        };
        self.ask(call, getting).await.flatten()
    }

    /// Stores the token, even if the store has just failed, since no caller waits for this. Returns whether the store has it.
    pub(crate) async fn put(&self, token: &AccessToken) -> bool {
        self.counters.store_writes.add_one();
        let putting = async { self.store.put(self.key, token).await };
        let tokens = [token];
        let call = Call::new("put", &self.health.writes, &tokens);
        self.ask(call, putting).await.is_some()
    }

    /// Whether the store may be asked: not if it has just failed.
    pub(crate) fn may_ask(&self) -> bool {
        self.health.may_be_asked(Instant::now())
    }

    /// Calls `load` of the database behind the store, which may have this token. `None` if it fails.
    pub(crate) async fn load<T>(
        &self,
        loading: impl Future<Output = Result<T, BoxError>>,
        token: Option<&AccessToken>,
    ) -> Option<T> {
        self.counters.store_reads.add_one();
        let call = Call {
            is_made_again: true,
            ..Call::new("load", &self.health.reads, token.as_slice())
        };
        self.ask(call, loading).await
    }

    /// Calls `compare_and_swap` of the database behind the store, with documents that have these tokens. `None` if it fails.
    pub(crate) async fn swap<T>(
        &self,
        swapping: impl Future<Output = Result<T, BoxError>>,
        tokens: &[&AccessToken],
    ) -> Option<T> {
        self.counters.store_writes.add_one();
        let call = Call::new("compare_and_swap", &self.health.writes, tokens);
        self.ask(call, swapping).await
    }

    async fn ask<T>(
        &self,
        call: Call<'_>,
        answer: impl Future<Output = Result<T, BoxError>>,
    ) -> Option<T> {
        let (failure, hangs) = match timeout(STORE_LIMIT, AssertUnwindSafe(answer).catch_unwind())
            .await
        {
            Ok(Ok(Ok(answer))) => {
                if call.health.works() {
                    let key = self.key;
                    tracing::info!(target: crate::TARGET, event = "store_recovered", %key, "the token store works again");
                }
                return Some(answer);
            }
            Ok(Ok(Err(error))) => (in_one_line(&*error), false),
            Ok(Err(_panic)) => ("it panicked".to_owned(), false),
            Err(_elapsed) => (format!("no answer within {STORE_LIMIT:?}"), true),
        };
        self.counters.store_failed.add_one();
        let now = Instant::now();
        if hangs {
            // A store that hangs hangs for all calls.
            self.health.reads.failed(Turn::Skip, false, now);
        }
        let is_soft = call.is_made_again && !hangs;
        let is_first = call.health.failed(call.turn, is_soft, now);
        self.tell_failed(&call, &failure, is_first);
        None
    }

    fn tell_failed(&self, call: &Call<'_>, failure: &str, is_first: bool) {
        let (key, name) = (self.key, call.name);
        let tokens = self.in_hand.tokens().chain(self.request.rejected());
        let tokens = tokens.chain(call.tokens.iter().copied());
        let secret = self.request.credentials().expose_secret();
        let error = redact(
            failure,
            tokens.map(AccessToken::expose_secret).chain(secret),
        );
        if is_first {
            tracing::warn!(target: crate::TARGET, event = "store_failed", %key, call = name, error, "the token store failed, continuing without it");
        } else {
            tracing::debug!(target: crate::TARGET, event = "store_still_failing", %key, call = name, error, "the token store still fails");
        }
    }
}

/// One call to the store.
struct Call<'a> {
    name: &'static str,
    health: &'a Health,
    turn: Turn,
    /// Whether it is made once more if it fails at once.
    is_made_again: bool,
    /// What an error may quote beside the tokens in hand.
    tokens: &'a [&'a AccessToken],
}

impl<'a> Call<'a> {
    fn new(name: &'static str, health: &'a Health, tokens: &'a [&'a AccessToken]) -> Self {
        Self {
            name,
            health,
            turn: health.turn(Instant::now()),
            is_made_again: false,
            tokens,
        }
    }
}

/// Whether the store works. One that can't be written may still be read.
#[derive(Debug, Default)]
pub(crate) struct StoreHealth {
    reads: Health,
    writes: Health,
}

impl StoreHealth {
    /// Whether the store has not failed when it was last asked.
    pub(crate) fn works(&self) -> bool {
        self.reads.lock().is_none() && self.writes.lock().is_none()
    }

    /// Whether the store may be read now.
    pub(crate) fn may_be_asked(&self, now: Instant) -> bool {
        let failing = self.reads.lock();
        failing.as_ref().is_none_or(|failing| now >= failing.ask_at)
    }
}

/// Whether calls of one kind work. After a failure there are none for 1 s, doubling to 30 s with each further failure.
#[derive(Debug, Default)]
struct Health(Mutex<Option<Failing>>);

#[derive(Debug)]
struct Failing {
    pause: Duration,
    ask_at: Instant,
}

/// What a caller who wants to ask the store is told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Turn {
    /// The store works.
    Ask,
    /// The store has failed, and this call finds out whether it works again.
    Probe,
    Skip,
}

impl Health {
    fn turn(&self, now: Instant) -> Turn {
        match &mut *self.lock() {
            None => Turn::Ask,
            Some(failing) if failing.pause.is_zero() => Turn::Ask,
            Some(failing) if now < failing.ask_at => Turn::Skip,
            Some(failing) => {
                // All others go on without the store while this call is under way.
                failing.ask_at = now + STORE_LIMIT;
                Turn::Probe
            }
        }
    }

    /// Returns whether this is the first failure since the store worked. One that `is_soft` starts no pause if it is the first.
    fn failed(&self, turn: Turn, is_soft: bool, now: Instant) -> bool {
        let mut state = self.lock();
        let pause = match &*state {
            None if is_soft => Duration::ZERO,
            None => SHORTEST_PAUSE,
            Some(failing) if failing.pause.is_zero() => SHORTEST_PAUSE,
            Some(failing) if turn == Turn::Probe => (failing.pause * 2).min(LONGEST_PAUSE),
            Some(_) => return false,
        };
        let ask_at = now + pause;
        state.replace(Failing { pause, ask_at }).is_none()
    }

    /// Returns whether it has failed before.
    fn works(&self) -> bool {
        self.lock().take().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_asked_by_one_caller_after_each_pause() {
        let (store, mut now) = (StoreHealth::default(), Instant::now());
        let health = &store.reads;
        let crowd = [(); 3].map(|()| health.turn(now));
        assert_eq!(crowd, [Turn::Ask; 3]);
        let first = crowd.map(|turn| health.failed(turn, false, now));
        assert_eq!(first, [true, false, false]);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            let pause = Duration::from_secs(pause);
            assert!(!store.may_be_asked(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(store.may_be_asked(now));
            assert_eq!(health.turn(now), Turn::Probe);
            assert_eq!(health.turn(now), Turn::Skip);
            assert!(!health.failed(Turn::Skip, false, now));
            assert!(!health.failed(Turn::Probe, false, now));
        }
        assert!(health.works());
        assert!(!health.works());
        assert_eq!(health.turn(now), Turn::Ask);
    }

    #[test]
    fn a_probe_without_an_answer_is_followed_by_another() {
        let (health, now) = (Health::default(), Instant::now());
        health.failed(Turn::Ask, false, now);
        let later = now + SHORTEST_PAUSE;
        assert_eq!(health.turn(later), Turn::Probe);
        assert_eq!(health.turn(later + STORE_LIMIT), Turn::Probe);
    }
}
