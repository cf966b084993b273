use std::fmt::{self, Debug};
use std::sync::Arc;

use http::Extensions;
use reqwest::Request;

use super::AccessTokenMiddleware;
use crate::scope::Scope;
use crate::{Credentials, TokenManager};

const REPLAY_LIMIT: usize = 32 * 1024 * 1024;

/// Builds an [`AccessTokenMiddleware`]: see [`AccessTokenMiddleware::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AccessTokenMiddlewareBuilder {
    middleware: AccessTokenMiddleware,
}

impl AccessTokenMiddlewareBuilder {
    pub(super) fn new(manager: TokenManager) -> Self {
        Self {
            middleware: AccessTokenMiddleware {
                scope: Scope::of(manager.audience()),
                manager,
                credentials_for: None,
                default: None,
                replay_limit: REPLAY_LIMIT,
            },
        }
    }

    /// The default app, for requests that don't name another one. Default: none.
    ///
    /// A request without any credentials fails with [`NoCredentials`](crate::ErrorKind::NoCredentials). If the default is for another kind of
    /// token than the manager's, requests without credentials of their own fail with
    /// [`InvalidCredentials`](crate::ErrorKind::InvalidCredentials).
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.middleware.default = Some(self.middleware.manager.tenant(&credentials));
        self
    }

    /// A function that chooses the app from the request and its extensions. Default: none.
    ///
    /// The middleware calls it for each request that gets a token and has no [`Credentials`] extension for its kind of token. If it returns `None`, the middleware
    /// uses the [default](Self::credentials) app. Return clones of stored credentials, because creating credentials hashes the secret.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use reqwest_wecom::{AccessTokenMiddleware, Credentials, TokenManager};
    ///
    /// #[derive(Clone)]
    /// struct Corp(&'static str);
    ///
    /// fn middleware(manager: TokenManager, apps: HashMap<&'static str, Credentials>) -> AccessTokenMiddleware {
    ///     AccessTokenMiddleware::builder(manager)
    ///         .credentials_for(move |_request, extensions| {
    ///             let Corp(name) = extensions.get()?;
    ///             apps.get(name).cloned()
    ///         })
    ///         .build()
    /// }
    /// ```
    ///
    /// # Rotating a secret
    ///
    /// To replace a secret while the program runs, let the function read the credentials from a lock. The next request then fetches a token with the
    /// new secret. A cooldown of the old secret does not hold that back. A [`Credentials`] extension on each request works too.
    ///
    /// ```
    /// use std::sync::{Arc, PoisonError, RwLock};
    /// use reqwest_wecom::{AccessTokenMiddleware, Credentials, TokenManager};
    ///
    /// fn middleware(manager: TokenManager, current: Arc<RwLock<Credentials>>) -> AccessTokenMiddleware {
    ///     AccessTokenMiddleware::builder(manager)
    ///         .credentials_for(move |_request, _extensions| {
    ///             let current = current.read().unwrap_or_else(PoisonError::into_inner);
    ///             Some(current.clone())
    ///         })
    ///         .build()
    /// }
    ///
    /// # fn f(current: Arc<RwLock<Credentials>>) {
    /// *current.write().unwrap_or_else(PoisonError::into_inner) = Credentials::new("ww1234", "new secret");
    /// # }
    /// ```
    pub fn credentials_for(
        mut self,
        choose: impl Fn(&Request, &Extensions) -> Option<Credentials> + Send + Sync + 'static,
    ) -> Self {
        self.middleware.credentials_for = Some(CredentialsFor(Arc::new(choose)));
        self
    }

    /// How many bytes of a streamed body the middleware records so that it can send it again. Default: 32 MiB.
    ///
    /// If the body is longer, the middleware does not send the request again. You get the first answer, and the next request has a new token.
    /// A body that is already in memory has no limit.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.middleware.replay_limit = bytes;
        self
    }

    /// Builds the middleware.
    pub fn build(self) -> AccessTokenMiddleware {
        self.middleware
    }
}

/// Chooses the app of a request.
#[derive(Clone)]
pub(super) struct CredentialsFor(Arc<Choose>);

type Choose = dyn Fn(&Request, &Extensions) -> Option<Credentials> + Send + Sync;

impl CredentialsFor {
    pub(super) fn choose(&self, request: &Request, extensions: &Extensions) -> Option<Credentials> {
        (self.0)(request, extensions)
    }
}

impl Debug for CredentialsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialsFor")
    }
}
