//! What the status tells in each state, and that asking for it starts nothing.

use std::time::{Duration, SystemTime};

use serde_json::json;
use tokio::time::{advance, sleep};

use super::memory::Memory;
use super::stores::{Store, Way};
use super::throttle::errcode;
use super::world::{Behaviour, LIFETIME, World, app, call, errcode_of, paused_runtime};
use crate::{Credentials, Error, ErrorKind, RejectionScope, SharedStore, TokenManager};

const SECOND: Duration = Duration::from_secs(1);

/// How long the source is not asked, why, and by which error.
fn throttled(world: &World, manager: &TokenManager) -> Option<(Duration, ErrorKind, String)> {
    let status = manager.status(&app());
    assert_eq!(
        status.throttled_until.is_some(),
        status.throttled_by.is_some()
    );
    let by = status.throttled_by?;
    let left = left(world, status.throttled_until?);
    Some((left, by.kind(), by.to_string()))
}

fn left(world: &World, until: SystemTime) -> Duration {
    until.duration_since(world.clock.now()).unwrap()
}

#[test]
fn an_app_that_was_not_used_yet_has_nothing_even_outside_a_runtime() {
    let world = paused_runtime().block_on(async { World::new() });
    let store = Store::new(Way::Works, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    let status = manager.status(&app());
    assert!(!status.has_token && !status.is_rejected && !status.is_refreshing);
    assert_eq!((status.fetched_at, status.expires_at), (None, None));
    assert!(status.throttled_until.is_none() && status.throttled_by.is_none());
    assert!(status.held_paths.is_empty());
    assert_eq!(manager.shared.slots.len(), 0, "no slot");
    assert_eq!((world.issuer.fetch_count(), store.gets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_times_of_the_token_are_told_even_when_it_has_expired() {
    let world = World::new();
    let manager = world.manager();
    let token = manager.token(&app()).await.unwrap();
    for has_token in [true, false] {
        let status = manager.status(&app());
        assert_eq!(status.has_token, has_token);
        assert_eq!(status.fetched_at, Some(token.fetched_at()));
        assert_eq!(status.expires_at, Some(token.expires_at()));
        assert!(!status.is_rejected);
        advance(LIFETIME).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_under_way_is_told_until_it_ends() {
    let world = World::new();
    world.issuer.takes(SECOND);
    let manager = world.manager();
    let asking = tokio::spawn({
        let manager = manager.clone();
        async move { manager.token(&app()).await }
    });
    world.issuer.asked(1).await;
    let status = manager.status(&app());
    assert!(status.is_refreshing && !status.has_token);
    asking.await.unwrap().unwrap();
    let status = manager.status(&app());
    assert!(!status.is_refreshing && status.has_token);
}

#[test]
fn a_refresh_that_is_lost_is_not_under_way() {
    let runtime = paused_runtime();
    let world = runtime.block_on(async { World::new() });
    world.issuer.usually(Behaviour::Hang);
    let manager = world.manager();
    runtime.block_on(async {
        let asking = manager.clone();
        tokio::spawn(async move { asking.token(&app()).await });
        world.issuer.asked(1).await;
    });
    assert!(manager.status(&app()).is_refreshing);
    drop(runtime);
    assert!(!manager.status(&app()).is_refreshing);
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_is_told_with_its_end_and_its_reason() {
    let world = World::new();
    world.issuer.next(errcode(40001));
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    let (left, kind, text) = throttled(&world, &manager).unwrap();
    assert_eq!((left, kind), (10 * SECOND, ErrorKind::Api));
    assert!(text.contains("40001"), "{text}");
    advance(10 * SECOND - Duration::from_millis(1)).await;
    assert!(throttled(&world, &manager).is_some());
    advance(Duration::from_millis(1)).await;
    assert_eq!(throttled(&world, &manager), None);
    assert!(manager.token(&app()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_beside_a_token_is_told_as_long_as_that_token_serves() {
    let world = World::new();
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    advance(LIFETIME - 5 * SECOND).await;
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    manager.token(&app()).await.unwrap();
    sleep(SECOND).await;
    let (left, kind, _) = throttled(&world, &manager).unwrap();
    assert_eq!((left, kind), (9 * SECOND, ErrorKind::Refused));
    assert!(manager.status(&app()).has_token);
    advance(5 * SECOND).await;
    assert_eq!(throttled(&world, &manager), None);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_throttles_every_app_and_the_later_end_is_told() {
    let world = World::new();
    let manager = world.manager();
    let other = Credentials::new("corp", "another");
    world.issuer.next(errcode(45009));
    assert!(manager.token(&other).await.is_err());
    let (left, _, text) = throttled(&world, &manager).unwrap();
    assert_eq!(left, 60 * SECOND);
    assert!(text.contains("45009"), "{text}");

    advance(60 * SECOND).await;
    assert_eq!(throttled(&world, &manager), None);
    assert!(manager.token(&other).await.is_ok());
    for _ in 0..6 {
        world.issuer.next(errcode(40001));
        assert!(manager.token(&app()).await.is_err());
        advance(throttled(&world, &manager).unwrap().0).await;
    }
    world.issuer.next(errcode(40001));
    assert!(manager.token(&app()).await.is_err());
    world.issuer.next(errcode(45009));
    let third = Credentials::new("corp", "a third");
    assert!(manager.token(&third).await.is_err());
    let (left, _, text) = throttled(&world, &manager).unwrap();
    assert_eq!(left, 300 * SECOND);
    assert!(text.contains("40001"), "{text}");
    advance(250 * SECOND).await;
    world.issuer.next(errcode(45009));
    assert!(manager.token(&third).await.is_err());
    let (left, _, text) = throttled(&world, &manager).unwrap();
    assert_eq!(left, 120 * SECOND);
    assert!(text.contains("45009"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_held_path_is_told_as_in_events_until_it_is_free() {
    let world = World::new();
    world.issuer.rejects_always("bad?customer=7");
    let manager = world.manager();
    let client = world.client(&manager);
    let url = "https://qyapi.weixin.qq.com/cgi-bin/bad?customer=7";
    let scoped = client
        .get(url)
        .with_extension(RejectionScope::new("customer 7"));
    assert_eq!(errcode_of(scoped).await.unwrap(), 40014);
    assert_eq!(call(&client, "good").await.unwrap(), 0);

    let status = manager.status(&app());
    let held: Vec<_> = status.held_paths.iter().collect();
    let [(path, until)] = held[..] else {
        panic!("{held:?}")
    };
    assert_eq!(path, "/cgi-bin/bad customer 7");
    assert_eq!(left(&world, *until), 2 * SECOND);
    assert!(status.has_token && !status.is_rejected);
    advance(2 * SECOND).await;
    assert!(manager.status(&app()).held_paths.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_told_until_there_is_another_one() {
    let world = World::new();
    let manager = world.manager();
    let client = world.client(&manager);
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    world.issuer.end(&app(), 40014);
    world.issuer.takes(SECOND);
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    let calling = tokio::spawn({
        let client = client.clone();
        async move { call(&client, "good").await }
    });
    world.issuer.asked(2).await;
    let status = manager.status(&app());
    assert!(status.is_rejected && status.is_refreshing && !status.has_token);
    assert!(status.fetched_at.is_some());

    assert!(calling.await.unwrap().is_err());
    let status = manager.status(&app());
    assert!(status.is_rejected && !status.is_refreshing && !status.has_token);
    assert_eq!(status.fetched_at, None);
    assert!(status.throttled_by.is_some());

    advance(10 * SECOND).await;
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    let status = manager.status(&app());
    assert!(!status.is_rejected && status.has_token);
}

#[tokio::test(start_paused = true)]
async fn asking_for_the_status_starts_nothing_in_any_state() {
    let (world, database) = (World::new(), Memory::new());
    let store = Store::new(Way::Works, Way::Works);
    let plain = world.builder().store(store.clone());
    let plain = plain.local_copy(Duration::ZERO).build();
    let shared = SharedStore::new(database.clone());
    let shared = world.builder().store(shared).build();
    for manager in [&plain, &shared] {
        let before = |manager: &TokenManager| {
            let calls = (store.gets(), database.calls());
            (world.issuer.fetch_count(), calls, manager.stats())
        };
        let assert_idle = async || {
            let was = before(manager);
            for _ in 0..100 {
                let _ = manager.status(&app());
            }
            sleep(Duration::from_millis(500)).await;
            assert_eq!(before(manager), was);
            assert!(!manager.status(&app()).is_refreshing);
        };
        assert_idle().await;
        let token = manager.token(&app()).await.unwrap();
        assert_idle().await;
        advance(LIFETIME - 60 * SECOND).await;
        assert_idle().await;
        advance(LIFETIME).await;
        assert_idle().await;
        world.issuer.next(Behaviour::Fail(Error::refused("no")));
        let refused = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await;
        assert!(refused.is_err());
        assert_idle().await;
        advance(600 * SECOND).await;
        assert_idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn asking_for_the_status_does_not_keep_an_app_in_memory() {
    let world = World::new();
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    let other = Credentials::new("corp", "another");
    for _ in 0..11 {
        let _ = manager.status(&app());
        advance(60 * SECOND).await;
        manager.token(&other).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(manager.shared.slots.len(), 1);
    assert!(!manager.status(&app()).has_token);
}

#[tokio::test(start_paused = true)]
async fn it_is_serialized_with_times_in_milliseconds() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let world = World::at(now);
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let client = world.client(&manager);
    assert_eq!(
        serde_json::to_value(manager.status(&app())).unwrap(),
        json!({
            "has_token": false,
            "fetched_at": null,
            "expires_at": null,
            "is_rejected": false,
            "is_refreshing": false,
            "throttled_until": null,
            "throttled_by": null,
            "held_paths": {},
        })
    );
    assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    world
        .issuer
        .next(Behaviour::Fail(Error::refused(anyhow::anyhow!(
            "the disk is full"
        ))));
    advance(2 * SECOND).await;
    assert!(call(&client, "bad").await.is_err());
    assert_eq!(
        serde_json::to_value(manager.status(&app())).unwrap(),
        json!({
            "has_token": true,
            "fetched_at": 1_700_000_000_000_u64,
            "expires_at": 1_700_007_200_000_u64,
            "is_rejected": false,
            "is_refreshing": false,
            "throttled_until": 1_700_000_012_000_u64,
            "throttled_by": {
                "kind": "Refused",
                "message": "fetching an access token failed, and another try will not help: the disk is full",
            },
            "held_paths": {},
        })
    );
}
