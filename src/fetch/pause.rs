use std::time::Duration;

use crate::{Error, ErrorKind};

/// The longest pause that an issuer can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(60);

/// A failed fetch of which the members of a fleet have told each other.
#[derive(Clone, Debug)]
pub(crate) struct Hearsay {
    pub(crate) error: Error,
    /// How long this member is to wait.
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

impl Pauses {
    /// After a failure that may be one member's own, for the other members of its fleet; `None` if it is none of their business. They begin
    /// short, so that a few broken members don't hold back the others for long.
    pub(crate) fn of_other_members(error: &Error) -> Option<Self> {
        let longest = match Self::after(error) {
            None if error.errcode() == Some(45009) => Duration::from_secs(600),
            None => return None,
            Some(_) if is_short_in_fleet(error) => Duration::from_secs(4),
            Some(pauses) => pauses.longest,
        };
        let first = Duration::from_secs(1);
        Some(Self { first, longest })
    }

    /// The first of several.
    pub(crate) fn first(self, error: &Error) -> Duration {
        self.first.max(asked(error))
    }

    /// The one after this.
    pub(crate) fn next(self, error: &Error, before: Duration) -> Duration {
        let next = before.saturating_mul(2).clamp(self.first, self.longest);
        next.max(asked(error))
    }
}

/// Whether the pauses of a member itself don't grow after such a failure, since the members share them.
fn is_short_in_fleet(error: &Error) -> bool {
    error.is_transient() || error.kind() == ErrorKind::Interrupted
}

/// The pause that the issuer asks for, within bounds.
fn asked(error: &Error) -> Duration {
    let asked = error.retry_after().filter(|_| error.is_transient());
    asked.unwrap_or_default().min(LONGEST_ASKED)
}

/// How long the cooldown of a key lasts after a failed fetch, if that many failed in a row before it.
pub(crate) fn pause_after(error: &Error, failures: u32) -> Option<Duration> {
    let Pauses { first, longest } = Pauses::after(error)?;
    let pause = first.saturating_mul(1 << failures.min(16)).min(longest);
    Some(pause.max(asked(error)))
}

/// The same for a member of a fleet.
pub(crate) fn pause_in_fleet_after(error: &Error, failures: u32) -> Option<Duration> {
    let failures = if is_short_in_fleet(error) {
        0
    } else {
        failures
    };
    pause_after(error, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

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
