use std::fmt::{self, Debug};
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::FutureExt;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::{Gate, TokenSource, pause_after};
use crate::clock::Clock;
use crate::redact::redact;
use crate::{AccessToken, BoxError, Credentials, Error, TokenKey};

/// How long a store may take for one answer.
pub(crate) const STORE_LIMIT: Duration = Duration::from_secs(2);

/// The longest value that is taken for an access token, in bytes. WeCom's have at most 512.
const LONGEST_VALUE: usize = 4096;

/// One fetch of a token from a source, given to a store that may want one.
///
/// It is made at most once, however often [`run`](Self::run) is called. It keeps its result, so that a fetched token is used
/// even where the store fails after it.
pub struct Fetch<'a> {
    source: &'a dyn TokenSource,
    credentials: &'a Credentials,
    limits: Limits,
    surroundings: Option<Surroundings<'a>>,
    clock: Clock,
    in_hand: InHand,
    result: OnceCell<Result<AccessToken, Error>>,
    heard: OnceLock<Hearsay>,
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

/// The tokens that a manager has of the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand {
    pub(crate) local: Option<AccessToken>,
    /// Those that were rejected or replaced.
    pub(crate) spent: Vec<AccessToken>,
}

/// How long fetching may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) one_try: Duration,
    pub(crate) all_tries: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            one_try: Duration::from_secs(5),
            all_tries: Duration::from_secs(8),
        }
    }
}

impl Limits {
    /// What a store may take beyond the time of the fetch: it may wait for the fetch of another process, and if that one died, for
    /// yet another's.
    pub(crate) fn store_patience(&self) -> Duration {
        self.all_tries * 2 + STORE_LIMIT * 4
    }
}

/// What the fetches of one manager share.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    gate: &'a Gate,
    store_health: &'a StoreHealth,
    /// How many fetches for the key have failed in a row before.
    failures: u32,
}

impl<'a> Fetch<'a> {
    /// A fetch with the default limits, for the tests of a store. A [`TokenManager`](crate::TokenManager) makes its own.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use reqwest_wecom::{AccessToken, Credentials, Error, Fetch, MokaStore, TokenSource, TokenStore, async_trait};
    ///
    /// struct Fixed;
    ///
    /// #[async_trait]
    /// impl TokenSource for Fixed {
    ///     async fn fetch(&self, _: &Credentials) -> Result<AccessToken, Error> {
    ///         Ok(AccessToken::new("fetched", Duration::from_secs(7200)))
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let store = MokaStore::new();
    /// let credentials = Credentials::new("ww1234", "secret");
    /// let fetch = Fetch::new(&Fixed, &credentials);
    ///
    /// let token = store.get_or_fetch(credentials.key(), None, &fetch).await?;
    /// assert_eq!(token.expose_secret(), "fetched");
    /// assert_eq!(store.get(credentials.key()).await.unwrap(), Some(token));
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(source: &'a dyn TokenSource, credentials: &'a Credentials) -> Self {
        Self {
            source,
            credentials,
            limits: Limits::default(),
            surroundings: None,
            clock: Clock::default(),
            in_hand: InHand::default(),
            result: OnceCell::new(),
            heard: OnceLock::new(),
        }
    }

    pub(crate) fn of_a_manager(
        self,
        limits: Limits,
        gate: &'a Gate,
        store_health: &'a StoreHealth,
        clock: Clock,
        in_hand: InHand,
        failures: u32,
    ) -> Self {
        Self {
            limits,
            surroundings: Some(Surroundings {
                gate,
                store_health,
                failures,
            }),
            clock,
            in_hand,
            ..self
        }
    }

    /// Fetches a token. A transient failure is tried again up to three times, all within [`limit`](Self::limit).
    ///
    /// A second call gives the result of the first. It is cancel safe: a call that is dropped before it has a result leaves
    /// the fetch to the next.
    ///
    /// # Errors
    ///
    /// The source's failure, or that the time limit ended.
    pub async fn run(&self) -> Result<AccessToken, Error> {
        self.result.get_or_init(|| self.fetch()).await.clone()
    }

    /// The longest time that [`run`](Self::run) can take, all tries included.
    pub fn limit(&self) -> Duration {
        self.limits.all_tries
    }

    /// Whether a token found in a store may be used: it has not expired, and it is neither `other_than` nor another that the
    /// manager knows as rejected or replaced.
    ///
    /// A store may have cut the time of the fetch to whole seconds: a token with the same value and less than a second away
    /// counts as the same.
    pub fn can_serve(&self, token: &AccessToken, other_than: Option<&AccessToken>) -> bool {
        // Not its lifetime: the time of the fetch may come from a clock that is ahead of this one.
        is_well_sized(token)
            && token.expires_at() > self.clock.now()
            && !self
                .unusable(other_than)
                .any(|other| token.is_likely(other))
    }

