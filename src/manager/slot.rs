use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::forced::Forced;
use super::guard::Guard;
use super::refresh::end::PutUnderWay;
use super::single_flight::{SingleFlight, Trigger};
use super::throttle::Throttle;
use crate::clock::Moment;
use crate::rejected::Rejected;
use crate::{AccessToken, Credentials, Error, TokenKey};

/// After a refresh ahead that failed, the next one is not tried before this.
const AHEAD_AGAIN: Duration = Duration::from_secs(1);

/// What a manager keeps of one app.
#[derive(Debug)]
pub(super) struct Slot {
    key: TokenKey,
    state: Mutex<State>,
    used: AtomicBool,
    /// Whether any path has a record in the guard. So that a request need not lock the state to find that none has.
    has_records: AtomicBool,
    /// The first credentials that came with the secret. Others may name the same app without it.
    with_secret: OnceLock<Credentials>,
}

impl Slot {
    pub(super) fn new(key: TokenKey) -> Self {
        Self {
            key,
            state: Mutex::default(),
            used: AtomicBool::default(),
            has_records: AtomicBool::default(),
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

    /// No event may be emitted while this is held: the subscriber may call the manager.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_records(&self) -> bool {
        self.has_records.load(Ordering::Relaxed)
    }

    pub(super) fn set_has_records(&self, has_records: bool) {
        self.has_records.store(has_records, Ordering::Relaxed);
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
    /// The refresh under way. Only one may fetch at a time.
    pub(super) refresh: Option<SingleFlight>,
    /// There is one once an operator has asked for a refresh.
    forced: Option<Box<Forced>>,
    /// The put that the last refresh has left under way.
    pub(super) put: Option<PutUnderWay>,
    pub(super) throttle: Throttle,
    /// There is one once a token was rejected.
    guard: Option<Box<Guard>>,
    /// The values that the API has rejected.
    pub(super) rejected: Rejected,
    /// The token that the API rejected last, until there is another one.
    pub(super) to_replace: Option<AccessToken>,
    /// When the token was fetched that was the local copy last.
    pub(super) newest: Option<SystemTime>,
    /// The local copy before this one, with another value. A store may show it in an error, so it has to be known.
    pub(super) previous: Option<AccessToken>,
}

/// The token that the manager itself holds for a key.
#[derive(Debug)]
pub(super) struct LocalCopy {
    pub(super) token: AccessToken,
    /// Whether this manager has fetched it. Otherwise it was found in the store.
    pub(super) is_fetched: bool,
    /// Whether the store has it too.
    pub(super) is_kept: bool,
    /// From when on a request starts a refresh ahead.
    pub(super) refresh_at: SystemTime,
    /// When it was last known to be what the store holds.
    pub(super) checked_at: Instant,
}

impl State {
    pub(super) fn guard(&mut self) -> &mut Guard {
        self.guard.get_or_insert_default()
    }

    /// The paths that the guard holds back, and for how long.
    pub(super) fn held_paths(&self, now: Instant) -> impl Iterator<Item = (&str, Duration)> {
        let guard = self.guard.iter();
        guard.flat_map(move |guard| guard.held_paths(now))
    }

    pub(super) fn forced(&mut self) -> &mut Forced {
        self.forced.get_or_insert_default()
    }

    /// Ends the refresh under way if it is this one. A forced refresh that waits for its end is next.
    pub(super) fn end_refresh(
        &mut self,
        is_it: impl FnOnce(&SingleFlight) -> bool,
    ) -> Option<SingleFlight> {
        let ended = self.refresh.take_if(|refresh| is_it(refresh))?;
        self.refresh = self.forced.as_mut().and_then(|it| it.waiting.take());
        Some(ended)
    }

    /// If the refresh under way will have no outcome, ends it. The event to emit about that, once the lock is released.
    pub(super) fn end_lost_refresh(&mut self, now: Moment) -> Option<Duration> {
        let lost = self.end_refresh(|refresh| refresh.is_lost(now.instant))?;
        if lost.trigger() == Trigger::Forced {
            return None;
        }
        self.not_refreshed(now.wall);
        let has_token = self.usable(now.wall).is_some();
        self.throttle.lost(now, has_token)
    }

    /// The local copy, unless it has expired.
    pub(super) fn unexpired(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.local
            .as_ref()
            .filter(|local| now < local.token.expires_at())
    }

    /// The local copy, unless it has expired or is rejected.
    pub(super) fn usable(&self, now: SystemTime) -> Option<&LocalCopy> {
        self.unexpired(now)
            .filter(|local| !self.rejected.covers(&local.token))
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
        let local = &self.usable(now)?.token;
        let is_other = local.expose_secret() != rejected.expose_secret()
            || (local != rejected && self.rejected.covers(rejected));
        is_other.then_some(local)
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
        let is_late = self.rejected.covers(rejected);
        self.rejected.note(rejected, now);
        if !is_late || self.to_replace.is_none() {
            self.to_replace = Some(rejected.clone());
        }
    }

    /// A refresh has brought this token: makes it the local copy, if it is not that already. Returns whether it is new.
    pub(super) fn install(
        &mut self,
        token: &AccessToken,
        (is_fetched, is_kept): (bool, bool),
        (trigger, refresh_ahead): (Trigger, Duration),
        now: Instant,
    ) -> bool {
        self.to_replace = None;
        let refresh_at = self.refresh_at(token, trigger, refresh_ahead);
        if let Some(local) = &mut self.local
            && (local.token == *token || (!is_fetched && local.token.is_likely(token)))
        {
            if local.token == *token && local.token.expires_at() != token.expires_at() {
                // The clock has been set, and the store counts from another.
                local.token = token.clone();
                local.refresh_at = refresh_at;
            }
            local.is_kept |= is_kept;
            local.checked_at = now;
            return false;
        }
        self.newest = Some(token.began());
        let before = self.local.take().map(|local| local.token);
        let is_other = |before: &AccessToken| before.expose_secret() != token.expose_secret();
        self.previous = before.filter(is_other).or(self.previous.take());
        self.local = Some(LocalCopy {
            token: token.clone(),
            is_fetched,
            is_kept,
            refresh_at,
            checked_at: now,
        });
        true
    }

    /// From when on this token, which a refresh has brought, is to be refreshed ahead.
    fn refresh_at(
        &self,
        token: &AccessToken,
        trigger: Trigger,
        refresh_ahead: Duration,
    ) -> SystemTime {
        let ahead = |token: &AccessToken| refresh_ahead.min(token.lifetime() / 10);
        if trigger == Trigger::Expiring
            && let Some(local) = &self.local
            && local.token.expose_secret() == token.expose_secret()
            && token.expires_at() <= local.token.expires_at() + ahead(&local.token)
        {
            // The issuer repeats its token until that has expired.
            return token.expires_at();
        }
        token.expires_at() - ahead(token)
    }

    /// A refresh has failed. A local copy with a rejected value is not used again, and any other is not refreshed ahead at once.
    pub(super) fn not_refreshed(&mut self, now: SystemTime) {
        let dead = self
            .local
            .take_if(|local| self.rejected.covers(&local.token));
        if let Some(dead) = dead {
            self.previous = Some(dead.token);
        }
        if let Some(local) = &mut self.local {
            local.refresh_at = local.refresh_at.max(now + AHEAD_AGAIN);
        }
    }

    /// A refresh has failed with this error. Returns how long the cooldown is, if there is one.
    pub(super) fn failed(&mut self, error: &Error, now: Moment) -> Option<Duration> {
        self.not_refreshed(now.wall);
        let has_token = self.usable(now.wall).is_some();
        self.throttle.start(error, now, has_token)
    }

    /// Whether nothing would be lost with it: neither a token, nor what is known of dead ones, nor what limits fetches.
    pub(super) fn is_at_rest(&self, now: Moment) -> bool {
        self.usable(now.wall).is_none_or(|local| local.is_kept)
            && !self.rejected.has_unexpired(now.wall)
            && self
                .refresh
                .as_ref()
                .is_none_or(|it| it.is_lost(now.instant))
            && self
                .forced
                .as_ref()
                .is_none_or(|it| it.is_at_rest(now.instant))
            && self.throttle.reason(now, true).is_none()
            && self
                .guard
                .as_ref()
                .is_none_or(|it| it.is_at_rest(now.instant))
    }
}
