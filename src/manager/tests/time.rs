//! Clocks that jump.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{advance, sleep};

use super::world::{Behaviour, LIFETIME, World, app, call, fails_as};
use crate::{Error, ErrorKind, FetchRequest, FetchedToken, TokenManagerBuilder, TokenSource};

const THREE_HOURS: i64 = 3 * 3600;

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_knows_that_its_token_has_expired() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    world.issuer.end(&app(), 42001);
    world.clock.jump(THREE_HOURS);
    for _ in 0..100 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    }
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_costs_at_most_one_fetch_a_jump() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    for (n, jump) in [THREE_HOURS, -THREE_HOURS, -THREE_HOURS, THREE_HOURS]
        .iter()
        .enumerate()
    {
        world.clock.jump(*jump);
        for _ in 0..100 {
            assert_eq!(call(&client, "user/get").await.unwrap(), 0);
            sleep(Duration::from_millis(10)).await;
        }
        assert!(
            world.issuer.fetch_count() <= 2 + n,
            "{} after {n}",
            world.issuer.fetch_count()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_costs_one_retried_request_when_the_token_dies() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    world.clock.jump(-THREE_HOURS);
    advance(LIFETIME).await;
    for _ in 0..100 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    }
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_during_a_fetch_costs_one_more() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(100));
    let manager = world.manager();
    let app = app();
    let (token, ()) = tokio::join!(manager.token(&app), async {
        sleep(Duration::from_millis(50)).await;
        world.clock.jump(THREE_HOURS);
    });
    assert!(token.unwrap().expires_at() > world.clock.now());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_during_every_fetch_is_an_error_and_no_flood() {
    let world = World::new();
    let jumping = Jumping(world.clone());
    let manager = TokenManagerBuilder {
        source: std::sync::Arc::new(jumping),
        ..world.builder()
    }
    .build();
    for _ in 0..1000 {
        let result = manager.token(&app()).await;
        assert!(fails_as(&result, ErrorKind::Transient), "{result:?}");
    }
    assert_eq!(world.issuer.fetch_count(), 4, "one refresh of four tries");
}

/// Lets the clock jump while it fetches, by more than the token lives.
struct Jumping(World);

#[crate::async_trait]
impl TokenSource for Jumping {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        self.0.clock.jump(THREE_HOURS);
        self.0.issuer.fetch(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn settings_at_their_ends_do_no_harm() {
    for end in [Duration::ZERO, Duration::MAX] {
        let world = World::new();
        let manager = world
            .builder()
            .refresh_ahead(end)
            .local_copy(end)
            .refresh_budget(u32::MAX)
            .fetch_limit(Duration::MAX)
            .build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(manager.token(&app()).await.unwrap(), token);
        assert_ne!(
            manager
                .refresh_rejected(&app(), token.expose_secret())
                .await
                .unwrap(),
            token
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_frozen_twice_in_one_refresh_asks_again() {
    /// Lets the clock jump while it fetches, twice.
    struct JumpsTwice(World, AtomicUsize);

    #[crate::async_trait]
    impl TokenSource for JumpsTwice {
        async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
            if self.1.fetch_add(1, Ordering::Relaxed) < 2 {
                self.0.clock.jump(THREE_HOURS);
            }
            self.0.issuer.fetch(request).await
        }
    }

    let world = World::new();
    let manager = world.manager_of(JumpsTwice(world.clone(), AtomicUsize::default()));
    let token = manager.token(&app()).await.unwrap();
    assert!(token.expires_at() > world.clock.now());
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_is_over_after_a_suspension() {
    for errcode in [40001, 45009] {
        let world = World::new();
        let manager = world.manager();
        for _ in 0..3 {
            world
                .issuer
                .next(Behaviour::Fail(Error::api(errcode, "no")));
            assert!(manager.token(&app()).await.is_err());
            world.clock.jump(THREE_HOURS);
        }
        assert!(manager.token(&app()).await.is_ok());
        assert_eq!(world.issuer.fetch_count(), 4);
    }
}
