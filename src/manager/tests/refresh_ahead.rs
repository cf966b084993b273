//! A token is used until it expires, and refreshed shortly before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, advance, sleep};

use super::world::{Behaviour, LIFETIME, Repeat, World, app, call, fails_as, traffic};
use crate::{Error, ErrorKind, FetchRequest, FetchedToken, TokenSource};

const AHEAD: Duration = Duration::from_secs(5 * 60);

/// The fetches that two lifetimes of constant traffic cost.
async fn fetches_in_two_lifetimes(repeat: Repeat) -> usize {
    let world = World::new();
    world.issuer.repeats(repeat);
    let client = world.client(&world.manager());
    let began = Instant::now();
    while began.elapsed() < LIFETIME * 2 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        sleep(Duration::from_secs(1)).await;
    }
    world.issuer.fetch_count()
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_issuer_is_asked_as_often_as_it_must_be() {
    for (repeat, fetches) in [
        // At 0 s, 6900 s and 13,800 s.
        (Repeat::NewTokenEndsOld, 3),
        (Repeat::NewTokenOldValid, 3),
        (Repeat::SameTokenExtended, 3),
        // At 0 s, in vain at 6900 s, at 7200 s, and in vain at 14,100 s.
        (Repeat::SameTokenShorter, 4),
        (Repeat::SameToken, 4),
    ] {
        assert_eq!(
            fetches_in_two_lifetimes(repeat).await,
            fetches,
            "{repeat:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_wait_for_an_refresh_ahead() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    advance(LIFETIME - AHEAD).await;

    world.issuer.takes(Duration::from_secs(1));
    for _ in 0..1000 {
        let at_once = manager.token(&app()).now_or_never();
        assert_eq!(at_once.expect("no wait").unwrap(), old);
    }
    sleep(Duration::from_secs(2)).await;
    assert_ne!(manager.token(&app()).await.unwrap(), old);
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn while_refreshes_ahead_fail_the_token_in_hand_goes_on_serving() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(LIFETIME - AHEAD).await;

    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    let began = Instant::now();
    while began.elapsed() < AHEAD - Duration::from_secs(1) {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        sleep(Duration::from_millis(500)).await;
    }
    // One at first, then after 10 s, 20 s, 40 s, 80 s.
    assert_eq!(world.issuer.fetch_count(), 1 + 5);

    sleep(Duration::from_secs(1)).await;
    assert!(fails_as(
        &call(&client, "user/get").await,
        ErrorKind::Refused
    ));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_has_nothing_yet_is_not_asked_by_every_request() {
    let world = World::new();
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    advance(LIFETIME - AHEAD).await;
    world
        .issuer
        .usually(Behaviour::Fail(Error::not_ready("wait")));
    for _ in 0..1000 {
        manager.token(&app()).await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        world.issuer.fetch_count() <= 1 + 11,
        "{}",
        world.issuer.fetch_count()
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_lived_token_is_refreshed_in_its_last_tenth() {
    let world = World::new();
    world.issuer.lives(Duration::from_secs(100));
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    for (wait, fetches) in [(89, 1), (2, 2)] {
        advance(Duration::from_secs(wait)).await;
        manager.token(&app()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.issuer.fetch_count(), fetches);
    }
}

#[tokio::test(start_paused = true)]
async fn refresh_ahead_can_be_turned_off() {
    let world = World::new();
    let manager = world.builder().refresh_ahead(Duration::ZERO).build();
    manager.token(&app()).await.unwrap();
    for (wait, fetches) in [(LIFETIME.as_secs() - 1, 1), (1, 2)] {
        advance(Duration::from_secs(wait)).await;
        manager.token(&app()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(world.issuer.fetch_count(), fetches);
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_into_the_store_does_not_end_the_cooldown_of_a_refresh_ahead() {
    let world = World::new();
    let manager = world.builder().local_copy(Duration::ZERO).build();
    manager.token(&app()).await.unwrap();
    advance(LIFETIME - AHEAD).await;
    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(65) {
        manager.token(&app()).await.unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    // One at first, then after 10 s, 20 s.
    assert_eq!(world.issuer.fetch_count(), 1 + 3);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_repeats_its_token_with_the_whole_seconds_left_costs_no_request() {
    for fraction in [0, 10, 300, 999] {
        let world = World::new();
        world.issuer.repeats(Repeat::SameTokenShorter);
        world.issuer.lives(Duration::from_secs(15));
        let client = world.client(&world.manager());
        sleep(Duration::from_millis(fraction)).await;
        let bad = traffic(&client, "user/get", Duration::from_secs(28)).await;
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_repeated_in_its_last_minutes_is_fetched_at_most_twice_until_it_expires() {
    for repeat in [
        Repeat::SameTokenShorter,
        Repeat::SameToken,
        Repeat::SameTokenExtended,
    ] {
        let world = World::new();
        world.issuer.repeats(repeat);
        let manager = world.manager();
        manager.token(&app()).await.unwrap();
        advance(LIFETIME - AHEAD).await;
        let before = world.issuer.fetch_count();
        for _ in 0..2999 {
            manager.token(&app()).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        let fetches = world.issuer.fetch_count() - before;
        assert!((1..=2).contains(&fetches), "{fetches} for {repeat:?}");
    }
}

/// A token server that returns one value until that expires, and rounds the lifetime that is left up to whole steps.
struct Rounding {
    began: Instant,
    step: u128,
    fetches: AtomicUsize,
}

#[crate::async_trait]
impl TokenSource for Rounding {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        let (age, lifetime) = (self.began.elapsed().as_millis(), LIFETIME.as_millis());
        let left = (lifetime - age % lifetime).div_ceil(self.step) * self.step;
        let left = Duration::from_millis(u64::try_from(left).unwrap());
        Ok(FetchedToken::new((age / lifetime).to_string(), left))
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_whose_repeated_lifetime_is_rounded_up_is_fetched_at_most_twice_until_it_expires() {
    for secs in [1, 10, 11, 15, 30, 60, 100, 300] {
        let world = World::new();
        let source = Arc::new(Rounding {
            began: Instant::now(),
            step: secs * 1000,
            fetches: AtomicUsize::new(0),
        });
        let manager = world.manager_of(source.clone());
        manager.token(&app()).await.unwrap();
        // The calls come at odd times, so that each repetition seems to last a little longer than the one before.
        advance(LIFETIME - AHEAD + Duration::from_millis(50)).await;
        for _ in 0..2300 {
            manager.token(&app()).await.unwrap();
            sleep(Duration::from_millis(130)).await;
        }
        let fetches = source.fetches.load(Ordering::Relaxed) - 1;
        assert!(
            (1..=2).contains(&fetches),
            "{fetches} with steps of {secs} s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_live_for_seconds_are_refreshed_before_any_call_has_to_wait() {
    for repeat in [Repeat::NewTokenEndsOld, Repeat::NewTokenOldValid] {
        let world = World::new();
        world.issuer.repeats(repeat);
        world.issuer.lives(Duration::from_secs(2));
        world.issuer.takes(Duration::from_millis(20));
        let manager = world.manager();
        let app = app();
        manager.token(&app).await.unwrap();
        for n in 0..1000 {
            let at_once = manager.token(&app).now_or_never();
            assert!(at_once.is_some(), "call {n} waits: {repeat:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }
}
