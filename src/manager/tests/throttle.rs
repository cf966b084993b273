//! A failing source gets a cooldown.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep};

use super::world::{Behaviour, World, app, call, fails_as, fails_with, traffic};
use crate::{Credentials, Error, ErrorKind};

const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn errcode(errcode: i64) -> Behaviour {
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
async fn a_cooldown_of_refreshes_ahead_does_not_outlast_the_token() {
    let world = World::new();
    world.issuer.lives(Duration::from_secs(200));
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(Duration::from_secs(180)).await;
    for _ in 0..2 {
        world.issuer.next(Behaviour::Fail(Error::refused("no")));
    }
    let bad = traffic(&client, "user/get", Duration::from_secs(40)).await;
    assert_eq!(world.issuer.fetch_count(), 4, "two of them in vain");
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_of_refreshes_ahead_does_not_outlast_a_rejection_of_the_token() {
    let world = World::new();
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(Duration::from_secs(7000)).await;
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    sleep(Duration::from_secs(2)).await;
    world.issuer.end(&app(), 40014);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn neither_a_cooldown_nor_a_rate_limit_holds_back_a_look_into_the_store() {
    for failure in [errcode(45009), errcode(60020), Behaviour::Panic] {
        let world = World::new();
        let store = crate::MokaStore::new();
        let [first, second] = [(); 2].map(|()| world.builder().store(store.clone()).build());
        world.issuer.next(failure);
        assert!(first.token(&app()).await.is_err());
        assert!(first.token(&app()).await.is_err());
        assert_eq!(world.issuer.fetch_count(), 1);
        let good = second.token(&app()).await.unwrap();
        assert_eq!(first.token(&app()).await.unwrap(), good, "served at once");
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[test]
fn refreshes_that_are_lost_with_their_runtimes_are_throttled() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let world = runtime().block_on(async { World::new() });
    let manager = world.manager();
    runtime().block_on(manager.token(&app())).unwrap();
    world.clock.jump(7000);
    world.issuer.usually(Behaviour::Hang);
    let began = std::time::Instant::now();
    for _ in 0..50 {
        runtime().block_on(async {
            manager.token(&app()).await.unwrap();
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        });
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let fetches = world.issuer.fetch_count() - 1;
    assert!(fetches <= 2 + 2 * seconds, "{fetches} in {seconds} s");
}

/// A source that is busy and says for how long.
fn busy(secs: u64) -> Behaviour {
    let time = Duration::from_secs(secs);
    Behaviour::Fail(Error::transient("busy").with_retry_after(time))
}

#[tokio::test(start_paused = true)]
async fn the_next_try_comes_when_the_issuer_has_asked_for_it() {
    let world = World::new();
    for secs in [3, 4] {
        world.issuer.next(busy(secs));
    }
    let began = Instant::now();
    assert!(world.manager().token(&app()).await.is_ok());
    assert_eq!(began.elapsed(), Duration::from_secs(3 + 4));
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_asks_for_more_than_the_fetch_limit_is_left_alone_for_that_time() {
    for (asked, cooldown) in [(8, 8), (20, 20), (60, 60), (3600, 60)] {
        let world = World::new();
        world.issuer.next(busy(asked));
        let (manager, app, began) = (world.manager(), app(), Instant::now());
        while manager.token(&app).await.is_err() {
            advance(Duration::from_millis(100)).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(cooldown), "{asked}");
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_issuer_asks_for_ends_soon_without_a_token() {
    let world = World::new();
    world.issuer.lives(Duration::from_secs(200));
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    advance(Duration::from_secs(190)).await;
    world.issuer.next(busy(60));
    let bad = traffic(&client, "user/get", Duration::from_secs(30)).await;
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_last_try_failed_with_is_not_lost_when_the_time_is_up() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(600));
    world.issuer.usually(busy(7));
    let error = world.manager().token(&app()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
}
