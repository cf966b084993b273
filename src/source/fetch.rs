use std::fmt::{self, Debug};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::{FetchRequest, Gate, TokenSource, pause_after};
use crate::clock::Clock;
use crate::redact::{in_one_line, redact};
use crate::rejected::Rejected;
use crate::token::to_the_second;
use crate::{AccessToken, BoxError, Error, TokenKey};

/// How long a store may take for one answer.
pub(crate) const STORE_LIMIT: Duration = Duration::from_secs(2);

/// After this time, a try no longer keeps other fetches waiting for a place.
const LONGEST_PLACE: Duration = Duration::from_secs(1);

/// How long one try may take, unless all of them together have less.
const LONGEST_TRY: Duration = Duration::from_secs(5);

/// The longest value that is taken for an access token, in bytes. WeCom's have at most 512.
const LONGEST_VALUE: usize = 4096;

/// One fetch of a token from a source, given to a store that may want one.
///
/// It runs at most once, however often [`run`](Self::run) is called. It keeps its result, so a fetched token is used even if the store
/// fails afterwards.
pub struct Fetch<'a> {
    surroundings: Surroundings<'a>,
    key: &'a TokenKey,
    request: FetchRequest,
    /// Whether the source may be asked, and otherwise why not.
    permit: Result<(), Error>,
    in_hand: InHand,
    result: OnceCell<Result<AccessToken, Error>>,
    heard: OnceLock<Hearsay>,
}

/// What the fetches of one manager share.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) source: &'a dyn TokenSource,
    /// Whether the source ever fetches.
    pub(crate) fetches: bool,
    pub(crate) limits: Limits,
    pub(crate) clock: &'a Clock,
    pub(crate) gate: &'a Gate,
    pub(crate) store_health: &'a StoreHealth,
}

/// A failed fetch of another process, as the store tells of it.
#[derive(Clone, Debug)]
pub(crate) struct Hearsay {
    pub(crate) error: Error,
    /// The whole cooldown that the other process started.
    pub(crate) pause: Duration,
    /// How much of it is left.
    pub(crate) left: Duration,
}

/// What a manager knows of a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) local: Option<AccessToken>,
    /// The local copy before.
    pub(crate) previous: Option<AccessToken>,
    /// When the newest token was fetched that the manager has had.
    pub(crate) newest: Option<SystemTime>,
    pub(crate) unusable: Unusable,
    /// How many fetches have failed in a row before.
    pub(crate) failures: u32,
}

/// The tokens that must not be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unusable {
    pub(crate) rejected: Rejected,
    /// The one that is to be replaced.
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

/// How long fetching may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) one_try: Duration,
    pub(crate) all_tries: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(Duration::from_secs(8))
    }
}

impl Limits {
    /// The limits where all tries together may take so long.
    pub(crate) fn of(all_tries: Duration) -> Self {
        Self {
            one_try: LONGEST_TRY.min(all_tries),
            all_tries,
        }
    }

