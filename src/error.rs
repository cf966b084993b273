//! What can go wrong on the way to a token.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crate::redact;

/// The error type of stores and other foreign code.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why there is no access token.
///
/// It is `Clone`, because all who wait for one renewal share its failure. It holds neither token nor secret: not in its
/// text, not in its [`Debug`] form, not in its [sources](StdError::source).
///
/// A request that could not be given a token fails with a [`reqwest_middleware::Error`]; [`Error::find`] gets this error
/// back out of it.
///
/// [`Debug`]: std::fmt::Debug
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Neither the request nor the middleware holds credentials.
    #[error(
        "no credentials: give them to the middleware (`credentials`) or to the request (`with_extension`)"
    )]
    NoCredentials,

    /// The source needs a secret, and the credentials hold none.
    #[error("the credentials of corp {corp_id} hold no secret: make them with `Credentials::new`")]
    NoSecret {
        /// The corp id of the credentials.
        corp_id: String,
    },

    /// The issuer answered with an errcode, such as 40001 (wrong secret) or 40013 (wrong corp id).
    ///
    /// Writers of sources may make this one too. `-1` (busy) is transient; `45009` (called too often) stops all fetches of
    /// the source for a while; everything else is a refusal.
    #[error("no access token: errcode {errcode} ({errmsg}){}", advice(*.errcode))]
    Errcode {
        /// The errcode. Its meaning: <https://developer.work.weixin.qq.com/document/path/90313>
        errcode: i64,
        /// The message that came with it.
        errmsg: String,
    },

    /// The source failed in a way that may pass: no connection, a time-out, HTTP 5xx.
    #[error("no access token for now: {0}")]
    Transient(#[source] Arc<BoxError>),

    /// The source failed in a way that will not pass by itself.
    #[error("no access token: {0}")]
    Refused(#[source] Arc<BoxError>),

    /// The source waits for something that has yet to come.
    #[error("no access token yet: {0}")]
    NotReady(#[source] Arc<BoxError>),

    /// A time limit ended: that of the fetch, or that of the request.
    #[error("no access token within {limit:?}")]
    TimedOut {
        /// The limit that ended.
        limit: Duration,
    },

    /// Renewals have brought tokens that the API rejected too, so that another is held back for a while.
    ///
    /// Only [`TokenManager::renew`](crate::TokenManager::renew) returns it. A request gets the API's own answer instead.
    #[error("the API rejects new access tokens too: no further renewal for now")]
    HeldBack,

    /// A store or a source panicked, or the renewal was lost with the runtime that it ran on.
    #[error("the renewal of the access token ended without a result: {reason}")]
    Interrupted {
        /// What ended it.
        reason: &'static str,
    },

    /// There is no tokio runtime to fetch a token on.
    #[error("no tokio runtime: access tokens can be fetched only within one")]
    NoRuntime,
}

fn advice(errcode: i64) -> &'static str {
    match errcode {
        40001 => ": check the app's secret, and that the app is enabled",
        40013 => ": check the corp id",
        45009 => ": too many calls, wait before trying again",
        60020 => ": add the caller's IP to the app's trusted IPs",
        -1 => ": the system is busy, try again",
        _ => "",
    }
}

impl Error {
    /// A failure that may pass, such as a lost connection: the fetch is tried again, and if it goes on failing, held back for
    /// a few seconds.
    ///
    /// The URL of a [`reqwest::Error`] loses its query here, since secrets travel in it. Of another error that shows a URL with
    /// a query, such as that of a layer of a client, only the text is kept, without the query.
    pub fn transient(cause: impl Into<BoxError>) -> Self {
        Self::Transient(without_query(cause.into()))
    }

    /// A failure that will not pass by itself, such as a wrong secret: the fetch is not tried again, and the next one is
    /// held back for 10 s or more.
    ///
    /// The URL of a [`reqwest::Error`] loses its query here, since secrets travel in it. Of another error that shows a URL with
    /// a query, such as that of a layer of a client, only the text is kept, without the query.
    pub fn refused(cause: impl Into<BoxError>) -> Self {
        Self::Refused(without_query(cause.into()))
    }

    /// The source waits for something that has yet to come, such as a message from the platform or a token that another
    /// process puts into the store: the next request may ask again.
    ///
    /// The URL of a [`reqwest::Error`] loses its query here, since secrets travel in it. Of another error that shows a URL with
    /// a query, such as that of a layer of a client, only the text is kept, without the query.
    pub fn not_ready(cause: impl Into<BoxError>) -> Self {
        Self::NotReady(without_query(cause.into()))
    }

    /// Whether the same call may succeed if it is made again soon.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Transient(_) | Self::TimedOut { .. } | Self::Errcode { errcode: -1, .. }
        )
    }

    /// Finds the error of this crate in another one, or among its sources.
    ///
    /// ```
    /// use reqwest_wecom::Error;
    ///
    /// # async fn f(client: reqwest_middleware::ClientWithMiddleware) {
    /// match client.get("https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan").send().await {
    ///     Ok(response) => { /* the API's answer */ }
    ///     Err(error) => match Error::find(&error) {
    ///         Some(Error::Errcode { errcode, .. }) => { /* gettoken was refused */ }
    ///         Some(error) => { /* no token for another reason */ }
    ///         None => { /* the request itself failed */ }
    ///     },
    /// }
    /// # }
    /// ```
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            // These two show what their content says as their own, so that the content is not among the sources.
            if let Some(reqwest_middleware::Error::Middleware(content)) = error.downcast_ref()
                && let Some(found) = content.downcast_ref()
            {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

/// Takes an error of this crate through [`reqwest_middleware::Error`], which shows its content as its own and so leaves it
/// out of the sources: this carrier is what gets left out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Carrier(#[source] Error);

impl From<Error> for reqwest_middleware::Error {
    fn from(error: Error) -> Self {
        Self::middleware(Carrier(error))
    }
}

fn without_query(mut cause: BoxError) -> Arc<BoxError> {
    let error = match cause.downcast_mut::<reqwest_middleware::Error>() {
        Some(reqwest_middleware::Error::Reqwest(error)) => Some(error),
        Some(reqwest_middleware::Error::Middleware(_)) => None,
        None => cause.downcast_mut::<reqwest::Error>(),
    };
    if let Some(url) = error.and_then(reqwest::Error::url_mut) {
        url.set_query(None);
        url.set_fragment(None);
    }
    // The URL of an error that lies deeper cannot be reached.
    if redact::without_queries(&redact::all_that_is_said(&*cause)).is_some() {
        let text = redact::in_one_line(&*cause);
        cause = redact::without_queries(&text).unwrap_or(text).into();
    }
    Arc::new(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_behind_every_kind_of_wrapping() {
        let refused = || Error::refused("no");
        let carried = reqwest_middleware::Error::from(refused());
        assert!(matches!(Error::find(&carried), Some(Error::Refused(_))));

        let by_hand = reqwest_middleware::Error::middleware(refused());
        assert!(matches!(Error::find(&by_hand), Some(Error::Refused(_))));

        let retried =
            reqwest_middleware::Error::middleware(reqwest_retry::RetryError::WithRetries {
                retries: 3,
                err: refused().into(),
            });
        assert!(matches!(Error::find(&retried), Some(Error::Refused(_))));

        let once = reqwest_middleware::Error::middleware(reqwest_retry::RetryError::Error(
            refused().into(),
        ));
        assert!(matches!(Error::find(&once), Some(Error::Refused(_))));

        assert!(Error::find(&refused()).is_some());
        assert!(Error::find(&std::io::Error::other("none of ours")).is_none());
    }

    #[test]
    fn sources_can_be_downcast() {
        let error = Error::transient(std::io::Error::other("cause"));
        assert!(
            error
                .source()
                .is_some_and(|cause| cause.is::<std::io::Error>())
        );
    }

    #[tokio::test]
    async fn the_query_of_a_url_is_left_out() {
        let failure = reqwest::get("http://127.0.0.1:1/gettoken?corpsecret=canary").await;
        let error = Error::transient(failure.unwrap_err());
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("127.0.0.1:1/gettoken"), "{shown}");
    }
}
