//! A stand-in for qyapi: a real HTTP server on a port of this machine.
//!
//! It keeps to what is known of qyapi on the wire, and does on demand what the real one does only on
//! bad days: it revokes tokens, answers late, drips, hangs up. It also tells what it saw.

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a stand-in that cannot do its work fails the test"
)]

mod answer;
mod api;
mod body;
mod client;
mod database;
mod gate;
mod issuer;
mod media;
mod offline;
mod page_ticket;
mod provider;
mod received;
mod serve;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Url;
use tokio::{sync::watch, task::AbortHandle};

pub use self::{
    answer::{Answer, Drip},
    body::{Ledger, MIB, noise, pieces, sha256, soon},
    client::{app, chain, is_kind, key, other_app, token, with_tokens},
    database::Memory,
    gate::Gate,
    issuer::{CORP, OTHER_CORP, OTHER_CORP_SECRET, OTHER_SECRET, Repeat, SECRET},
    offline::{URL, offline, offline_plain, offline_with},
    page_ticket::PageTicket,
    provider::{
        BRANCH_AGENT, PROVIDER, PROVIDER_SECRET, SUITE, SUITE_SECRET, ZONE_SECRET, branch, code_of,
        customer, provider, suite,
    },
    received::Received,
};
use self::{
    answer::{Script, Style},
    gate::Gateway,
    issuer::Issuer,
    media::Shelf,
    page_ticket::PageTickets,
    provider::Provider,
    received::Log,
};

/// The name under which the world knows the API.
pub const HOST: &str = "qyapi.weixin.qq.com";

/// The running stand-in. Its tasks and sockets end when it is dropped.
pub struct Qyapi {
    shared: Arc<Shared>,
    addr: SocketAddr,
    base_url: Url,
    certificate: Option<reqwest::Certificate>,
    server: AbortHandle,
}

/// What the handle and the server have in common.
#[derive(Default)]
struct Shared {
    prefix: String,
    issuer: Mutex<Issuer>,
    provider: Mutex<Provider>,
    page_tickets: Mutex<PageTickets>,
    style: Mutex<Style>,
    script: Mutex<Script>,
    shelf: Mutex<Shelf>,
    log: watch::Sender<Log>,
    connections: AtomicUsize,
    gettoken_latency: Mutex<Duration>,
    gettoken_gateway: Gateway,
    api_gateway: Gateway,
}

/// A stand-in that is yet to be started.
#[derive(Default)]
pub struct Builder {
    prefix: String,
    tls: bool,
}

impl Builder {
    /// Serves below this path, as a gateway does: `/proxy/qyapi`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = format!("/{}", prefix.trim_matches('/'));
        self
    }

    /// Serves `https://qyapi.weixin.qq.com`, with a certificate that [`Qyapi::client_builder`] trusts.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Starts it, on a free port.
    pub async fn start(self) -> Qyapi {
        let shared = Arc::new(Shared {
            prefix: self.prefix,
            ..Shared::default()
        });
        let listener = serve::listen();
        let addr = listener.local_addr().unwrap();
        let (origin, tls, certificate) = if self.tls {
            let (tls, certificate) = serve::tls_for(HOST);
            (format!("https://{HOST}"), Some(tls), Some(certificate))
        } else {
            (format!("http://{addr}"), None, None)
        };
        let base_url = format!("{origin}{}/", shared.prefix).parse().unwrap();
        let server = tokio::spawn(serve::serve(listener, tls, shared.clone())).abort_handle();
        Qyapi {
            shared,
            addr,
            base_url,
            certificate,
            server,
        }
    }
}

impl Drop for Qyapi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Where it is.
impl Qyapi {
    /// Starts one that speaks plain HTTP.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// One with a path prefix, or with TLS.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The base URL of the API: all that lies before `cgi-bin/`.
    pub fn base_url(&self) -> Url {
        self.base_url.clone()
    }

    /// The URL of a call, `user/get?userid=zhangsan` for one, which is taken over as it is.
    pub fn url(&self, call: &str) -> String {
        format!("{}cgi-bin/{call}", self.base_url)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A client that can reach it.
    pub fn client(&self) -> reqwest::Client {
        self.client_builder().build().unwrap()
    }

    /// A client that can reach it, to be built further. The real qyapi is out of its reach.
    pub fn client_builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .no_proxy()
            .referer(false)
            .resolve(HOST, self.addr)
            .tls_certs_only(self.certificate.clone())
    }
}

/// What the issuer of tokens does.
impl Qyapi {
    /// From now on the app's tokens are answered 40014.
    pub fn revoke(&self, secret: &str) {
        self.issuer().end(secret, 40014);
    }

    /// From now on the app's tokens are answered 42001.
    pub fn expire(&self, secret: &str) {
        self.issuer().end(secret, 42001);
    }

    /// From now on the app's tokens are answered this errcode.
    pub fn reject(&self, secret: &str, errcode: i64) {
        self.issuer().end(secret, errcode);
    }

