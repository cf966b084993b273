//! Leaving the result of a refresh in the slot.

use std::time::Duration;

use super::Refresh;
use super::end::{End, Kept, PutUnderWay};
use crate::manager::single_flight::Trigger;
use crate::redact::in_one_line;
use crate::{AccessToken, Error, ErrorKind, TokenKey};

impl Refresh {
    /// Leaves the result in the slot. Returns whether it is of use: not if the token has expired meanwhile, or if the API has rejected it since
    /// this refresh was started.
    pub(super) fn leave(&self, end: &End, is_kept: bool, put: Option<PutUnderWay>) -> bool {
        let now = self.shared.clock.moment();
        let key = self.slot.key();
        let mut state = self.slot.lock();
        // A look that ends meanwhile does not end an earlier put.
        state.put = put.or(state.put.take());
        let is_current = state
            .end_refresh(|refresh| refresh.is_of(&self.sender))
            .is_some();
        let lacked_secret = |error: &Error| error.kind() == ErrorKind::NoSecret;
        let is_made = end.fetched.is_some() && !end.outcome.as_ref().is_err_and(lacked_secret);
        match (self.trigger, &end.outcome) {
            (Trigger::Forced, _) if !is_made => state.forced().not_needed(),
            (Trigger::Rejected, _) if self.permit.is_ok() && !is_made => {
                state.guard().not_needed();
            }
            (Trigger::Rejected, Ok(token)) if self.permit.is_ok() => {
                state.guard().fetched(token);
            }
            _ => {}
        }
        match &end.outcome {
            Ok(token) => {
                if let Some(rejected) = &end.fetched
                    && end.is_fetched
                {
                    state.rejected.fetched_after(rejected, token);
                }
                if state.rejected.covers(token) || token.expires_at() <= now.wall {
                    state.not_refreshed(now.wall);
                    return false;
                }
                // A refresh that was given up as lost may end late.
                if !is_current && state.newest.is_some_and(|newest| newest >= token.began()) {
                    return true;
                }
                let is_fetched = end.is_fetched;
                let how = (self.trigger, self.shared.settings.refresh_ahead);
                let is_new = state.install(token, (is_fetched, is_kept), how, now.instant);
                if !self.shared.is_shared {
                    // The default store never fails, so no error can show it.
                    state.previous = None;
                }
                // What the store has held all along says nothing about the source.
                let has_ended = (is_fetched || is_new) && state.throttle.end();
                drop(state);
                if has_ended {
                    tracing::info!(target: crate::TARGET, event = "cooldown_ended", %key, "there is a token again");
                }
            }
            // Requests are no worse off than before.
            Err(_) if self.trigger == Trigger::Forced => {}
            Err(error) if is_current && self.permit.is_ok() => {
                let pause = match &end.heard {
                    Some(heard) => {
                        state.not_refreshed(now.wall);
                        let has_token = state.usable(now.wall).is_some();
                        if end.fetched.is_some() {
                            let left = heard.left;
                            state.throttle.start_in_fleet(error, left, now, has_token)
                        } else {
                            state.throttle.start_as_heard(heard, now, has_token)
                        }
                    }
                    None => state.failed(error, now),
                };
                drop(state);
                if let Some(pause) = pause {
                    tell_cooldown(key, pause, error);
                }
            }
            // The source was not asked, and the store held nothing.
            Err(error) if is_current && error.kind() != ErrorKind::HeldBack => {
                state.not_refreshed(now.wall);
            }
            Err(_) => {}
        }
        true
    }

    /// Notes what has become of the token in the store, after callers have got it.
    pub(super) fn note_kept(&self, kept: Kept, token: Option<&AccessToken>) {
        let now = self.shared.clock.moment();
        let state = &mut *self.slot.lock();
        let Some(local) = state.local.as_mut().filter(|it| Some(&it.token) == token) else {
            return;
        };
        match kept {
            Kept::Not => {}
            Kept::This => local.is_kept = true,
            Kept::Newer(newer) => {
                let how = (self.trigger, self.shared.settings.refresh_ahead);
                if !state.rejected.covers(&newer) {
                    state.install(&newer, (false, true), how, now.instant);
                }
            }
        }
    }
}

pub(in crate::manager) fn tell_cooldown(key: &TokenKey, pause: Duration, error: &Error) {
    let error = in_one_line(error);
    tracing::warn!(target: crate::TARGET, event = "cooldown_started", %key, ?pause, error, "no fetches for this key for now");
}
