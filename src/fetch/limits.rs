use std::time::Duration;

use crate::store::STORE_LIMIT;

/// How long one try may take, unless all of them together have less.
const LONGEST_TRY: Duration = Duration::from_secs(5);

/// How long fetching may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) one_try: Duration,
    pub(crate) all_tries: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Duration::from_secs(8))
    }
}

impl Limits {
    /// The limits where all tries together may take so long.
    pub(crate) fn of(all_tries: Duration) -> Self {
        Self {
            one_try: LONGEST_TRY.min(all_tries),
            all_tries,
        }
    }

    /// How long a store may take in addition to the fetch. It may wait for another process to fetch and, if that one dies, for one
    /// more.
    pub(crate) fn store_patience(&self) -> Duration {
        self.all_tries * 2 + STORE_LIMIT * 4
    }
}