    /// The newest token of the app that is still good.
    pub fn current_token(&self, secret: &str) -> Option<String> {
        self.issuer().current(secret)
    }

    /// Gets a token as `gettoken` would, unseen: as if another process had.
    pub fn issue(&self, secret: &str) -> String {
        self.issuer().issue(secret).0
    }

    /// What another `gettoken` within the lifetime of a token does.
    pub fn on_repeat(&self, repeat: Repeat) {
        self.issuer().repeat = repeat;
    }

    /// The lifetime that `gettoken` tells. In truth a token lives until it is ended.
    pub fn lifetime(&self, lifetime: Duration) {
        self.issuer().lifetime = lifetime;
    }

    /// Ends each new token with this text, which may hold what a URL must encode.
    pub fn token_suffix(&self, suffix: &str) {
        suffix.clone_into(&mut self.issuer().suffix);
    }

    /// Whether `gettoken` leaves `errcode` out when it succeeds, as it used to.
    pub fn omit_errcode_on_success(&self, omit: bool) {
        self.issuer().omit_errcode = omit;
    }

    fn issuer(&self) -> MutexGuard<'_, Issuer> {
        self.shared.issuer.lock().unwrap()
    }
}

/// How and when it answers.
impl Qyapi {
    /// Whether answers carry `Error-Code` and `Error-Msg`.
    pub fn error_headers(&self, on: bool) {
        self.shared.style.lock().unwrap().error_headers = on;
    }

    /// Whether `errcode` is the first key of an answer, or comes after the others.
    pub fn errcode_first(&self, first: bool) {
        self.shared.style.lock().unwrap().errcode_first = first;
    }

    /// How long `gettoken` takes.
    pub fn gettoken_latency(&self, latency: Duration) {
        *self.shared.gettoken_latency.lock().unwrap() = latency;
    }

    /// Makes calls of `gettoken` wait, when they have been counted and not yet decided.
    pub fn hold_gettoken(&self) -> Gate {
        self.shared.gettoken_gateway.close()
    }

    /// Makes all other calls wait, when they have been decided and not yet answered.
    pub fn hold_api(&self) -> Gate {
        self.shared.api_gateway.close()
    }

    /// Gives the next call of `path` this answer, after those already scripted.
    pub fn script(&self, path: &str, answer: Answer) {
        self.shared.script.lock().unwrap().add(path, answer);
    }

    /// Answers `path` as usual again.
    pub fn clear_script(&self, path: &str) {
        self.shared.script.lock().unwrap().clear(path);
    }

    /// Answers every call of `path` with this errcode, whatever its token, until the script is cleared.
    pub fn reject_always(&self, path: &str, errcode: i64) {
        self.script(path, Answer::errcode(errcode).always());
    }

    /// Keeps a file as if it had been uploaded, and gives its media id.
    pub fn keep_media(&self, name: &str, content_type: &str, content: &[u8]) -> String {
        let content = content.to_vec().into();
        let mut shelf = self.shared.shelf.lock().unwrap();
        shelf.keep(name, content_type, content)
    }
}

/// What it saw. A path is what follows `/cgi-bin/`, or for other requests the whole path.
impl Qyapi {
    /// How often `gettoken` was called.
    pub fn gettoken_count(&self) -> usize {
        self.count("gettoken")
    }

    /// How often `gettoken` was called with this secret.
    pub fn gettoken_count_of(&self, secret: &str) -> usize {
        self.count_if(|it| {
            it.path == "gettoken" && it.param("corpsecret").as_deref() == Some(secret)
        })
    }

    /// How often `path` was called.
    pub fn count(&self, path: &str) -> usize {
        self.count_if(|it| it.path == path)
    }

    /// How often the API was called, `gettoken` left out.
    pub fn api_count(&self) -> usize {
        self.count_if(|it| it.path != "gettoken" && !it.path.starts_with('/'))
    }

    fn count_if(&self, condition: impl Fn(&Received) -> bool) -> usize {
        let log = self.shared.log.borrow();
        log.received().iter().filter(|it| condition(it)).count()
    }

    /// How many connections it has accepted.
    pub fn connection_count(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// All requests, in the order in which they came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.log.borrow().received().to_vec()
    }

    /// The latest call of `path`.
    pub fn last(&self, path: &str) -> Received {
        let log = self.shared.log.borrow();
        let found = log.received().iter().rfind(|it| it.path == path);
        found.expect("it has been called").clone()
    }

    /// Waits until what was received, bodies included, meets the condition.
    pub async fn until(&self, mut condition: impl FnMut(&[Received]) -> bool) {
        let mut log = self.shared.log.subscribe();
        let met = log.wait_for(|log| condition(log.received())).await;
        met.expect("the log is here");
    }

    /// Forgets what was received: counts start from nought, and a long run does not fill the memory.
    pub fn forget_received(&self) {
        self.shared.log.send_modify(Log::forget);
    }
}
