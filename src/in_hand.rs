//! What a manager knows of a key, and which token from a store may serve.

use std::time::SystemTime;

use crate::AccessToken;
use crate::rejected::Rejected;
use crate::token::to_the_second;

/// What a manager knows of a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) local: Option<AccessToken>,
    /// The local copy before this one.
    pub(crate) previous: Option<AccessToken>,
    /// When the newest token was fetched that the manager has had.
    pub(crate) newest: Option<SystemTime>,
    pub(crate) unusable: Unusable,
}

impl InHand {
    /// Whether a token found in a store may serve: it has not expired, is not older than what the manager has had, and is not known as
    /// unusable.
    pub(crate) fn can_serve(&self, token: &AccessToken, now: SystemTime) -> bool {
        // Its lifetime says nothing: `fetched_at` may come from a clock that is ahead of this one.
        token.is_plausible()
            && token.expires_at() > now
            && !self.is_old(token, now)
            && !self.unusable.covers(token, now)
    }

    fn is_old(&self, token: &AccessToken, now: SystemTime) -> bool {
        let fetched_at = token.began();
        self.newest.is_some_and(|newest| {
            // The clock may have been ahead then.
            let newest = newest.min(now);
            // A store may keep times in whole seconds.
            if to_the_second(fetched_at) == fetched_at {
                fetched_at < to_the_second(newest)
            } else {
                fetched_at < newest
            }
        })
    }

    /// The tokens that a store may quote in an error.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &AccessToken> {
        let to_replace = self.unusable.to_replace.iter();
        to_replace.chain(&self.local).chain(&self.previous)
    }
}

/// The tokens that must not be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unusable {
    pub(crate) rejected: Rejected,
    /// The token that this refresh replaces.
    pub(crate) to_replace: Option<AccessToken>,
}

impl Unusable {
    /// Whether this may be one of them, from a store that keeps times in whole seconds.
    pub(crate) fn covers(&self, token: &AccessToken, now: SystemTime) -> bool {
        let to_replace = self.to_replace.as_ref();
        self.rejected.covers_stored(token, now)
            || to_replace.is_some_and(|other| token.is_likely(other))
    }
}
