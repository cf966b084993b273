//! The way of a request: attach, send, look, renew, replay.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::time::Duration;

use futures_util::future::{Either, FutureExt};
use http::Extensions;
use reqwest::{Request, Response, Url};
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next};
use tokio::time::{Instant, timeout};
use tower_http::follow_redirect::RequestUri;

use crate::manager::Tenant;
use crate::redact::{self, OfALayer};
use crate::replay::Replay;
use crate::reply::Reply;
use crate::scope::{self, Scope};
use crate::{AccessToken, Credentials, Error, GetToken, TokenManager, TokenStore};

const REFRESH_ON: [i64; 2] = [40014, 42001];
const REPLAY_LIMIT: usize = 32 * 1024 * 1024;

/// Puts a valid access token on requests to the WeCom API, and sends a request once more when the API rejects its token.
///
/// It goes last into the stack of a [`reqwest_middleware::ClientBuilder`], so that the layers before it see no token:
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
/// Only requests below the source's [`Audience`](crate::Audience) are touched, and of these not the ones that take
/// another credential, have a token already, or carry [`NoAccessToken`](crate::NoAccessToken). The token is put at the end of
/// the query; the rest of the URL stays byte for byte as it was.
///
/// When the answer is errcode 40014 or 42001, the token is renewed and the request is sent once more with the new one in
/// the place of the old. Such an answer means that the call had no effect, so this is safe for any method. The second answer
/// is final, whatever it is. The answer's body is handed on whole, and its [`url`](Response::url) is without the token.
///
/// The second time, the request has the same method, URL, version, headers, body and time limit. The extensions of an [`http::Request`]
/// that it may have been made from go along the first time only.
///
/// # Errors
///
/// A request that can't be given a token is not sent; it fails with an [`Error`], which [`Error::find`] finds. An answer
/// of the API with any other errcode is no error here: it is handed on.
///
/// # Time limits
///
/// A request's own [`timeout`](reqwest_middleware::RequestBuilder::timeout) covers the wait for the token and both
/// sendings. One of the client's own (`ClientBuilder::timeout`) covers each sending by itself.
///
/// # Cancel safety
///
/// A request may be dropped at any time. A renewal that it has started goes on for the others.
#[derive(Clone)]
pub struct AccessTokenMiddleware {
    manager: TokenManager,
    default: Option<Tenant>,
    scope: Scope,
    refresh_on: Vec<i64>,
    replay_limit: usize,
}

impl AccessTokenMiddleware {
    /// Fetches tokens for one app with `gettoken` through this client, and keeps them in memory.
    ///
    /// `http` is a [`reqwest::Client`], or a [`ClientWithMiddleware`] that does **not** hold this middleware.
    pub fn new(http: impl Into<ClientWithMiddleware>, credentials: Credentials) -> Self {
        let manager = TokenManager::builder(GetToken::new(http)).build();
        Self::builder(manager).credentials(credentials).build()
    }

    /// Like [`new`](Self::new), with a store of one's own.
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

    /// Builds one on a manager, which several of them may share.
    pub fn builder(manager: TokenManager) -> AccessTokenMiddlewareBuilder {
        AccessTokenMiddlewareBuilder {
            middleware: Self {
                scope: Scope::of(&manager.audience()),
                manager,
                default: None,
                refresh_on: REFRESH_ON.into(),
                replay_limit: REPLAY_LIMIT,
            },
        }
    }

    async fn wait_for_token(
        &self,
        request: Box<Request>,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let tenant = self.tenant(extensions).ok_or(Error::NoCredentials)?;
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
            if !self.rejects(&first, &tenant, replay.url()) {
                return Ok(first.into_response(replay.into_url()));
            }
            let app = (tenant, token);
            Box::pin(self.renew_and_send_again(first, replay, app, time, extensions, next))
        };
        second.await
    }

    async fn renew_and_send_again(
        &self,
        first: Reply,
        replay: Replay,
        (tenant, rejected): (Cow<'_, Tenant>, AccessToken),
        time: TimeLeft,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = replay.url().clone();
        let renewal = self.manager.renew_for(&tenant, &rejected, url.path());
        let renewed = match time.bounds(renewal).await {
            Err(Error::HeldBack) => return Ok(first.into_response(url)),
            renewed => renewed?,
        };
        let Some(request) = replay.into_request() else {
            return Ok(first.into_response(url));
        };
        drop(first);

        let second = self
            .send((Box::new(request), &url), &renewed, &time, extensions, next)
            .await?;
        if self.rejects(&second, &tenant, &url) {
            self.manager.rejected_again(&tenant, &renewed, url.path());
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

    /// Whether the API rejects the token with this reply.
    fn rejects(&self, reply: &Reply, tenant: &Tenant, url: &Url) -> bool {
        let is_rejection = reply
            .errcode()
            .is_some_and(|errcode| self.refresh_on.contains(&errcode));
        if !is_rejection && reply.is_answer() {
            self.manager.accepted(tenant, url.path());
        }
        is_rejection
    }

    /// Whom the request is sent as. The default is borrowed, since counting references from many threads at once takes time.
    fn tenant(&self, extensions: &Extensions) -> Option<Cow<'_, Tenant>> {
        match extensions.get() {
            Some(credentials) => Some(Cow::Owned(self.manager.tenant(credentials))),
            None => self.default.as_ref().map(Cow::Borrowed),
        }
    }

    fn token_in_hand(&self, extensions: &Extensions) -> Option<(Cow<'_, Tenant>, AccessToken)> {
        let tenant = self.tenant(extensions)?;
        let token = self.manager.token_in_hand(&tenant)?;
        Some((tenant, token))
    }
}

// Written by hand, so that a request that is none of ours costs no allocation, and one whose token is in hand no future that waits.
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
        if !self.scope.is_ours(request.url(), extensions) {
            return next.run(request, extensions);
        }
        let request = Box::new(request);
        match self.token_in_hand(extensions) {
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
        let failure = OfALayer::new(&error, token.expose_secret());
        return reqwest_middleware::Error::middleware(failure);
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
                Either::Right(work.map(move |done| done.unwrap_or(Err(Error::TimedOut { limit }))))
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

/// Builds an [`AccessTokenMiddleware`]: see [`AccessTokenMiddleware::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AccessTokenMiddlewareBuilder {
    middleware: AccessTokenMiddleware,
}

impl AccessTokenMiddlewareBuilder {
    /// The app that a request is sent as if it carries no [`Credentials`] of its own as an extension.
    ///
    /// Default: none, so that each request must carry its own.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.middleware.default = Some(self.middleware.manager.tenant(&credentials));
        self
    }

    /// The errcodes that mean that the token was rejected. Default: 40014 and 42001.
    ///
    /// Only codes that are answered before a call has any effect belong here, since the request is sent once more.
    pub fn refresh_on(mut self, errcodes: impl IntoIterator<Item = i64>) -> Self {
        self.middleware.refresh_on = errcodes.into_iter().collect();
        self
    }

    /// How much of a streamed body is kept for sending it once more, in bytes. Default: 32 MiB.
    ///
    /// When more than that has been sent, the request is not sent again: the caller gets the first answer, and the token has
    /// been renewed for the next request. A body that is in memory anyway does not count.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.middleware.replay_limit = bytes;
        self
    }

    /// The middleware.
    pub fn build(self) -> AccessTokenMiddleware {
        self.middleware
    }
}
