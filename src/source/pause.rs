use std::time::Duration;

use crate::{Error, ErrorKind};

/// How long the cooldown of a key lasts after a failed fetch, if that many failed in a row before it.
pub(crate) fn pause_after(error: &Error, failures: u32) -> Option<Duration> {
    let (first, longest) = pauses(error)?;
    Some(first.saturating_mul(1 << failures.min(16)).min(longest))
}

/// How many failures in a row such a pause tells of.
pub(crate) fn failures_behind(error: &Error, pause: Duration) -> u32 {
    let (first, _) = pauses(error).unwrap_or((pause, pause));
    let times = pause.as_secs() / first.as_secs().max(1);
    times.max(1).next_power_of_two().ilog2() + 1
}

/// The first and the longest pause after such a failure.
fn pauses(error: &Error) -> Option<(Duration, Duration)> {
    let secs = Duration::from_secs;
    if error.is_transient() {
        return Some((secs(1), secs(30)));
    }
    match error.kind() {
        // Its gate stops all fetches of the source.
        ErrorKind::Api if error.errcode() == Some(45009) => None,
        ErrorKind::Api | ErrorKind::Refused => Some((secs(10), secs(300))),
        ErrorKind::Interrupted => Some((secs(1), secs(30))),
        _ => None,
    }
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
}
