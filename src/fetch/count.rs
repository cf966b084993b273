//! Counting tries by how they end.

use crate::stats::{Counter, Counters};
use crate::{Error, ErrorKind};

/// A try that is counted. If it is dropped before its end, it has been cut off, and counts as a transient failure.
#[must_use = "a try that is dropped counts as failed"]
pub(super) struct CountedTry<'a> {
    counters: &'a Counters,
    failure: Option<&'a Counter>,
}

impl<'a> CountedTry<'a> {
    pub(super) fn begin(counters: &'a Counters) -> Self {
        counters.fetches.add_one();
        Self {
            counters,
            failure: Some(&counters.failed_transient),
        }
    }

    pub(super) fn end<T>(mut self, result: &Result<T, Error>) {
        let failure = result.as_ref().err();
        self.failure = failure.map(|error| counter_of(self.counters, error));
    }
}

impl Drop for CountedTry<'_> {
    fn drop(&mut self) {
        if let Some(failure) = self.failure {
            failure.add_one();
        }
    }
}

fn counter_of<'a>(counters: &'a Counters, error: &Error) -> &'a Counter {
    match error.kind() {
        ErrorKind::Api if error.errcode() == Some(45009) => &counters.failed_rate_limited,
        ErrorKind::NotReady => &counters.failed_not_ready,
        ErrorKind::Interrupted => &counters.failed_transient,
        _ if error.is_transient() => &counters.failed_transient,
        _ => &counters.failed_refused,
    }
}
