//! What a store that processes share needs of a fetch.

use std::time::Duration;

use super::{Fetch, Hearsay, pause_after};
use crate::in_hand::Unusable;
use crate::{AccessToken, Error};

impl Fetch<'_> {
    /// Whether the source may be asked, and ever fetches.
    pub(crate) fn fetches(&self) -> bool {
        self.surroundings.fetches && self.permit.is_ok()
    }

    /// Whether a token found in a store may be used.
    pub(crate) fn can_serve(&self, token: &AccessToken) -> bool {
        let (in_hand, _) = self.known;
        in_hand.can_serve(token, self.surroundings.clock.now())
    }

    /// The tokens that are not to be used, whatever they look like.
    pub(crate) fn unusable(&self) -> &Unusable {
        let (in_hand, _) = self.known;
        &in_hand.unusable
    }

    /// For how long no fetch will be made after this failure, so that other processes can be told.
    pub(crate) fn pause_after(&self, error: &Error) -> Option<Duration> {
        let (in_hand, _) = self.known;
        match error.errcode() {
            Some(45009) => self.surroundings.gate.closed().map(|(_, left)| left),
            _ => pause_after(error, in_hand.failures),
        }
    }

    /// Joins the cooldown of another process, whose failure the store has, instead of fetching.
    pub(crate) fn hear(&self, heard: Hearsay) -> Error {
        let error = heard.error.clone();
        if error.errcode() == Some(45009) {
            self.surroundings.gate.close_as_heard(&heard);
        }
        let _ = self.heard.set(heard); // A fetch hears of one failure at most.
        error
    }

    /// The secret that must show in no text, if there is one.
    pub(crate) fn secret(&self) -> Option<&str> {
        self.request.credentials().expose_secret()
    }

    /// How long a store may wait for the fetch of another process.
    pub(crate) fn store_patience(&self) -> Duration {
        self.surroundings.limits.store_patience()
    }

    pub(crate) fn store_fails(&self, call: &'static str, failure: &str) {
        let (_, calls) = self.known;
        let fetched = self.result().and_then(|result| result.as_ref().ok());
        calls.fails(call, failure, fetched);
    }

    pub(crate) fn store_works(&self) {
        let (_, calls) = self.known;
        calls.works();
    }
}
