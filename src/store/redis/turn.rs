//! Waiting for one's turn to fetch.

use std::hash::{BuildHasher, RandomState};
use std::process;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Shared;
use super::link::Failure;
use super::scripts::{Reply, Seen};
use super::shared_failure;
use crate::fetch::{Fetch, Hearsay};
use crate::{AccessToken, TokenKey};

const SHORTEST_POLL: u64 = 20;
const LONGEST_POLL: u64 = 250;

/// How the wait ended.
pub(super) enum Turn {
    /// The store holds a token that can serve.
    Found(AccessToken),
    /// Another process has failed.
    Failed(Hearsay),
    /// It is this process that fetches, and the others wait.
    Ours(Seen),
    /// Redis is of no help: each process is on its own.
    Alone(String),
}

impl Shared {
    pub(super) async fn turn(&self, key: &TokenKey, owner: &str, fetch: &Fetch<'_>) -> Turn {
        // What is waited for ends before the one who asks loses patience, with time left for a fetch and to keep its token.
        let patience = fetch.store_patience().saturating_sub(self.link.limit() * 3);
        // An owner that fetches is not taken for dead, and one that is dead is outwaited.
        let (limit, second) = (fetch.limit(), Duration::from_secs(1));
        let lease_time = self.lease_time.clamp(limit + second, limit * 2 + second);
        let lease_time = if fetch.fetches() {
            lease_time
        } else {
            Duration::ZERO
        };
        let keys = self.keys(key);
        let began = Instant::now();
        let (mut seen, mut fails_since) = (Seen::default(), None);
        loop {
            let asked_at = SystemTime::now();
            match self.link.send(&keys.step(owner, lease_time, &seen)).await {
                Ok(Reply::Token(text)) => {
                    fetch.store_works();
                    fails_since = None;
                    match text.token(asked_at) {
                        Some(token) if fetch.can_serve(&token) => {
                            return Turn::Found(token);
                        }
                        _ => seen = Seen::text(text),
                    }
                    if began.elapsed() < patience {
                        continue;
                    }
                }
                Ok(Reply::Failure(text)) => {
                    fetch.store_works();
                    return Turn::Failed(shared_failure::read(&text));
                }
                Ok(Reply::Lease) => {
                    fetch.store_works();
                    return Turn::Ours(seen);
                }
                Ok(Reply::Wait) => fails_since = None,
                Ok(Reply::Done | Reply::None) => return Turn::Alone(Failure::Answer.to_string()),
                Err(failure) => {
                    let since = *fails_since.get_or_insert_with(Instant::now);
                    if !failure.may_pass() || since.elapsed() >= self.link.limit() * 2 {
                        return Turn::Alone(failure.to_string());
                    }
                }
            }
            if began.elapsed() >= patience {
                return Turn::Alone(format!("waited {patience:?} for other processes to fetch"));
            }
            tokio::time::sleep(poll_delay()).await;
        }
    }
}

/// The name of one who takes a lease, unlike any other's.
pub(super) fn owner() -> String {
    format!("{}-{:016x}{:016x}", process::id(), random(), random())
}

fn poll_delay() -> Duration {
    Duration::from_millis(SHORTEST_POLL + random() % (LONGEST_POLL - SHORTEST_POLL + 1))
}

/// From the keys of a hasher, which the standard library takes from the system's randomness.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}
