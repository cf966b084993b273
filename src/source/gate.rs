use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Hearsay;
use crate::Error;
use crate::redact::in_one_line;

/// How many fetches may be under way before the first one has succeeded.
const FIRST: usize = 8;
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Lets the fetches of one source through, of all its keys, try by try.
///
/// When the issuer answers that it is called too often (45009), it means the caller's IP address, so a fetch for any other key would
/// make it worse. All fetches fail for a while, and then one at a time may try. The number of fetches at a time starts small and grows by
/// one with each success, so that not all keys are fetched at a cold start before the first 45009 arrives.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    at_most: usize,
    closed: Option<Closed>,
    /// How often it was closed.
    closings: u64,
}

#[derive(Debug)]
struct Closed {
    by: Error,
    until: Instant,
    pause: Duration,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                under_way: 0,
                at_most: FIRST,
                closed: None,
                closings: 0,
            }),
            room: Notify::new(),
        }
    }

    /// Waits until there is room for one more fetch.
    pub(super) async fn enter(&self) -> Result<Pass<'_>, Error> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                let room = state.under_way < state.at_most;
                if let Some(closed) = &state.closed
                    && (Instant::now() < closed.until || !room)
                {
                    return Err(closed.by.clone());
                }
                if room {
                    state.under_way += 1;
                    let closings = state.closings;
                    return Ok(Pass {
                        gate: self,
                        closings,
                    });
                }
            }
            room.await;
        }
    }

    /// Closes it because another process was told that the issuer is called too often.
    pub(super) fn close_as_heard(&self, heard: &Hearsay) {
        tell_closed(heard.left, &heard.error);
        let closed = Closed {
            by: heard.error.clone(),
            until: Instant::now() + heard.left,
            pause: heard.pause.clamp(SHORTEST_PAUSE, LONGEST_PAUSE),
        };
        self.lock().close(closed, self);
    }

    /// When the gate opens again, if it is closed.
    pub(crate) fn closed_until(&self) -> Option<Instant> {
        self.lock().closed.as_ref().map(|closed| closed.until)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close(&mut self, closed: Closed, gate: &Gate) {
        self.closed = Some(closed);
        self.at_most = 1;
        self.closings += 1;
        gate.room.notify_waiters();
    }
}

fn tell_closed(pause: Duration, error: &Error) {
    let error = in_one_line(error);
    tracing::warn!(
        event = "rate_limited",
        ?pause,
        error,
        "the source is called too often, no fetches for now"
    );
}

/// The right to make one fetch, given back when dropped.
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    closings: u64,
}

impl Pass<'_> {
    /// Learns from how the fetch ended.
    pub(super) fn ended<T>(self, result: &Result<T, Error>) {
        let mut state = self.gate.lock();
        match result {
            // A fetch that began before the gate was closed says nothing of the time after.
            Ok(_) if self.closings < state.closings => {}
            Ok(_) => {
                if state.closed.take().is_some() {
                    tracing::info!(event = "rate_limit_ended", "the source can be asked again");
                }
                state.at_most = state.at_most.saturating_add(1);
                self.gate.room.notify_one();
            }
            Err(error) if error.errcode() == Some(45009) => {
                let pause = match &state.closed {
                    Some(closed) if Instant::now() >= closed.until => closed.pause * 2,
                    Some(closed) => closed.pause,
                    None => SHORTEST_PAUSE,
                }
                .min(LONGEST_PAUSE);
                tell_closed(pause, error);
                let closed = Closed {
                    by: error.clone(),
                    until: Instant::now() + pause,
                    pause,
                };
                state.close(closed, self.gate);
            }
            Err(_) => {}
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.lock().under_way -= 1;
        self.gate.room.notify_one();
    }
}
