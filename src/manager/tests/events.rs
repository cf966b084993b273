//! What the log tells.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{advance, sleep};
use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

use super::world::{Behaviour, LIFETIME, World, app, call};
use crate::{AccessToken, BoxError, Credentials, Error, TokenKey, TokenStore};

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

    /// The lines with this event since the last time.
    fn take(&self, event: &str) -> Vec<String> {
        let lines = self.text();
        lines
            .lines()
            .filter(|line| line.contains(event))
            .map(str::to_owned)
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
        .renewal_budget(3)
        .build();
    let client = world.client(&manager);
    let key = app().key().to_string();

    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    *store.works.lock().unwrap() = true;
    world.issuer.end(app().key(), 40014);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(LIFETIME - Duration::from_secs(200)).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
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

    let blocked = Error::Errcode {
        errcode: 45009,
        errmsg: "blocked".to_owned(),
    };
    world.issuer.next(Behaviour::Fail(blocked));
    let other = Credentials::new("corp", "canary-secret-of-another");
    assert!(manager.token(&other).await.is_err());
    advance(Duration::from_secs(60)).await;
    assert!(manager.token(&other).await.is_ok());

    let untouched =
        client.get("https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=canary-secret");
    let _ = untouched.timeout(Duration::ZERO).send().await;

    for (event, fields, times) in [
        ("DEBUG", "fetch started", 10),
        ("INFO", "fetch done", 8),
        ("WARN", "fetch failed", 2),
        ("WARN", "cool-down entered", 1),
        ("INFO", "cool-down left", 2),
        ("WARN", "fetches stopped", 1),
        ("INFO", "fetches go on", 1),
        ("WARN", "renewal futile", 3),
        ("WARN", "renewals held back", 1),
        ("WARN", "token store fails", 1),
        ("DEBUG", "token store still fails", 1),
        ("INFO", "token store is back", 1),
        ("DEBUG", "request left untouched", 1),
    ] {
        let lines = log.take(fields);
        assert!(
            lines.iter().all(|line| line.contains(event)),
            "{fields}: {lines:#?}"
        );
        assert_eq!(lines.len(), times, "{fields}: {lines:#?}");
    }
    for trigger in ["cold", "rejected", "expiring", "expired"] {
        let done = log.take("fetch done");
        let with = format!("renewal{{key={key} trigger={trigger}}}");
        assert!(
            done.iter().any(|line| line.contains(&with)),
            "{trigger}: {done:#?}"
        );
    }
    assert!(!log.text().contains("canary"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_belongs_to_the_span_of_the_request() {
    let log = Log::default();
    let _listening = log.listen();
    let world = World::new();
    let manager = world.manager();
    let request = tracing::info_span!("request", id = 7);
    tracing::Instrument::instrument(manager.token(&app()), request)
        .await
        .unwrap();
    let done = log.take("fetch done");
    assert!(done[0].contains("request{id=7}:renewal{"), "{done:?}");
}