    /// How long a store may take in addition to the fetch. It may wait for another process to fetch and, if that one dies, for one
    /// more.
    pub(crate) fn store_patience(&self) -> Duration {
        self.all_tries * 2 + STORE_LIMIT * 4
    }
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        surroundings: Surroundings<'a>,
        key: &'a TokenKey,
        request: FetchRequest,
        permit: Result<(), Error>,
        in_hand: InHand,
    ) -> Self {
        Self {
            surroundings,
            key,
            request,
            permit,
            in_hand,
            result: OnceCell::new(),
            heard: OnceLock::new(),
        }
    }

    /// Fetches a token. A transient failure is tried again up to three times, all within [`limit`](Self::limit).
    ///
    /// A second call gives the result of the first. It is cancel safe: a call that is dropped before it has a result leaves
    /// the fetch to the next.
    pub(crate) async fn run(&self) -> Result<AccessToken, Error> {
        self.permit.clone()?;
        self.result.get_or_init(|| self.fetch()).await.clone()
    }

    /// The longest time that [`run`](Self::run) can take, all tries included.
    pub(crate) fn limit(&self) -> Duration {
        self.surroundings.limits.all_tries
    }

    /// Whether the source may be asked, and ever fetches.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn fetches(&self) -> bool {
        self.surroundings.fetches && self.permit.is_ok()
    }

    /// Whether a token found in a store may be used: it has not expired, is not older than what the manager has had, and is not known as
    /// unusable.
    pub(crate) fn can_serve(&self, token: &AccessToken) -> bool {
        // The lifetime would not do: `fetched_at` may come from a clock that is ahead of this one.
        let now = self.surroundings.clock.now();
        is_well_sized(token)
            && token.expires_at() > now
            && !self.is_old(token, now)
            && !self.in_hand.unusable.covers(token, now)
    }

    fn is_old(&self, token: &AccessToken, now: SystemTime) -> bool {
        let fetched_at = token.fetched_at();
        self.in_hand.newest.is_some_and(|newest| {
            // The clock may have been ahead then.
            let newest = newest.min(now);
            // A store may keep times in whole seconds.
            let is_whole = to_the_second(fetched_at) == fetched_at;
            fetched_at
                < if is_whole {
                    to_the_second(newest)
                } else {
                    newest
                }
        })
    }

    /// The local copy of the manager.
    pub(crate) fn local(&self) -> Option<&AccessToken> {
        self.in_hand.local.as_ref()
    }

    /// The tokens that are not to be used, whatever they look like.
    pub(crate) fn unusable(&self) -> &Unusable {
        &self.in_hand.unusable
    }

    /// What [`run`](Self::run) has brought, if it has been called.
    pub(crate) fn result(&self) -> Option<&Result<AccessToken, Error>> {
        self.result.get()
    }

    /// For how long no fetch will be made after this failure, so that other processes can be told.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn pause_after(&self, error: &Error) -> Option<Duration> {
        match error.errcode() {
            Some(45009) => self.surroundings.gate.closed().map(|(_, left)| left),
            _ => pause_after(error, self.in_hand.failures),
        }
    }

    /// Joins the cooldown of another process, whose failure the store has, instead of fetching.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn hear(&self, heard: Hearsay) -> Error {
        let error = heard.error.clone();
        if error.errcode() == Some(45009) {
            self.surroundings.gate.close_as_heard(&heard);
        }
        let _ = self.heard.set(heard); // A fetch hears of one failure at most.
        error
    }

    /// The failure of another process that was heard of, if any.
    pub(crate) fn heard(&self) -> Option<&Hearsay> {
        self.heard.get()
    }

    /// The secret that must show in no text, if there is one.
    pub(crate) fn secret(&self) -> Option<&str> {
        self.request.credentials().expose_secret()
    }

    /// How long a store may wait for the fetch of another process.
    pub(crate) fn store_patience(&self) -> Duration {
        self.surroundings.limits.store_patience()
    }

    async fn fetch(&self) -> Result<AccessToken, Error> {
        let limit = self.limit();
        timeout(limit, self.fetch_with_retries())
            .await
            .unwrap_or_else(|_elapsed| Err(Error::timed_out(limit)))
    }

    async fn fetch_with_retries(&self) -> Result<AccessToken, Error> {
        let backoff = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(3)
            .with_jitter();
        (|| self.try_through_gate())
            .retry(backoff)
            .sleep(tokio::time::sleep)
            .when(Error::is_transient)
            .await
    }

    async fn try_through_gate(&self) -> Result<AccessToken, Error> {
        let mut pass = self.surroundings.gate.enter().await?;
        let mut trying = pin!(self.try_and_tell());
        let result = match timeout(LONGEST_PLACE, &mut trying).await {
            Ok(result) => result,
            Err(_elapsed) => {
                pass.give_place_back();
                trying.await
            }
        };
        pass.ended(&result);
        result
    }

    async fn try_and_tell(&self) -> Result<AccessToken, Error> {
        let key = self.key;
        tracing::debug!(target: crate::TARGET, event = "fetch_started", %key, "fetching a token");
        let began = Instant::now();
        let result = self.try_once().await;
        let elapsed = began.elapsed();
        match &result {
            Ok(token) => {
                let lifetime = token.lifetime();
                tracing::info!(target: crate::TARGET, event = "fetch_succeeded", %key, ?elapsed, ?lifetime, "fetched a token");
            }
            Err(error) => {
                let error = in_one_line(error);
                tracing::warn!(target: crate::TARGET, event = "fetch_failed", %key, ?elapsed, error, "fetching a token failed");
            }
        }
        result
    }

    async fn try_once(&self) -> Result<AccessToken, Error> {
        let Surroundings {
            source,
            limits,
            clock,
            ..
        } = self.surroundings;
        let asked_at = clock.now();
        let fetch = AssertUnwindSafe(async { source.fetch(self.request.clone()).await });
        match timeout(limits.one_try, fetch.catch_unwind()).await {
            Ok(Ok(Ok(fetched))) => self.checked(AccessToken::stamped(fetched, asked_at)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_panic)) => Err(Error::interrupted("the source panicked")),
            Err(_elapsed) => Err(Error::timed_out(limits.one_try)),
        }
    }

    fn checked(&self, token: AccessToken) -> Result<AccessToken, Error> {
        if !is_well_sized(&token) {
            let length = token.expose_secret().len();
            return Err(Error::refused(format!(
                "the source returned a token of {length} bytes: it must have 1 to {LONGEST_VALUE} bytes"
            )));
        }
        if token.expires_at() <= self.surroundings.clock.now() {
            return Err(Error::transient(
                "the source returned a token that has expired already: if this happens again, check the clock of this machine",
            ));
        }
        Ok(token)
    }

    /// Calls the store with a time limit. If it fails or panics, this logs a warning and returns `None`.
    pub(crate) async fn asking_store<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, BoxError>>,
    ) -> Option<T> {
        let failure = match timeout(STORE_LIMIT, AssertUnwindSafe(answer).catch_unwind()).await {
            Ok(Ok(Ok(answer))) => {
                self.store_works();
                return Some(answer);
            }
            Ok(Ok(Err(error))) => in_one_line(&*error),
            Ok(Err(_panic)) => "it panicked".to_owned(),
            Err(_elapsed) => format!("no answer within {STORE_LIMIT:?}"),
        };
        self.store_fails(call, &failure);
        None
    }

    pub(crate) fn store_fails(&self, call: &'static str, failure: &str) {
        let key = self.key;
        let fetched = self.result().and_then(|result| result.as_ref().ok());
        let rejected = self.request.rejected();
        let InHand {
            local,
            previous,
            unusable,
            ..
        } = &self.in_hand;
        let to_replace = unusable.to_replace.iter();
        let tokens = to_replace
            .chain(local)
            .chain(previous)
            .chain(rejected)
            .chain(fetched);
        let secrets = tokens.map(AccessToken::expose_secret);
        let error = redact(failure, secrets.chain(self.secret()));
        let was_failing = self
            .surroundings
            .store_health
            .failing
            .swap(true, Ordering::Relaxed);
        if was_failing {
            tracing::debug!(target: crate::TARGET, event = "store_still_failing", %key, call, error, "the token store still fails");
        } else {
            tracing::warn!(target: crate::TARGET, event = "store_failed", %key, call, error, "the token store failed, continuing without it");
        }
    }

    pub(crate) fn store_works(&self) {
        if self
            .surroundings
            .store_health
            .failing
            .swap(false, Ordering::Relaxed)
        {
            let key = self.key;
            tracing::info!(target: crate::TARGET, event = "store_recovered", %key, "the token store works again");
        }
    }
}

/// Whether the store failed when it was last asked.
#[derive(Debug, Default)]
pub(crate) struct StoreHealth {
    failing: AtomicBool,
}

impl Debug for Fetch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

fn is_well_sized(token: &AccessToken) -> bool {
    (1..=LONGEST_VALUE).contains(&token.expose_secret().len())
}
