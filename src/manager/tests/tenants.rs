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
    assert_eq!(world.issuer.fetches(), MANY);
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
    assert!(held < MANY * 3 / 4, "{held} keys are held");
}

#[tokio::test(start_paused = true)]
async fn a_key_in_cool_down_or_under_flight_is_kept() {
    let world = World::new();
    let manager = world.manager();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert!(manager.token(&app()).await.is_err());

    let hanging = tenant(MANY);
    world.issuer.next(Behaviour::Hang);
    let waiter = tokio::spawn({
        let (manager, hanging) = (manager.clone(), hanging.clone());
        async move { manager.token(&hanging).await }
    });
    world.issuer.asked(2).await;
    waiter.abort();

    for crowd in 0..8 {
        tokens(&manager, crowd * 2000..(crowd + 1) * 2000).await;
    }
    let fetches = world.issuer.fetches();
    assert!(matches!(
        manager.token(&app()).await,
        Err(Error::Refused(_))
    ));
    assert_eq!(world.issuer.fetches(), fetches);
    // The first try of its flight is given up, the second succeeds.
    assert!(manager.token(&hanging).await.is_ok());
    assert_eq!(world.issuer.fetches(), fetches + 1);
    assert_eq!(world.issuer.most_in_the_air(), 1);
}
