//! A small world for the manager: an issuer, an API, and a clock that is moved by hand.

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::Extensions;
use http_body_util::BodyExt;
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, RequestBuilder};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock::{Clock, Moment};
use crate::{
    AccessToken, AccessTokenMiddleware, Credentials, Error, ErrorKind, FetchRequest, FetchedToken,
    TokenManager, TokenManagerBuilder, TokenSource,
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
        let clock = HandClock::new();
        let issuer = Arc::new(Issuer {
            clock: clock.clone(),
            state: Mutex::default(),
            asked: watch::Sender::new(0),
        });
        Self { clock, issuer }
    }

    pub(super) fn builder(&self) -> TokenManagerBuilder {
        let clock = self.clock.clone();
        TokenManagerBuilder {
            clock: Clock::new(move || clock.now()),
            ..TokenManager::builder(self.issuer.clone())
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

    pub(super) fn manager(&self) -> TokenManager {
        self.builder().build()
    }

    /// A client with the middleware on this manager, whose requests are answered by the API of this world.
    pub(super) fn client(&self, manager: &TokenManager) -> ClientWithMiddleware {
        let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(app());
        self.client_with(middleware.build())
    }

    /// The same, with this layer in front of the middleware.
    pub(super) fn client_behind(
        &self,
        layer: impl Middleware,
        manager: &TokenManager,
    ) -> ClientWithMiddleware {
        let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(app());
        ClientBuilder::new(NETWORK.clone())
            .with(layer)
            .with(middleware.build())
            .with(Api(self.issuer.clone()))
            .build()
    }

    /// A client with this middleware, whose requests are answered by the API of this world.
    pub(super) fn client_with(&self, middleware: AccessTokenMiddleware) -> ClientWithMiddleware {
        ClientBuilder::new(NETWORK.clone())
            .with(middleware)
            .with(Api(self.issuer.clone()))
            .build()
    }
}

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

/// Wall-clock time: it goes on with tokio's clock, and jumps when told to.
#[derive(Clone)]
pub(super) struct HandClock {
    began: (Instant, SystemTime),
    jumped: Arc<Mutex<i64>>,
}

impl HandClock {
    fn new() -> Self {
        Self {
            began: (Instant::now(), SystemTime::now()),
            jumped: Arc::default(),
        }
    }

    /// What the clock shows.
    pub(super) fn now(&self) -> SystemTime {
        let now = self.true_now();
        let jumped = *self.jumped.lock().unwrap();
        let distance = Duration::from_secs(jumped.unsigned_abs());
        if jumped < 0 {
            now - distance
        } else {
            now + distance
        }
    }

    pub(super) fn moment(&self) -> Moment {
        Moment {
            instant: Instant::now(),
            wall: self.now(),
        }
    }

    /// What it would show if it had never jumped.
    fn true_now(&self) -> SystemTime {
        let (instant, time) = self.began;
        time + instant.elapsed()
    }

    pub(super) fn jump(&self, secs: i64) {
        *self.jumped.lock().unwrap() += secs;
    }
}

/// What a `gettoken` does.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    Issue,
    Fail(Error),
    Panic,
    Hang,
}

/// What another `gettoken` within the lifetime of a token does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Repeat {
    /// The same token; it says the full lifetime, and means what was left.
    SameToken,
    /// The same token, and what is left of its lifetime.
    SameTokenShorter,
    /// The same token, with a new lifetime.
    SameTokenExtended,
    NewTokenOldValid,
    #[default]
    NewTokenEndsOld,
}

pub(super) struct Issuer {
    clock: HandClock,
    state: Mutex<IssuerState>,
    asked: watch::Sender<usize>,
}

#[derive(Default)]
struct IssuerState {
    repeat: Repeat,
    script: VecDeque<Behaviour>,
    usually: Option<Behaviour>,
    latency: Duration,
    api_delay: Duration,
    api_latency: Duration,
    issued: usize,
    given: Vec<(Arc<str>, String)>,
    lifetime: Option<Duration>,
    valid: HashMap<Arc<str>, Vec<Valid>>,
    ended_with: HashMap<String, i64>,
    always_rejects: Vec<String>,
    under_way: HashMap<Arc<str>, usize>,
    most_under_way: usize,
    log: Vec<Try>,
    calls: Vec<Call>,
}

