//! Neither tokens nor secrets nor passwords of Redis show in any text.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_support::Server;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    Error, FetchRequest, FetchedToken, RedisStore, StoreOnly, TokenManager, TokenSource,
    TokenStore, async_trait, redis,
};
use support::{Qyapi, SECRET, app, key};

fn store_at(url: &str) -> RedisStore {
    let client = redis::Client::open(url).unwrap();
    let limit = Duration::from_millis(200);
    RedisStore::builder(client).operation_limit(limit).build()
}

fn manager(qyapi: &Qyapi, store: RedisStore) -> TokenManager {
    TokenManager::builder(qyapi.source()).store(store).build()
}

async fn succeeds(qyapi: &Qyapi, client: &ClientWithMiddleware) {
    let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
}

/// What was logged.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Logged {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Listens to all that is logged on this thread.
fn listen() -> (Logged, tracing::subscriber::DefaultGuard) {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    (logged, tracing::subscriber::set_default(subscriber))
}

/// A source that fetches, and never gets anything.
struct NotReady;

#[async_trait]
impl TokenSource for NotReady {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        Err(Error::not_ready("not yet"))
    }
}

#[tokio::test]
async fn one_who_may_not_write_and_asks_again_and_again_warns_once() {
    let (logged, _guard) = listen();
    let redis = Server::start();
    redis
        .tell(
            "ACL SETUSER reader on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +pttl",
        )
        .await;
    let url = redis.url().replace("://", "://reader:PASSWORD@");
    let reader = TokenManager::builder(StoreOnly::default())
        .store(store_at(&url))
        .build();
    for _ in 0..20 {
        assert!(reader.token(&app()).await.is_err());
    }
    let text = logged.text();
    assert!(
        !text.contains("\"store_failed\""),
        "a reader writes nothing: {text}"
    );

    let fetcher = TokenManager::builder(NotReady)
        .store(store_at(&url))
        .build();
    for _ in 0..20 {
        assert!(fetcher.token(&app()).await.is_err());
    }
    let text = logged.text();
    assert_eq!(text.matches("\"store_failed\"").count(), 1, "{text}");
}

#[tokio::test]
async fn a_value_that_no_writer_should_leave_is_warned_of_once_for_each_key() {
    let (logged, _guard) = listen();
    let redis = Server::start();
    let store = store_at(&redis.url());
    let key = key(&app());
    redis.tell(&format!("SET wecom:{key} canary")).await;
    for _ in 0..3 {
        assert_eq!(store.get(&key).await.unwrap(), None);
    }
    redis.tell("RPUSH wecom:other canary").await;
    let database = store.database().unwrap();
    assert!(database.load("other").await.unwrap().is_none());
    let text = logged.text();
    let warnings: Vec<_> = text.lines().filter(|it| it.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{text}");
    assert!(warnings[0].contains(key.as_str()) && warnings[0].contains("PX"));
    assert!(warnings[1].contains("wecom:other"));
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn no_text_shows_a_secret_and_an_outage_is_warned_of_once() {
    let (logged, _guard) = listen();
    let qyapi = Qyapi::start().await;
    qyapi.token_suffix("canary-token");
    let mut redis = Server::start();
    let url = redis.url().replace("://", "://user:canary-password@");
    let mut shown = String::new();

    for bad in [
        "redis://user:canary-password@:x/",
        "redis://user:canary-password@h/canary-password",
        "nonsense://canary-password",
    ] {
        shown += &format!("{:?}", RedisStore::connect(bad).unwrap_err());
    }
    // The server refuses the password.
    let refused = store_at(&url);
    let key = key(&app());
    shown += &format!("{refused:?} {:?}", refused.get(&key).await);
    let client = qyapi.wecom_on(&manager(&qyapi, refused));
    succeeds(&qyapi, &client).await;
    // Down.
    redis.kill();
    let manager = manager(&qyapi, store_at(&url));
    shown += &format!("{manager:?} {:?}", store_at(&url).get(&key).await);
    let before = logged.text().matches("\"store_failed\"").count();
    let client = qyapi.wecom_on(&manager);
    for _ in 0..20 {
        succeeds(&qyapi, &client).await;
    }
    let text = logged.text();
    assert_eq!(
        text.matches("\"store_failed\"").count(),
        before + 1,
        "{text}"
    );
    shown += &text;
    for canary in ["canary", SECRET] {
        assert!(!shown.contains(canary), "{shown}");
    }
}
