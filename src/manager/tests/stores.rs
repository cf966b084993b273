//! What a store may do wrong.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::advance;

use super::world::{LIFETIME, World, app};
use crate::source::Fetch;
use crate::{AccessToken, BoxError, Error, TokenKey, TokenStore};

/// What a method of the store does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Works,
    Fails,
    Hangs,
    Panics,
}

const FAULTS: [Way; 3] = [Way::Fails, Way::Hangs, Way::Panics];

impl Way {
    async fn go(self) -> Result<(), BoxError> {
        match self {
            Self::Works => Ok(()),
            Self::Fails => Err("a failure that the test asked for".into()),
            Self::Hangs => std::future::pending().await,
            Self::Panics => resume_unwind(Box::new("a panic that the test asked for")),
        }
    }
}

/// A store that does what it is told.
struct Store {
    get: Way,
    put: Way,
    kept: Mutex<Option<AccessToken>>,
    gets: AtomicUsize,
}

impl Store {
    fn new(get: Way, put: Way) -> Arc<Self> {
        Arc::new(Self {
            get,
            put,
            kept: Mutex::default(),
            gets: AtomicUsize::default(),
        })
    }

    fn kept(&self) -> Option<AccessToken> {
        self.kept.lock().unwrap().clone()
    }

    fn keep(&self, token: &AccessToken) {
        *self.kept.lock().unwrap() = Some(token.clone());
    }
}

#[crate::async_trait]
impl TokenStore for Store {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.get.go().await?;
        Ok(self.kept())
    }

    async fn put(&self, _: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.put.go().await?;
        self.keep(token);
        Ok(())
    }
}

/// A store with a `get_or_fetch` of its own, which goes wrong before or after the fetch.
struct Overriding {
    before: Way,
    after: Way,
    gives: Option<AccessToken>,
    table: Arc<Store>,
}

#[crate::async_trait]
impl TokenStore for Overriding {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.table.get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.table.put(key, token).await
    }

    async fn get_or_fetch(&self, _: &TokenKey, fetch: &Fetch<'_>) -> Result<AccessToken, Error> {
        self.before.go().await.map_err(Error::refused)?;
        if let Some(token) = &self.gives {
            return Ok(token.clone());
        }
        let token = fetch.run().await?;
        self.after.go().await.map_err(Error::refused)?;
        Ok(token)
    }
}

