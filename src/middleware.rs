//! The path of a request: add a token, send, look for a rejection, refresh, send again.

mod builder;

use std::borrow::Cow;
use std::fmt::{self, Debug};

use futures_util::future::ready;
use http::Extensions;
use reqwest::{Request, Response, Url};
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next};
use tower_http::follow_redirect::RequestUri;

pub use self::builder::AccessTokenMiddlewareBuilder;
use self::builder::CredentialsFor;
use crate::error::without_token;
use crate::manager::{Served, Tenant};
use crate::replay::Replay;
use crate::reply::Reply;
use crate::scope::{Pair, Scope};
use crate::sent_tokens::SentTokens;
use crate::time_left::TimeLeft;
use crate::{
    AccessToken, Credentials, Error, ErrorKind, GetToken, RejectionScope, TokenManager, TokenStore,
};

/// Adds a valid access token to requests to the WeCom API, and sends a request once more if the API rejects the token.
///
/// Add it last to a [`reqwest_middleware::ClientBuilder`], so that the layers before it see no token. Build the client with
/// `.referer(false)`. Otherwise `reqwest` sends the whole URL, token included, as `Referer` to the target of a redirect.
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
/// It appends the token to the query of each request to the API below the base URL of the source's [`Audience`](crate::Audience). The rest of
/// the URL stays byte for byte the same. It sends these requests unchanged:
///
/// - requests to any other URL, also to the API over `http` if the base URL says `https`
/// - requests to paths that don't take the source's [kind of token](crate::TokenKind). Paths that take no access token are `gettoken`,
///   `service/…`, `webhook/…` and `license/…`, for example
/// - requests with a credential in the query: `key`, `response_code`, a name that ends in `access_token`, or the parameter for the token
/// - requests whose path has an encoded `..` segment
/// - requests with [`NoAccessToken`](crate::NoAccessToken)
///
/// If the API answers an errcode that [rejects](crate::TokenKind::rejected_by) the token, which are 40014 and 42001 for access tokens, the
/// middleware gets another token and sends the request once more. You get the second answer, whatever it is. You get the first one if the
/// refresh is held back, or if a streamed body is longer than the [replay limit](AccessTokenMiddlewareBuilder::replay_limit). This is safe
/// for any method, because the API checks the token before it runs the call.
///
/// The middleware reads the errcode from the header `Error-Code`. Without that header, it looks into bodies of at most 16 KiB: JSON, text, and
/// those without a `Content-Type`, but not downloads (`Content-Disposition`).
/// It streams all other bodies to you. The body you get is always complete, and [`url`](Response::url) has no token.
///
/// It stops looking when a body is silent for 1 s or takes longer than 3 s, so you get the headers by then. It does not see a rejection that
/// comes more slowly. It does not see one in a compressed body either, so if you send `Accept-Encoding` yourself, let `reqwest` decode the
/// answer: enable its feature `gzip`.
///
/// The second request has the same method, URL, version, headers, body and timeout. If you created the request from an [`http::Request`],
/// only the first one has its extensions.
///
/// # Beside a layer that retries
///
/// Add the retry layer first. Two things to know about `reqwest-retry`:
///
/// Its default strategy never retries an error of another middleware. To retry transient failures to get a token, use a strategy like this
/// one. Let its policy wait at least 1 s, since each try during a cooldown gets the same error. The default policy may wait less, because of
/// its jitter: use `.retry_bounds(Duration::from_secs(2), Duration::from_secs(30)).jitter(Jitter::Bounded)`.
///
/// ```
/// use std::time::Duration;
/// use reqwest_retry::{DefaultRetryableStrategy, Retryable, RetryableStrategy};
/// use reqwest_wecom::Error;
///
/// struct RetryTokens;
///
/// impl RetryableStrategy for RetryTokens {
///     fn handle(&self, result: &reqwest_middleware::Result<reqwest::Response>) -> Option<Retryable> {
///         let Some(error) = result.as_ref().err().and_then(|error| Error::find(error)) else {
///             return DefaultRetryableStrategy.handle(result);
///         };
///         let is_soon = error.retry_after().is_none_or(|wait| wait <= Duration::from_secs(5));
///         let retry = error.is_transient() && is_soon;
///         Some(if retry { Retryable::Transient } else { Retryable::Fatal })
///     }
/// }
/// ```
///
/// It refuses streamed bodies and multipart forms, because it can't clone them. Send these through a second client without the retry layer.
/// Clones of one middleware share the manager, and so the token:
///
/// ```
/// # use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
/// # use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
/// # use reqwest_wecom::AccessTokenMiddleware;
/// fn clients(http: reqwest::Client, tokens: AccessTokenMiddleware) -> (ClientWithMiddleware, ClientWithMiddleware) {
///     let policy = ExponentialBackoff::builder().build_with_max_retries(3);
///     let calls = ClientBuilder::new(http.clone())
///         .with(RetryTransientMiddleware::new_with_policy(policy))
///         .with(tokens.clone())
///         .build();
///     let uploads = ClientBuilder::new(http).with(tokens).build();
///     (calls, uploads)
/// }
/// ```
///
/// # Which app
///
/// A request is sent as the app of its own [`Credentials`] extension. Without one for the middleware's kind of token, the app is what
/// [`credentials_for`](AccessTokenMiddlewareBuilder::credentials_for) returns, or else the
/// [default](AccessTokenMiddlewareBuilder::credentials).
///
/// # Several kinds of token
///
/// Add one middleware for each [kind](crate::TokenKind) to one client, in any order. Each serves the paths that take its kind. Requests to
/// these need only the credentials of that kind, so one [`Credentials`] extension is enough.
///
/// # Errors
///
/// If there is no token, the middleware does not send the request and returns an [`Error`], which you get with [`Error::find`]. If the API
/// rejects the token and there is no new one, the request fails in the same way. If the refresh is held back, you get the API's answer instead.
/// Answers with other errcodes are returned to you unchanged.
///
/// Errors of `reqwest` and of other layers keep their type, but lose the token in their URL. An error that shows the token elsewhere is
/// replaced by its text without the token.
///
/// # Timeouts
///
/// The [`timeout`](reqwest_middleware::RequestBuilder::timeout) of a request covers the wait for the token and both times that it is sent.
/// The timeout of the client (`ClientBuilder::timeout`) applies to each of the two separately, and not to the wait.
///
/// # Panics
///
/// A request panics if it has to wait for a token, or for the body of an answer without `Error-Code`, on a tokio runtime that was built without
/// `enable_time`.
///
/// # Cancel safety
///
/// You can drop a request at any time. A refresh that it started continues in the background.
#[derive(Clone)]
pub struct AccessTokenMiddleware {
    manager: TokenManager,
    credentials_for: Option<CredentialsFor>,
    default: Option<Tenant>,
    scope: Scope,
    replay_limit: usize,
}

