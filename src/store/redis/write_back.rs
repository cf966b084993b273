//! Tokens that were fetched while Redis could not keep them: they are written once it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use tokio::task::JoinHandle;

use super::Shared;
use super::scripts::Seen;
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
    pub(super) other_than: Option<AccessToken>,
    pub(super) owner: String,
}

impl WriteBack {
    /// Writes the token as soon as Redis takes it, on a task of its own.
    pub(super) fn add(store: &Arc<Shared>, key: &TokenKey, unwritten: Unwritten) {
        let mut state = store.write_back.lock();
        state.unwritten.insert(key.clone(), unwritten);
        // A task that has ended with its runtime is finished too.
        if state.task.as_ref().is_none_or(JoinHandle::is_finished) {
            state.task = Some(tokio::spawn(write_all(Arc::downgrade(store))));
        }
    }

    /// Another token was kept, so that this one must not be.
    pub(super) fn remove(&self, key: &TokenKey) {
        self.lock().unwritten.remove(key);
    }

    /// All that is left to write. Where that is nothing, the task is to end.
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
        left.map(|(key, unwritten)| (key.clone(), unwritten.clone()))
            .collect()
    }

    fn written(&self, key: &TokenKey, token: &AccessToken) {
        let mut state = self.lock();
        if state
            .unwritten
            .get(key)
            .is_some_and(|unwritten| unwritten.token == *token)
        {
            state.unwritten.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
                let Unwritten {
                    token,
                    other_than,
                    owner,
                } = &unwritten;
                let keys = store.keys(&key);
                let committed = store
                    .commit(&keys, owner, token, other_than.as_ref(), Seen::default())
                    .await;
                if committed.is_err() {
                    break; // Redis is not back yet.
                }
                store.write_back.written(&key, token);
                tracing::info!(%key, "token store is back: it holds the token that was fetched without it");
            }
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}
