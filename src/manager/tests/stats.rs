//! What is counted, and that nothing else is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream;
use reqwest::Body;
use tokio::time::{advance, sleep};

use super::memory::Memory;
use super::stores::{Store, Way};
use super::world::{Behaviour, LIFETIME, World, app, call, errcode_of, fails_as, paused_runtime};
use crate::{AccessTokenMiddleware, Error, ErrorKind, SharedStore, Stats, TokenManager};

/// Sees which counters move.
struct Watch {
    manager: TokenManager,
    before: Stats,
}

impl Watch {
    fn new(manager: &TokenManager) -> Self {
        Self {
            manager: manager.clone(),
            before: manager.stats(),
        }
    }

    /// Sees that these counters have moved so far since the last time, and no other one.
    fn assert_moved(&mut self, expected: &[(&str, u64)]) {
        let counts = |stats: Stats| match serde_json::to_value(stats).unwrap() {
            serde_json::Value::Object(counts) => counts,
            other => panic!("{other}"),
        };
        let (before, now) = (counts(self.before), counts(self.manager.stats()));
        let mut moved: Vec<_> = now
            .iter()
            .map(|(name, now)| {
                let by = now.as_u64().unwrap() - before[name].as_u64().unwrap();
                (name.as_str(), by)
            })
            .filter(|(_, by)| *by > 0)
            .collect();
        let mut expected = expected.to_vec();
        moved.sort_unstable();
        expected.sort_unstable();
        assert_eq!(moved, expected);
        self.before = self.manager.stats();
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_token_is_in_hand_moves_nothing() {
    let world = World::new();
    let manager = world.manager();
    assert_eq!(manager.stats(), Stats::default());
    let client = world.client(&manager);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    let mut watch = Watch::new(&manager);
    for _ in 0..1000 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        assert!(manager.token(&app()).await.is_ok());
    }
    watch.assert_moved(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_counts_under_its_trigger() {
    let world = World::new();
    let manager = world.builder().local_copy(LIFETIME / 4).build();
    let client = world.client(&manager);
    let mut watch = Watch::new(&manager);
    let fetched = |trigger| {
        [
            ("fetches", 1),
            (trigger, 1),
            ("store_reads", 1),
            ("store_writes", 1),
        ]
    };

    let crowd = (0..1000).map(|_| call(&client, "user/get"));
    assert!(join_all(crowd).await.into_iter().all(|it| it.unwrap() == 0));
    watch.assert_moved(&fetched("refreshes_cold"));

    advance(LIFETIME / 2).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    watch.assert_moved(&[("refreshes_stale", 1), ("store_reads", 1)]);

    advance(LIFETIME / 2 - Duration::from_secs(10)).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    sleep(Duration::from_secs(1)).await;
    watch.assert_moved(&fetched("refreshes_expiring"));

    advance(LIFETIME).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    watch.assert_moved(&fetched("refreshes_expired"));

    let token = manager.token(&app()).await.unwrap();
    let rejected = token.expose_secret();
    assert!(manager.refresh_rejected(&app(), rejected).await.is_ok());
    watch.assert_moved(&fetched("refreshes_rejected"));
    assert!(manager.refresh_rejected(&app(), rejected).await.is_ok());
    watch.assert_moved(&[]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_fetch_counts_by_what_comes_after_it() {
    let fail = Behaviour::Fail;
    for (behaviour, counter, tries) in [
        (fail(Error::transient("lost")), "failed_transient", 4),
        (fail(Error::api(-1, "busy")), "failed_transient", 4),
        (fail(Error::api(45033, "busy")), "failed_transient", 4),
        (fail(Error::refused("no")), "failed_refused", 1),
        (fail(Error::api(40001, "no")), "failed_refused", 1),
        (fail(Error::api(45009, "blocked")), "failed_rate_limited", 1),
        (fail(Error::not_ready("wait")), "failed_not_ready", 1),
        (Behaviour::Panic, "failed_transient", 1),
        // The first try has its time, and the second is cut off by the fetch limit.
        (Behaviour::Hang, "failed_transient", 2),
    ] {
        let world = World::new();
        world.issuer.usually(behaviour);
        let manager = world.manager();
        let mut watch = Watch::new(&manager);
        assert!(manager.token(&app()).await.is_err());
        watch.assert_moved(&[
            ("fetches", tries),
            (counter, tries),
            ("refreshes_cold", 1),
            ("store_reads", 1),
        ]);
        assert_eq!(world.issuer.fetch_count() as u64, tries);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_of_no_use_is_a_failed_fetch() {
    let world = World::new();
    world.issuer.lives(Duration::ZERO);
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    let stats = manager.stats();
    assert_eq!((stats.fetches, stats.failed_transient), (4, 4));
}

#[test]
fn a_fetch_that_is_lost_with_its_runtime_counts_as_failed() {
    let runtime = paused_runtime();
    let world = runtime.block_on(async { World::new() });
    world.issuer.usually(Behaviour::Hang);
    let manager = world.manager();
    let mut watch = Watch::new(&manager);
    runtime.block_on(async {
        let asking = manager.clone();
        tokio::spawn(async move { asking.token(&app()).await });
        world.issuer.asked(1).await;
    });
    watch.assert_moved(&[("fetches", 1), ("refreshes_cold", 1), ("store_reads", 1)]);
    drop(runtime);
    watch.assert_moved(&[("failed_transient", 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_counts_by_how_it_ends() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let middleware = AccessTokenMiddleware::builder(manager.clone())
        .credentials(app())
        .replay_limit(10);
    let client = world.client_with(middleware.build());
    let mut watch = Watch::new(&manager);
    let refreshed = [
        ("fetches", 1),
        ("refreshes_rejected", 1),
        ("store_reads", 1),
        ("store_writes", 1),
    ];
    let and = |others: &[(&'static str, u64)]| [&refreshed, others].concat();
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    watch.before = manager.stats();

    world.issuer.end(&app(), 40014);
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    watch.assert_moved(&and(&[("replays", 1), ("replays_accepted", 1)]));

    assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    watch.assert_moved(&and(&[("replays", 1), ("replays_rejected", 1)]));

    world.issuer.end(&app(), 40014);
    let long = stream::iter(["more than ", "ten bytes"].map(Ok::<_, Error>));
    let post = client.post("https://qyapi.weixin.qq.com/cgi-bin/media/upload");
    let long = post.body(Body::wrap_stream(long));
    assert_eq!(errcode_of(long).await.unwrap(), 40014);
    watch.assert_moved(&and(&[("replays_too_long", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_is_held_back_counts_for_each_caller() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.builder().refresh_budget(1).build();
    let client = world.client(&manager);
    assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    let mut watch = Watch::new(&manager);
    for _ in 0..5 {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    }
    watch.assert_moved(&[("held_back", 5)]);

    let token = manager.token(&app()).await.unwrap();
    let used_up = manager
        .refresh_rejected(&app(), token.expose_secret())
        .await;
    assert!(fails_as(&used_up, ErrorKind::HeldBack));
    watch.assert_moved(&[("held_back", 1)]);
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_store_count_and_so_do_those_that_fail() {
    for fault in [Way::Fails, Way::Panics, Way::Hangs] {
        let world = World::new();
        let store = Store::new(fault, fault);
        let manager = world.builder().store(store.clone()).build();
        let mut watch = Watch::new(&manager);
        let fetched = ("fetches", 1);
        assert!(manager.token(&app()).await.is_ok());
        sleep(Duration::from_secs(3)).await;
        watch.assert_moved(&[
            fetched,
            ("refreshes_cold", 1),
            ("store_reads", 1),
            ("store_writes", 1),
            ("store_failed", 2),
        ]);
        assert_eq!(store.gets(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_left_alone_after_a_failure_is_not_counted() {
    let world = World::new();
    let store = Store::new(Way::Fails, Way::Works);
    let manager = world.builder().store(store.clone()).build();
    assert!(manager.token(&app()).await.is_ok());
    let token = manager.token(&app()).await.unwrap();
    let mut watch = Watch::new(&manager);
    let other = manager
        .refresh_rejected(&app(), token.expose_secret())
        .await;
    assert!(other.is_ok());
    assert_eq!(store.gets(), 1, "it has just failed");
    watch.assert_moved(&[
        ("fetches", 1),
        ("refreshes_rejected", 1),
        ("store_writes", 1),
    ]);
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_shared_database_count_and_so_do_those_that_fail() {
    let (world, database) = (World::new(), Memory::new());
    let store = SharedStore::new(database.clone());
    let manager = world.builder().store(store).build();
    let calls = |stats: Stats| (stats.store_reads + stats.store_writes) as usize;
    assert!(manager.token(&app()).await.is_ok());
    let works = manager.stats();
    assert_eq!(calls(works), database.calls());
    assert!(works.store_reads > 0 && works.store_writes > 0);
    assert_eq!(works.store_failed, 0);

    database.goes(Way::Fails);
    advance(LIFETIME).await;
    assert!(manager.token(&app()).await.is_ok());
    let down = manager.stats();
    assert_eq!(calls(down), database.calls());
    let failed = down.store_failed as usize;
    assert_eq!(failed, calls(down) - calls(works));

    // The token that was fetched meanwhile is written back.
    database.goes(Way::Works);
    sleep(Duration::from_secs(60)).await;
    let back = manager.stats();
    assert_eq!(calls(back), database.calls());
    assert!(back.store_writes > down.store_writes);
}

#[tokio::test(start_paused = true)]
async fn clones_share_their_counters_and_other_managers_do_not() {
    let world = World::new();
    let [manager, other] = [world.manager(), world.manager()];
    let clone = Arc::new(manager.clone());
    assert!(manager.token(&app()).await.is_ok());
    assert_eq!(clone.stats(), manager.stats());
    assert_eq!(manager.stats().fetches, 1);
    assert_eq!(other.stats(), Stats::default());
}
