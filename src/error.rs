//! What can go wrong on the way to a token.

mod cause;
mod kind;
mod without_token;

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use self::cause::Cause;
use self::cause::Said;
pub use self::kind::ErrorKind;
use self::kind::Reason;
pub(crate) use self::without_token::without_token;
use crate::redact;

/// The error type of stores, and of whatever causes an [`Error`].
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why there is no access token.
///
/// [`kind`](Self::kind) tells what went wrong. [`source`](StdError::source) returns the cause, if there is one; [`Display`] does not
/// repeat it, so print the whole chain (with `anyhow`, `{:#}`).
///
/// `Error` is `Clone` because every caller waiting for the same refresh gets it. Neither its text, its [`Debug`] form nor its sources show
/// a token or a secret.
///
/// A request that gets no token fails with a [`reqwest_middleware::Error`]. To get this error out of it, use [`Error::find`].
///
/// # Causes
///
/// [`transient`](Self::transient), [`refused`](Self::refused) and [`not_ready`](Self::not_ready) keep the cause as the error's
/// [`source`](StdError::source). You can downcast it to its own type, unless the crate had to replace it:
///
/// - A [`reqwest::Error`] keeps its type, but loses the query of its URL.
/// - An error whose [`Debug`] output differs from its text is replaced by its text. A derived `Debug` differs.
/// - An error whose text contains the query of a URL, or input that serde quotes, is replaced by its text without these.
/// - An error that repeats the text of its own source is replaced by its text.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    reason: Reason,
    cause: Option<Cause>,
    retry_after: Option<Duration>,
}

/// For sources that you write.
impl Error {
    /// The fetch failed, but another try may succeed: the connection was lost, for example.
    ///
    /// The manager retries up to 3 times within the [fetch limit](crate::TokenManagerBuilder::fetch_limit). If all tries fail, a cooldown of
    /// 1 s starts. It doubles with each further failure, up to 30 s. For a longer wait, use [`with_retry_after`](Self::with_retry_after).
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::caused(Reason::Transient, cause.into(), &[])
    }

    /// The fetch failed, and another try will not help: the secret is wrong, for example.
    ///
    /// The manager does not retry. A cooldown of 10 s starts. It doubles with each further failure, up to 5 min.
    pub fn refused(cause: impl Into<BoxError>) -> Self {
        Self::caused(Reason::Refused, cause.into(), &[])
    }

    /// The source has no token yet: it is waiting for a message from WeCom or for another process, for example.
    ///
    /// There is no retry and no cooldown. The next request asks the source again.
    pub fn not_ready(cause: impl Into<BoxError>) -> Self {
        Self::caused(Reason::NotReady, cause.into(), &[])
    }

    /// The issuer returned this errcode. For what it means, see <https://developer.work.weixin.qq.com/document/path/90313>.
    ///
    /// The manager treats -1 (busy) and 45033 (too many concurrent calls) like [`transient`](Self::transient). After 45009 (rate limit) it
    /// stops all its fetches for 60 s, doubling to 10 min. It treats all other errcodes like [`refused`](Self::refused). `errmsg` must not
    /// contain a secret.
    pub fn api(errcode: i64, errmsg: impl Into<String>) -> Self {
        let errmsg = errmsg.into();
        Self::of(Reason::Api { errcode, errmsg })
    }

    /// Adds the time that the issuer asks callers to wait, as in the `Retry-After` header.
    ///
    /// Callers get it from [`retry_after`](Self::retry_after). After a transient failure the manager waits that long before the next try. If
    /// that is longer than what is left of the [fetch limit](crate::TokenManagerBuilder::fetch_limit), the fetch fails at once, and the cooldown
    /// lasts as long as the issuer asks for, at most 60 s. Over a shared database, the last retry starts within 1.5 s.
    #[must_use]
    pub fn with_retry_after(mut self, time: Duration) -> Self {
        Arc::make_mut(&mut self.0).retry_after = Some(time);
        self
    }
}

