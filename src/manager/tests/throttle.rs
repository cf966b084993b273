//! A failing source gets a cooldown.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance};

use super::world::{Behaviour, World, app, fails_as, fails_with};
use crate::{Credentials, Error, ErrorKind};

const HOUR: Duration = Duration::from_secs(3600);

fn errcode(errcode: i64) -> Behaviour {
    Behaviour::Fail(Error::api(errcode, "no"))
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_costs_few_fetches_however_many_ask() {
    let world = World::new();
    world.issuer.usually(errcode(40001));
    let manager = world.manager();
    let (app, began) = (app(), Instant::now());
    while began.elapsed() < HOUR {
        let result = manager.token(&app).await;
        assert!(fails_with(&result, 40001));
        advance(Duration::from_millis(250)).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!((10..=20).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn one_tenant_with_a_wrong_secret_does_not_slow_another() {
    let world = World::new();
    world.issuer.next(errcode(40001));
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    assert!(manager.token(&app()).await.is_err());
    assert!(
        manager
            .token(&Credentials::new("other", "secret"))
            .await
            .is_ok()
    );
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_address_stops_the_fetches_of_all_tenants() {
    let world = World::new();
    world.issuer.usually(errcode(45009));
    world.issuer.takes(Duration::from_millis(100));
    let manager = world.manager();
    let tenants: Vec<_> = (0..1000)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    let began = Instant::now();
    while began.elapsed() < HOUR {
        let all: JoinSet<_> = tenants
            .iter()
            .map(|tenant| {
                let (manager, tenant) = (manager.clone(), tenant.clone());
                async move { manager.token(&tenant).await }
            })
            .collect();
        for result in all.join_all().await {
            assert!(fails_with(&result, 45009));
        }
        advance(Duration::from_secs(10)).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!((10..=20).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn after_a_block_one_probe_opens_the_way_for_all() {
    let world = World::new();
    world.issuer.next(errcode(45009));
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    advance(Duration::from_secs(60)).await;

    world.issuer.takes(Duration::from_millis(100));
    let tenants: Vec<_> = (0..50)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    let ask_all = || {
        let ask = |tenant: &Credentials| {
            let (manager, tenant) = (manager.clone(), tenant.clone());
            async move { manager.token(&tenant).await }
        };
        tenants.iter().map(ask).collect::<JoinSet<_>>().join_all()
    };
    let served = ask_all()
        .await
        .iter()
        .filter(|result| result.is_ok())
        .count();
    assert_eq!((served, world.issuer.fetch_count()), (1, 2), "one probe");
    assert!(ask_all().await.iter().all(Result::is_ok));
    assert_eq!(world.issuer.fetch_count(), 1 + 50);
}

#[tokio::test(start_paused = true)]
async fn many_cold_tenants_are_served_soon() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(100));
    let manager = world.manager();
    let began = Instant::now();
    let all: JoinSet<_> = (0..10_000)
        .map(|n| {
            let manager = manager.clone();
            async move {
                manager
                    .token(&Credentials::new("corp", n.to_string()))
                    .await
            }
        })
        .collect();
    assert!(all.join_all().await.iter().all(Result::is_ok));
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_busy_issuer_is_asked_again_three_times_at_most() {
    let world = World::new();
    for _ in 0..3 {
        world.issuer.next(errcode(-1));
    }
    assert!(world.manager().token(&app()).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_not_ready_is_asked_again_at_once() {
    let world = World::new();
    world.issuer.next(Behaviour::Fail(Error::not_ready("wait")));
    let manager = world.manager();
    assert!(fails_as(&manager.token(&app()).await, ErrorKind::NotReady));
    assert!(manager.token(&app()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn forgetting_ends_a_cooldown_and_drops_the_local_copy() {
    let world = World::new();
    world.issuer.next(errcode(40001));
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    manager.forget(&app());
    let token = manager.token(&app()).await.unwrap();
    manager.forget(&app());
    assert_eq!(
        manager.token(&app()).await.unwrap(),
        token,
        "the store keeps it"
    );
    assert_eq!(world.issuer.fetch_count(), 2);
}
