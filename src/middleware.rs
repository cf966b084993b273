//! The path of a request: add a token, send, look for a rejection, refresh, send again.

mod builder;

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::time::Duration;

use futures_util::future::{Either, FutureExt};
use http::Extensions;
use reqwest::{Request, Response, Url};
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next};
use tokio::time::{Instant, timeout};
use tower_http::follow_redirect::RequestUri;

pub use self::builder::AccessTokenMiddlewareBuilder;
use self::builder::CredentialsFor;
use crate::error::Said;
use crate::manager::Tenant;
use crate::redact;
use crate::replay::Replay;
use crate::reply::Reply;
use crate::scope::{self, Scope};
use crate::{
    AccessToken, Credentials, Error, ErrorKind, GetToken, RejectionScope, TokenManager, TokenStore,
};

/// Adds a valid access token to requests to the WeCom API, and sends a request once more if the API rejects the token.
///
/// Add it last to a [`reqwest_middleware::ClientBuilder`], so that the layers before it see no token:
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let http = reqwest::Client::builder().referer(false).build()?;
/// let client = reqwest_middleware::ClientBuilder::new(http.clone())
///     .with(AccessTokenMiddleware::new(http, Credentials::new("ww1234", "secret")))
///     .build();
/// # Ok(())
/// # }
/// ```
///
/// # What it does to a request
///
/// It changes only requests below the base URL of the source's [`Audience`](crate::Audience). Of these, it sends some unchanged: those to
/// paths that take another credential, those that have a credential in the query, and those with [`NoAccessToken`](crate::NoAccessToken).
/// The token goes to the end of the query. The rest of the URL stays byte for byte the same.
///
/// If the answer has errcode 40014 or 42001, the middleware gets another token and sends the request once more, with the new token in place of the
/// old one. This is safe for any method, because the API checks the token before it runs the call. You get the second answer,
/// whatever it is. The answer's body is complete, and its [`url`](Response::url) has no token.
///
/// The second request has the same method, URL, version, headers, body and timeout. If you made the request from an [`http::Request`], its
/// extensions are sent only the first time.
///
/// # Which app
///
/// A request is sent as the app of its own [`Credentials`] extension. Without one, the app is what
/// [`credentials_for`](AccessTokenMiddlewareBuilder::credentials_for) returns, or else the
/// [default](AccessTokenMiddlewareBuilder::credentials).
///
/// # Errors
///
/// A request that gets no token is not sent. It fails with an [`Error`], which you get with [`Error::find`]. Answers with other errcodes are
/// returned to you unchanged.
///
/// # Timeouts
///
/// A request's own [`timeout`](reqwest_middleware::RequestBuilder::timeout) covers the wait for the token and both times that it is sent. The
/// timeout of the client (`ClientBuilder::timeout`) covers each time it is sent separately.
///
/// # Panics
///
/// If a token has to be fetched on a tokio runtime without timers.
///
/// # Cancel safety
///
/// You can drop a request at any time. A refresh that it has started goes on.
#[derive(Clone)]
pub struct AccessTokenMiddleware {
    manager: TokenManager,
    credentials_for: Option<CredentialsFor>,
    default: Option<Tenant>,
    scope: Scope,
    refresh_on: Vec<i64>,
    replay_limit: usize,
}

impl AccessTokenMiddleware {
    /// For one app: fetches its tokens with `gettoken` through this client, and keeps them in memory.
    ///
    /// `http` is a [`reqwest::Client`], or a [`ClientWithMiddleware`] that does **not** contain this middleware.
    pub fn new(http: impl Into<ClientWithMiddleware>, credentials: Credentials) -> Self {
        let manager = TokenManager::builder(GetToken::new(http)).build();
        Self::builder(manager).credentials(credentials).build()
    }

    /// Like [`new`](Self::new), with another store.
    pub fn with_store(
        http: impl Into<ClientWithMiddleware>,
        credentials: Credentials,
        store: impl TokenStore,
    ) -> Self {
        let manager = TokenManager::builder(GetToken::new(http))
            .store(store)
            .build();
        Self::builder(manager).credentials(credentials).build()
    }

