use std::sync::Arc;

use super::single_flight::{Outcome, SingleFlight, Trigger};
use super::slot::Slot;
use crate::{AccessToken, Credentials, Error, ErrorKind, TokenKey};

/// Credentials and what the manager keeps of them.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(super) credentials: Credentials,
    pub(super) slot: Arc<Slot>,
}

impl Tenant {
    pub(crate) fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn key(&self) -> &TokenKey {
        self.slot.key()
    }

    /// Waits for this refresh. `None` if the caller is to start over.
    pub(super) async fn outcome_of(&self, refresh: SingleFlight) -> Option<Outcome> {
        let is_forced = refresh.trigger() == Trigger::Forced;
        let outcome = refresh.outcome().await?;
        // A forced refresh makes one try, so its failure is no answer for a request.
        let is_of_operator = |error: &Error| is_forced && error.kind() != ErrorKind::NoRuntime;
        let is_useless =
            outcome.as_ref().is_err_and(is_of_operator) || self.can_do_better(&outcome);
        (!is_useless).then_some(outcome)
    }

    /// Whether the refresh only failed because nobody had the secret when it started, while this caller has it.
    pub(super) fn can_do_better(&self, outcome: &Outcome) -> bool {
        let lacked_secret = |error: &Error| error.kind() == ErrorKind::NoSecret;
        outcome.as_ref().is_err_and(lacked_secret) && self.credentials.expose_secret().is_some()
    }
}

/// What a caller gets at once.
pub(crate) enum Served {
    Token(AccessToken),
    /// A refresh to wait for. If there is a token that serves, it only brings a newer one.
    Refresh(SingleFlight, Option<AccessToken>),
}
