use std::fmt::{self, Debug};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::{FetchRequest, Gate, TokenSource, pause_after};
use crate::clock::Clock;
use crate::redact::{in_one_line, redact};
use crate::rejected::Rejected;
use crate::{AccessToken, BoxError, Error, TokenKey};

/// How long a store may take for one answer.
pub(crate) const STORE_LIMIT: Duration = Duration::from_secs(2);

/// How long one try may take, unless all of them together have less.
const LONGEST_TRY: Duration = Duration::from_secs(5);

/// The longest value that is taken for an access token, in bytes. WeCom's have at most 512.
const LONGEST_VALUE: usize = 4096;

/// One fetch of a token from a source, given to a store that may want one.
///
/// It is made at most once, however often [`run`](Self::run) is called. It keeps its result, so that a fetched token is used
/// even where the store fails after it.
pub struct Fetch<'a> {
    surroundings: Surroundings<'a>,
    key: &'a TokenKey,
    request: FetchRequest,
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
    /// How long the other process said that no fetch was to be made, all in all.
    pub(crate) pause: Duration,
    /// How much of it is left.
    pub(crate) left: Duration,
}

/// What a manager knows of a key.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) local: Option<AccessToken>,
    pub(crate) unusable: Unusable,
    /// How many fetches have failed in a row before.
    pub(crate) failures: u32,
}

/// The tokens that must not be used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unusable {
    pub(crate) rejected: Rejected,
    /// Those that are to be replaced, or have been.
    pub(crate) replaced: Vec<AccessToken>,
}

impl Unusable {
    /// Whether this may be one of them, from a store that keeps times in whole seconds.
    pub(crate) fn covers(&self, token: &AccessToken) -> bool {
        self.rejected.covers(token) || self.replaced.iter().any(|other| token.is_likely(other))
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

    /// What a store may take beyond the time of the fetch: it may wait for the fetch of another process, and if that one died, for
    /// yet another's.
    pub(crate) fn store_patience(&self) -> Duration {
        self.all_tries * 2 + STORE_LIMIT * 4
    }
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        surroundings: Surroundings<'a>,
        key: &'a TokenKey,
        request: FetchRequest,
        in_hand: InHand,
    ) -> Self {
        Self {
            surroundings,
            key,
            request,
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
        self.result.get_or_init(|| self.fetch()).await.clone()
    }

    /// The longest time that [`run`](Self::run) can take, all tries included.
    pub(crate) fn limit(&self) -> Duration {
        self.surroundings.limits.all_tries
    }

    /// Whether the source ever fetches.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn fetches(&self) -> bool {
        self.surroundings.fetches
    }

    /// Whether a token found in a store may be used: it has not expired, and the manager does not know it as unusable.
    pub(crate) fn can_serve(&self, token: &AccessToken) -> bool {
        // Not its lifetime: the time of the fetch may come from a clock that is ahead of this one.
        is_well_sized(token)
            && token.expires_at() > self.surroundings.clock.now()
            && !self.in_hand.unusable.covers(token)
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
            Some(45009) => {
                let until = self.surroundings.gate.closed_until()?;
                Some(until.saturating_duration_since(Instant::now()))
            }
            _ => pause_after(error, self.in_hand.failures),
        }
    }

    /// The store holds this failure of another process, and no fetch is made: this process is to wait too.
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
        let pass = self.surroundings.gate.enter().await?;
        let result = self.try_and_tell().await;
        pass.ended(&result);
        result
    }

    async fn try_and_tell(&self) -> Result<AccessToken, Error> {
        let key = self.key;
        tracing::debug!(event = "fetch_started", %key, "fetching a token");
        let began = Instant::now();
        let result = self.try_once().await;
        let elapsed = began.elapsed();
        match &result {
            Ok(token) => {
                let lifetime = token.lifetime();
                tracing::info!(event = "fetch_succeeded", %key, ?elapsed, ?lifetime, "fetched a token");
            }
            Err(error) => {
                let error = in_one_line(error);
                tracing::warn!(event = "fetch_failed", %key, ?elapsed, error, "could not fetch a token");
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
            Ok(Ok(Ok(fetched))) => checked(AccessToken::stamped(fetched, asked_at)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_panic)) => Err(Error::interrupted("the source panicked")),
            Err(_elapsed) => Err(Error::timed_out(limits.one_try)),
        }
    }

    /// Gives a store a limited time to answer. A failure, and a panic, is logged and costs only the answer.
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
            local, unusable, ..
        } = &self.in_hand;
        let tokens = unusable
            .replaced
            .iter()
            .chain(local)
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
            tracing::debug!(event = "store_still_failing", %key, call, error, "the token store still fails");
        } else {
            tracing::warn!(event = "store_failed", %key, call, error, "the token store failed, going on without it");
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
            tracing::info!(event = "store_recovered", %key, "the token store works again");
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

fn checked(token: AccessToken) -> Result<AccessToken, Error> {
    if is_well_sized(&token) && !token.lifetime().is_zero() {
        Ok(token)
    } else {
        let (length, lifetime) = (token.expose_secret().len(), token.lifetime());
        Err(Error::refused(format!(
            "the source returned a token of {length} bytes that lives for {lifetime:?}: \
             it must have 1 to {LONGEST_VALUE} bytes and live for more than 0 s"
        )))
    }
}

fn is_well_sized(token: &AccessToken) -> bool {
    (1..=LONGEST_VALUE).contains(&token.expose_secret().len())
}
