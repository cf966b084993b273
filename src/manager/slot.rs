use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::guard::Guard;
use super::single_flight::{SingleFlight, Trigger};
use super::throttle::Throttle;
use crate::rejected::Rejected;
use crate::{AccessToken, Credentials, TokenKey};

/// So many replaced tokens of one key are remembered, in case the store returns one of them.
const MOST_REPLACED: usize = 4;

/// A refresh has moved the expiry only if by more than this: answers take more or less time from fetch to fetch.
const SAME_EXPIRY: Duration = Duration::from_secs(10);

/// After a refresh ahead that failed, the next one is not tried before this.
const AHEAD_AGAIN: Duration = Duration::from_secs(1);

/// What a manager keeps of one app.
#[derive(Debug)]
pub(super) struct Slot {
    key: TokenKey,
    state: Mutex<State>,
    used: AtomicBool,
    /// The first credentials that came with the secret. Others may name the same app without it.
    with_secret: OnceLock<Credentials>,
}

impl Slot {
    pub(super) fn new(key: TokenKey) -> Self {
        Self {
            key,
            state: Mutex::default(),
            used: AtomicBool::default(),
            with_secret: OnceLock::new(),
        }
    }

    pub(super) fn key(&self) -> &TokenKey {
        &self.key
    }

    /// Remembers the credentials if they have the secret.
    pub(super) fn learn_secret(&self, credentials: &Credentials) {
        if self.with_secret.get().is_none() && credentials.expose_secret().is_some() {
            // If another caller was faster, it brought the same secret.
            let _ = self.with_secret.set(credentials.clone());
        }
    }

    /// The credentials to fetch with: with the secret if any caller has it, so that it does not matter who starts the refresh.
    pub(super) fn credentials(&self, caller: &Credentials) -> Credentials {
        self.with_secret.get().unwrap_or(caller).clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was used since this was last asked.
    pub(super) fn was_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) local: Option<LocalCopy>,
    pub(super) refresh: Option<SingleFlight>,
    pub(super) throttle: Throttle,
    pub(super) guard: Guard,
    /// The values that the API has rejected.
    pub(super) rejected: Rejected,
    /// The token that the API rejected last, until there is another one.
    pub(super) to_replace: Option<AccessToken>,
    /// Tokens that were replaced, the latest last.
    pub(super) replaced: VecDeque<AccessToken>,
}

/// The token that the manager itself holds for a key.
#[derive(Debug)]
pub(super) struct LocalCopy {
    pub(super) token: AccessToken,
    /// From when on a request starts a refresh ahead.
    pub(super) refresh_at: SystemTime,
    /// When it was last known to be what the store holds.
    pub(super) checked_at: Instant,
}

impl State {
    /// The refresh under way, if there is one that may still have an outcome.
    pub(super) fn refresh(&self, now: Instant) -> Option<&SingleFlight> {
        self.refresh
            .as_ref()
            .filter(|refresh| !refresh.is_lost(now))
    }

    /// The local copy, unless it has expired.
    pub(super) fn unexpired(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.local
            .as_ref()
            .filter(|local| now < local.token.expires_at())
    }

    /// The local copy, if there is nothing to do about it yet.
    pub(super) fn settled(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.unexpired(now)
            .filter(|local| now < local.refresh_at && self.refresh.is_none())
    }

    /// The local copy, if it is better than the rejected token: another value, or known to be fetched after the rejection.
    pub(super) fn better_than(
        &self,
        rejected: &AccessToken,
        now: SystemTime,
    ) -> Option<&AccessToken> {
        let local = &self.unexpired(now)?.token;
        let is_other = local.expose_secret() != rejected.expose_secret()
            || (local != rejected && self.rejected.covers(rejected));
        (is_other && !self.rejected.covers(local)).then_some(local)
    }

    /// The local copy or the last rejected token if it has the same value, with the times that are known of it.
    pub(super) fn known(&self, reported: AccessToken) -> AccessToken {
        let local = self.local.as_ref().map(|local| &local.token);
        let is_same = |token: &&AccessToken| token.expose_secret() == reported.expose_secret();
        let known = local.into_iter().chain(&self.to_replace).find(is_same);
        known.cloned().unwrap_or(reported)
    }

    /// The API has rejected this token, which is to be replaced now.
    pub(super) fn note_rejected(&mut self, rejected: &AccessToken, now: SystemTime) {
        // A late rejection of a token that is known to be rejected says nothing of tokens that were fetched since.
        if !self.rejected.covers(rejected) {
            self.rejected.note(rejected, now);
        }
        self.to_replace = Some(rejected.clone());
    }

    /// From when on this token, which a refresh has brought, is to be refreshed ahead.
    pub(super) fn refresh_at(
        &self,
        token: &AccessToken,
        trigger: Trigger,
        refresh_ahead: Duration,
    ) -> SystemTime {
        match &self.local {
            Some(local)
                if trigger == Trigger::Expiring
                    && token.expires_at() <= local.token.expires_at() + SAME_EXPIRY =>
            {
                token.expires_at()
            }
            _ => token.expires_at() - refresh_ahead.min(token.lifetime() / 10),
        }
    }

    pub(super) fn replace_local(&mut self, local: LocalCopy) {
        let token = local.token.clone();
        self.to_replace = None;
        self.replaced.retain(|other| *other != token);
        if let Some(replaced) = self.local.replace(local) {
            self.replaced.push_back(replaced.token);
            if self.replaced.len() > MOST_REPLACED {
                self.replaced.pop_front();
            }
        }
    }

    /// A refresh has failed. A local copy with a rejected value is not used again, and any other is not refreshed ahead at once.
    pub(super) fn not_refreshed(&mut self, now: SystemTime) {
        self.local
            .take_if(|local| self.rejected.covers(&local.token));
        if let Some(local) = &mut self.local {
            local.refresh_at = local.refresh_at.max(now + AHEAD_AGAIN);
        }
    }

    /// Whether nothing would be lost with it that limits fetches.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.refresh(now).is_none() && self.throttle.is_over(now) && self.guard.is_at_rest(now)
    }
}
