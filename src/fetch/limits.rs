use std::time::Duration;

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
}
