use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::Error;
use crate::clock::{Clock, Moment};
use crate::redact::in_one_line;

/// How many fetches may be under way before the first one has succeeded.
const FIRST: usize = 8;
/// After this time, a try no longer keeps other fetches waiting for a place.
const LONGEST_PLACE: Duration = Duration::from_secs(1);
const SHORTEST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Limits how many tries run at once, over all keys of a manager.
///
/// Errcode 45009 (rate limit) is about the caller's IP address, so a fetch for any other key would make it worse. All fetches fail for a
/// while, and then one at a time is let through. The number of concurrent tries starts small and grows by one with each success. So a
/// cold start does not fetch all keys before the first 45009 arrives.
///
/// A try that has run for 1 s loses its place, and counts like a success: it was not rate limited. So tries that hang don't keep the others
/// waiting for long, however many they are. This needs nothing of the try itself, whose runtime may have stopped running it.
#[derive(Debug)]
pub(crate) struct Gate {
    clock: Clock,
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    /// When the tries began that have a place, in order.
    places: VecDeque<Instant>,
    at_most: usize,
    closed: Option<Closed>,
    /// How often it was closed.
    closings: u64,
}

#[derive(Debug)]
struct Closed {
    by: Error,
    since: Moment,
    /// How much of the pause was left then.
    left: Duration,
    pause: Duration,
}

impl Closed {
    fn is_over(&self, now: Moment) -> bool {
        self.since.is_past(self.left, now)
    }
}

impl Gate {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::new(State {
                places: VecDeque::new(),
                at_most: FIRST,
                closed: None,
                closings: 0,
            }),
            room: Notify::new(),
        }
    }

    /// Waits until there is room for one more fetch.
    pub(crate) async fn enter(&self) -> Result<Pass<'_>, Error> {
        loop {
            let room = self.room.notified();
            if let Some(pass) = self.try_enter()? {
                return Ok(pass);
            }
            let oldest = self.lock().places.front().copied();
            let next_room = oldest.map_or_else(Instant::now, |began| began + LONGEST_PLACE);
            let _elapsed = timeout_at(next_room, room).await;
        }
    }

    /// A place for one more fetch, if there is room.
    pub(crate) fn try_enter(&self) -> Result<Option<Pass<'_>>, Error> {
        let now = Instant::now();
        let mut state = self.lock();
        state.end_old_places(now);
        let has_room = state.places.len() < state.at_most;
        if let Some(closed) = &state.closed
            && (!closed.is_over(self.clock.moment()) || !has_room)
        {
            return Err(closed.by.clone());
        }
        if !has_room {
            return Ok(None);
        }
        Ok(Some(self.place(&mut state, now)))
    }

    /// A place for a fetch that nothing holds back.
    pub(crate) fn enter_anyway(&self) -> Pass<'_> {
        self.place(&mut self.lock(), Instant::now())
    }

    fn place(&self, state: &mut State, now: Instant) -> Pass<'_> {
        state.places.push_back(now);
        Pass {
            gate: self,
            closings: state.closings,
            began: now,
        }
    }

    /// While no fetch may be made: the reason, and for how long.
    pub(crate) fn closed(&self) -> Option<(Error, Duration)> {
        let now = self.clock.moment();
        let state = self.lock();
        let closed = state
            .closed
            .as_ref()
            .filter(|closed| !closed.is_over(now))?;
        Some((closed.by.clone(), closed.since.left_of(closed.left, now)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_old_places(&mut self, now: Instant) {
        let is_old = |began: &Instant| now.duration_since(*began) >= LONGEST_PLACE;
        while self.places.front().is_some_and(is_old) {
            self.places.pop_front();
            if self.closed.is_none() {
                self.at_most = self.at_most.saturating_add(1);
            }
        }
    }

    fn close(&mut self, closed: Closed, gate: &Gate) {
        self.closed = Some(closed);
        self.at_most = 1;
        self.closings += 1;
        gate.room.notify_waiters();
    }
}

fn tell_closed(pause: Duration, error: &Error) {
    let error = in_one_line(error);
    tracing::warn!(target: crate::TARGET, event = "rate_limited",
        ?pause,
        error,
        "the source is rate limited: no fetches for now"
    );
}

/// The right to make one fetch.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    closings: u64,
    began: Instant,
}

impl Pass<'_> {
    /// Learns from how the fetch ended.
    pub(super) fn ended<T>(self, result: &Result<T, Error>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) if error.errcode() == Some(45009) => self.was_called_too_often(error),
            Err(_) => {}
        }
    }

    fn succeeded(&self) {
        let was_closed = {
            let mut state = self.gate.lock();
            // A fetch that started before the gate was closed says nothing of the time after.
            if self.closings < state.closings {
                return;
            }
            state.at_most = state.at_most.saturating_add(1);
            state.closed.take().is_some()
        };
        self.gate.room.notify_one();
        if was_closed {
            tracing::info!(target: crate::TARGET, event = "rate_limit_ended", "the source can be asked again");
        }
    }

    fn was_called_too_often(&self, error: &Error) {
        let now = self.gate.clock.moment();
        let pause = {
            let mut state = self.gate.lock();
            let pause = match &state.closed {
                Some(closed) if closed.is_over(now) => closed.pause * 2,
                Some(closed) => closed.pause,
                None => SHORTEST_PAUSE,
            }
            .min(LONGEST_PAUSE);
            let closed = Closed {
                by: error.clone(),
                since: now,
                left: pause,
                pause,
            };
            state.close(closed, self.gate);
            pause
        };
        tell_closed(pause, error);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let places = &mut self.gate.lock().places;
        // If it is not there, it was old.
        if let Some(n) = places.iter().position(|began| *began == self.began) {
            places.remove(n);
            self.gate.room.notify_one();
        }
    }
}
