//! The world in which a scene is played: a client, an API, and what goes wrong between them.

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use http::Extensions;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::{SpanBackendWithUrl, TracingMiddleware};
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, BoxError, Credentials, Error, FetchRequest, FetchedToken,
    GetToken, Kept, MokaStore, TokenKey, TokenManager, TokenSource, TokenStore, async_trait,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower_http::follow_redirect::RequestUri;

use super::Scene;
use super::failure::{Failure, Stage};
use super::search::Places;
use super::support::{Answer, HOST, Qyapi};

/// No part of the chain repeats what another part says.
fn assert_no_text_twice(error: &(dyn std::error::Error + 'static)) {
    let chain = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = chain.map(ToString::to_string).collect();
    for (n, text) in texts.iter().enumerate() {
        let mut others = texts[..n].iter().chain(&texts[n + 1..]);
        assert!(others.all(|other| !other.contains(text)), "{texts:#?}");
    }
}

/// A secret and two tokens: that of the first fetch, and that of a refresh.
#[derive(Debug)]
pub(crate) struct Canaries {
    pub(crate) secret: &'static str,
    pub(crate) tokens: [&'static str; 2],
}

const LONGEST_FETCH: Duration = Duration::from_secs(40);

/// Safe in a URL as they are.
pub(crate) const PLAIN: Canaries = Canaries {
    secret: "QxSec4nWb9kLr",
    tokens: ["QxTok7aVh3mZp-1", "QxTok7aVh3mZp_2"],
};

/// Full of what must be encoded.
pub(crate) const ODD: Canaries = Canaries {
    secret: "QxSec5bTj2gHy+/ &=%#\"'é?\nYwSec8cDf6vNs",
    tokens: [
        "QxTok6dRk4xCw+/ &=%25#\"'é?\nYwTok3eGm9zJq1",
        "QxTok6dRk4xCw+/ &=%25#\"'é?\nYwTok3eGm9zJq2",
    ],
};

/// The letters and digits of the canaries, as long as they stand together. Each form of a canary has at least these.
pub(crate) const RUNS: [&str; 6] = [
    "QxSec4nWb9kLr",
    "QxTok7aVh3mZp",
    "QxSec5bTj2gHy",
    "YwSec8cDf6vNs",
    "QxTok6dRk4xCw",
    "YwTok3eGm9zJq",
];

impl Canaries {
    /// The query of the request that is under way at this stage.
    pub(crate) fn query(&self, stage: Stage) -> String {
        let [first, second] = self.tokens;
        let pair = match stage {
            Stage::Fetch | Stage::Refresh => ("corpsecret", self.secret),
            Stage::FirstTry => ("access_token", first),
            Stage::Replay => ("access_token", second),
        };
        let url = Url::parse_with_params("http://h/?a=1", [pair]).unwrap();
        url.query().unwrap().to_owned()
    }
}

/// How often something goes well before it fails for good.
struct Luck(AtomicUsize);

impl Default for Luck {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Luck {
    fn set(&self, times: usize) {
        self.0.store(times, Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        let less = |times: usize| times.checked_sub(1);
        self.0
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
            .is_ok()
    }
}

/// Where the name of the API leads: it is asked for each sending, since no connection is kept.
struct Way {
    good: SocketAddr,
    /// `None`: nowhere.
    bad: Option<SocketAddr>,
    luck: Arc<Luck>,
}

impl Resolve for Way {
    fn resolve(&self, _: Name) -> Resolving {
        let addr = if self.luck.holds() {
            Some(self.good)
        } else {
            self.bad
        };
        Box::pin(async move {
            let addr = addr.ok_or("there is no such name")?;
            Ok(Box::new([addr].into_iter()) as Addrs)
        })
    }
}

/// Listens, and does this to each connection.
async fn peer<F: Future<Output = ()> + Send + 'static>(
    meet: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(meet(stream));
        }
    });
    addr
}

/// A port where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Speaks TLS under the name of the API, and passes on what it reads.
async fn tls_before(api: SocketAddr) -> (SocketAddr, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let trusted = reqwest::Certificate::from_der(&certificate).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let addr = peer(move |stream| {
        let tls = tls.clone();
        async move {
            if let Ok(mut stream) = tls.accept(stream).await {
                let mut api = TcpStream::connect(api).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut api).await; // Either may go.
            }
        }
    });
    (addr.await, trusted)
}

