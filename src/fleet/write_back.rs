//! Tokens that were fetched while the database could not keep them: they are written once it can.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{Failed, Fleet, Task, Timed};
use crate::clock::Clock;
use crate::in_hand::InHand;
use crate::stats::Counters;
use crate::store::{StoreCalls, StoreHealth};
use crate::{AccessToken, FetchRequest, TokenKey, TokenStore};

const SHORTEST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The unwritten tokens, and the task that writes them.
#[derive(Default)]
pub(super) struct WriteBack(Mutex<State>);

#[derive(Default)]
struct State {
    unwritten: HashMap<TokenKey, Unwritten>,
    task: Option<JoinHandle<()>>,
}

#[derive(Clone)]
struct Unwritten {
    token: Timed<AccessToken>,
    in_hand: InHand,
    request: FetchRequest,
    store: Arc<dyn TokenStore>,
    health: Arc<StoreHealth>,
    counters: Arc<Counters>,
    clock: Clock,
}

impl WriteBack {
    /// Writes the token as soon as the database takes it.
    pub(super) fn add(&self, fleet: &Arc<Fleet>, task: Task<'_>, token: Timed<AccessToken>) {
        let unwritten = Unwritten {
            token,
            in_hand: task.calls.in_hand.clone(),
            request: task.calls.request.clone(),
            store: task.calls.store.clone(),
            health: task.calls.health.clone(),
            counters: task.calls.counters.clone(),
            clock: task.clock.clone(),
        };
        let mut state = self.lock();
        state.unwritten.insert(task.calls.key.clone(), unwritten);
        state.start_task(fleet);
    }

    /// Goes on if a runtime has ended, but not with a token that is of no use any more.
    pub(super) fn go_on(&self, fleet: &Arc<Fleet>, task: Task<'_>) {
        let mut state = self.lock();
        let rejected = &task.calls.in_hand.unusable.rejected;
        let is_useless =
            |it: &Unwritten| rejected.covers(it.token.part()) || it.token.left().is_zero();
        if state.unwritten.get(task.calls.key).is_some_and(is_useless) {
            state.unwritten.remove(task.calls.key);
        }
        if !state.unwritten.is_empty() {
            state.start_task(fleet);
        }
    }

    /// The unwritten tokens in random order, so that a token that the database never accepts does not block the others. If there are none, the
    /// task ends.
    fn left(&self) -> Vec<(TokenKey, Unwritten)> {
        let mut state = self.lock();
        state.unwritten.retain(|_, it| !it.token.left().is_zero());
        if state.unwritten.is_empty() {
            state.task = None;
        }
        let left = state.unwritten.iter();
        let mut left: Vec<_> = left.map(|(key, it)| (key.clone(), it.clone())).collect();
        fastrand::shuffle(&mut left);
        left
    }

    fn remove(&self, key: &TokenKey, token: &AccessToken) {
        let mut state = self.lock();
        if state
            .unwritten
            .get(key)
            .is_some_and(|it| it.token.part() == token)
        {
            state.unwritten.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn start_task(&mut self, fleet: &Arc<Fleet>) {
        // A task that has ended with its runtime is finished too.
        if self.task.as_ref().is_none_or(JoinHandle::is_finished) {
            self.task = Some(tokio::spawn(write_all(fleet.clone())));
        }
    }
}

/// Ends when all tokens are written or have expired, even if the manager is gone by then.
async fn write_all(fleet: Arc<Fleet>) {
    let mut delay = SHORTEST_DELAY;
    loop {
        let left = fleet.write_back.left();
        if left.is_empty() {
            return;
        }
        for (key, unwritten) in left {
            if write(&fleet, &key, &unwritten).await.is_err() {
                break; // The database is not back yet.
            }
            fleet.write_back.remove(&key, unwritten.token.part());
            delay = SHORTEST_DELAY;
        }
        sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

async fn write(fleet: &Fleet, key: &TokenKey, unwritten: &Unwritten) -> Result<(), Failed> {
    let calls = StoreCalls {
        store: &unwritten.store,
        health: &unwritten.health,
        counters: &unwritten.counters,
        key,
        in_hand: &unwritten.in_hand,
        request: &unwritten.request,
    };
    let task = Task {
        calls: &calls,
        clock: &unwritten.clock,
    };
    let newer = fleet.swap_in(task, &unwritten.token, None).await?;
    drop(newer); // The manager finds it when it needs one.
    Ok(())
}
