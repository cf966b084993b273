//! What the events tell.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::io::Write;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::Body;
use tokio::time::{advance, sleep};
use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::memory::Memory;
use super::world::{Behaviour, LIFETIME, World, app, call, errcode_of};
use crate::{
    AccessToken, AccessTokenMiddleware, BoxError, Credentials, Error, SharedStore, TokenKey,
    TokenManager, TokenStore,
};

/// All that is logged while it is there.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen(&self) -> DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// The lines of this event.
    fn lines(&self, event: &str) -> Vec<String> {
        let field = format!("event=\"{event}\" ");
        let lines = self.text();
        lines
            .lines()
            .map(|line| format!("{line} "))
            .filter(|line| line.contains(&field))
            .collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Fails, and tells all it knows, until it is told to work.
#[derive(Default)]
struct Chatty {
    works: Mutex<bool>,
}

impl Chatty {
    fn answer(&self, told: &str) -> Result<(), BoxError> {
        if *self.works.lock().unwrap() {
            Ok(())
        } else {
            Err(format!("no row for {told}").into())
        }
    }
}

#[crate::async_trait]
impl TokenStore for Chatty {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.answer(key.as_str()).map(|()| None)
    }

    async fn put(&self, _: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.answer(token.expose_secret())
    }
}

#[tokio::test(start_paused = true)]
async fn every_event_of_the_table_is_told_and_no_secret() {
    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let store = Arc::new(Chatty::default());
    let manager = world
        .builder()
        .store(store.clone())
        .refresh_budget(3)
        .build();
    let client = world.client(&manager);
    let key = manager.key(&app()).to_string();

    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    let second = Credentials::new("corp", "canary-secret-of-a-second");
    assert!(manager.token(&second).await.is_ok());
    *store.works.lock().unwrap() = true;
    world.issuer.end(&app(), 40014);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(LIFETIME - Duration::from_secs(200)).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    sleep(LIFETIME / 2).await;
    assert!(
        manager
            .token_valid_for(&app(), LIFETIME / 4 * 3)
            .await
            .is_ok()
    );
    assert!(manager.refresh(&app()).await.is_ok());
    sleep(LIFETIME).await;

    let refused = Behaviour::Fail(Error::refused("no"));
    world.issuer.next(refused);
    assert!(call(&client, "user/get").await.is_err());
    advance(Duration::from_secs(10)).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);

    world.issuer.rejects_always("bad");
    assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    for n in 0..10 {
        let path = format!("bad{n}");
        world.issuer.rejects_always(&path);
        assert_eq!(call(&client, &path).await.unwrap(), 40014);
    }

    let blocked = Error::api(45009, "blocked");
    world.issuer.next(Behaviour::Fail(blocked));
    let other = Credentials::new("corp", "canary-secret-of-another");
    assert!(manager.token(&other).await.is_err());
    advance(Duration::from_secs(60)).await;
    assert!(manager.token(&other).await.is_ok());

    for url in [
        "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=canary-secret",
        "http://qyapi.weixin.qq.com/cgi-bin/user/get?canary-secret",
        "https://h.example/canary-secret?canary-secret",
        "https://qyapi.weixin.qq.com:8443/cgi-bin/user/get",
    ] {
        client.get(url).send().await.unwrap();
    }

    for (level, event, fields, times) in [
        ("DEBUG", "fetch_started", "key", 12),
        ("INFO", "fetch_succeeded", "key elapsed lifetime", 10),
        ("WARN", "fetch_failed", "key elapsed error", 2),
        ("WARN", "cooldown_started", "key pause error", 1),
        ("INFO", "cooldown_ended", "key", 1),
        ("WARN", "rate_limited", "pause error", 1),
        ("INFO", "rate_limit_ended", "", 1),
        ("WARN", "refresh_futile", "key path held_back", 2),
        ("WARN", "refresh_held_back", "key path", 1),
        ("WARN", "store_failed", "key call error", 2),
        ("DEBUG", "store_still_failing", "key call error", 1),
        ("INFO", "store_recovered", "key", 2),
        ("DEBUG", "request_sent_again", "key path errcode", 3),
        ("DEBUG", "request_unchanged", "path reason", 1),
        ("WARN", "scheme_is_http", "path", 1),
        ("TRACE", "request_elsewhere", "host", 2),
    ] {
        let lines = log.lines(event);
        assert_eq!(lines.len(), times, "{event}: {lines:#?}");
        for line in lines {
            assert!(line.contains(level), "{line}");
            for field in fields.split_whitespace() {
                assert!(line.contains(&format!(" {field}=")), "{field}: {line}");
            }
        }
    }
    for trigger in ["cold", "rejected", "expiring", "expired", "short", "forced"] {
        let done = log.lines("fetch_succeeded");
        let with = format!("refresh{{key={key} trigger={trigger}}}");
        assert!(
            done.iter().any(|line| line.contains(&with)),
            "{trigger}: {done:#?}"
        );
    }
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_replay_limit_is_told_when_the_request_is_not_sent_again() {
    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let middleware = AccessTokenMiddleware::builder(world.manager())
        .credentials(app())
        .replay_limit(10);
    let client = world.client_with(middleware.build());
    let url = "https://qyapi.weixin.qq.com/cgi-bin/media/upload";
    let post = |pieces: &[&'static str]| {
        let pieces: Vec<_> = pieces.iter().copied().map(Ok::<_, Error>).collect();
        let stream = futures_util::stream::iter(pieces);
        client.post(url).body(Body::wrap_stream(stream))
    };
    assert_eq!(errcode_of(post(&["a"])).await.unwrap(), 0);
    world.issuer.end(&app(), 40014);
    let long = post(&["canary", "canary"]);
    assert_eq!(errcode_of(long).await.unwrap(), 40014);

    let told = log.lines("request_not_sent_again");
    assert_eq!(told.len(), 1, "{told:#?}");
    for part in [
        "WARN",
        " key=access_token:corp:",
        " path=\"/cgi-bin/media/upload\"",
        " errcode=40014",
    ] {
        assert!(told[0].contains(part), "{told:#?}");
    }
    assert!(log.lines("request_sent_again").is_empty());
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn an_event_about_a_failure_tells_the_whole_chain() {
    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let cause = anyhow::anyhow!("the disk is full").context("the row was not read");
    world.issuer.next(Behaviour::Fail(Error::refused(cause)));
    assert!(world.manager().token(&app()).await.is_err());
    for event in ["fetch_failed", "cooldown_started"] {
        let told = log.lines(event);
        let chain = "and another try will not help: the row was not read: the disk is full";
        assert!(told[0].contains(chain), "{told:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_odd_row_in_a_store_is_told_without_what_is_in_it() {
    /// A store whose rows are something else.
    struct Odd;

    #[crate::async_trait]
    impl TokenStore for Odd {
        async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
            Ok(serde_json::from_str(r#""canary-row""#)?)
        }

        async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
            let odd: Result<u64, _> = serde_json::from_str(r#""canary-row""#);
            odd?;
            Ok(())
        }
    }

    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let manager = world.builder().store(Odd).build();
    assert!(manager.token(&app()).await.is_ok());
    let told = log.lines("store_failed").len() + log.lines("store_still_failing").len();
    assert_eq!(told, 2, "{}", log.text());
    assert!(!log.text().contains("canary"), "{}", log.text());
    assert!(!log.text().contains("Serialized"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_refresh_belongs_to_the_span_of_the_request() {
    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let manager = world.manager();
    let request = tracing::info_span!("request", id = 7);
    tracing::Instrument::instrument(manager.token(&app()), request)
        .await
        .unwrap();
    let done = log.lines("fetch_succeeded");
    assert!(done[0].contains("request{id=7}:refresh{"), "{done:?}");
}

/// A subscriber that calls the manager within events.
struct Asking {
    manager: OnceLock<TokenManager>,
    /// How often it was called at each place in the code.
    times: Mutex<HashMap<&'static str, usize>>,
    /// The events within which it has called the manager.
    told: Mutex<HashSet<String>>,
}

impl Asking {
    fn new() -> Self {
        Self {
            manager: OnceLock::new(),
            times: Mutex::default(),
            told: Mutex::default(),
        }
    }

    /// Calls the manager. Its calls cause events in turn, so there is a limit for each place. Returns whether it has called.
    fn ask(&self, place: &'static str) -> bool {
        thread_local!(static IS_ASKING: Cell<bool> = const { Cell::new(false) });
        let Some(manager) = self.manager.get() else {
            return false;
        };
        if IS_ASKING.get() {
            return false;
        }
        let times = {
            let mut all = self.times.lock().unwrap();
            let times = all.entry(place).or_default();
            *times += 1;
            *times
        };
        if times > 20 {
            return false;
        }
        IS_ASKING.set(true);
        let _ = manager.token(&app()).now_or_never();
        let _ = manager.refresh_rejected(&app(), "another").now_or_never();
        let _ = manager.status(&app());
        IS_ASKING.set(false);
        true
    }
}

/// The name of an event.
struct Name<'a>(&'a Mutex<HashSet<String>>);

impl tracing::field::Visit for Name<'_> {
    fn record_debug(&mut self, _: &tracing::field::Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        if field.name() == "event" {
            self.0.lock().unwrap().insert(value.to_owned());
        }
    }
}

impl tracing::Subscriber for &'static Asking {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("reqwest_wecom")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        self.ask("new_span");
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        if self.ask(event.metadata().name()) {
            event.record(&mut Name(&self.told));
        }
    }

    fn enter(&self, _: &tracing::span::Id) {
        self.ask("enter");
    }

    fn exit(&self, _: &tracing::span::Id) {
        self.ask("exit");
    }
}

#[test]
fn a_subscriber_may_call_the_manager_within_any_event() {
    static ASKING: LazyLock<Asking> = LazyLock::new(Asking::new);
    let asking = &*ASKING;
    let (done, is_done) = channel();
    let calling = std::thread::spawn(move || {
        let _asking = tracing::subscriber::set_default(asking);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let world = World::new();
            let store = Arc::new(Chatty::default());
            let manager = world
                .builder()
                .store(store.clone())
                .refresh_budget(2)
                .build();
            let client = world.client(&manager);
            assert!(asking.manager.set(manager.clone()).is_ok());
            for behaviour in [
                Behaviour::Fail(Error::api(45009, "blocked")),
                Behaviour::Fail(Error::refused("no")),
                Behaviour::Panic,
                Behaviour::Issue,
            ] {
                world.issuer.next(behaviour);
                let _ = call(&client, "user/get").await;
                sleep(Duration::from_secs(600)).await;
            }
            *store.works.lock().unwrap() = true;
            world.issuer.rejects_always("bad");
            for _ in 0..20 {
                let _ = call(&client, "bad").await;
                world.issuer.end(&app(), 40014);
                let _ = call(&client, "user/get").await;
                sleep(Duration::from_secs(1)).await;
            }
        });
        done.send(()).unwrap();
    });
    match is_done.recv_timeout(Duration::from_secs(60)) {
        Ok(()) => {}
        Err(RecvTimeoutError::Timeout) => panic!("deadlock"),
        Err(RecvTimeoutError::Disconnected) => resume_unwind(calling.join().unwrap_err()),
    }
    let told = asking.told.lock().unwrap();
    for event in [
        "fetch_started",
        "fetch_succeeded",
        "fetch_failed",
        "cooldown_started",
        "cooldown_ended",
        "rate_limited",
        "rate_limit_ended",
        "refresh_futile",
        "refresh_held_back",
        "store_failed",
        "store_still_failing",
        "store_recovered",
        "request_sent_again",
    ] {
        assert!(told.contains(event), "{event} is missing: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_document_that_cannot_be_read_is_told_of_once_without_its_text() {
    let log = Log::default();
    let _listening = log.listen();
    let (world, database) = (World::new(), Memory::new());
    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    let manager = world
        .builder()
        .store(SharedStore::new(database.clone()))
        .build();
    let key = manager.key(&app());
    for text in [
        "canary",
        r#"{"value":"canary","fetched_at":1.5,"expires_at":2}"#,
    ] {
        for _ in 0..3 {
            database.set(key.as_str(), text, LIFETIME);
            assert!(manager.token(&app()).await.is_err());
        }
    }
    let told = log.lines("document_unreadable");
    assert_eq!(told.len(), 2, "{told:#?}");
    for line in told {
        assert!(
            line.contains(key.as_str()) && line.contains("WARN"),
            "{line}"
        );
        assert!(
            line.contains("fetched_at"),
            "it says what is expected: {line}"
        );
        assert!(!line.contains("canary"), "{line}");
    }
}
