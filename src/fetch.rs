//! One fetch of a token: tries, backoff and limits.

mod count;
mod gate;
mod limits;
mod pause;

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use self::count::CountedTry;
pub(crate) use self::gate::{Gate, Pass};
pub(crate) use self::limits::Limits;
pub(crate) use self::pause::{Hearsay, Pauses, pause_after, pause_in_fleet_after};
use crate::clock::Clock;
use crate::redact::in_one_line;
use crate::stats::Counters;
use crate::token::LONGEST_VALUE;
use crate::{AccessToken, Error, FetchRequest, TokenKey, TokenSource};

/// One fetch of a token from a source. It runs at most once, and keeps its result.
///
/// A forced fetch makes one try, and the gate does not hold it back.
pub(crate) struct Fetch<'a> {
    surroundings: Surroundings<'a>,
    key: &'a TokenKey,
    request: &'a FetchRequest,
    /// Whether the source may be asked, and otherwise why not.
    permit: Result<(), Error>,
    result: OnceCell<Result<AccessToken, Error>>,
    last_failure: Mutex<Option<Error>>,
    /// The newest token that is known, even if it can't serve.
    current: Mutex<Option<AccessToken>>,
    /// The place of the first try, if it has one already.
    pass: Mutex<Option<Pass<'a>>>,
}

const MOST_RETRIES: usize = 3;

/// What the fetches of one manager share.
#[derive(Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) source: &'a dyn TokenSource,
    pub(crate) limits: Limits,
    pub(crate) clock: &'a Clock,
    pub(crate) gate: &'a Gate,
    pub(crate) counters: &'a Counters,
}

impl<'a> Fetch<'a> {
    pub(crate) fn new(
        surroundings: Surroundings<'a>,
        key: &'a TokenKey,
        request: &'a FetchRequest,
        permit: Result<(), Error>,
        current: Option<AccessToken>,
    ) -> Self {
        Self {
            surroundings,
            key,
            request,
            permit,
            result: OnceCell::new(),
            last_failure: Mutex::default(),
            current: Mutex::new(current),
            pass: Mutex::default(),
        }
    }

    /// Notes a token that the store has, even if it can't serve.
    pub(crate) fn saw(&self, token: AccessToken) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|it| it.began() < token.began()) {
            *current = Some(token);
        }
    }

    /// What the source is asked at this time.
    fn request_at(&self, asked_at: SystemTime) -> FetchRequest {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let request = self.request.clone();
        match current.clone() {
            Some(token) => {
                let left = token.left(asked_at);
                request.with_current(token, left)
            }
            None => request,
        }
    }

    /// Fetches a token. A transient failure is tried again up to three times, all within the fetch limit.
    pub(crate) async fn run(&self) -> Result<AccessToken, Error> {
        self.run_within(self.limit()).await
    }

    /// Fetches a token, and tries again only within this time. The first try has a place already.
    pub(crate) async fn run_with_retries_within(
        &self,
        limit: Duration,
        pass: Pass<'a>,
    ) -> Result<AccessToken, Error> {
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = Some(pass);
        self.run_within(limit.min(self.limit())).await
    }

    async fn run_within(&self, within: Duration) -> Result<AccessToken, Error> {
        self.permit.clone()?;
        let retries = if self.request.is_forced() {
            0
        } else {
            MOST_RETRIES
        };
        self.result
            .get_or_init(|| self.fetch(retries, within))
            .await
            .clone()
    }

    fn limit(&self) -> Duration {
        self.surroundings.limits.all_tries
    }

    /// What [`run`](Self::run) has brought, if it has been called.
    pub(crate) fn result(&self) -> Option<&Result<AccessToken, Error>> {
        self.result.get()
    }

    async fn fetch(&self, retries: usize, within: Duration) -> Result<AccessToken, Error> {
        let limit = self.limit();
        let fetched = timeout(limit, self.fetch_with_retries(retries, within)).await;
        fetched.unwrap_or_else(|_elapsed| {
            // What the last try has failed with says more.
            let last = self.last_failure.lock();
            let last = last.unwrap_or_else(PoisonError::into_inner).take();
            Err(last.unwrap_or_else(|| Error::timed_out(limit)))
        })
    }

    async fn fetch_with_retries(
        &self,
        retries: usize,
        within: Duration,
    ) -> Result<AccessToken, Error> {
        let began = Instant::now();
        let backoff = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(retries)
            .with_jitter();
        (|| self.try_through_gate())
            .retry(backoff)
            .sleep(tokio::time::sleep)
            .when(Error::is_transient)
            .adjust(|error, pause| {
                let pause = pause?.max(error.retry_after().unwrap_or_default());
                let left = within.saturating_sub(began.elapsed());
                // Another try would come too late.
                (pause < left).then_some(pause)
            })
            .await
    }

    async fn try_through_gate(&self) -> Result<AccessToken, Error> {
        let entered = self
            .pass
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let pass = match entered {
            Some(pass) => pass,
            None if self.request.is_forced() => self.surroundings.gate.enter_anyway(),
            None => self.surroundings.gate.enter().await?,
        };
        let result = self.try_and_tell().await;
        pass.ended(&result);
        if let Err(error) = &result {
            let last = self.last_failure.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        }
        result
    }

    async fn try_and_tell(&self) -> Result<AccessToken, Error> {
        let key = self.key;
        tracing::debug!(target: crate::TARGET, event = "fetch_started", %key, "fetching a token");
        let began = Instant::now();
        let counted = CountedTry::begin(self.surroundings.counters);
        let result = self.try_once().await;
        counted.end(&result);
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
        let request = self.request_at(asked_at);
        let fetch = AssertUnwindSafe(async { source.fetch(request).await });
        match timeout(limits.one_try, fetch.catch_unwind()).await {
            Ok(Ok(Ok(fetched))) => self.checked(AccessToken::stamped(fetched, asked_at)),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_panic)) => Err(Error::interrupted("the source panicked")),
            Err(_elapsed) => Err(Error::timed_out(limits.one_try)),
        }
    }

    fn checked(&self, token: AccessToken) -> Result<AccessToken, Error> {
        if !token.is_plausible() {
            let length = token.expose_secret().len();
            return Err(Error::refused(format!(
                "the source returned a token of {length} bytes: it must have 1 to {LONGEST_VALUE} bytes and not be blank"
            )));
        }
        if token.expires_at() <= self.surroundings.clock.now() {
            return Err(Error::transient(
                "the source returned a token that has expired already: if this happens again, check the clock of this machine",
            ));
        }
        Ok(token)
    }
}
