use std::time::Duration;

use crate::{Error, ErrorKind};

/// The longest pause that an issuer can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// A failed fetch of another process, as the store tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Hearsay {
    pub(crate) error: Error,
    /// The whole cooldown that the other process started.
    pub(crate) pause: Duration,
    /// How much of it is left.
    pub(crate) left: Duration,
}

/// The first and the longest cooldown of a key after failed fetches in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pauses {
    first: Duration,
    longest: Duration,
}

impl Pauses {
    /// After such a failure; `None` if it starts no cooldown.
    pub(crate) fn after(error: &Error) -> Option<Self> {
        let pauses = |first, longest| {
            Some(Self {
                first: Duration::from_secs(first),
                longest: Duration::from_secs(longest),
            })
        };
        if error.is_transient() {
            return pauses(1, 30);
        }
        match error.kind() {
            // Its gate stops all fetches of the source.
            ErrorKind::Api if error.errcode() == Some(45009) => None,
            ErrorKind::Api | ErrorKind::Refused => pauses(10, 300),
            ErrorKind::Interrupted => pauses(1, 30),
            _ => None,
        }
    }
}

/// How long the cooldown of a key lasts after a failed fetch, if that many failed in a row before it.
pub(crate) fn pause_after(error: &Error, failures: u32) -> Option<Duration> {
    let Pauses { first, longest } = Pauses::after(error)?;
    let pause = first.saturating_mul(1 << failures.min(16)).min(longest);
    let asked = error.retry_after().filter(|_| error.is_transient());
    Some(pause.max(asked.unwrap_or_default().min(LONGEST_ASKED)))
}

/// How many failures in a row such a pause tells of.
pub(crate) fn failures_behind(error: &Error, pause: Duration) -> u32 {
    let first = Pauses::after(error).map_or(pause, |pauses| pauses.first);
    let times = pause.as_secs() / first.as_secs().max(1);
    times.max(1).next_power_of_two().ilog2() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_tells_how_the_next_is_to_be_longer() {
        for error in [Error::transient("lost"), Error::refused("no")] {
            let pauses: Vec<_> = (0..8).map(|n| pause_after(&error, n)).collect();
            for pause in &pauses[..7] {
                let pause = pause.unwrap();
                let next = pause_after(&error, failures_behind(&error, pause)).unwrap();
                let doubled = (pause * 2).min(pauses[7].unwrap());
                assert_eq!(next, doubled, "after {pause:?}");
            }
        }
    }

    #[test]
    fn an_issuer_may_ask_for_a_longer_pause_after_a_transient_failure() {
        let secs = Duration::from_secs;
        for (error, asked, pause) in [
            (Error::transient("busy"), 20, 20),
            (Error::api(45033, "busy"), 20, 20),
            (Error::transient("busy"), 0, 1),
            (Error::transient("busy"), 3600, 60),
            (Error::refused("no"), 20, 10),
        ] {
            let error = error.with_retry_after(secs(asked));
            assert_eq!(pause_after(&error, 0), Some(secs(pause)), "{error:?}");
        }
    }
}