/// For callers.
impl Error {
    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.reason.kind()
    }

    /// The errcode that the issuer of tokens answered, for the kind [`Api`](ErrorKind::Api).
    pub fn errcode(&self) -> Option<i64> {
        match self.0.reason {
            Reason::Api { errcode, .. } => Some(errcode),
            _ => None,
        }
    }

    /// Whether the same call may succeed soon.
    ///
    /// True if there was no connection, after a timeout, for HTTP 408, 425, 429 and 5xx, and for errcodes -1 and 45033.
    pub fn is_transient(&self) -> bool {
        match self.0.reason {
            Reason::Transient | Reason::TimedOut { .. } => true,
            Reason::Api { errcode, .. } => matches!(errcode, -1 | 45033),
            _ => false,
        }
    }

    /// Whether a time limit ended: that of the request, that of the fetch, or one that its cause tells of.
    pub fn is_timeout(&self) -> bool {
        let cause = self.0.cause.as_ref();
        matches!(self.0.reason, Reason::TimedOut { .. }) || cause.is_some_and(Cause::is_timeout)
    }

    /// Whether no connection to the source could be made.
    pub fn is_connect(&self) -> bool {
        self.0.cause.as_ref().is_some_and(Cause::is_connect)
    }

    /// How long to wait before the next call, if the issuer said so, or until the next [`refresh`](crate::TokenManager::refresh) is possible.
    ///
    /// This is what the issuer asked for, not what is left of a cooldown. It has no upper limit. It is `None` for a failure of another process.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Finds the error of this crate in another error or among its sources.
    ///
    /// ```
    /// use reqwest_wecom::{Error, ErrorKind};
    ///
    /// # async fn f(client: reqwest_middleware::ClientWithMiddleware) {
    /// match client.get("https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan").send().await {
    ///     Ok(response) => { /* the API's answer */ }
    ///     Err(error) => match Error::find(&error) {
    ///         Some(error) if error.kind() == ErrorKind::Api => { /* gettoken answered error.errcode() */ }
    ///         Some(error) => { /* no token for another reason */ }
    ///         None => { /* the request itself failed */ }
    ///     },
    /// }
    /// # }
    /// ```
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        redact::chain(error).find_map(|error| {
            let shared = || Some(error.downcast_ref::<Arc<Self>>()?.as_ref());
            let boxed = || Some(error.downcast_ref::<Box<Self>>()?.as_ref());
            let found = error.downcast_ref().or_else(shared).or_else(boxed);
            // These two are transparent: their `source()` skips the error that they wrap.
            found.or_else(|| match error.downcast_ref() {
                Some(reqwest_middleware::Error::Middleware(content)) => Self::find(&**content),
                _ => Self::find(error.downcast_ref::<io::Error>()?.get_ref()?),
            })
        })
    }
}

impl Error {
    pub(crate) fn no_credentials() -> Self {
        Self::of(Reason::NoCredentials)
    }

    pub(crate) fn invalid_credentials(empty: &'static str) -> Self {
        Self::of(Reason::InvalidCredentials { empty })
    }

    pub(crate) fn other_kind(credentials: &str, wanted: &str) -> Self {
        Self::of(Reason::OtherKind {
            credentials: credentials.to_owned(),
            wanted: wanted.to_owned(),
        })
    }

    pub(crate) fn no_secret(id: &str) -> Self {
        Self::of(Reason::NoSecret { id: id.to_owned() })
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        Self::of(Reason::TimedOut { limit })
    }

    pub(crate) fn held_back() -> Self {
        Self::of(Reason::HeldBack)
    }

    pub(crate) fn too_many_forced(next_in: Duration) -> Self {
        Self::of(Reason::TooManyForced { next_in }).with_retry_after(next_in)
    }

    pub(crate) fn expires_too_soon(left: Duration, min: Duration) -> Self {
        Self::of(Reason::ExpiresTooSoon { left, min })
    }

    pub(crate) fn interrupted(by: &'static str) -> Self {
        Self::of(Reason::Interrupted { by })
    }

    pub(crate) fn no_runtime() -> Self {
        Self::of(Reason::NoRuntime)
    }

    /// [`transient`](Self::transient), where the cause may show these secrets.
    pub(crate) fn transient_without(secrets: &[&str], cause: impl Into<BoxError>) -> Self {
        Self::caused(Reason::Transient, cause.into(), secrets)
    }

    /// [`refused`](Self::refused), where the cause may show these secrets.
    pub(crate) fn refused_without(secrets: &[&str], cause: impl Into<BoxError>) -> Self {
        Self::caused(Reason::Refused, cause.into(), secrets)
    }

    /// What the issuer said beside the errcode.
    pub(crate) fn errmsg(&self) -> &str {
        match &self.0.reason {
            Reason::Api { errmsg, .. } => errmsg,
            _ => "",
        }
    }

    fn of(reason: Reason) -> Self {
        Self(Arc::new(Inner {
            reason,
            cause: None,
            retry_after: None,
        }))
    }

    fn caused(reason: Reason, cause: BoxError, secrets: &[&str]) -> Self {
        Self(Arc::new(Inner {
            cause: Some(Cause::new(cause, &[&reason.to_string(), NO_TOKEN], secrets)),
            reason,
            retry_after: None,
        }))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0.reason, f)
    }
}

impl Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Error");
        debug.field("kind", &self.kind());
        debug.field("message", &redact::in_one_line(self));
        if let Some(time) = &self.0.retry_after {
            debug.field("retry_after", time);
        }
        debug.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(self.0.cause.as_ref()?.error())
    }
}

const NO_TOKEN: &str = "the request has no valid access token";

/// Puts an [`Error`] among the sources of a [`reqwest_middleware::Error`], whose `source()` skips the error that it wraps directly.
#[derive(Debug, thiserror::Error)]
#[error("{NO_TOKEN}")]
struct NoToken(#[source] Error);

impl From<Error> for reqwest_middleware::Error {
    fn from(error: Error) -> Self {
        Self::middleware(NoToken(error))
    }
}

#[cfg(test)]
mod tests;
