use std::time::Duration;

use serde::Serialize;

/// What went wrong: see [`Error::kind`](crate::Error::kind).
///
/// It is serialized as its name, such as `"Api"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Neither the request nor the middleware has credentials.
    NoCredentials,
    /// The id, the secret or the app of the credentials is empty, or the credentials are for another kind of token than the source's. No call
    /// was made.
    InvalidCredentials,
    /// The source needs a secret, and the credentials have none.
    NoSecret,
    /// The issuer of tokens returned an [`errcode`](crate::Error::errcode), such as 40001 (wrong secret) or 40013 (wrong corp id).
    Api,
    /// The fetch failed, but another try may succeed: no connection, or HTTP 5xx, for example.
    Transient,
    /// The fetch failed, and another try will not help.
    Refused,
    /// The source has no token yet.
    NotReady,
    /// A timeout elapsed: the [fetch limit](crate::TokenManagerBuilder::fetch_limit), or the timeout of the request.
    TimedOut,
    /// The API keeps rejecting new tokens, or the [refresh budget](crate::TokenManagerBuilder::refresh_budget) is used up, so the next fetch
    /// has to wait.
    ///
    /// Only [`TokenManager::refresh_rejected`](crate::TokenManager::refresh_rejected) returns this, and
    /// [`TokenManager::refresh`](crate::TokenManager::refresh) after too many calls. A request gets the API's own answer instead.
    HeldBack,
    /// There is a token, but it expires too soon, and the source has none that lives longer.
    ///
    /// Only [`TokenManager::token_valid_for`](crate::TokenManager::token_valid_for) returns this.
    ExpiresTooSoon,
    /// The source panicked, or the tokio runtime shut down or stopped running the refresh.
    Interrupted,
    /// The call was made outside a tokio runtime.
    NoRuntime,
}

/// What went wrong, in detail.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Reason {
    #[error(
        "the request has no credentials: set them on the builder of the middleware with `credentials`, or on the request with `with_extension`"
    )]
    NoCredentials,
    #[error("the {empty} of the credentials is empty: check where it is read from")]
    InvalidCredentials { empty: &'static str },
    #[error(
        "the credentials are for the kind of token `{credentials}`, but the source is for `{wanted}`: use the source of their kind, or create them with `Credentials::of_kind`"
    )]
    OtherKind { credentials: String, wanted: String },
    #[error(
        "the source needs a secret, and the credentials of {id} have none: create them with `Credentials::new`"
    )]
    NoSecret { id: String },
    #[error("fetching an access token failed with errcode {errcode}{}{}", in_brackets(errmsg), advice(*errcode))]
    Api { errcode: i64, errmsg: String },
    #[error("fetching an access token failed, but another try may succeed")]
    Transient,
    #[error("fetching an access token failed, and another try will not help")]
    Refused,
    #[error("the source has no access token yet")]
    NotReady,
    #[error(
        "no access token after {limit:?}: check the network, or raise the timeout of the request or `fetch_limit`"
    )]
    TimedOut { limit: Duration },
    #[error(
        "the API keeps rejecting access tokens, so the next fetch has to wait: try again later"
    )]
    HeldBack,
    #[error("too many forced refreshes: wait {next_in:.0?} before the next one")]
    TooManyForced { next_in: Duration },
    #[error(
        "the newest access token expires in {left:.0?}, and {min:?} were asked for: ask for less time"
    )]
    ExpiresTooSoon { left: Duration, min: Duration },
    #[error("the refresh of the access token ended without a result: {by}")]
    Interrupted { by: &'static str },
    #[error("the call was made outside a tokio runtime: fetching an access token needs one")]
    NoRuntime,
}

impl Reason {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCredentials => ErrorKind::NoCredentials,
            Self::InvalidCredentials { .. } | Self::OtherKind { .. } => {
                ErrorKind::InvalidCredentials
            }
            Self::NoSecret { .. } => ErrorKind::NoSecret,
            Self::Api { .. } => ErrorKind::Api,
            Self::Transient => ErrorKind::Transient,
            Self::Refused => ErrorKind::Refused,
            Self::NotReady => ErrorKind::NotReady,
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::HeldBack | Self::TooManyForced { .. } => ErrorKind::HeldBack,
            Self::ExpiresTooSoon { .. } => ErrorKind::ExpiresTooSoon,
            Self::Interrupted { .. } => ErrorKind::Interrupted,
            Self::NoRuntime => ErrorKind::NoRuntime,
        }
    }
}

fn in_brackets(errmsg: &str) -> String {
    if errmsg.is_empty() {
        String::new()
    } else {
        format!(" ({errmsg})")
    }
}

fn advice(errcode: i64) -> &'static str {
    match errcode {
        40001 => ": check the secret, and that the app is enabled",
        40013 => ": check the corp id",
        40082 => ": check that the customer has authorized the suite",
        45009 => ": rate limit reached, wait before you try again",
        45033 => ": too many concurrent calls, try again",
        60020 => ": add this machine's IP address to the app's trusted IPs",
        -1 => ": WeCom is busy, try again",
        _ => "",
    }
}
