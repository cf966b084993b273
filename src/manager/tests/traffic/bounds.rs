//! How many calls of a scene may fail, and how many fetches may be made.

use std::time::Duration;

use super::scenes::{LIFETIME, Scene, Trouble};
use crate::manager::tests::world::Repeat;

impl Scene {
    /// Whether managers may end each other's tokens.
    pub(super) fn ends_others(&self) -> bool {
        self.managers > 1 && self.repeat == Repeat::NewTokenEndsOld
    }

    /// Whether nothing but revocations ends tokens, and several managers replace them.
    pub(super) fn is_race(&self) -> bool {
        self.ends_others()
            && self.lifetime == 7200
            && self.bad == 0
            && !self.keeps_first
            && !self.looks_at_each_request
            && self.latency <= Duration::from_millis(20)
            && matches!(self.trouble, Trouble::Revoked(_))
    }

    /// Whether managers that end each other's tokens do so all the time.
    fn is_restless(&self) -> bool {
        self.lifetime < LIFETIME
            || self.bad > 0
            || self.keeps_first
            || self.looks_at_each_request
            || self.latency > Duration::from_millis(20)
    }

    /// Whether a refresh ahead is over before its token expires, so that no call waits for it.
    pub(super) fn refreshes_in_time(&self) -> bool {
        let ahead = Duration::from_secs(self.lifetime) / 10;
        let gets_new = !self.repeat.is_same();
        self.managers == 1
            && gets_new
            && !self.looks_at_each_request
            && matches!(self.trouble, Trouble::None)
            && self.bad == 0
            && self.latency + self.step * 2 < ahead
    }

    /// Whether a token is repeated while nothing else happens, until it expires.
    pub(super) fn is_repeated(&self) -> bool {
        self.managers == 1
            && self.repeat.is_same()
            && self.is_late()
            && !self.looks_at_each_request
            && matches!(self.trouble, Trouble::None)
            && self.bad == 0
    }

    /// How many good calls of one client may fail.
    pub(super) fn allowed_bad(&self) -> usize {
        let refreshes = self.trouble.times().len().max(1);
        if self.is_race() {
            return 5 * refreshes;
        }
        let of_others = match self.ends_others() {
            true if self.is_restless() => usize::MAX / 2,
            true => 5 * (refreshes + 2),
            false => 0,
        };
        let of_trouble = match &self.trouble {
            Trouble::OneIsRefused(_) => 2,
            Trouble::NotReady(before) => {
                (Duration::from_millis(before * 100).as_millis() / self.step.as_millis()) as usize
                    + 2
            }
            Trouble::DeadTokens(times) => times.len(),
            // Another manager has just put a token into the store that is revoked too, or is old.
            Trouble::Revoked(times) if self.managers > 1 => times.len(),
            Trouble::OldToken if self.managers > 1 => 1,
            _ => 0,
        };
        // The issuer tells whole seconds only. Of a token that lives two it may tell of none, as often as a fetch is tried. Then there is a
        // cooldown of 1 s.
        let is_told_of_none =
            self.managers > 1 && self.lifetime == 2 && self.repeat == Repeat::SameTokenShorter;
        of_others + of_trouble + if is_told_of_none { 100 } else { 0 }
    }

    pub(super) fn allowed_fetches(&self) -> usize {
        // A repeated token is fetched twice ahead and once when it has expired. In its last second it has no time left to tell of, so that
        // fetch is tried again.
        let tries = if self.repeat == Repeat::SameTokenShorter {
            8
        } else {
            4
        };
        let of_expiry = match self.lifetime {
            2 => 10 * tries,
            15 => 2 * tries,
            _ => 4,
        };
        let of_trouble = match &self.trouble {
            Trouble::None | Trouble::OldToken => 0,
            Trouble::Revoked(times) => times.len(),
            Trouble::DeadTokens(times) => 2 * times.len(),
            Trouble::RefreshesAheadFail(_, times) => *times,
            Trouble::OneIsRefused(_) => 2,
            // One for each call: there is no cooldown.
            Trouble::NotReady(before) => {
                (u128::from(before * 100) / self.step.as_millis()) as usize + 2
            }
            // Two a second.
            Trouble::ShortLivedRuntimes(before) => *before as usize / 5 + 2,
        };
        // Each bad path is held back 2, 4, 8 and 16 s, and the budget ends some of that.
        let of_bad = if self.bad == 0 { 0 } else { 12 };
        // The quick budget gives 10 and one each second.
        let of_others = if self.ends_others() && self.is_restless() {
            10 + 14
        } else {
            0
        };
        self.managers
            * (2 + of_expiry + of_trouble + of_bad + of_others)
            * if self.managers > 1 { 2 } else { 1 }
    }
}