impl AccessTokenMiddleware {
    /// Creates a middleware for one app, which fetches tokens with `gettoken` through `http` and keeps them in memory.
    ///
    /// `http` is a [`reqwest::Client`] or a [`ClientWithMiddleware`]. The app's secret travels in the URL of `gettoken`, so other middleware
    /// on `http` sees it.
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
}

// Written by hand, so that a request to another host needs no allocation, and one with a local copy needs no future that waits.
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
        let Some(parameter) = self.scope.parameter(request.url(), extensions) else {
            return next.run(request, extensions);
        };
        let Some(tenant) = self.tenant(&request, extensions) else {
            return Box::pin(ready(Err(Error::no_credentials().into())));
        };
        let request = Box::new(request);
        let served = self.manager.serve(&tenant);
        let sender = Sender { tenant, parameter };
        match served {
            Ok(Served::Token(token)) => {
                let time = TimeLeft::of(&request);
                Box::pin(self.send_with_token(request, (sender, token), time, extensions, next))
            }
            served => Box::pin(self.wait_for_token(request, (sender, served), extensions, next)),
        }
    }
}

impl AccessTokenMiddleware {
    async fn wait_for_token(
        &self,
        request: Box<Request>,
        (sender, served): (Sender<'_>, Result<Served, Error>),
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let time = TimeLeft::of(&request);
        let token = self.manager.wait_for(&sender.tenant, served);
        let token = time.bounds(token).await?;
        self.send_with_token(request, (sender, token), time, extensions, next)
            .await
    }

    async fn send_with_token(
        &self,
        mut request: Box<Request>,
        (sender, token): (Sender<'_>, AccessToken),
        time: TimeLeft,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let replay = Replay::of(&mut request, self.replay_limit);
        let sending = (request, replay.url());
        // Boxed because it is rare, and created in a block, so that the future of an ordinary request reserves no space for it.
        let second = {
            let pair = sender.pair(&token);
            let first = self
                .send(sending, pair, &time, extensions, next.clone())
                .await?;
            let rejection = self.rejection(&first, &sender.tenant, replay.url(), extensions);
            let Some(errcode) = rejection else {
                return Ok(first.into_response(replay.into_url()));
            };
            let sender = (sender, token);
            let first = (first, errcode);
            Box::pin(self.refresh_and_send_again(first, replay, sender, time, extensions, next))
        };
        second.await
    }

    async fn refresh_and_send_again(
        &self,
        (first, errcode): (Reply, i64),
        replay: Replay,
        (sender, rejected): (Sender<'_>, AccessToken),
        time: TimeLeft,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = replay.url().clone();
        let path = RejectionScope::joined(url.path(), extensions);
        let tenant = &*sender.tenant;
        let refresh = self.manager.refresh_rejected_on(tenant, &rejected, &path);
        let token = match time.bounds(refresh).await {
            Err(error) if error.kind() == ErrorKind::HeldBack => {
                return Ok(first.into_response(url));
            }
            token => token?,
        };
        let (key, path) = (tenant.key(), &*path);
        let counters = self.manager.counters();
        let Some(request) = replay.into_request() else {
            counters.replays_too_long.add_one();
            tracing::warn!(target: crate::TARGET, event = "request_not_sent_again", %key, path, errcode, "there is a new token, but the body is longer than the replay limit");
            return Ok(first.into_response(url));
        };
        first.drain().await;

        counters.replays.add_one();
        tracing::debug!(target: crate::TARGET, event = "request_sent_again", %key, path, errcode, "the API rejected the token, sending the request with a new one");
        let (sending, pair) = ((Box::new(request), &url), sender.pair(&token));
        let second = self.send(sending, pair, &time, extensions, next).await?;
        if self.rejection(&second, tenant, &url, extensions).is_some() {
            self.manager.rejected_again(tenant, &token, path);
        } else if second.is_answer() {
            self.manager.healed(tenant, &token, path);
        }
        Ok(second.into_response(url))
    }

    /// Adds the token and sends the request. `url` has no token. Not an `async fn`, because its future would also store the request.
    fn send<'a>(
        &'a self,
        (mut request, url): (Box<Request>, &'a Url),
        pair: Pair<'a>,
        time: &TimeLeft,
        extensions: &'a mut Extensions,
        next: Next<'a>,
    ) -> impl Future<Output = reqwest_middleware::Result<Reply>> + Send + 'a {
        SentTokens::add(extensions, pair.token);
        pair.put_on(request.url_mut());
        time.limit(&mut request);
        let sending = next.run(*request, extensions);
        async move {
            let looking = {
                let reply = self.reply_without_token(sending.await, pair, url)?;
                if !reply.may_hold_errcode() {
                    return Ok(reply);
                }
                // Boxed in a block too: it is rare, since the API itself sends the header.
                Box::pin(reply.with_errcode_of_body())
            };
            Ok(looking.await)
        }
    }

    /// The result of sending the request, with the token removed.
    fn reply_without_token(
        &self,
        sent: reqwest_middleware::Result<Response>,
        pair: Pair<'_>,
        url: &Url,
    ) -> reqwest_middleware::Result<Reply> {
        let mut response = sent.map_err(|error| without_token(error, pair, url))?;
        // `reqwest` leaves the URL here too.
        response.extensions_mut().remove::<RequestUri>();
        let moved = pair.moved(response.url(), url);
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
        let is_rejection = |errcode: &i64| self.scope.kind().is_rejected_by(*errcode);
        let rejection = reply.errcode().filter(is_rejection);
        if rejection.is_none() && reply.is_answer() {
            let path = || RejectionScope::joined(url.path(), extensions);
            self.manager.accepted(tenant, path);
        }
        rejection
    }

    /// The app that the request is sent as. The default is borrowed, because threads would contend for its reference count.
    fn tenant(&self, request: &Request, extensions: &Extensions) -> Option<Cow<'_, Tenant>> {
        let kind = self.scope.kind().name();
        let own = extensions.get::<Credentials>();
        if let Some(credentials) = own.filter(|credentials| credentials.kind() == kind) {
            return Some(Cow::Owned(self.manager.tenant(credentials)));
        }
        if let Some(credentials_for) = &self.credentials_for
            && let Some(credentials) = credentials_for.choose(request, extensions)
        {
            return Some(Cow::Owned(self.manager.tenant(&credentials)));
        }
        self.default.as_ref().map(Cow::Borrowed)
    }
}

/// Who a request is sent as, and in which query parameter the token goes.
struct Sender<'a> {
    tenant: Cow<'a, Tenant>,
    parameter: &'a str,
}

impl<'a> Sender<'a> {
    fn pair<'t>(&self, token: &'t AccessToken) -> Pair<'t>
    where
        'a: 't,
    {
        Pair {
            parameter: self.parameter,
            token,
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
            .field("replay_limit", &self.replay_limit)
            .finish_non_exhaustive()
    }
}
