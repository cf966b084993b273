//! One fetch, whatever its callers do.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{FutureExt, poll};
use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::stores::{Store, Way};
use super::world::{Behaviour, World, app, call, fails_as};
use crate::{
    AccessToken, BoxError, Error, ErrorKind, FetchRequest, FetchedToken, TokenKey, TokenSource,
    TokenStore,
};

const CROWD: usize = 10_000;

#[tokio::test(start_paused = true)]
async fn a_cold_crowd_costs_one_fetch() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(300));
    let manager = world.manager();
    let crowd: JoinSet<_> = (0..CROWD)
        .map(|_| {
            let manager = manager.clone();
            async move { manager.token(&app()).await.unwrap() }
        })
        .collect();
    let tokens = crowd.join_all().await;
    assert_eq!(tokens.len(), CROWD);
    assert!(tokens.iter().all(|token| *token == tokens[0]));
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_shares_one_failure_and_its_cooldown() {
    let world = World::new();
    world
        .issuer
        .usually(Behaviour::Fail(Error::transient("lost")));
    let manager = world.manager();
    let crowd = || -> JoinSet<_> {
        let caller = || {
            let manager = manager.clone();
            async move { manager.token(&app()).await }
        };
        (0..CROWD).map(|_| caller()).collect()
    };
    assert!(crowd().join_all().await.iter().all(Result::is_err));
    assert_eq!(world.issuer.fetch_count(), 1 + 3);

    assert!(crowd().join_all().await.iter().all(Result::is_err));
    tokio::time::advance(Duration::from_millis(999)).await;
    assert!(crowd().join_all().await.iter().all(Result::is_err));
    assert_eq!(world.issuer.fetch_count(), 4);

    tokio::time::advance(Duration::from_millis(1)).await;
    world.issuer.usually(Behaviour::Issue);
    assert!(crowd().join_all().await.iter().all(Result::is_ok));
    assert_eq!(world.issuer.fetch_count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_leader_may_be_dropped_at_any_point() {
    for polls in 0..8 {
        let world = World::new();
        world.issuer.takes(Duration::from_millis(300));
        let manager = world.manager();
        let app = app();
        {
            let mut leader = Box::pin(manager.token(&app));
            for _ in 0..polls {
                assert!(poll!(&mut leader).is_pending());
                tokio::task::yield_now().await;
            }
        }
        let others = (manager.token(&app), manager.token(&app));
        let (one, two) = tokio::join!(others.0, others.1);
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(world.issuer.fetch_count(), 1, "after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_patience_leaves_the_token_to_the_next() {
    let world = World::new();
    world.issuer.takes(Duration::from_millis(300));
    let manager = world.manager();
    let app = app();
    for _ in 0..5 {
        let impatient = timeout(Duration::from_millis(50), manager.token(&app)).await;
        assert!(impatient.is_err());
    }
    tokio::time::sleep(Duration::from_millis(60)).await;
    let mut next = Box::pin(manager.token(&app));
    assert!(poll!(&mut next).is_ready(), "the token is there");
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_polled_holds_nobody_up() {
    let world = World::new();
    let manager = world.manager();
    let app = app();
    let mut sleeper = Box::pin(manager.token(&app));
    assert!(poll!(&mut sleeper).is_pending());
    assert!(manager.token(&app).await.is_ok());
    assert!(sleeper.await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_for_those_who_wait_and_throttled_like_a_transient_failure() {
    let world = World::new();
    world.issuer.next(Behaviour::Panic);
    let manager = world.manager();
    let app = app();
    let (one, two) = tokio::join!(manager.token(&app), manager.token(&app));
    for result in [one, two] {
        assert!(fails_as(&result, ErrorKind::Interrupted), "{result:?}");
    }
    assert_eq!(world.issuer.fetch_count(), 1);
    for _ in 0..200 {
        let result = manager.token(&app).await;
        assert!(fails_as(&result, ErrorKind::Interrupted), "{result:?}");
        tokio::time::advance(Duration::from_millis(4)).await;
    }
    assert_eq!(world.issuer.fetch_count(), 1);
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(manager.token(&app).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up() {
    let world = World::new();
    world.issuer.usually(Behaviour::Hang);
    let began = tokio::time::Instant::now();
    let result = world.manager().token(&app()).await;
    assert!(fails_as(&result, ErrorKind::TimedOut), "{result:?}");
    assert_eq!(began.elapsed(), Duration::from_secs(8));
}

#[test]
fn a_waiter_takes_over_when_the_runtime_of_the_refresh_ends() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let (world, manager) = first.block_on(async {
        let world = World::new();
        world.issuer.next(Behaviour::Hang);
        let manager = world.manager();
        tokio::spawn({
            let manager = manager.clone();
            async move { manager.token(&app()).await }
        });
        world.issuer.asked(1).await;
        (world, manager)
    });
    let waiter = std::thread::spawn(move || runtime().block_on(manager.token(&app())));
    drop(first);
    assert!(waiter.join().unwrap().is_ok());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[test]
fn a_waiter_takes_over_when_the_runtime_of_the_refresh_stops_running_it() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let (parked, also_parked) = (runtime(), runtime());
    let (world, manager) = parked.block_on(async {
        let world = World::new();
        world.issuer.next(Behaviour::Hang);
        let limit = Duration::from_secs(1);
        let manager = world.builder().fetch_limit(limit).build();
        tokio::spawn({
            let manager = manager.clone();
            async move { manager.token(&app()).await }
        });
        world.issuer.asked(1).await;
        (world, manager)
    });
    also_parked.block_on(async {
        let app = app();
        let waiting = pin!(manager.token(&app));
        assert!(poll!(waiting).is_pending());
    });
    let running = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let (token, waited) = running.block_on(async {
        let began = Instant::now();
        (manager.token(&app()).await, began.elapsed())
    });
    assert!(token.is_ok());
    // The fetch limit, 2 s for the store, and 1 s.
    assert!(waited <= Duration::from_secs(1 + 2 + 1), "{waited:?}");
    assert_eq!(world.issuer.fetch_count(), 2);
    drop((parked, also_parked));
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let manager = World::new().manager();
    let result = FutureExt::now_or_never(manager.token(&app()));
    let result = result.expect("no wait");
    assert!(fails_as(&result, ErrorKind::NoRuntime), "{result:?}");
}

#[test]
fn a_valid_token_serves_outside_of_a_runtime_even_if_a_refresh_is_due() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for (local_copy, age) in [
        (None, 7000),
        (Some(Duration::ZERO), 7000),
        (Some(Duration::ZERO), 0),
    ] {
        let world = runtime.block_on(async { World::new() });
        let mut builder = world.builder();
        if let Some(limit) = local_copy {
            builder = builder.local_copy(limit);
        }
        let manager = builder.build();
        let token = runtime.block_on(manager.token(&app())).unwrap();
        world.clock.jump(age);
        let outside = FutureExt::now_or_never(manager.token(&app()));
        assert_eq!(outside.expect("no wait").unwrap(), token);
    }
}

#[test]
fn a_caller_outside_of_a_runtime_does_not_wait_for_a_refresh_under_way() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for local_copy in [None, Some(Duration::ZERO)] {
        let world = runtime.block_on(async { World::new() });
        let store = Store::new(Way::Works, Way::Works);
        let mut builder = world.builder().store(store.clone());
        if let Some(limit) = local_copy {
            builder = builder.local_copy(limit);
        }
        let manager = builder.build();
        let good = runtime.block_on(manager.token(&app())).unwrap();
        if local_copy.is_none() {
            world.clock.jump(8000);
        }
        // From here on the refresh, or the look, is under way on a runtime that nobody drives.
        store.goes(Way::Hangs, Way::Hangs);
        runtime.block_on(async {
            let app = app();
            assert!(poll!(pin!(manager.token(&app))).is_pending());
        });
        let outside = FutureExt::now_or_never(manager.token(&app()));
        let outside = outside.expect("no wait");
        match local_copy {
            Some(_) => assert_eq!(outside.unwrap(), good),
            None => assert!(fails_as(&outside, ErrorKind::NoRuntime), "{outside:?}"),
        }
    }
}

/// Counts how often it is asked.
#[derive(Default)]
struct Counting {
    gets: AtomicUsize,
    fetches: AtomicUsize,
}

#[crate::async_trait]
impl TokenStore for Counting {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Ok(())
    }
}

#[crate::async_trait]
impl TokenSource for Counting {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        Err(Error::not_ready("wait"))
    }
}

/// A layer that creates the future of a request, and polls it only after what that has started is done.
struct Late;

#[crate::async_trait]
impl Middleware for Late {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let request = next.run(request, extensions);
        sleep(Duration::from_millis(1)).await;
        request.await
    }
}

#[tokio::test(start_paused = true)]
async fn each_request_costs_exactly_one_look_into_the_store() {
    let world = World::new();
    let store = Arc::new(Counting::default());
    let manager = world
        .builder()
        .store(store.clone())
        .local_copy(Duration::ZERO)
        .build();
    let client = world.client_behind(Late, &manager);
    for _ in 0..1000 {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    }
    assert_eq!(store.gets.load(Ordering::Relaxed), 1000);
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_request_costs_exactly_one_fetch_while_the_source_is_not_ready() {
    let world = World::new();
    let source = Arc::new(Counting::default());
    let manager = world.manager_of(source.clone());
    let client = world.client_behind(Late, &manager);
    for _ in 0..1000 {
        let result = call(&client, "user/get").await;
        assert!(fails_as(&result, ErrorKind::NotReady), "{result:?}");
    }
    assert_eq!(source.fetches.load(Ordering::Relaxed), 1000);
}