/// A store that tells all it holds when it is in trouble.
#[derive(Default)]
struct Store {
    kept: MokaStore,
    seen: Mutex<Vec<String>>,
    luck: Luck,
    panics: bool,
}

impl Store {
    fn check(&self) -> Result<(), BoxError> {
        let told = format!("the store holds {:?}", self.seen.lock().unwrap());
        match (self.luck.holds(), self.panics) {
            (true, _) => Ok(()),
            (false, false) => Err(told.into()),
            // Without the hook, which would tell it to the terminal.
            (false, true) => resume_unwind(Box::new(told)),
        }
    }
}

#[async_trait]
impl TokenStore for Store {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.check()?;
        self.kept.get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.seen
            .lock()
            .unwrap()
            .push(token.expose_secret().to_owned());
        self.check()?;
        self.kept.put(key, token).await
    }
}

/// `gettoken`, until it panics or fails like a source that is written without care.
struct Source {
    gettoken: GetToken,
    failure: Failure,
    luck: Arc<Luck>,
    careless: ClientWithMiddleware,
    nobody: SocketAddr,
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        if self.luck.holds() {
            return self.gettoken.fetch(request).await;
        }
        let secret = request.credentials().expose_secret().unwrap();
        match self.failure {
            Failure::SourcePanics => resume_unwind(Box::new(format!("the secret is {secret}"))),
            Failure::SourceFails => {
                let url = format!("http://{}/token", self.nobody);
                let url = Url::parse_with_params(&url, [("secret", secret)]).unwrap();
                let failure = self.careless.get(url).send().await.unwrap_err();
                Err(Error::transient(failure))
            }
            _ => self.gettoken.fetch(request).await,
        }
    }

    fn audience(&self) -> reqwest_wecom::Audience {
        self.gettoken.audience()
    }
}

/// A layer below ours that fails and tells the URL.
struct Gossip(Arc<Luck>);

#[async_trait]
impl Middleware for Gossip {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if self.0.holds() {
            return next.run(request, extensions).await;
        }
        let told = anyhow::anyhow!("sent to {:?}", request.url()).context(request.url().clone());
        Err(reqwest_middleware::Error::Middleware(told))
    }
}

fn retrying(http: ClientBuilder) -> ClientBuilder {
    let millisecond = Duration::from_millis(1);
    let policy = ExponentialBackoff::builder().retry_bounds(millisecond, millisecond);
    http.with(RetryTransientMiddleware::new_with_policy(
        policy.build_with_max_retries(1),
    ))
}

pub(crate) struct World {
    stage: Stage,
    canaries: &'static Canaries,
    qyapi: Qyapi,
    bad_answers: Vec<Answer>,
    /// Of the connections, and of the layer below.
    luck: Arc<Luck>,
    /// Of the source.
    luck_of_source: Arc<Luck>,
    store: Arc<Store>,
    store_fails: bool,
    url: Url,
    credentials: Credentials,
    source: GetToken,
    manager: TokenManager,
    middleware: AccessTokenMiddleware,
    client: ClientWithMiddleware,
}

