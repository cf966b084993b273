//! Many keys on one manager.

use std::time::Duration;

use tokio::time::advance;

use super::world::{Behaviour, World, app};
use crate::{Credentials, Error, TokenManager};

const MANY: usize = 100_000;

fn tenant(n: usize) -> Credentials {
    Credentials::new("corp", n.to_string())
}

async fn tokens(manager: &TokenManager, tenants: impl Iterator<Item = usize>) {
    for n in tenants {
        manager.token(&tenant(n)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_many_tenants_costs_one_fetch() {
    let world = World::new();
    let manager = world.manager();
    tokens(&manager, (0..MANY).chain(0..MANY)).await;
    assert_eq!(world.issuer.fetch_count(), MANY);
}

#[tokio::test(start_paused = true)]
async fn idle_keys_are_let_go() {
    let world = World::new();
    let manager = world.manager();
    tokens(&manager, 0..10_000).await;
    advance(Duration::from_secs(3600)).await;
    tokens(&manager, 0..10).await;
    manager.token(&tenant(MANY)).await.unwrap();
    advance(Duration::from_secs(3600)).await;
    tokens(&manager, 0..10).await;
    manager.token(&tenant(MANY + 1)).await.unwrap();
    let held = manager.shared.slots.len();
    assert!((11..=20).contains(&held), "{held} keys are held");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_new_keys_is_never_refused_and_never_fills_the_memory() {
    let world = World::new();
    let manager = world.manager();
    for n in 0..MANY {
        manager.token(&tenant(n)).await.unwrap();
        if n % 16 == 0 {
            advance(Duration::from_secs(1)).await;
        }
    }
    let held = manager.shared.slots.len();
    assert!(held < MANY / 8, "{held} keys are held");
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_are_kept_however_many_they_are() {
    let (world, many) = (World::new(), 10_000);
    let manager = world.manager();
    for _ in 0..10 {
        tokens(&manager, 0..many).await;
        advance(Duration::from_secs(60)).await;
    }
    manager.token(&tenant(many)).await.unwrap();
    assert_eq!(manager.shared.slots.len(), many + 1);
}

#[tokio::test(start_paused = true)]
async fn the_app_of_a_middleware_is_kept_as_long_as_that() {
    let world = World::new();
    let manager = world.manager();
    let client = world.client(&manager);
    let idle_long_enough = Duration::from_secs(301);
    for n in 0..2 {
        advance(idle_long_enough).await;
        tokens(&manager, n..=n).await;
    }
    assert_eq!(manager.shared.slots.len(), 3);
    drop(client);
    for n in 2..4 {
        advance(idle_long_enough).await;
        tokens(&manager, n..=n).await;
    }
    assert_eq!(manager.shared.slots.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_in_cooldown_is_kept() {
    let world = World::new();
    let manager = world.manager();
    // Each cooldown is twice as long, up to 10 min.
    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    for pause in [10, 20, 40, 80, 160, 320] {
        assert!(manager.token(&app()).await.is_err());
        advance(Duration::from_secs(pause)).await;
    }
    assert!(manager.token(&app()).await.is_err());
    let fetches = world.issuer.fetch_count();
    world.issuer.usually(Behaviour::Issue);
    for (n, later) in [1, 301].into_iter().enumerate() {
        advance(Duration::from_secs(later)).await;
        tokens(&manager, n..=n).await;
    }
    assert!(manager.token(&app()).await.is_err());
    assert_eq!(world.issuer.fetch_count(), fetches + 2);
}
