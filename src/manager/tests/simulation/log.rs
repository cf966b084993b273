//! What has happened in a run.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::scene::{Event, Peer, Silence};
use crate::{AccessToken, Kept};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Entry {
    Happened(Event),
    /// A member sends a command to the database.
    Command {
        member: usize,
    },
    /// A message of a member is lost, or its reply.
    Lost {
        member: usize,
        peer: Peer,
        silence: Silence,
    },
    NoEgress {
        member: usize,
    },
    Refused {
        member: usize,
        errcode: i64,
    },
    /// The issuer has issued this token. They are numbered in the order in which their values were issued first.
    Issued {
        member: usize,
        token: usize,
        lifetime: Duration,
        asked_at: Duration,
    },
    /// The database has another document for the app.
    Swapped {
        member: usize,
        owner: Option<String>,
        failure: bool,
        token: Option<usize>,
    },
    /// A member has waited for a token.
    Asked {
        member: usize,
        began: Duration,
        is_rejected: bool,
        answer: Result<usize, String>,
    },
    /// A member's token was rejected a second time.
    RejectedAgain {
        member: usize,
    },
}

pub(super) struct Log {
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    entries: Vec<(Duration, Entry)>,
    numbers: HashMap<String, usize>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn add(&self, entry: Entry) {
        let now = self.now();
        self.state.lock().unwrap().entries.push((now, entry));
    }

    pub(super) fn entries(&self) -> Vec<(Duration, Entry)> {
        std::mem::take(&mut self.state.lock().unwrap().entries)
    }

    pub(super) fn issued(&self, member: usize, token: &AccessToken, asked_at: Duration) {
        let number = {
            let mut state = self.state.lock().unwrap();
            let next = state.numbers.len();
            let value = token.expose_secret().to_owned();
            *state.numbers.entry(value).or_insert(next)
        };
        self.add(Entry::Issued {
            member,
            token: number,
            lifetime: token.lifetime(),
            asked_at,
        });
    }

    pub(super) fn number(&self, value: &str) -> usize {
        self.state.lock().unwrap().numbers[value]
    }

    /// Notes what a member has put into the database. Returns whether that is a lease.
    pub(super) fn swapped(&self, member: usize, key: &str, new: &Kept) -> bool {
        if !key.ends_with(&right_app()) {
            return false;
        }
        let document: serde_json::Value = serde_json::from_slice(new.expose_secret()).unwrap();
        let turn = &document["turn"];
        let entry = Entry::Swapped {
            member,
            owner: turn["owner"].as_str().map(str::to_owned),
            failure: turn["failure"].is_object(),
            token: document["value"].as_str().map(|value| self.number(value)),
        };
        self.add(entry);
        turn["owner"].is_string()
    }
}

/// The end of the key of the app whose secret is right.
fn right_app() -> String {
    super::super::world::app().app().to_owned()
}