impl World {
    pub(crate) async fn new(scene: Scene) -> Self {
        let Scene {
            stage,
            failure,
            canaries,
            has_layers,
        } = scene;
        let qyapi = Qyapi::start().await;
        let nobody = nobody().await;
        let (trusted, certificate) = tls_before(qyapi.addr()).await;
        let is_tls = failure == Failure::UntrustedCertificate;
        let luck = Arc::new(Luck::default());
        let way = Way {
            good: if is_tls { trusted } else { qyapi.addr() },
            bad: match failure {
                Failure::Unresolvable => None,
                Failure::Refused => Some(nobody),
                Failure::Reset => Some(peer(reset).await),
                Failure::CutBody => Some(peer(cut_off).await),
                Failure::Garbage => Some(peer(talk_nonsense).await),
                Failure::UntrustedCertificate => Some(tls_before(qyapi.addr()).await.0),
                _ => Some(qyapi.addr()),
            },
            luck: luck.clone(),
        };
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(0)
            .dns_resolver(Arc::new(way))
            .tls_certs_only([certificate]);
        if matches!(failure, Failure::HangsBeforeAnswer | Failure::HangsInBody) {
            http = http.timeout(Duration::from_secs(1));
        }
        let http = http.build().unwrap();
        let plain = || ClientBuilder::new(http.clone());
        let gossip = |client: ClientBuilder| match failure {
            Failure::LayerBelowFails => client.with(Gossip(luck.clone())),
            _ => client,
        };

        let scheme = if is_tls { "https" } else { "http" };
        let base_url: Url = format!("{scheme}://{HOST}/").parse().unwrap();
        let mut of_source = plain();
        if has_layers {
            of_source = retrying(of_source);
        }
        if stage.is_of_gettoken() {
            of_source = gossip(of_source);
        }
        let source = GetToken::new(of_source.build()).base_url(base_url.clone());

        let store = Arc::new(Store {
            panics: failure == Failure::StorePanics,
            ..Store::default()
        });
        let luck_of_source = Arc::new(Luck::default());
        let manager = TokenManager::builder(Source {
            gettoken: source.clone(),
            failure,
            luck: luck_of_source.clone(),
            careless: retrying(plain()).build(),
            nobody,
        });
        // No limit of the manager's own, so that the failure of the last try is what comes out.
        let manager = manager.store(store.clone()).fetch_limit(LONGEST_FETCH);
        let store_fails = matches!(failure, Failure::StoreFails | Failure::StorePanics);
        let manager = if store_fails {
            manager.local_copy(Duration::ZERO) // so that it is asked at every stage
        } else {
            manager
        };
        let manager = manager.build();

        let credentials = Credentials::new("ww_corp", canaries.secret);
        let middleware = AccessTokenMiddleware::builder(manager.clone())
            .credentials(credentials.clone())
            .build();
        let mut client = plain();
        if has_layers {
            client = client.with(TracingMiddleware::<SpanBackendWithUrl>::new());
            client = retrying(client);
        }
        client = client.with(middleware.clone());
        if !stage.is_of_gettoken() {
            client = gossip(client);
        }
        Self {
            stage,
            canaries,
            bad_answers: failure.answers(stage, canaries, nobody, qyapi.addr()),
            qyapi,
            luck,
            luck_of_source,
            store,
            store_fails,
            url: base_url.join("cgi-bin/user/get?a=1").unwrap(),
            credentials,
            source,
            manager,
            middleware,
            client: client.build(),
        }
    }

    pub(crate) async fn play(&self, places: &mut Places) {
        self.prepare().await;
        match self.client.get(self.url.clone()).send().await {
            Ok(answer) => look_into_answer(places, answer).await,
            Err(error) => {
                places.look_into("error of the request", &error);
                if let Some(ours) = Error::find(&error) {
                    places.look_into("our error in it", ours);
                    assert_no_text_twice(&error);
                }
            }
        }
        match self.manager.token(&self.credentials).await {
            Ok(token) => places.look_at("token", &token),
            Err(error) => {
                places.look_into("error of the manager", &error);
                assert_no_text_twice(&error);
            }
        }
        self.look_at_other_calls(places).await;
        self.look_at_values(places);
    }

    /// What operators get, those who need a token for a while, and those who report a value. What has failed fails on.
    async fn look_at_other_calls(&self, places: &mut Places) {
        let (manager, credentials) = (&self.manager, &self.credentials);
        let [first, second] = self.canaries.tokens;
        let day = Duration::from_secs(24 * 60 * 60);
        for (what, result) in [
            ("forced refresh", manager.refresh(credentials).await),
            (
                "token for a day",
                manager.token_valid_for(credentials, day).await,
            ),
            (
                "token for a while",
                manager.token_valid_for(credentials, Duration::ZERO).await,
            ),
            (
                "refresh after a report",
                manager.refresh_rejected(credentials, second).await,
            ),
            (
                "refresh after a late report",
                manager.refresh_rejected(credentials, first).await,
            ),
        ] {
            // It is a matter of luck which of them succeed.
            let text = match &result {
                Ok(token) => format!("{token:?} {token:#?}"),
                Err(error) => {
                    assert_no_text_twice(error);
                    let chain =
                        std::iter::successors(Some(error as &dyn StdError), |&it| it.source());
                    chain.map(|it| format!("{it}\n{it:?}\n{it:#?}\n")).collect()
                }
            };
            places.look(what, &text);
        }
    }