#[tokio::test(start_paused = true)]
async fn a_get_that_goes_wrong_costs_no_request() {
    for fault in FAULTS {
        let world = World::new();
        let store = Store::new(fault, Way::Works);
        let manager = world.builder().store(store.clone()).build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(store.kept(), Some(token), "{fault:?}");
        assert_eq!(world.issuer.fetch_count(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_goes_wrong_loses_no_token() {
    for fault in FAULTS {
        let world = World::new();
        let manager = world.builder().store(Store::new(Way::Works, fault)).build();
        let token = manager.token(&app()).await.unwrap();
        assert!(world.issuer.takes_token(&token));
        assert_eq!(manager.token(&app()).await.unwrap(), token, "{fault:?}");
        assert_eq!(world.issuer.fetch_count(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_of_its_own_way_that_goes_wrong_after_the_fetch_loses_no_token() {
    for fault in FAULTS {
        let world = World::new();
        let store = Overriding {
            before: Way::Works,
            after: fault,
            gives: None,
            table: Store::new(Way::Works, Way::Works),
        };
        let manager = world.builder().store(store).build();
        let token = manager.token(&app()).await.unwrap();
        assert!(world.issuer.takes_token(&token));
        assert_eq!(world.issuer.fetch_count(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_of_its_own_way_that_goes_wrong_before_the_fetch_is_passed_by() {
    for fault in [Way::Hangs, Way::Panics] {
        let world = World::new();
        let table = Store::new(Way::Works, Way::Works);
        let store = Overriding {
            before: fault,
            after: Way::Works,
            gives: None,
            table: table.clone(),
        };
        let manager = world.builder().store(store).build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(table.kept(), Some(token), "{fault:?}");
        assert_eq!(world.issuer.fetch_count(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_cannot_serve_is_bettered() {
    let world = World::new();
    let now = world.clock.now();
    for unusable in [
        AccessToken::from_parts("expired", now - LIFETIME, now),
        AccessToken::from_parts("", now, now + LIFETIME),
        AccessToken::from_parts("x".repeat(5000), now, now + LIFETIME),
    ] {
        let table = Store::new(Way::Works, Way::Works);
        table.keep(&unusable);
        let manager = world.builder().store(table.clone()).build();
        let token = manager.token(&app()).await.unwrap();
        assert!(world.issuer.takes_token(&token));
        assert_eq!(table.kept(), Some(token));

        let stubborn = Overriding {
            before: Way::Works,
            after: Way::Works,
            gives: Some(unusable),
            table: table.clone(),
        };
        let manager = world.builder().store(stubborn).build();
        let token = manager.token(&app()).await.unwrap();
        assert!(world.issuer.takes_token(&token));
        assert_eq!(table.kept(), Some(token));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_an_old_token_does_not_bring_it_back() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Fails);
    let manager = world.builder().store(store.clone()).build();
    let first = manager.token(&app()).await.unwrap();
    store.keep(&first);
    let second = manager
        .refresh_rejected(&app(), first.expose_secret())
        .await
        .unwrap();
    let third = manager
        .refresh_rejected(&app(), second.expose_secret())
        .await
        .unwrap();
    assert!(world.issuer.takes_token(&third));
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_process_has_put_there_costs_no_fetch() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world
        .builder()
        .store(store.clone())
        .refresh_budget(1)
        .build();
    let mut token = manager.token(&app()).await.unwrap();
    for _ in 0..100 {
        let other = world.issuer.issue(&app());
        store.keep(&other);
        token = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
        assert_eq!(token, other);
        advance(Duration::from_millis(10)).await;
    }
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_local_copy_serves_as_long_as_it_may_and_goes_on_while_the_store_is_down() {
    for fault in [Way::Works, Way::Fails, Way::Panics] {
        let world = World::new();
        let store = Store::new(fault, Way::Works);
        let minute = Duration::from_secs(60);
        let manager = world
            .builder()
            .store(store.clone())
            .local_copy(minute)
            .build();
        let first = manager.token(&app()).await.unwrap();
        for _ in 0..59 {
            advance(Duration::from_secs(1)).await;
            manager.token(&app()).await.unwrap();
        }
        assert_eq!(store.gets.load(Ordering::Relaxed), 1, "{fault:?}");

        let newer = world.issuer.issue(&app());
        store.keep(&newer);
        advance(Duration::from_secs(1)).await;
        let expected = if fault == Way::Works { newer } else { first };
        assert_eq!(manager.token(&app()).await.unwrap(), expected, "{fault:?}");
        assert_eq!(store.gets.load(Ordering::Relaxed), 2, "{fault:?}");
        assert_eq!(world.issuer.fetch_count(), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_is_not_asked_on_the_way_of_an_ordinary_request() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    for _ in 0..1000 {
        manager.token(&app()).await.unwrap();
    }
    assert_eq!(store.gets.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_counts_by_another_clock_is_asked_once_when_this_one_was_set() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    let token = manager.token(&app()).await.unwrap();
    world.clock.jump(3 * 60 * 60);
    let expires_at = world.clock.now() + LIFETIME;
    let same = AccessToken::from_parts(token.expose_secret(), token.fetched_at(), expires_at);
    store.keep(&same);
    let before = store.gets.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(manager.token(&app()).await.unwrap(), token);
    }
    assert_eq!(store.gets.load(Ordering::Relaxed), before + 1);
    assert_eq!(world.issuer.fetch_count(), 1);
}
