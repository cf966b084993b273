//! Clocks that jump.

use std::time::Duration;

use tokio::time::{advance, sleep};

use super::world::{LIFETIME, World, app, call};
use crate::{AccessToken, Credentials, Error, TokenManager, TokenManagerBuilder, TokenSource};

const THREE_HOURS: i64 = 3 * 3600;

#[tokio::test(start_paused = true)]
async fn a_machine_that_slept_knows_that_its_token_has_expired() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    world.issuer.end(app().key(), 42001);
    world.clock.jump(THREE_HOURS);
    for _ in 0..100 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    }
    assert_eq!(world.issuer.fetches(), 2);
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
            world.issuer.fetches() <= 2 + n,
            "{} after {n}",
            world.issuer.fetches()
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
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_during_a_fetch_costs_one_more() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(100));
    let manager = manager_of(&world, TimesFromBefore(world.clone()));
    let app = app();
    let (token, ()) = tokio::join!(manager.token(&app), async {
        sleep(Duration::from_millis(50)).await;
        world.clock.jump(THREE_HOURS);
    });
    assert!(token.unwrap().expires_at() > world.clock.now());
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_issuer_with_another_clock_is_an_error_and_no_flood() {
    let world = World::new();
    let manager = manager_of(&world, AlwaysExpired(world.clone()));
    for _ in 0..1000 {
        let result = manager.token(&app()).await;
        assert!(matches!(result, Err(Error::Refused(_))), "{result:?}");
    }
    assert_eq!(world.issuer.fetches(), 2);
}

fn manager_of(world: &World, source: impl TokenSource) -> TokenManager {
    TokenManagerBuilder {
        source: std::sync::Arc::new(source),
        ..world.builder()
    }
    .build()
}

/// Counts the lifetime from before it asks, as `GetToken` does.
struct TimesFromBefore(World);

#[crate::async_trait]
impl TokenSource for TimesFromBefore {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        let before = self.0.clock.now();
        let token = self.0.issuer.fetch(credentials).await?;
        Ok(AccessToken::from_parts(
            token.expose_secret(),
            before,
            before + LIFETIME,
        ))
    }
}

struct AlwaysExpired(World);

#[crate::async_trait]
impl TokenSource for AlwaysExpired {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        let token = self.0.issuer.fetch(credentials).await?;
        let long_ago = self.0.clock.now() - LIFETIME * 2;
        Ok(AccessToken::from_parts(
            token.expose_secret(),
            long_ago,
            long_ago + LIFETIME,
        ))
    }
}

#[tokio::test(start_paused = true)]
async fn settings_at_their_ends_do_no_harm() {
    for end in [Duration::ZERO, Duration::MAX] {
        let world = World::new();
        let manager = world
            .builder()
            .early_renewal(end)
            .local_copy(end)
            .renewal_budget(u32::MAX)
            .fetch_timeout(Duration::MAX)
            .fetch_limit(Duration::MAX)
            .build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(manager.token(&app()).await.unwrap(), token);
        assert_ne!(manager.renew(&app(), &token).await.unwrap(), token);
    }
}
