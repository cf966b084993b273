//! Tokens that were fetched while Redis could not keep them: they are written once it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;

use super::scripts::Seen;
use super::turn::random;
use super::{Committed, Shared};
use crate::fetch::Fetch;
use crate::in_hand::Unusable;
use crate::{AccessToken, TokenKey};

const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The tokens that Redis has yet to be given, and the task that does it, if one is at work.
#[derive(Default)]
pub(super) struct WriteBack(Mutex<State>);

#[derive(Default)]
struct State {
    unwritten: HashMap<TokenKey, Unwritten>,
    task: Option<JoinHandle<()>>,
}

#[derive(Clone)]
pub(super) struct Unwritten {
    pub(super) token: AccessToken,
    pub(super) owner: String,
    /// Tokens that it is to replace.
    unusable: Unusable,
}

impl Unwritten {
    pub(super) fn new(token: AccessToken, owner: String, fetch: &Fetch<'_>) -> Self {
        Self {
            token,
            owner,
            unusable: fetch.unusable().clone(),
        }
    }

    /// Whether this one may stay in Redis in its place.
    pub(super) fn gives_way_to(&self, kept: &AccessToken) -> bool {
        !self.unusable.covers(kept, SystemTime::now())
    }
}

impl WriteBack {
    /// Writes the token as soon as Redis takes it, on a task of its own.
    pub(super) fn add(store: &Arc<Shared>, key: &TokenKey, unwritten: Unwritten) {
        let mut state = store.write_back.lock();
        state.unwritten.insert(key.clone(), unwritten);
        state.start_task(store);
    }

    /// Goes on where a runtime has ended, but not with a token that is of no use any more.
    pub(super) fn go_on(store: &Arc<Shared>, key: &TokenKey, fetch: &Fetch<'_>) {
        let mut state = store.write_back.lock();
        let is_useless =
            |unwritten: &Unwritten| fetch.unusable().covers(&unwritten.token, SystemTime::now());
        if state.unwritten.get(key).is_some_and(is_useless) {
            state.unwritten.remove(key);
        }
        if !state.unwritten.is_empty() {
            state.start_task(store);
        }
    }

    /// Another token was kept, so that this one must not be.
    pub(super) fn remove(&self, key: &TokenKey) {
        self.lock().unwritten.remove(key);
    }

    /// All that is left to write, in any order, so that one that is never taken does not keep the others waiting. Where that is
    /// nothing, the task is to end.
    fn left(&self) -> Vec<(TokenKey, Unwritten)> {
        let mut state = self.lock();
        let now = SystemTime::now();
        state
            .unwritten
            .retain(|_, unwritten| unwritten.token.expires_at() > now);
        if state.unwritten.is_empty() {
            state.task = None;
        }
        let left = state.unwritten.iter();
        let mut left: Vec<_> = left
            .map(|(key, unwritten)| (key.clone(), unwritten.clone()))
            .collect();
        left.sort_by_cached_key(|_| random());
        left
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn start_task(&mut self, store: &Arc<Shared>) {
        // A task that has ended with its runtime is finished too.
        if self.task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.task = Some(tokio::spawn(write_all(Arc::downgrade(store))));
        }
    }

    fn remove(&mut self, key: &TokenKey, token: &AccessToken) {
        let is_this = |unwritten: &Unwritten| unwritten.token == *token;
        if self.unwritten.get(key).is_some_and(is_this) {
            self.unwritten.remove(key);
        }
    }
}

/// Ends when all is written, or the last of the store's clones is dropped.
async fn write_all(store: Weak<Shared>) {
    let mut delay = SHORTEST_DELAY;
    loop {
        {
            let Some(store) = store.upgrade() else { return };
            let left = store.write_back.left();
            if left.is_empty() {
                return;
            }
            for (key, unwritten) in left {
                let keys = store.keys(&key);
                match store.commit(&keys, &unwritten, Seen::default()).await {
                    Ok(Committed::AnotherFetches) => {} // It may fail.
                    Ok(committed) => {
                        store.write_back.lock().remove(&key, &unwritten.token);
                        if let Committed::Kept = committed {
                            tracing::info!(target: crate::TARGET, event = "store_recovered", %key, "the token store works again, and has the token that was fetched without it");
                        }
                    }
                    Err(failure) if failure.may_pass() => break, // Redis is not back yet.
                    Err(_) => {}
                }
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}
