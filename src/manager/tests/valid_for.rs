//! Tokens for callers who need them for a while.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use super::fleet::member;
use super::memory::Memory;
use super::model::REPEATS;
use super::stores::{Store, Way};
use super::world::{Behaviour, LIFETIME, Repeat, World, app, fails_as, fails_with};
use crate::{Error, ErrorKind, SharedStore, StoreOnly, TokenManagerBuilder, TokenStore};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A world in which the issuer gives a new token each time.
fn world() -> World {
    let world = World::new();
    world.issuer.repeats(Repeat::NewTokenOldValid);
    world
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_long_enough_costs_nothing() {
    let world = world();
    let manager = world.manager();
    let cold = manager.token_valid_for(&app(), HOUR).await.unwrap();
    advance(HOUR - SECOND).await;
    for min in [Duration::ZERO, SECOND, HOUR] {
        let token = manager.token_valid_for(&app(), min).await.unwrap();
        assert_eq!(token, cold);
    }
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_with_a_token_that_expires_too_soon_makes_one_fetch() {
    let world = world();
    let (manager, app) = (world.manager(), app());
    let old = manager.token(&app).await.unwrap();
    advance(HOUR + SECOND).await;
    world.issuer.takes(Duration::from_millis(100));
    let crowd = join_all((0..1000).map(|_| manager.token_valid_for(&app, HOUR)));
    let (tokens, ()) = tokio::join!(crowd, async {
        world.issuer.asked(2).await;
        let served = manager.token(&app).await.unwrap();
        assert_eq!(served, old, "requests use the old token meanwhile");
    });
    let new = tokens[0].as_ref().unwrap();
    assert!(new.left(world.clock.now()) >= HOUR);
    assert!(tokens.iter().all(|it| it.as_ref().unwrap() == new));
    assert_eq!(manager.token(&app).await.unwrap(), *new);
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_joins_a_refresh_that_is_under_way() {
    let world = world();
    let (manager, app) = (world.manager(), app());
    manager.token(&app).await.unwrap();
    advance(LIFETIME - 200 * SECOND).await;
    world.issuer.takes(SECOND);
    // This starts a refresh ahead.
    manager.token(&app).await.unwrap();
    manager.token_valid_for(&app, HOUR).await.unwrap();
    manager.token_valid_for(&app, HOUR).await.unwrap();
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_source_does_not_give_is_an_error_and_no_flood() {
    for repeat in REPEATS {
        for (min, fetches) in [
            (LIFETIME + SECOND, 1..=1),
            (Duration::MAX, 1..=1),
            // Never more than one a minute.
            (LIFETIME, 1..=61),
        ] {
            let world = World::new();
            world.issuer.repeats(repeat);
            let (manager, began) = (world.manager(), Instant::now());
            manager.token(&app()).await.unwrap();
            while began.elapsed() < HOUR {
                advance(Duration::from_millis(500)).await;
                let result = manager.token_valid_for(&app(), min).await;
                if let Err(error) = &result {
                    assert_eq!(error.kind(), ErrorKind::ExpiresTooSoon);
                }
                assert_eq!(
                    result.is_ok(),
                    result.is_ok_and(|it| it.left(world.clock.now()) >= min)
                );
            }
            let made = world.issuer.fetch_count();
            assert!(fetches.contains(&made), "{repeat:?}, {min:?}: {made}");
            assert!(manager.token(&app()).await.is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_token_that_expires_too_soon_is_fetched_once() {
    let world = World::new();
    world.issuer.repeats(Repeat::SameTokenShorter);
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    advance(HOUR).await;
    for _ in 0..100 {
        let result = manager.token_valid_for(&app(), HOUR + SECOND).await;
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ExpiresTooSoon);
        advance(30 * SECOND).await;
    }
    assert_eq!(world.issuer.fetch_count(), 2);
    let result = manager.token_valid_for(&app(), HOUR + SECOND).await;
    assert_eq!(
        result.unwrap_err().to_string(),
        "the newest access token expires in 600s, and 3601s were asked for: ask for less time"
    );
    // The token is due for a refresh, and the next one is another.
    advance(610 * SECOND).await;
    assert!(manager.token_valid_for(&app(), HOUR).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn short_lived_tokens_are_replaced_as_well() {
    let world = world();
    world.issuer.lives(60 * SECOND);
    let manager = world.manager();
    for _ in 0..100 {
        let token = manager.token_valid_for(&app(), 30 * SECOND).await.unwrap();
        assert!(token.left(world.clock.now()) >= 30 * SECOND);
        advance(SECOND).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!(fetches <= 1 + 100 / 30, "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_and_a_rate_limit_hold_it_back() {
    for errcode in [40001, 45009] {
        let world = world();
        let manager = world.manager();
        let old = manager.token(&app()).await.unwrap();
        advance(HOUR + SECOND).await;
        world
            .issuer
            .next(Behaviour::Fail(Error::api(errcode, "no")));
        for _ in 0..9 {
            let result = manager.token_valid_for(&app(), HOUR).await;
            assert!(fails_with(&result, errcode), "{result:?}");
            assert_eq!(manager.token(&app()).await.unwrap(), old);
            advance(SECOND).await;
        }
        assert_eq!(world.issuer.fetch_count(), 2);
        advance(60 * SECOND).await;
        assert!(manager.token_valid_for(&app(), HOUR).await.is_ok());
        assert_eq!(world.issuer.fetch_count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_tried_again() {
    let world = world();
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    advance(HOUR + SECOND).await;
    world.issuer.next(Behaviour::Fail(Error::transient("lost")));
    assert!(manager.token_valid_for(&app(), HOUR).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_may_be_dropped_at_any_point() {
    for polls in 1..8 {
        let world = world();
        let (manager, app) = (world.manager(), app());
        manager.token(&app).await.unwrap();
        advance(HOUR + SECOND).await;
        world.issuer.takes(Duration::from_millis(300));
        {
            let mut caller = Box::pin(manager.token_valid_for(&app, HOUR));
            for _ in 0..polls {
                assert!(poll!(&mut caller).is_pending());
                yield_now().await;
            }
        }
        sleep(SECOND).await;
        assert_eq!(world.issuer.fetch_count(), 2, "after {polls} polls");
        assert!(manager.token_valid_for(&app, HOUR).await.is_ok());
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_in_the_store_serves_if_it_lives_long_enough() {
    let world = world();
    let store = Store::new(Way::Works, Way::Works);
    let [one, two] = [(); 2].map(|()| world.builder().store(store.clone()).build());
    one.token(&app()).await.unwrap();
    two.token(&app()).await.unwrap();
    advance(HOUR + SECOND).await;
    let newer = one.token_valid_for(&app(), HOUR).await.unwrap();
    assert_eq!(two.token_valid_for(&app(), HOUR).await.unwrap(), newer);
    assert_eq!(world.issuer.fetch_count(), 2);
    // By now, it is too short as well.
    advance(HOUR + SECOND).await;
    assert!(two.token_valid_for(&app(), HOUR).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 3);
    assert!(one.token_valid_for(&app(), HOUR).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_newer_token_in_the_store_does_not_serve_if_it_expires_too_soon() {
    for shared in [false, true] {
        let (world, database) = (world(), Memory::new());
        let store: Arc<dyn TokenStore> = match shared {
            true => Arc::new(SharedStore::new(database)),
            false => Store::new(Way::Works, Way::Works),
        };
        let [one, two] = [(); 2].map(|()| world.builder().store(store.clone()).build());
        one.token(&app()).await.unwrap();
        advance(HOUR / 2).await;
        two.refresh(&app()).await.unwrap();
        advance(HOUR).await;
        let min = HOUR + HOUR / 2;
        let token = one.token_valid_for(&app(), min).await.unwrap();
        assert!(token.left(world.clock.now()) >= min);
        assert_eq!(world.issuer.fetch_count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_takes_what_the_store_has_or_says_how_long_that_lives() {
    for shared in [false, true] {
        let (world, database) = (world(), Memory::new());
        let store: Arc<dyn TokenStore> = match shared {
            true => Arc::new(SharedStore::new(database)),
            false => Store::new(Way::Works, Way::Works),
        };
        let builder = TokenManagerBuilder {
            source: Arc::new(StoreOnly::default()),
            ..world.builder()
        };
        let reader = builder.store(store.clone()).build();
        let writer = world.builder().store(store).build();
        let old = writer.token(&app()).await.unwrap();
        assert_eq!(reader.token_valid_for(&app(), HOUR).await.unwrap(), old);
        advance(HOUR + SECOND).await;
        let result = reader.token_valid_for(&app(), HOUR).await;
        assert!(fails_as(&result, ErrorKind::ExpiresTooSoon), "{result:?}");
        let newer = writer.token_valid_for(&app(), HOUR).await.unwrap();
        assert_eq!(reader.token_valid_for(&app(), HOUR).await.unwrap(), newer);
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_makes_one_fetch_for_all_whether_the_new_token_lives_long_enough_or_not() {
    for repeat in REPEATS {
        let (world, database) = (World::new(), Memory::new());
        world.issuer.repeats(repeat);
        let members: Vec<_> = (0..8).map(|_| member(&world, &database)).collect();
        let app = app();
        for member in &members {
            member.token(&app).await.unwrap();
        }
        advance(HOUR + SECOND).await;
        world.issuer.takes(Duration::from_millis(100));
        let all = || join_all(members.iter().map(|it| it.token_valid_for(&app, HOUR)));
        for _ in 0..3 {
            let tokens = all().await;
            for token in tokens {
                match repeat {
                    Repeat::SameTokenShorter => {
                        assert!(fails_as(&token, ErrorKind::ExpiresTooSoon), "{token:?}");
                    }
                    _ => assert!(token.is_ok(), "{repeat:?}: {token:?}"),
                }
            }
            assert_eq!(world.issuer.fetch_count(), 2, "{repeat:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_database_each_member_fetches_its_own() {
    let (world, database) = (world(), Memory::new());
    let members: Vec<_> = (0..3).map(|_| member(&world, &database)).collect();
    for member in &members {
        member.token(&app()).await.unwrap();
    }
    advance(HOUR + SECOND).await;
    database.goes(Way::Fails);
    for member in &members {
        assert!(member.token_valid_for(&app(), HOUR).await.is_ok());
    }
    assert_eq!(world.issuer.fetch_count(), 1 + 3);
}
