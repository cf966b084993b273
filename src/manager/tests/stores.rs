//! What a store may do wrong.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep};

use super::world::{LIFETIME, Repeat, World, app, call};
use crate::{AccessToken, BoxError, TokenKey, TokenStore};

/// What a method of the store does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Works,
    Fails,
    Hangs,
    Panics,
    /// It works, after a while.
    Takes(Duration),
}

const FAULTS: [Way; 3] = [Way::Fails, Way::Hangs, Way::Panics];

impl Way {
    pub(super) async fn go(self) -> Result<(), BoxError> {
        match self {
            Self::Works => Ok(()),
            Self::Fails => Err("a failure that the test asked for".into()),
            Self::Hangs => std::future::pending().await,
            Self::Panics => resume_unwind(Box::new("a panic that the test asked for")),
            Self::Takes(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }
}

/// A store that does what it is told.
pub(super) struct Store {
    get: Mutex<Way>,
    put: Mutex<Way>,
    kept: Mutex<Option<AccessToken>>,
    gets: AtomicUsize,
}

impl Store {
    pub(super) fn new(get: Way, put: Way) -> Arc<Self> {
        Arc::new(Self {
            get: Mutex::new(get),
            put: Mutex::new(put),
            kept: Mutex::default(),
            gets: AtomicUsize::default(),
        })
    }

    /// From now on `get` and `put` do this.
    pub(super) fn goes(&self, get: Way, put: Way) {
        *self.get.lock().unwrap() = get;
        *self.put.lock().unwrap() = put;
    }

    pub(super) fn kept(&self) -> Option<AccessToken> {
        self.kept.lock().unwrap().clone()
    }

    /// How often `get` was called.
    pub(super) fn gets(&self) -> usize {
        self.gets.load(Ordering::Relaxed)
    }

    fn keep(&self, token: &AccessToken) {
        *self.kept.lock().unwrap() = Some(token.clone());
    }
}

#[crate::async_trait]
impl TokenStore for Store {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        let way = *self.get.lock().unwrap();
        way.go().await?;
        Ok(self.kept())
    }

    async fn put(&self, _: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        let way = *self.put.lock().unwrap();
        way.go().await?;
        self.keep(token);
        Ok(())
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
        assert_eq!(store.gets(), 1, "{fault:?}");

        let newer = world.issuer.issue(&app());
        store.keep(&newer);
        advance(Duration::from_secs(1)).await;
        let expected = if fault == Way::Works { newer } else { first };
        assert_eq!(manager.token(&app()).await.unwrap(), expected, "{fault:?}");
        assert_eq!(store.gets(), 2, "{fault:?}");
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
    assert_eq!(store.gets(), 1);
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
    let before = store.gets();
    for _ in 0..10 {
        assert_eq!(manager.token(&app()).await.unwrap(), token);
    }
    assert_eq!(store.gets(), before + 1);
    assert_eq!(world.issuer.fetch_count(), 1);
}

/// A store that returns this token, whatever is put there.
struct Stubborn(AccessToken);

#[crate::async_trait]
impl TokenStore for Stubborn {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        Ok(Some(self.0.clone()))
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_starts_with_a_dead_token_from_the_store_heals_at_once() {
    for age in [0, 100] {
        let world = World::new();
        let dead = world.issuer.issue(&app());
        world.issuer.end(&app(), 40014);
        let fetched_at = world.clock.now() - Duration::from_secs(age);
        let dead = AccessToken::from_parts(dead.expose_secret(), fetched_at, dead.expires_at());
        let client = world.client(&world.builder().store(Stubborn(dead)).build());
        for n in 0..3 {
            let answers = join_all((0..10).map(|_| call(&client, "user/get"))).await;
            let all_good = answers.iter().all(|it| matches!(it, Ok(0)));
            assert!(all_good, "age {age} s, round {n}: {answers:?}");
            advance(Duration::from_secs(1)).await;
            world.issuer.end(&app(), 40014);
        }
        assert_eq!(world.issuer.fetch_count(), 3, "age {age} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_dead_token_in_the_store_costs_at_most_the_calls_in_flight() {
    for is_older in [true, false] {
        let world = World::new();
        let store = Store::new(Way::Works, Way::Works);
        let older = world.issuer.issue(&app());
        advance(Duration::from_secs(1)).await;
        let client = world.client(&world.builder().store(store.clone()).build());
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        advance(Duration::from_secs(1)).await;
        let newer = world.issuer.issue(&app());
        store.keep(if is_older { &older } else { &newer });
        world.issuer.end(&app(), 40014);
        for n in 0..3 {
            let answers = join_all((0..10).map(|_| call(&client, "user/get"))).await;
            let bad = answers.iter().filter(|it| !matches!(it, Ok(0))).count();
            // The newer token looks good until the first round has tried it.
            let allowed = if n == 0 && !is_older { 10 } else { 0 };
            assert!(bad <= allowed, "older: {is_older}, round {n}: {answers:?}");
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(world.issuer.fetch_count(), 2, "older: {is_older}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_from_the_store_that_is_rejected_too_leads_to_a_real_fetch_each_time() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let client = world.client(&world.builder().store(store.clone()).build());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    for n in 1..=4 {
        advance(Duration::from_secs(1)).await;
        // Another process has put a newer token there, and both are dead now.
        store.keep(&world.issuer.issue(&app()));
        world.issuer.end(&app(), 40014);
        let before = world.issuer.calls().len();
        let mut answers = Vec::new();
        for _ in 0..30 {
            answers.push(call(&client, "user/get").await.unwrap());
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(answers[1..], [0; 29], "time {n}, first {}", answers[0]);
        assert_eq!(world.issuer.fetch_count(), 1 + n, "time {n}");
        let sent = world.issuer.calls().split_off(before);
        let rejected = sent.iter().filter(|it| it.errcode != 0).count();
        assert_eq!(rejected, 2, "time {n}: one request, sent with both");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_another_manager_has_fetched_again_before_it_was_rejected_is_not_taken() {
    let world = World::new();
    world.issuer.repeats(Repeat::SameTokenExtended);
    let store = Store::new(Way::Works, Way::Works);
    let [first, second] = [(); 2].map(|()| world.builder().store(store.clone()).build());
    let token = first.token(&app()).await.unwrap();
    assert_eq!(second.token(&app()).await.unwrap(), token);
    advance(LIFETIME - Duration::from_secs(60)).await;
    second.token(&app()).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    let stored = store.kept().unwrap();
    assert_eq!(stored.expose_secret(), token.expose_secret());
    assert_ne!(stored, token);

    world.issuer.end(&app(), 40014);
    let client = world.client(&first);
    for _ in 0..5 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    }
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_older_token_in_the_store_is_never_taken() {
    let world = World::new();
    world.issuer.repeats(Repeat::NewTokenOldValid);
    let old = world.issuer.issue(&app());
    advance(Duration::from_millis(300)).await;
    let new = world.issuer.issue(&app());
    let store = Store::new(Way::Works, Way::Fails);
    store.keep(&new);
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(Duration::ZERO)
        .build();
    assert_eq!(manager.token(&app()).await.unwrap(), new);
    store.keep(&old);
    for _ in 0..10 {
        assert_eq!(manager.token(&app()).await.unwrap(), new);
        advance(Duration::from_secs(1)).await;
    }
    let newest = manager.refresh_rejected(&app(), new.expose_secret()).await;
    assert_ne!(newest.unwrap().expose_secret(), old.expose_secret());
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_its_first_token_does_not_bring_it_back_after_many_revocations() {
    for local_copy in [None, Some(Duration::ZERO)] {
        let world = World::new();
        let first = world.issuer.issue(&app());
        let mut builder = world.builder().store(Stubborn(first.clone()));
        if let Some(limit) = local_copy {
            builder = builder.local_copy(limit);
        }
        let manager = builder.build();
        let client = world.client(&manager);
        for n in 0..40 {
            advance(Duration::from_secs(10)).await;
            assert_eq!(
                call(&client, "user/get").await.unwrap(),
                0,
                "revocation {n}"
            );
            world.issuer.end(&app(), 40014);
            assert_eq!(
                call(&client, "user/get").await.unwrap(),
                0,
                "revocation {n}"
            );
        }
        let sent = world.issuer.calls();
        let dead = sent.iter().filter(|it| it.token == first.expose_secret());
        assert_eq!(dead.count(), 2, "once good and once rejected");
    }
}

/// A store over a network: it answers after a while.
struct Distant(Arc<Store>);

async fn on_the_way() {
    sleep(Duration::from_micros(fastrand::u64(500..3000))).await;
}

#[crate::async_trait]
impl TokenStore for Distant {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        on_the_way().await;
        let kept = self.0.get(key).await;
        on_the_way().await;
        kept
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        on_the_way().await;
        self.0.put(key, token).await?;
        on_the_way().await;
        Ok(())
    }
}

/// Managers over one store call one after the other for 2 s while the token is revoked once. Returns how many calls each saw rejected, and
/// whether there were any more after 1 s.
async fn one_revocation(managers: usize, seed: u64) -> (Vec<usize>, bool) {
    fastrand::seed(seed);
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    world.issuer.takes(Duration::from_millis(30));
    world.issuer.answers_after(Duration::from_millis(2));
    let clients: Vec<_> = (0..managers)
        .map(|_| world.builder().store(Distant(store.clone())).build())
        .map(|manager| world.client(&manager))
        .collect();
    for client in &clients {
        assert_eq!(call(client, "user/get").await.unwrap(), 0);
    }
    world.issuer.end(&app(), 40014);
    let revoked_at = Instant::now();
    let calls = clients.iter().map(|client| async move {
        let (mut bad, mut is_late) = (0, false);
        sleep(Duration::from_micros(fastrand::u64(..5000))).await;
        while revoked_at.elapsed() < Duration::from_secs(2) {
            if call(client, "user/get").await.unwrap() != 0 {
                bad += 1;
                is_late |= revoked_at.elapsed() > Duration::from_secs(1);
            }
            sleep(Duration::from_millis(5)).await;
        }
        (bad, is_late)
    });
    let seen = join_all(calls).await;
    let is_late = seen.iter().any(|(_, is_late)| *is_late);
    (seen.into_iter().map(|(bad, _)| bad).collect(), is_late)
}

#[tokio::test(start_paused = true)]
async fn managers_over_one_store_settle_on_one_token_after_a_revocation() {
    for managers in [2, 3, 5] {
        let mut worst = Vec::new();
        for seed in 0..100 {
            let (seen, is_late) = one_revocation(managers, seed).await;
            assert!(!is_late, "{managers} managers, seed {seed}");
            worst.push(seen.into_iter().max().unwrap());
        }
        worst.sort_unstable();
        assert!(worst[50] <= 2, "{managers} managers: {worst:?}");
        assert!(worst[99] <= 5, "{managers} managers: {worst:?}");
    }
}

/// A store that takes 10 ms for an answer.
struct Slow(Arc<Store>);

#[crate::async_trait]
impl TokenStore for Slow {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        sleep(Duration::from_millis(10)).await;
        self.0.get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.0.put(key, token).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_another_process_fetches_just_after_this_one_is_taken_instead() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let client = world.client(&world.builder().store(Slow(store.clone())).build());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);

    world.issuer.takes(Duration::from_millis(30));
    world.issuer.is_reached_after(Duration::from_millis(10));
    world.issuer.end(&app(), 40014);
    let newer = async {
        world.issuer.asked(2).await;
        // Its new token ends the one that was fetched 5 ms before, while the store is asked again.
        sleep(Duration::from_millis(35)).await;
        let newer = world.issuer.issue(&app());
        store.keep(&newer);
        newer
    };
    let (answer, newer) = tokio::join!(call(&client, "user/get"), newer);
    assert_eq!(answer.unwrap(), 0);
    assert_eq!(store.kept(), Some(newer));
    assert_eq!(world.issuer.fetch_count(), 2);
}

/// A store that answers nothing until it may.
struct Gated(Arc<Store>, Semaphore);

#[crate::async_trait]
impl TokenStore for Gated {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let _turn = self.1.acquire().await?;
        self.0.get(key).await
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.0.put(key, token).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_into_the_store_for_a_bad_path_does_not_hold_up_a_real_revocation() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let store = Arc::new(Gated(Store::new(Way::Works, Way::Works), Semaphore::new(1)));
    let client = world.client(&world.builder().store(store.clone()).build());
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    for _ in 0..3 {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
    }
    let fetches = world.issuer.fetch_count();
    let closed = store.1.acquire().await.unwrap();
    let held_back = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "bad").await }
    });
    tokio::task::yield_now().await;
    world.issuer.end(&app(), 40014);
    let (good, ()) = tokio::join!(call(&client, "good"), async {
        sleep(Duration::from_millis(500)).await;
        drop(closed);
    });
    assert_eq!(good.unwrap(), 0);
    assert_eq!(world.issuer.fetch_count(), fetches + 1);
    assert_eq!(held_back.await.unwrap().unwrap(), 40014);
}
