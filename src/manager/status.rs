//! What a manager tells operators.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::TokenManager;
use super::slot::State;
use crate::clock::Moment;
use crate::redact::in_one_line;
use crate::stats::Counters;
use crate::token::unix_millis;
use crate::{Credentials, Error, ErrorKind, Stats};

impl TokenManager {
    /// What the manager has in memory for these credentials. Use it in health checks.
    ///
    /// It asks neither the store nor the source and starts nothing, so you can call it at any time, also outside a tokio runtime.
    ///
    /// Memory of an unused app is freed after 10 minutes, so `has_token` is false for an app that was not used lately. Its next request gets a
    /// token. Don't alert on `has_token` alone: alert if it is false and `throttled_until` is set.
    ///
    /// Two failures do not show here. If the source has no token yet ([`NotReady`](crate::ErrorKind::NotReady)), there is no cooldown: watch
    /// `failed_not_ready` in [`stats`](Self::stats). If the refresh budget is used up, only `held_back` there tells.
    ///
    /// ```
    /// # use reqwest_wecom::{Credentials, TokenManager};
    /// # fn f(manager: TokenManager, credentials: Credentials) {
    /// let status = manager.status(&credentials);
    /// if let Some(error) = status.throttled_by.as_ref().filter(|_| !status.has_token) {
    ///     // Print its sources too: they say why.
    ///     eprintln!("no access token: {error}");
    /// }
    /// # }
    /// ```
    pub fn status(&self, credentials: &Credentials) -> TokenStatus {
        let now = self.shared.clock.moment();
        let slot = self.shared.slots.find(credentials);
        let mut status = slot.map_or_else(TokenStatus::default, |slot| {
            TokenStatus::of(&slot.lock(), now)
        });
        if let Some((error, left)) = self.shared.gate.closed() {
            status.is_throttled(&error, until(now, left));
        }
        status
    }

    /// Counters of fetches, refreshes, replays and store calls since the manager was built, for all its apps together.
    pub fn stats(&self) -> Stats {
        self.counters().read()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

/// What a manager has in memory for one app: see [`TokenManager::status`].
///
/// It shows no token and no secret. With [`Serialize`], times are in milliseconds since the Unix epoch, as in an
/// [`AccessToken`](crate::AccessToken), and an error is its kind and the text of its whole chain:
///
/// ```json
/// {
///   "has_token": false,
///   "fetched_at": null,
///   "expires_at": null,
///   "is_rejected": false,
///   "is_refreshing": false,
///   "throttled_until": 1700000010000,
///   "throttled_by": {"kind": "Api", "message": "fetching an access token failed with errcode 40001 (…)"},
///   "held_paths": {"/cgi-bin/user/get": 1700000002000}
/// }
/// ```
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct TokenStatus {
    /// Whether there is a local copy that requests can use: it has not expired, and the API has not rejected it.
    pub has_token: bool,
    /// When the local copy was fetched, even if it can't be used any more. `None` if there is no local copy.
    #[serde(serialize_with = "in_millis")]
    pub fetched_at: Option<SystemTime>,
    /// When the local copy expires, or when it expired. `None` if there is no local copy.
    #[serde(serialize_with = "in_millis")]
    pub expires_at: Option<SystemTime>,
    /// Whether the API has rejected the last token, and there is no other one yet.
    pub is_rejected: bool,
    /// Whether a refresh is under way.
    pub is_refreshing: bool,
    /// Until when the manager does not ask the source for this app: the end of the cooldown or of the rate limit (errcode 45009), whichever is
    /// later. `None` if it may ask now.
    ///
    /// If there still is a token, the cooldown ends earlier once that token has expired or is rejected: see *Guarantees* of [`TokenManager`].
    #[serde(serialize_with = "in_millis")]
    pub throttled_until: Option<SystemTime>,
    /// The failure that is the reason for that.
    #[serde(serialize_with = "as_kind_and_message")]
    pub throttled_by: Option<Error>,
    /// The paths that rejected a freshly fetched token too, each with the time until which its rejections cause no fetch.
    ///
    /// A path is as in events: with its [`RejectionScope`](crate::RejectionScope), if it has one.
    #[serde(serialize_with = "each_in_millis")]
    pub held_paths: BTreeMap<String, SystemTime>,
}

impl TokenStatus {
    fn of(state: &State, now: Moment) -> Self {
        let local = state.local.as_ref().map(|local| &local.token);
        let refresh = state.refresh.as_ref();
        let held = state.held_paths(now.instant);
        let mut status = Self {
            has_token: state.usable(now.wall).is_some(),
            fetched_at: local.map(crate::AccessToken::fetched_at),
            expires_at: local.map(crate::AccessToken::expires_at),
            is_rejected: match local {
                Some(token) => state.rejected.covers(token),
                None => state.to_replace.is_some(),
            },
            is_refreshing: refresh.is_some_and(|refresh| !refresh.is_lost(now.instant)),
            held_paths: held
                .map(|(path, left)| (path.to_owned(), until(now, left)))
                .collect(),
            ..Self::default()
        };
        if let Some((error, left)) = state.throttle.cooldown(now, status.has_token) {
            status.is_throttled(error, until(now, left));
        }
        status
    }

    fn is_throttled(&mut self, by: &Error, until: SystemTime) {
        if self.throttled_until.is_none_or(|other| other < until) {
            self.throttled_until = Some(until);
            self.throttled_by = Some(by.clone());
        }
    }
}

fn until(now: Moment, left: Duration) -> SystemTime {
    now.wall.checked_add(left).unwrap_or(now.wall)
}

fn in_millis<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(unix_millis).serialize(serializer)
}

fn each_in_millis<S: Serializer>(
    paths: &BTreeMap<String, SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let paths = paths.iter();
    serializer.collect_map(paths.map(|(path, time)| (path, unix_millis(*time))))
}

fn as_kind_and_message<S: Serializer>(
    error: &Option<Error>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Serialized {
        kind: ErrorKind,
        message: String,
    }

    let serialized = error.as_ref().map(|error| Serialized {
        kind: error.kind(),
        message: in_one_line(error),
    });
    serialized.serialize(serializer)
}
