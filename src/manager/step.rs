//! What is to be done for a caller: decided while the state is locked, and done after that.

use super::guard::HeldBack;
use super::refresh::{Launch, Refresh};
use super::single_flight::{SingleFlight, Trigger};
use super::slot::State;
use super::{Served, Tenant, TokenManager};
use crate::clock::Moment;
use crate::{AccessToken, Error, ErrorKind};

/// What is to be done for a caller, once no lock is held.
pub(super) enum Step {
    /// The token serves. A refresh may be started beside.
    Serve(AccessToken, Option<Launch>),
    /// A refresh is waited for: not for long, if there is a token that serves.
    Join(SingleFlight, Option<AccessToken>),
    Start(Launch, Option<AccessToken>),
    Fail(Error),
}

impl Step {
    pub(super) fn take(self) -> Result<Served, Error> {
        match self {
            Self::Serve(token, launch) => {
                if let Some(launch) = launch {
                    launch.spawn();
                }
                Ok(Served::Token(token))
            }
            Self::Join(refresh, token) => Ok(Served::Refresh(refresh, token)),
            Self::Start(launch, token) => Ok(Served::Refresh(launch.spawn(), token)),
            Self::Fail(error) => Err(error),
        }
    }
}

impl TokenManager {
    /// For a caller who needs a token.
    pub(super) fn step(&self, state: &mut State, tenant: &Tenant, now: Moment) -> Step {
        let Some(local) = state.usable(now.wall) else {
            let trigger = match state.local {
                Some(_) => Trigger::Expired,
                None => Trigger::Cold,
            };
            return self.join_or_start(state, tenant, trigger, now);
        };
        let token = local.token.clone();
        let is_expiring = now.wall >= local.refresh_at;
        let limit = self.shared.settings.local_copy;
        let age = now.instant.duration_since(local.checked_at);
        let is_stale = limit.is_some_and(|limit| age >= limit)
            && self.shared.store_health.may_be_asked(now.instant);
        if let Some(refresh) = &state.refresh {
            return if is_stale && refresh.trigger() == Trigger::Stale {
                Step::Join(refresh.clone(), Some(token))
            } else {
                Step::Serve(token, None)
            };
        }
        if is_expiring && self.permit(state, now, true).is_ok() {
            let launch = self.prepare(state, tenant, Trigger::Expiring, Ok(()), None);
            // Without a runtime the token serves as long as it lives.
            return Step::Serve(token, launch.ok());
        }
        if is_stale {
            return match self.prepare(state, tenant, Trigger::Stale, Ok(()), None) {
                Ok(launch) => Step::Start(launch, Some(token)),
                Err(_no_runtime) => Step::Serve(token, None),
            };
        }
        Step::Serve(token, None)
    }

    /// For a caller whose token was rejected.
    pub(super) fn step_after_rejection(
        &self,
        state: &mut State,
        tenant: &Tenant,
        (rejected, path): (&AccessToken, &str),
        now: Moment,
        held_back: &mut Option<HeldBack>,
    ) -> Step {
        if let Err(invalid) = tenant.credentials.check(self.audience().kind()) {
            return Step::Fail(invalid);
        }
        if let Some(token) = state.better_than(rejected, now.wall).cloned() {
            state.rejected.note(rejected, now.wall);
            return Step::Serve(token, None);
        }
        // A path that rejects fresh tokens too can't condemn one that may be good for all others.
        let has_record = state.guard().has_record(path, now.instant);
        let has_expired = state.local.is_some() && state.unexpired(now.wall).is_none();
        if has_expired && !has_record {
            state.note_rejected(rejected, now.wall);
            return self.join_or_start(state, tenant, Trigger::Expired, now);
        }
        if let Some(refresh) = state.refresh.clone()
            && refresh.may_fetch()
        {
            if !has_record {
                state.note_rejected(rejected, now.wall);
            }
            return Step::Join(refresh, None);
        }
        let budget = self.shared.settings.refresh_budget;
        let permit = match self.permit(state, now, false) {
            Ok(()) => state
                .guard()
                .take(path, budget, now.instant)
                .map_err(|reason| {
                    *held_back = Some(reason);
                    Error::held_back()
                }),
            Err(_) if has_record => Err(Error::held_back()),
            Err(reason) => Err(reason),
        };
        let is_held_back = |error: &Error| error.kind() == ErrorKind::HeldBack;
        let suspect = if has_record || permit.as_ref().is_err_and(is_held_back) {
            Some(rejected.clone())
        } else {
            state.note_rejected(rejected, now.wall);
            None
        };
        match &state.refresh {
            Some(look) if permit.is_err() && look.trigger() != Trigger::Stale => {
                Step::Join(look.clone(), None)
            }
            _ => self.start_or_fail(state, tenant, Trigger::Rejected, permit, suspect, now),
        }
    }

    /// Whether the source may be asked now, and otherwise why not.
    pub(super) fn permit(&self, state: &State, now: Moment, has_token: bool) -> Result<(), Error> {
        if let Some(reason) = state.throttle.reason(now, has_token) {
            return Err(reason.clone());
        }
        match self.shared.gate.closed() {
            Some((reason, _)) => Err(reason),
            None => Ok(()),
        }
    }

    /// The refresh under way, or a new one.
    fn join_or_start(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        now: Moment,
    ) -> Step {
        let permit = self.permit(state, now, false);
        // A mere look into the store is of no use to a caller for whom the source may be asked.
        if let Some(refresh) = &state.refresh
            && (refresh.may_fetch() || permit.is_err())
        {
            return Step::Join(refresh.clone(), None);
        }
        self.start_or_fail(state, tenant, trigger, permit, None, now)
    }

    /// A new refresh, unless it could not bring anything.
    pub(super) fn start_or_fail(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        permit: Result<(), Error>,
        rejected: Option<AccessToken>,
        now: Moment,
    ) -> Step {
        let is_held_back = rejected.is_some();
        // A store that nobody else uses has nothing newer than the last local copy.
        let has_nothing = !self.shared.is_shared && state.newest.is_some();
        let prepared = match permit {
            Err(reason) if has_nothing => Err(reason),
            permit => {
                let takes_fetch = trigger == Trigger::Rejected && permit.is_ok();
                let prepared = self.prepare(state, tenant, trigger, permit, rejected);
                if takes_fetch && prepared.is_err() {
                    state.guard().not_needed();
                }
                prepared
            }
        };
        match prepared {
            Ok(launch) => Step::Start(launch, None),
            Err(error) => {
                if !is_held_back {
                    state.not_refreshed(now.wall);
                }
                Step::Fail(error)
            }
        }
    }

    pub(super) fn prepare(
        &self,
        state: &mut State,
        tenant: &Tenant,
        trigger: Trigger,
        permit: Result<(), Error>,
        rejected: Option<AccessToken>,
    ) -> Result<Launch, Error> {
        let Tenant { slot, credentials } = tenant;
        Refresh::prepare(
            &self.shared,
            slot,
            state,
            credentials,
            trigger,
            permit,
            rejected,
        )
    }
}
