//! A small world for the manager: an issuer, an API, and a clock that is moved by hand.

mod clock;
mod issuer;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::Extensions;
use http_body_util::BodyExt;
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, RequestBuilder};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

pub(super) use self::clock::HandClock;
use self::issuer::AskedBy;
pub(super) use self::issuer::{Behaviour, Call, End, Given, Issuer, Member, Repeat, Try};
use crate::clock::Clock;
use crate::{
    AccessTokenMiddleware, Credentials, Error, ErrorKind, TokenManager, TokenManagerBuilder,
    TokenSource,
};

/// The lifetime that the issuer gives.
pub(super) const LIFETIME: Duration = Duration::from_secs(7200);

/// What a client is made of; nothing is sent through it here.
static NETWORK: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);

#[derive(Clone)]
pub(super) struct World {
    pub(super) clock: HandClock,
    pub(super) issuer: Arc<Issuer>,
}

impl World {
    pub(super) fn new() -> Self {
        Self::at(SystemTime::now())
    }

    /// A world whose clock shows this time.
    pub(super) fn at(now: SystemTime) -> Self {
        let clock = HandClock::new(now);
        let issuer = Arc::new(Issuer::new(clock.clone()));
        Self { clock, issuer }
    }

    pub(super) fn builder(&self) -> TokenManagerBuilder {
        let clock = self.clock.clone();
        TokenManagerBuilder {
            clock: Clock::new(move || clock.now()),
            ..TokenManager::builder(self.issuer.clone())
        }
    }

    /// A builder for one of several managers.
    pub(super) fn builder_of(&self, member: Member) -> TokenManagerBuilder {
        TokenManagerBuilder {
            source: Arc::new(AskedBy(member, self.issuer.clone())),
            ..self.builder()
        }
    }

    /// A manager with this source and the clock of this world.
    pub(super) fn manager_of(&self, source: impl TokenSource) -> TokenManager {
        TokenManagerBuilder {
            source: Arc::new(source),
            ..self.builder()
        }
        .build()
    }

    /// The same world, seen by a process whose clock is another.
    pub(super) fn clone_with_clock(&self) -> Self {
        Self {
            clock: self.clock.apart(),
            issuer: self.issuer.clone(),
        }
    }

    pub(super) fn manager(&self) -> TokenManager {
        self.builder().build()
    }

    /// A client with the middleware on this manager, whose requests are answered by the API of this world.
    pub(super) fn client(&self, manager: &TokenManager) -> ClientWithMiddleware {
        self.client_of(0, manager)
    }

    /// A [`client`](Self::client) on one of several managers.
    pub(super) fn client_of(&self, member: Member, manager: &TokenManager) -> ClientWithMiddleware {
        let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(app());
        self.client_through(member, middleware.build())
    }

    /// A client with this middleware, whose requests are answered by the API of this world.
    pub(super) fn client_with(&self, middleware: AccessTokenMiddleware) -> ClientWithMiddleware {
        self.client_through(0, middleware)
    }

    /// A client with this layer in front of the middleware.
    pub(super) fn client_behind(
        &self,
        layer: impl Middleware,
        manager: &TokenManager,
    ) -> ClientWithMiddleware {
        let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(app());
        ClientBuilder::new(NETWORK.clone())
            .with(layer)
            .with(middleware.build())
            .with(Api(0, self.issuer.clone()))
            .build()
    }

    fn client_through(
        &self,
        member: Member,
        middleware: AccessTokenMiddleware,
    ) -> ClientWithMiddleware {
        ClientBuilder::new(NETWORK.clone())
            .with(middleware)
            .with(Api(member, self.issuer.clone()))
            .build()
    }
}

/// A runtime whose clock stands still until everything waits, and then goes to the next timer.
pub(super) fn paused_runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// The start of this second, and a fraction of it: tests that draw their times do not depend on when they run.
pub(super) fn this_second(fraction: Duration) -> SystemTime {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()) + fraction
}

/// The number of a request, as an extension.
#[derive(Clone, Copy)]
pub(super) struct Numbered(pub(super) usize);

/// The app that most tests are about.
pub(super) fn app() -> Credentials {
    Credentials::new("corp", "canary-secret")
}

/// The errcode that the caller gets for a request to this path.
pub(super) async fn call(client: &ClientWithMiddleware, path: &str) -> Result<i64, Error> {
    let url = format!("https://qyapi.weixin.qq.com/cgi-bin/{path}");
    errcode_of(client.get(url)).await
}

pub(super) async fn errcode_of(request: RequestBuilder) -> Result<i64, Error> {
    match request.send().await {
        Ok(answer) => Ok(answer.headers()["error-code"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap()),
        Err(error) => Err(Error::find(&error).expect("an error of ours").clone()),
    }
}

/// Sends a request to the path every 50 ms for so long. Returns the answers that were not good, with the time at which each was sent.
pub(super) async fn traffic(
    client: &ClientWithMiddleware,
    path: &str,
    time: Duration,
) -> Vec<(Duration, Result<i64, Error>)> {
    let began = Instant::now();
    let mut bad = Vec::new();
    while began.elapsed() < time {
        let sent = began.elapsed();
        let answer = call(client, path).await;
        if !matches!(answer, Ok(0)) {
            bad.push((sent, answer));
        }
        sleep(Duration::from_millis(50)).await;
    }
    bad
}

pub(super) fn fails_as<T>(result: &Result<T, Error>, kind: ErrorKind) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == kind)
}

pub(super) fn fails_with<T>(result: &Result<T, Error>, errcode: i64) -> bool {
    let is_it = |error: &Error| error.errcode() == Some(errcode);
    result.as_ref().is_err_and(is_it)
}

/// The API, as the last layer of a client: it answers by itself.
struct Api(Member, Arc<Issuer>);

#[async_trait]
impl Middleware for Api {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if let Some(body) = request.body_mut().take() {
            body.collect().await.unwrap();
        }
        let param = |name| {
            let mut query = request.url().query_pairs();
            let (_, value) = query.find(|(other, _)| other == name)?;
            Some(value.into_owned())
        };
        let mut path = request
            .url()
            .path()
            .trim_start_matches("/cgi-bin/")
            .to_owned();
        if let Some(customer) = param("customer") {
            path.push_str(&format!("?customer={customer}"));
        }
        let request_number = extensions.get().map(|Numbered(number)| *number);
        let token = param("access_token").unwrap_or_default();
        let delay = self.1.api_delay();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (errcode, latency) = self.1.call((self.0, request_number), path, token);
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let answer = http::Response::builder()
            .header("error-code", errcode)
            .url(request.url().clone());
        Ok(answer.body("").unwrap().into())
    }
}
