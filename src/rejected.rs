//! The values that the API has rejected.

use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::AccessToken;
use crate::token::to_the_millisecond;

/// So many values of one key are remembered.
const MOST_VALUES: usize = 16;

/// The values of one key that the API has rejected, each with the moment when that became known.
///
/// A token with such a value serves only if it was fetched after that moment. Values are kept as digests, until they would have expired.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rejected(Vec<Entry>);

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    digest: [u8; 32],
    since: SystemTime,
    until: SystemTime,
}

impl Rejected {
    /// The API has rejected this token. A late rejection of a token that is known to be rejected says nothing of tokens that were fetched
    /// since.
    pub(crate) fn note(&mut self, token: &AccessToken, now: SystemTime) {
        if self.covers(token) {
            return;
        }
        let digest = digest(token);
        self.0
            .retain(|entry| entry.digest != digest && entry.until > now);
        if self.0.len() >= MOST_VALUES {
            self.0.remove(0);
        }
        // Times are cut to the millisecond, and the clock may have been ahead when the token was fetched.
        let latest = to_the_millisecond(now).max(token.fetched_at());
        self.0.push(Entry {
            digest,
            since: latest + Duration::from_millis(1),
            until: token.expires_at(),
        });
    }

    /// Whether the token must not be used: it has a rejected value, and was not fetched after the rejection.
    pub(crate) fn covers(&self, token: &AccessToken) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let digest = digest(token);
        self.0
            .iter()
            .any(|entry| entry.digest == digest && token.fetched_at() < entry.since)
    }

    /// [`covers`](Self::covers), for a token from a store, whose time of the fetch may come from a clock that is ahead: if that has yet to come,
    /// it does not show that the token was fetched after the rejection.
    pub(crate) fn covers_stored(&self, token: &AccessToken, now: SystemTime) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let digest = digest(token);
        let is_known = self.0.iter().any(|entry| entry.digest == digest);
        is_known && (self.covers(token) || token.fetched_at() > now)
    }

    /// Whether any value would still be good by its time.
    pub(crate) fn has_unexpired(&self, now: SystemTime) -> bool {
        self.0.iter().any(|entry| entry.until > now)
    }

    /// The source has returned this token after it was known that all of `earlier` are rejected, whatever the clock shows.
    pub(crate) fn fetched_after(&mut self, earlier: &Self, token: &AccessToken) {
        let digest = digest(token);
        for entry in &mut self.0 {
            if entry.digest == digest && earlier.0.contains(entry) {
                entry.since = entry.since.min(token.fetched_at());
            }
        }
    }
}

fn digest(token: &AccessToken) -> [u8; 32] {
    Sha256::digest(token.expose_secret()).into()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn at(secs: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(secs)
    }

    fn token(value: &str, fetched_at: u64) -> AccessToken {
        AccessToken::from_parts(value, at(fetched_at), at(fetched_at + 7200))
    }

    #[test]
    fn a_rejected_value_serves_again_only_if_it_was_fetched_later() {
        let mut rejected = Rejected::default();
        rejected.note(&token("a", 10), at(20));
        assert!(rejected.covers(&token("a", 10)));
        assert!(rejected.covers(&token("a", 15)));
        assert!(
            rejected.covers(&token("a", 20)),
            "within the same millisecond"
        );
        assert!(!rejected.covers(&token("a", 21)));
        assert!(!rejected.covers(&token("b", 10)));
        rejected.note(&token("a", 21), at(30));
        assert!(rejected.covers(&token("a", 21)));
        rejected.note(&token("a", 10), at(40));
        assert!(!rejected.covers(&token("a", 31)), "a late rejection");
    }

    #[test]
    fn a_fetch_after_a_rejection_counts_as_later_even_within_a_millisecond() {
        let mut rejected = Rejected::default();
        rejected.note(&token("a", 10), at(10));
        assert!(rejected.covers(&token("a", 10)));
        let earlier = rejected.clone();
        rejected.fetched_after(&earlier, &token("a", 10));
        assert!(!rejected.covers(&token("a", 10)));

        rejected.note(&token("a", 11), at(11));
        rejected.fetched_after(&earlier, &token("a", 10));
        assert!(
            rejected.covers(&token("a", 10)),
            "it was rejected again since"
        );
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_show_that_a_token_was_fetched_later() {
        let mut rejected = Rejected::default();
        rejected.note(&token("a", 10), at(20));
        assert!(rejected.covers_stored(&token("a", 15), at(30)));
        assert!(rejected.covers_stored(&token("a", 31), at(30)));
        assert!(!rejected.covers_stored(&token("a", 25), at(30)));
        assert!(!rejected.covers_stored(&token("b", 31), at(30)));
    }

    #[test]
    fn values_are_remembered_until_they_expire_and_never_without_a_bound() {
        let mut rejected = Rejected::default();
        rejected.note(&token("a", 0), at(10));
        rejected.note(&token("b", 7100), at(7200));
        assert!(!rejected.covers(&token("a", 0)), "it has expired");
        for n in 0..100 {
            rejected.note(&token(&n.to_string(), 7200), at(7300));
        }
        assert_eq!(rejected.0.len(), MOST_VALUES);
        assert!(rejected.covers(&token("99", 7200)));
    }
}