    /// Brings all to where the stage begins, and lets the failure come then.
    async fn prepare(&self) {
        let [first, second] = self.canaries.tokens;
        let gives = |token| Answer::ok(json!({ "access_token": token, "expires_in": 7200 }));
        if self.stage != Stage::Fetch {
            self.qyapi.script("gettoken", gives(first));
            self.manager.token(&self.credentials).await.unwrap();
        }
        let rejections = match self.stage {
            Stage::Fetch | Stage::FirstTry => 0,
            Stage::Refresh | Stage::Replay => 1,
        };
        if rejections > 0 {
            self.qyapi.script("user/get", Answer::errcode(40014));
        }
        let failing = if self.stage.is_of_gettoken() {
            "gettoken"
        } else {
            "user/get"
        };
        for answer in &self.bad_answers {
            self.qyapi.script(failing, answer.clone());
        }
        self.qyapi.script("gettoken", gives(second).always());
        self.qyapi
            .script("user/get", Answer::ok(json!({})).always());

        // The luck of connections covers those of `gettoken` too.
        let connections = match self.stage {
            Stage::Fetch | Stage::FirstTry => 0,
            Stage::Refresh => 1,
            Stage::Replay => 2,
        };
        self.luck.set(connections);
        self.luck_of_source.set(0);
        if self.store_fails {
            self.store.luck.set(0);
        }
    }

    fn look_at_values(&self, places: &mut Places) {
        let Self {
            credentials,
            source,
            manager,
            middleware,
            ..
        } = self;
        let key = manager.key(credentials);
        places.look("key {}", key.as_str());
        places.look_at("key", &key);
        places.look_at("credentials", credentials);
        places.look_at("source", source);
        let dead = AccessToken::from_parts(self.canaries.tokens[0], UNIX_EPOCH, UNIX_EPOCH);
        let request = FetchRequest::new(credentials.clone()).with_rejected(dead);
        places.look_at("request to the source", &request);
        let fetched = FetchedToken::new(self.canaries.tokens[0], Duration::from_secs(1));
        places.look_at("answer of the source", &fetched);
        places.look_at(
            "kept",
            &Kept::new(self.canaries.tokens[0], Duration::from_secs(1)),
        );
        places.look_at("audience", &source.audience());
        places.look_at("store", &self.store.kept);
        places.look_at("manager", manager);
        places.look_at_serialized("status", &manager.status(credentials));
        places.look_at_serialized("stats", &manager.stats());
        places.look_at(
            "builder of the manager",
            &TokenManager::builder(source.clone()),
        );
        places.look_at("middleware", middleware);
        let builder = AccessTokenMiddleware::builder(manager.clone());
        let builder = builder.credentials(credentials.clone());
        places.look_at("builder of the middleware", &builder);
        places.look_at("client", &self.client);
    }
}

async fn look_into_answer(places: &mut Places, answer: Response) {
    places.look("url of the answer", answer.url().as_str());
    if answer.headers().get("location").is_none() {
        // What the API itself says in a header is handed on.
        places.look_at("answer", &answer);
    }
    if let Some(uri) = answer.extensions().get::<RequestUri>() {
        places.look("URI in an extension of the answer", &uri.0.to_string());
    }
    if let Err(error) = answer.error_for_status_ref() {
        places.look_into("error for status", &error);
    }
    let no_number = answer.json::<u8>().await.unwrap_err();
    places.look_into("error while reading the body", &no_number);
}

async fn reset(stream: TcpStream) {
    let _ = stream.readable().await; // It may have gone.
    stream.set_zero_linger().unwrap();
}

async fn cut_off(mut stream: TcpStream) {
    let begun = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n[";
    let _ = stream.read(&mut [0; 4096]).await;
    let _ = stream.write_all(begun).await;
}

async fn talk_nonsense(mut stream: TcpStream) {
    let _ = stream.readable().await;
    let _ = stream.write_all(b"\x16\x03no HTTP at all\r\n\r\n").await;
}