    /// Builds a middleware on a manager. Several middlewares can share one manager.
    pub fn builder(manager: TokenManager) -> AccessTokenMiddlewareBuilder {
        AccessTokenMiddlewareBuilder::new(manager)
    }

    async fn wait_for_token(
        &self,
        request: Box<Request>,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let tenant = self
            .tenant(&request, extensions)
            .ok_or_else(Error::no_credentials)?;
        let time = TimeLeft::of(&request);
        let token = time.bounds(self.manager.token_of(&tenant)).await?;
        self.send_with_token(request, (tenant, token), time, extensions, next)
            .await
    }

    async fn send_with_token(
        &self,
        mut request: Box<Request>,
        (tenant, token): (Cow<'_, Tenant>, AccessToken),
        time: TimeLeft,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let replay = Replay::of(&mut request, self.replay_limit);
        let sending = (request, replay.url());
        // Boxed, since it is rare, and made in a block, so that the future of every request keeps no room for what it takes.
        let second = {
            let first = self
                .send(sending, &token, &time, extensions, next.clone())
                .await?;
            let Some(errcode) = self.rejection(&first, &tenant, replay.url(), extensions) else {
                return Ok(first.into_response(replay.into_url()));
            };
            let app = (tenant, token);
            let first = (first, errcode);
            Box::pin(self.refresh_and_send_again(first, replay, app, time, extensions, next))
        };
        second.await
    }

    async fn refresh_and_send_again(
        &self,
        (first, errcode): (Reply, i64),
        replay: Replay,
        (tenant, rejected): (Cow<'_, Tenant>, AccessToken),
        time: TimeLeft,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = replay.url().clone();
        let path = RejectionScope::joined(url.path(), extensions);
        let refresh = self.manager.refresh_rejected_on(&tenant, &rejected, &path);
        let token = match time.bounds(refresh).await {
            Err(error) if error.kind() == ErrorKind::HeldBack => {
                return Ok(first.into_response(url));
            }
            token => token?,
        };
        let (key, path) = (tenant.key(), &*path);
        let Some(request) = replay.into_request() else {
            tracing::warn!(event = "request_not_sent_again", %key, path, errcode, "there is a new token, but the body is longer than the replay limit");
            return Ok(first.into_response(url));
        };
        drop(first);

        tracing::debug!(event = "request_sent_again", %key, path, errcode, "the API rejected the token, sending the request with a new one");
        let second = self
            .send((Box::new(request), &url), &token, &time, extensions, next)
            .await?;
        if self.rejection(&second, &tenant, &url, extensions).is_some() {
            self.manager.rejected_again(&tenant, &token, path);
        }
        Ok(second.into_response(url))
    }

    /// Sends the request, whose URL this is, with the token on it. Not an `async fn`, whose future would hold the request too.
    fn send<'a>(
        &'a self,
        (mut request, url): (Box<Request>, &'a Url),
        token: &'a AccessToken,
        time: &TimeLeft,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> impl Future<Output = reqwest_middleware::Result<Reply>> + Send + 'a {
        scope::put_on(request.url_mut(), token);
        time.limit(&mut request);
        let sending = next.run(*request, extensions);
        async move {
            let looking = {
                let reply = self.reply_without_token(sending.await, token, url)?;
                if !reply.may_hold_errcode() {
                    return Ok(reply);
                }
                // Boxed in a block too: it is rare, since the API itself sends the header.
                Box::pin(reply.with_errcode_of_body())
            };
            Ok(looking.await)
        }
    }

    /// What has come of sending a request to this URL with the token on it.
    fn reply_without_token(
        &self,
        sent: reqwest_middleware::Result<Response>,
        token: &AccessToken,
        url: &Url,
    ) -> reqwest_middleware::Result<Reply> {
        let mut response = sent.map_err(|error| error_without_token(error, token, url))?;
        // `reqwest` leaves the URL here too.
        response.extensions_mut().remove::<RequestUri>();
        let moved = scope::moved(response.url(), url, token);
        let is_of_api = moved.is_none() || self.scope.is_api(response.url());
        Ok(Reply::new(response, moved, is_of_api))
    }

    /// The errcode with which the API rejects the token in this reply, if it does.
    fn rejection(
        &self,
        reply: &Reply,
        tenant: &Tenant,
        url: &Url,
        extensions: &Extensions,
    ) -> Option<i64> {
        let is_rejection = |errcode: &i64| self.refresh_on.contains(errcode);
        let rejection = reply.errcode().filter(is_rejection);
        if rejection.is_none() && reply.is_answer() && self.manager.notes_accepted() {
            let path = RejectionScope::joined(url.path(), extensions);
            self.manager.accepted(tenant, &path);
        }
        rejection
    }

    /// Who the request is sent as. The default is borrowed, since counting references from many threads at once takes time.
    fn tenant(&self, request: &Request, extensions: &Extensions) -> Option<Cow<'_, Tenant>> {
        if let Some(credentials) = extensions.get() {
            return Some(Cow::Owned(self.manager.tenant(credentials)));
        }
        if let Some(credentials_for) = &self.credentials_for
            && let Some(credentials) = credentials_for.choose(request, extensions)
        {
            return Some(Cow::Owned(self.manager.tenant(&credentials)));
        }
        self.default.as_ref().map(Cow::Borrowed)
    }

    fn token_in_hand(
        &self,
        request: &Request,
        extensions: &Extensions,
    ) -> Option<(Cow<'_, Tenant>, AccessToken)> {
        let tenant = self.tenant(request, extensions)?;
        let token = self.manager.token_in_hand(&tenant)?;
        Some((tenant, token))
    }
}

// Written by hand, so that a request to another host costs no allocation, and one whose token is in hand no future that waits.
impl Middleware for AccessTokenMiddleware {
    fn handle<'a, 'b, 'c, 'd>(
        &'a self,
        request: Request,
        extensions: &'b mut Extensions,
        next: Next<'c>,
    ) -> std::pin::Pin<Box<dyn Future<Output = reqwest_middleware::Result<Response>> + Send + 'd>>
    where
        'a: 'd,
        'b: 'd,
        'c: 'd,
        Self: 'd,
    {
        if !self.scope.takes_token(request.url(), extensions) {
            return next.run(request, extensions);
        }
        let request = Box::new(request);
        match self.token_in_hand(&request, extensions) {
            Some(in_hand) => {
                let time = TimeLeft::of(&request);
                Box::pin(self.send_with_token(request, in_hand, time, extensions, next))
            }
            None => Box::pin(self.wait_for_token(request, extensions, next)),
        }
    }
}

fn error_without_token(
    mut error: reqwest_middleware::Error,
    token: &AccessToken,
    asked: &Url,
) -> reqwest_middleware::Error {
    if let Some(url) = error.url_mut() {
        scope::take_off(url, token, asked);
    }
    // The URL of a layer's own error cannot be reached.
    if redact::shows(&redact::all_that_is_said(&error), token.expose_secret()) {
        let said = Said::by(&error, Some(token.expose_secret()));
        return reqwest_middleware::Error::middleware(said);
    }
    error
}

/// What is left of a request's own time limit.
struct TimeLeft {
    limit: Option<(Duration, Instant)>,
}

impl TimeLeft {
    fn of(request: &Request) -> Self {
        let limit = request.timeout().copied();
        Self {
            limit: limit.map(|limit| (limit, Instant::now())),
        }
    }

    fn bounds<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        match self.limit {
            None => Either::Left(work),
            Some((limit, began)) => {
                let work = timeout(limit.saturating_sub(began.elapsed()), work);
                Either::Right(
                    work.map(move |done| {
                        done.unwrap_or_else(|_elapsed| Err(Error::timed_out(limit)))
                    }),
                )
            }
        }
    }

    fn limit(&self, request: &mut Request) {
        if let Some((limit, began)) = self.limit {
            *request.timeout_mut() = Some(limit.saturating_sub(began.elapsed()));
        }
    }
}

impl Debug for AccessTokenMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokenMiddleware")
            .field("manager", &self.manager)
            .field(
                "credentials",
                &self.default.as_ref().map(Tenant::credentials),
            )
            .field("refresh_on", &self.refresh_on)
            .field("replay_limit", &self.replay_limit)
            .finish_non_exhaustive()
    }
}
