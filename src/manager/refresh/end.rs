//! How a refresh ends, and what is left to do then.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::fetch::Hearsay;
use crate::fleet::{Fleet, Lease, Task};
use crate::manager::single_flight::Outcome;
use crate::rejected::Rejected;
use crate::store::STORE_LIMIT;
use crate::{AccessToken, Error};

/// How a refresh ended.
pub(super) struct End {
    pub(super) outcome: Outcome,
    /// Whether this refresh has fetched the token. Otherwise the store had it.
    pub(super) is_fetched: bool,
    /// What is to be done so that the store has the token.
    pub(super) keep: Keep,
    /// If the source was asked, and not only the store: what was known to be rejected then.
    pub(super) fetched: Option<Rejected>,
    /// The failure of another process that the store tells of, and that is the outcome.
    pub(super) heard: Option<Hearsay>,
}

/// What is to be done so that the store has a token.
pub(super) enum Keep {
    /// The store has it, or there is none.
    Nothing,
    Put,
    Commit(Arc<Fleet>, Box<Lease>),
    Later(Arc<Fleet>),
}

/// A token for the store that is on its way there.
#[derive(Clone, Debug)]
pub(in crate::manager) struct PutUnderWay {
    /// Closed when the store has the token or has failed.
    ended: watch::Receiver<()>,
    until: Instant,
}

/// What has become of a token in the store.
pub(super) enum Kept {
    /// The store has it.
    This,
    /// Another one is there, which was fetched later.
    Newer(AccessToken),
    Not,
}

pub(super) async fn keep_token(keep: Keep, token: Option<&AccessToken>, task: Task<'_>) -> Kept {
    let Some(token) = token else { return Kept::Not };
    match keep {
        Keep::Nothing => Kept::This,
        Keep::Put if task.calls.put(token).await => Kept::This,
        Keep::Put => Kept::Not,
        Keep::Commit(fleet, lease) => match fleet.commit(task, token, lease).await {
            Ok(None) => Kept::This,
            Ok(Some(newer)) => Kept::Newer(newer),
            Err(_) => Kept::Not,
        },
        Keep::Later(fleet) => {
            fleet.keep_later(task, token);
            Kept::Not
        }
    }
}

impl End {
    pub(super) fn found(token: AccessToken) -> Self {
        Self {
            outcome: Ok(token),
            is_fetched: false,
            keep: Keep::Nothing,
            fetched: None,
            heard: None,
        }
    }

    pub(super) fn fetched(outcome: Outcome, keep: Keep) -> Self {
        Self {
            is_fetched: outcome.is_ok(),
            outcome,
            keep,
            fetched: None,
            heard: None,
        }
    }

    pub(super) fn failed(error: Error, heard: Option<Hearsay>) -> Self {
        Self {
            outcome: Err(error),
            is_fetched: false,
            keep: Keep::Nothing,
            fetched: None,
            heard,
        }
    }
}

impl PutUnderWay {
    pub(super) fn new() -> (watch::Sender<()>, Self) {
        let (sender, ended) = watch::channel(());
        let until = Instant::now() + STORE_LIMIT;
        (sender, Self { ended, until })
    }

    /// How long it may take from now.
    pub(super) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    pub(super) async fn wait(mut self) {
        let _either_way = timeout_at(self.until, self.ended.changed()).await;
    }
}