    /// The tokens that are not to be used, whatever they look like.
    pub(crate) fn unusable<'t>(
        &'t self,
        other_than: Option<&'t AccessToken>,
    ) -> impl Iterator<Item = &'t AccessToken> {
        self.in_hand.spent.iter().chain(other_than)
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
        let Some(Surroundings { gate, failures, .. }) = self.surroundings else {
            return pause_after(error, 0);
        };
        match error {
            Error::Errcode { errcode: 45009, .. } => {
                let until = gate.closed_until()?;
                Some(until.saturating_duration_since(Instant::now()))
            }
            _ => pause_after(error, failures),
        }
    }

    /// The store holds this failure of another process, and no fetch is made: this process is to leave the source in peace too.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn hear(&self, heard: Hearsay) -> Error {
        let error = heard.error.clone();
        if let (Error::Errcode { errcode: 45009, .. }, Some(Surroundings { gate, .. })) =
            (&error, self.surroundings)
        {
            gate.close_as_heard(&heard);
        }
        let _ = self.heard.set(heard); // A fetch hears of one failure at most.
        error
    }

    /// The failure of another process that was heard of, if any.
    pub(crate) fn heard(&self) -> Option<&Hearsay> {
        self.heard.get()
    }

    /// The secret that must show in no text, if there is one.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "for stores that processes share")
    )]
    pub(crate) fn secret(&self) -> Option<&str> {
        self.credentials.expose_secret()
    }

    /// How long a store may wait for the fetch of another process.
    pub(crate) fn store_patience(&self) -> Duration {
        self.limits.store_patience()
    }

    async fn fetch(&self) -> Result<AccessToken, Error> {
        let limit = self.limits.all_tries;
        timeout(limit, self.fetch_with_retries())
            .await
            .unwrap_or(Err(Error::TimedOut { limit }))
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
        let Some(Surroundings { gate, .. }) = self.surroundings else {
            return self.try_and_tell().await;
        };
        let pass = gate.enter().await?;
        let result = self.try_and_tell().await;
        pass.ended(&result);
        result
    }

    async fn try_and_tell(&self) -> Result<AccessToken, Error> {
        let key = self.credentials.key();
        tracing::debug!(%key, "fetch started");
        let began = Instant::now();
        let result = self.try_once().await;
        let elapsed = began.elapsed();
        match &result {
            Ok(token) => tracing::info!(%key, ?elapsed, lifetime = ?token.lifetime(), "fetch done"),
            Err(error) => tracing::warn!(%key, ?elapsed, %error, "fetch failed"),
        }
        result
    }

    async fn try_once(&self) -> Result<AccessToken, Error> {
        let limit = self.limits.one_try;
        let fetch = AssertUnwindSafe(async { self.source.fetch(self.credentials).await });
        match timeout(limit, fetch.catch_unwind()).await {
            Ok(Ok(Ok(token))) => checked(token),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_panic)) => Err(Error::Interrupted {
                reason: "the source panicked",
            }),
            Err(_elapsed) => Err(Error::TimedOut { limit }),
        }
    }

    /// Gives a store a limited time to answer. A failure, and a panic, is logged and costs only the answer.
    pub(crate) async fn asking_store<T>(
        &self,
        key: &TokenKey,
        call: &'static str,
        answer: impl Future<Output = Result<T, BoxError>>,
    ) -> Option<T> {
        let failure = match timeout(STORE_LIMIT, AssertUnwindSafe(answer).catch_unwind()).await {
            Ok(Ok(Ok(answer))) => {
                self.store_works(key);
                return Some(answer);
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_panic)) => "it panicked".to_owned(),
            Err(_elapsed) => format!("no answer within {STORE_LIMIT:?}"),
        };
        self.store_fails(key, call, &failure);
        None
    }

    pub(crate) fn store_fails(&self, key: &TokenKey, call: &'static str, failure: &str) {
        let fetched = self.result().and_then(|result| result.as_ref().ok());
        let InHand { local, spent } = &self.in_hand;
        let tokens = spent.iter().chain(local).chain(fetched);
        let secrets = tokens.map(AccessToken::expose_secret);
        let error = redact(failure, secrets.chain(self.credentials.expose_secret()));
        let health = self.surroundings.map(|it| it.store_health);
        if health.is_some_and(|health| health.failing.swap(true, Ordering::Relaxed)) {
            tracing::debug!(%key, call, error, "token store still fails");
        } else {
            tracing::warn!(%key, call, error, "token store fails");
        }
    }

    pub(crate) fn store_works(&self, key: &TokenKey) {
        if let Some(Surroundings { store_health, .. }) = self.surroundings
            && store_health.failing.swap(false, Ordering::Relaxed)
        {
            tracing::info!(%key, "token store is back");
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
            .field("credentials", &self.credentials)
            .field("limits", &self.limits)
            .field("result", &self.result())
            .finish_non_exhaustive()
    }
}

fn checked(token: AccessToken) -> Result<AccessToken, Error> {
    if is_well_sized(&token) && !token.lifetime().is_zero() {
        Ok(token)
    } else {
        let (length, lifetime) = (token.expose_secret().len(), token.lifetime());
        Err(Error::refused(format!(
            "the source gave a token of {length} bytes that lives for {lifetime:?}: \
             it must have 1 to {LONGEST_VALUE} bytes and live for more than 0 s"
        )))
    }
}

fn is_well_sized(token: &AccessToken) -> bool {
    (1..=LONGEST_VALUE).contains(&token.expose_secret().len())
}