/// One try of a fetch, as the issuer saw it.
#[derive(Clone, Debug)]
pub(super) struct Try {
    pub(super) app: Arc<str>,
    pub(super) began: Moment,
    pub(super) ended: Option<(Moment, End)>,
}

#[derive(Clone, Debug)]
pub(super) enum End {
    Issued,
    Failed(Error),
    /// It panicked, or its caller gave it up.
    Lost,
}

/// One call of the API.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) path: String,
    pub(super) token: String,
    pub(super) errcode: i64,
    pub(super) began: Instant,
    pub(super) answered: Instant,
    /// How many tokens had been fetched before it.
    pub(super) fetched: usize,
}

impl Issuer {
    fn lock(&self) -> MutexGuard<'_, IssuerState> {
        self.state.lock().unwrap()
    }

    pub(super) fn fetch_count(&self) -> usize {
        *self.asked.borrow()
    }

    /// Waits until it has been asked so often.
    pub(super) async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|&asked| asked >= times).await.unwrap();
    }

    /// The most fetches for one key that were under way at one time.
    pub(super) fn most_under_way(&self) -> usize {
        self.lock().most_under_way
    }

    pub(super) fn next(&self, behaviour: Behaviour) {
        self.lock().script.push_back(behaviour);
    }

    pub(super) fn usually(&self, behaviour: Behaviour) {
        self.lock().usually = Some(behaviour);
    }

    pub(super) fn repeats(&self, repeat: Repeat) {
        self.lock().repeat = repeat;
    }

    pub(super) fn takes(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// How long requests are on their way to the API.
    pub(super) fn is_reached_after(&self, delay: Duration) {
        self.lock().api_delay = delay;
    }

    /// How long the answers of the API are on their way.
    pub(super) fn answers_after(&self, latency: Duration) {
        self.lock().api_latency = latency;
    }

    pub(super) fn lives(&self, lifetime: Duration) {
        self.lock().lifetime = Some(lifetime);
    }

    /// A path, with a parameter `customer` if there is one.
    pub(super) fn rejects_always(&self, path: &str) {
        self.lock().always_rejects.push(path.to_owned());
    }

    /// Ends the tokens of an app before their time.
    pub(super) fn end(&self, app: &Credentials, errcode: i64) {
        let mut state = self.lock();
        for token in state.valid.remove(app.name()).unwrap_or_default() {
            state.ended_with.insert(token.value, errcode);
        }
    }

    /// Whether the API would take it.
    pub(super) fn takes_token(&self, token: &AccessToken) -> bool {
        self.verdict("", token.expose_secret()) == 0
    }

    fn verdict(&self, path: &str, value: &str) -> i64 {
        let (state, now) = (self.lock(), self.clock.true_now());
        if state.always_rejects.iter().any(|always| always == path) {
            return 40014;
        }
        let mut valid = state.valid.values().flatten();
        match valid.find(|token| token.value == value) {
            Some(token) if now < token.expires_at => 0,
            Some(_) => 42001,
            None => state.ended_with.get(value).copied().unwrap_or(40014),
        }
    }

    /// A call of the API: what it says, and how long that is on its way.
    fn call(&self, path: String, token: String) -> (i64, Duration) {
        let errcode = self.verdict(&path, &token);
        let mut state = self.lock();
        let fetched = state.given.len();
        let began = Instant::now();
        let answered = began + state.api_latency;
        state.calls.push(Call {
            path,
            token,
            errcode,
            began,
            answered,
            fetched,
        });
        (errcode, state.api_latency)
    }

    fn begin(&self, app: &Arc<str>) -> (Behaviour, Duration) {
        let mut state = self.lock();
        let under_way = state.under_way.entry(app.clone()).or_default();
        *under_way += 1;
        state.most_under_way = state.most_under_way.max(state.under_way[app]);
        let usually = state.usually.clone().unwrap_or(Behaviour::Issue);
        let behaviour = state.script.pop_front().unwrap_or(usually);
        self.asked.send_modify(|asked| *asked += 1);
        state.log.push(Try {
            app: app.clone(),
            began: self.clock.moment(),
            ended: None,
        });
        (behaviour, state.latency)
    }

    pub(super) fn log(&self) -> Vec<Try> {
        self.lock().log.clone()
    }

    /// All tokens that were fetched, in order.
    pub(super) fn given(&self) -> Vec<(Arc<str>, String)> {
        self.lock().given.clone()
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Issues a token, as if `gettoken` had been called.
    pub(super) fn issue(&self, app: &Credentials) -> AccessToken {
        AccessToken::stamped(self.fetched(app.name()), self.clock.now())
    }

    fn fetched(&self, app: &Arc<str>) -> FetchedToken {
        let mut state = self.lock();
        let now = self.clock.true_now();
        let ends_old = state.repeat == Repeat::NewTokenEndsOld;
        let repeat = state.repeat;
        state.issued += 1;
        let fresh = format!("canary-token-{}", state.issued);
        let lifetime = state.lifetime.unwrap_or(LIFETIME);
        let valid = state.valid.entry(app.clone()).or_default();
        valid.retain(|token| now < token.expires_at);
        if ends_old {
            valid.clear();
        }
        let (value, told) = match (valid.last_mut(), repeat) {
            (Some(old), Repeat::SameToken) => (old.value.clone(), lifetime),
            (Some(old), Repeat::SameTokenShorter) => {
                // In whole seconds, as the API tells it.
                let left = old.expires_at.duration_since(now).unwrap().as_secs();
                (old.value.clone(), Duration::from_secs(left))
            }
            (Some(old), Repeat::SameTokenExtended) => {
                old.expires_at = now + lifetime;
                (old.value.clone(), lifetime)
            }
            _ => {
                let (value, expires_at) = (fresh.clone(), now + lifetime);
                valid.push(Valid { value, expires_at });
                (fresh, lifetime)
            }
        };
        FetchedToken::new(value, told)
    }
}

/// A token as the issuer knows it.
struct Valid {
    value: String,
    expires_at: SystemTime,
}

#[async_trait]
impl TokenSource for Issuer {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let app = request.credentials().name();
        let (behaviour, latency) = self.begin(app);
        let mut this = UnderWay {
            issuer: self,
            app,
            index: self.fetch_count() - 1,
            end: End::Lost,
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        match behaviour {
            Behaviour::Issue => {
                this.end = End::Issued;
                let token = self.fetched(app);
                let given = (app.clone(), token.expose_secret().to_owned());
                self.lock().given.push(given);
                Ok(token)
            }
            Behaviour::Fail(error) => {
                this.end = End::Failed(error.clone());
                Err(error)
            }
            Behaviour::Panic => resume_unwind(Box::new("a panic that the test asked for")),
            Behaviour::Hang => std::future::pending().await,
        }
    }
}

/// A try under way.
struct UnderWay<'a> {
    issuer: &'a Issuer,
    app: &'a Arc<str>,
    index: usize,
    end: End,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.issuer.lock();
        if let Some(count) = state.under_way.get_mut(self.app) {
            *count -= 1;
        }
        let now = self.issuer.clock.moment();
        state.log[self.index].ended = Some((now, self.end.clone()));
    }
}

/// The API, as the last layer of a client: it answers by itself.
struct Api(Arc<Issuer>);

#[async_trait]
impl Middleware for Api {
    async fn handle(
        &self,
        mut request: Request,
        _: &mut Extensions,
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
        let token = param("access_token").unwrap_or_default();
        let delay = self.0.lock().api_delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let (errcode, latency) = self.0.call(path, token);
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let answer = http::Response::builder()
            .header("error-code", errcode)
            .url(request.url().clone());
        Ok(answer.body("").unwrap().into())
    }
}
