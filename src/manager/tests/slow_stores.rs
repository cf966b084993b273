//! A store that hangs or fails holds nobody up.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::stores::{Store, Way};
use super::world::{Behaviour, LIFETIME, World, app};
use crate::{Credentials, Error, TokenManager, TokenStore};

const LIMIT: Duration = Duration::from_secs(2);
/// How long a caller with a good token waits for the store.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long it takes to get a token.
async fn wait(manager: &TokenManager, app: &Credentials) -> Duration {
    let began = Instant::now();
    manager.token(app).await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn callers_get_a_fetched_token_before_the_store_has_it() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Hangs);
    let manager = world.builder().store(store.clone()).build();
    assert_eq!(wait(&manager, &app()).await, Duration::ZERO);
    assert_eq!(wait(&manager, &app()).await, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_next_refresh_waits_for_the_put_but_not_for_long() {
    for (answers_after, waits) in [(500, 500), (60_000, 2000)] {
        let [answers_after, waits] = [answers_after, waits].map(Duration::from_millis);
        let world = World::new();
        let store = Store::new(Way::Works, Way::Takes(answers_after));
        let manager = world.builder().store(store.clone()).build();
        let token = manager.token(&app()).await.unwrap();
        let began = Instant::now();
        let next = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
        // Before it looks, it waits up to 100 ms more, at random.
        let more = began.elapsed().checked_sub(waits).unwrap();
        assert!(more <= Duration::from_millis(100), "{more:?} more");
        sleep(answers_after + Duration::from_millis(1)).await;
        let kept = Some(next).filter(|_| answers_after < LIMIT);
        assert_eq!(store.kept(), kept, "the newer token is put last");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_after_the_fetch_does_not_hold_back_a_new_token_for_a_rejected_one() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    let token = manager.token(&app()).await.unwrap();
    world.issuer.takes(Duration::from_millis(500));
    let began = Instant::now();
    let app = app();
    let (next, ()) = tokio::join!(
        manager.refresh_rejected(&app, token.expose_secret()),
        async {
            sleep(Duration::from_millis(300)).await;
            store.goes(Way::Hangs, Way::Hangs);
        }
    );
    assert_ne!(next.unwrap(), token);
    let longest = Duration::from_millis(100 + 500) + PATIENCE;
    assert!(began.elapsed() <= longest, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_waits_for_a_store_that_hangs_once() {
    let world = World::new();
    let store = Store::new(Way::Hangs, Way::Hangs);
    let manager = world.builder().store(store.clone()).build();
    assert_eq!(wait(&manager, &app()).await, LIMIT);
    for n in 0..10 {
        let app = Credentials::new("corp", n.to_string());
        assert_eq!(wait(&manager, &app).await, Duration::ZERO, "{n}");
    }
    assert_eq!(store.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_good_local_copy_hardly_waits_for_a_store_that_hangs() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let limit = Duration::from_millis(100);
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(limit)
        .build();
    manager.token(&app()).await.unwrap();
    store.goes(Way::Hangs, Way::Hangs);
    let (began, mut waited) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < Duration::from_secs(300) {
        sleep(PATIENCE).await;
        let wait = wait(&manager, &app()).await;
        assert!(wait <= PATIENCE, "{wait:?}");
        waited += wait;
    }
    // It is asked after 1, 2, 4, 8, 16, and then each 30 s, each time for 2 s.
    let gets = store.gets();
    assert!((12..=15).contains(&gets), "{gets} gets");
    let longest = PATIENCE * u32::try_from(gets).unwrap();
    assert!(waited <= longest, "{waited:?} of 300 s");

    store.goes(Way::Works, Way::Works);
    let newer = world.issuer.issue(&app());
    store.put(&manager.key(&app()), &newer).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(manager.token(&app()).await.unwrap(), newer);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_with_a_good_local_copy_waits_for_one_look() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(Duration::ZERO)
        .build();
    manager.token(&app()).await.unwrap();
    store.goes(Way::Hangs, Way::Hangs);
    let gets = store.gets();
    let app = app();
    let waits = (0..20).map(|n| {
        let (manager, app) = (&manager, &app);
        async move {
            sleep(Duration::from_millis(10 * n)).await;
            wait(manager, app).await
        }
    });
    let waits = futures_util::future::join_all(waits).await;
    for (n, wait) in waits.into_iter().enumerate() {
        let since_first = Duration::from_millis(10 * n as u64);
        assert_eq!(wait, PATIENCE.saturating_sub(since_first), "{n}");
    }
    assert_eq!(store.gets(), gets + 1);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_live_for_seconds_are_there_in_time_over_a_store_that_hangs() {
    let world = World::new();
    world.issuer.lives(Duration::from_secs(30));
    let manager = world
        .builder()
        .store(Store::new(Way::Hangs, Way::Hangs))
        .build();
    manager.token(&app()).await.unwrap();
    let began = Instant::now();
    while began.elapsed() < LIFETIME / 10 {
        assert_eq!(wait(&manager, &app()).await, Duration::ZERO);
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_has_just_failed_is_asked_if_the_source_must_not_be() {
    let world = World::new();
    let store = Store::new(Way::Fails, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert!(manager.token(&app()).await.is_err());
    store.goes(Way::Works, Way::Works);
    let other = world.issuer.issue(&app());
    store.put(&manager.key(&app()), &other).await.unwrap();
    assert_eq!(manager.token(&app()).await.unwrap(), other);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_can_be_written_but_not_read_is_waited_for_once() {
    let world = World::new();
    let store = Store::new(Way::Hangs, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    let began = Instant::now();
    for n in 0..10 {
        wait(&manager, &Credentials::new("corp", n.to_string())).await;
    }
    assert_eq!((began.elapsed(), store.gets()), (LIMIT, 1));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_can_be_read_but_not_written_is_read() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Fails);
    let manager = world.builder().store(store.clone()).build();
    for n in 0..10 {
        wait(&manager, &Credentials::new("corp", n.to_string())).await;
    }
    assert_eq!(store.gets(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_ends_late_does_not_hide_a_put_under_way() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let limit = Duration::from_millis(100);
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(limit)
        .build();
    let app = app();
    let first = manager.token(&app).await.unwrap();
    sleep(limit).await;
    let [look, put] = [500, 1900].map(Duration::from_millis);
    store.goes(Way::Takes(look), Way::Takes(put));
    manager.token(&app).await.unwrap();
    store.goes(Way::Works, Way::Takes(put));
    let second = manager.refresh_rejected(&app, first.expose_secret());
    let second = second.await.unwrap();
    sleep(look).await;
    store.goes(Way::Works, Way::Works);
    let third = manager.refresh_rejected(&app, second.expose_secret());
    let third = third.await.unwrap();
    sleep(put).await;
    assert_eq!(store.kept(), Some(third));
}

#[tokio::test(start_paused = true)]
async fn rejections_while_a_store_hangs_wait_at_most_once_for_it() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    let app = app();
    let mut token = manager.token(&app).await.unwrap();
    store.goes(Way::Hangs, Way::Hangs);
    for gap in [0, 0, 0, 1, 5, 10, 30] {
        sleep(Duration::from_secs(gap)).await;
        let began = Instant::now();
        let next = manager.refresh_rejected(&app, token.expose_secret());
        token = next.await.unwrap();
        // And up to 100 ms before it looks, at random.
        let longest = LIMIT + Duration::from_millis(100);
        assert!(began.elapsed() <= longest, "{gap}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_given_back_if_a_put_has_arrived_after_all() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Hangs);
    let limit = Duration::from_millis(100);
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(limit)
        .build();
    let token = manager.token(&app()).await.unwrap();
    sleep(2 * LIMIT).await;
    store.goes(Way::Works, Way::Works);
    store.put(&manager.key(&app()), &token).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    manager.token(&app()).await.unwrap();
    let slot = manager.shared.slots.find(&app()).unwrap();
    assert!(slot.lock().local.as_ref().unwrap().is_kept);
}
