use crate::{AccessToken, Credentials};

/// What a [`TokenSource`](crate::TokenSource) is asked for.
///
/// The manager makes these. To test a source of your own, make one with [`new`](Self::new):
///
/// ```
/// use std::time::SystemTime;
/// use reqwest_wecom::{AccessToken, Credentials, FetchRequest};
///
/// let dead = AccessToken::from_parts("dead", SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
/// let request = FetchRequest::new(Credentials::new("ww1234", "secret")).with_rejected(dead);
/// assert_eq!(request.rejected().unwrap().expose_secret(), "dead");
/// assert!(!request.is_forced());
/// ```
///
/// Its [`Debug`] form shows no secret.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    credentials: Credentials,
    rejected: Option<AccessToken>,
    is_forced: bool,
}

impl FetchRequest {
    /// Asks for a token for these credentials: none was rejected, and nobody forces it.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            rejected: None,
            is_forced: false,
        }
    }

    /// The same request, because the API has rejected this token.
    #[must_use]
    pub fn with_rejected(mut self, token: AccessToken) -> Self {
        self.rejected = Some(token);
        self
    }

    /// The same request, forced by an operator.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.is_forced = true;
        self
    }

    /// Who asks.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The token that the API has rejected, if that is why a new one is needed. A source must not return it again.
    ///
    /// If the rejection was reported with [`refresh_rejected`](crate::TokenManager::refresh_rejected) and the manager never had that value, the
    /// token's times are those of the report.
    pub fn rejected(&self) -> Option<&AccessToken> {
        self.rejected.as_ref()
    }

    /// Whether an operator wants a new token, even if the one in use is good. A source that caches tokens must not return a cached one.
    pub fn is_forced(&self) -> bool {
        self.is_forced
    }
}
