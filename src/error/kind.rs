use std::time::Duration;

/// What went wrong: see [`Error::kind`](crate::Error::kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Neither the request nor the middleware has credentials.
    NoCredentials,
    /// The id, the secret or the app of the credentials is empty. No call was made.
    InvalidCredentials,
    /// The source needs a secret, and the credentials have none.
    NoSecret,
    /// The issuer of tokens answered an [`errcode`](crate::Error::errcode), such as 40001 (wrong secret) or 40013 (wrong corp id).
    Api,
    /// The fetch failed, but another try may succeed: no connection, or HTTP 5xx, for example.
    Transient,
    /// The fetch failed, and another try will not help.
    Refused,
    /// The source has no token yet.
    NotReady,
    /// A time limit ended: that of the fetch, or that of the request.
    TimedOut,
    /// The API rejected the last tokens too, so the next fetch has to wait.
    ///
    /// Only [`TokenManager::refresh_rejected`](crate::TokenManager::refresh_rejected) returns this. A request gets the API's own answer instead.
    HeldBack,
    /// The source or the store panicked, or the runtime that the refresh ran on ended.
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
        "the source needs a secret, and the credentials of {id} have none: create them with `Credentials::new`"
    )]
    NoSecret { id: String },
    #[error("errcode {errcode} instead of an access token{}{}", in_brackets(errmsg), advice(*errcode))]
    Api { errcode: i64, errmsg: String },
    #[error("fetching an access token failed, another try may succeed")]
    Transient,
    #[error("fetching an access token failed, and another try will not help")]
    Refused,
    #[error("there is no access token yet")]
    NotReady,
    #[error("no access token within {limit:?}: check the network, or raise the limit")]
    TimedOut { limit: Duration },
    #[error("the API rejected the last access tokens too, so the next fetch has to wait")]
    HeldBack,
    #[error("the refresh of the access token ended without a result: {by}")]
    Interrupted { by: &'static str },
    #[error("the call was made outside a tokio runtime: fetching an access token needs one")]
    NoRuntime,
}

impl Reason {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCredentials => ErrorKind::NoCredentials,
            Self::InvalidCredentials { .. } => ErrorKind::InvalidCredentials,
            Self::NoSecret { .. } => ErrorKind::NoSecret,
            Self::Api { .. } => ErrorKind::Api,
            Self::Transient => ErrorKind::Transient,
            Self::Refused => ErrorKind::Refused,
            Self::NotReady => ErrorKind::NotReady,
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::HeldBack => ErrorKind::HeldBack,
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
        45009 => ": too many calls, wait before you try again",
        45033 => ": too many calls at the same time, try again",
        60020 => ": add the IP address of this machine to the trusted IPs of the app",
        -1 => ": WeCom is busy, try again",
        _ => "",
    }
}
