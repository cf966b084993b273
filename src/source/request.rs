use std::time::Duration;

use crate::{AccessToken, Credentials, Error};

/// The argument of [`TokenSource::fetch`](crate::TokenSource::fetch): which app needs a token, and why.
///
/// The manager creates it. To test your own source, create one with [`new`](Self::new):
///
/// ```
/// use std::time::SystemTime;
/// use reqwest_wecom::{AccessToken, Credentials, FetchRequest};
///
/// let rejected = AccessToken::from_parts("rejected", SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
/// let request = FetchRequest::new(Credentials::new("ww1234", "secret")).with_rejected(rejected);
/// assert_eq!(request.rejected().unwrap().expose_secret(), "rejected");
/// assert!(!request.is_forced());
/// ```
///
/// Its [`Debug`] form shows no secret.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    credentials: Credentials,
    rejected: Option<AccessToken>,
    /// With the time that it has left.
    current: Option<(AccessToken, Duration)>,
    is_forced: bool,
}

impl FetchRequest {
    /// Creates a request for these credentials, without a rejected or a current token, and not forced.
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            rejected: None,
            current: None,
            is_forced: false,
        }
    }

    /// Adds the token that the API rejected.
    #[must_use]
    pub fn with_rejected(mut self, token: AccessToken) -> Self {
        self.rejected = Some(token);
        self
    }

    /// Adds the current token, and how long it is still valid.
    #[must_use]
    pub fn with_current(mut self, token: AccessToken, left: Duration) -> Self {
        self.current = Some((token, left));
        self
    }

    /// Marks the request as forced by an operator.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.is_forced = true;
        self
    }

    /// The app that needs a token.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The token that the API rejected, if that is why the manager needs a new one. Do not return it again.
    ///
    /// If a caller reported the value with [`refresh_rejected`](crate::TokenManager::refresh_rejected) and the manager did not know it, only
    /// the value is real. Then `fetched_at` is the time of the report, and `expires_at` is two hours later.
    pub fn rejected(&self) -> Option<&AccessToken> {
        self.rejected.as_ref()
    }

    /// The newest token that the manager or its shared database has for this app, even if it has expired. `None` if there is none.
    ///
    /// Use it if the issuer may return the same value again with its full lifetime. If the new value equals this one, return
    /// [`current_left`](Self::current_left) as its lifetime.
    pub fn current(&self) -> Option<&AccessToken> {
        self.current.as_ref().map(|(token, _)| token)
    }

    /// How long the [current](Self::current) token is still valid, by the clock of the manager. Zero if it has expired, or if there is none.
    pub fn current_left(&self) -> Duration {
        self.current
            .as_ref()
            .map_or(Duration::ZERO, |(_, left)| *left)
    }

    /// Whether an operator asked for a new token with [`refresh`](crate::TokenManager::refresh). If your source caches tokens, do not return a
    /// cached one.
    pub fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// The secret of the app, or an error that says that there is none.
    pub(super) fn secret(&self) -> Result<&str, Error> {
        let secret = self.credentials.expose_secret();
        secret.ok_or_else(|| Error::no_secret(self.credentials.id()))
    }
}
