//! An operator's refresh fetches now, and costs requests nothing.

use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{FutureExt, poll};
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use super::fleet::{member, millis};
use super::memory::Memory;
use super::stores::{Store, Way};
use super::throttle::errcode;
use super::world::{
    Behaviour, LIFETIME, Repeat, World, app, call, fails_as, fails_with, paused_runtime, traffic,
};
use crate::{AccessToken, Credentials, Error, ErrorKind, MokaStore, StoreOnly};

const SECOND: Duration = Duration::from_secs(1);

/// For each fetch so far, whether an operator wanted it.
fn forced(world: &World) -> Vec<bool> {
    world
        .issuer
        .with_tries(|tries| tries.iter().map(|it| it.is_forced).collect())
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_operators_makes_one_fetch_while_requests_use_the_old_token() {
    let world = World::new();
    world.issuer.repeats(Repeat::NewTokenOldValid);
    let (manager, app) = (world.manager(), app());
    let old = manager.token(&app).await.unwrap();
    world.issuer.takes(millis(100));
    let operators = join_all((0..1000).map(|_| manager.refresh(&app)));
    let (tokens, ()) = tokio::join!(operators, async {
        world.issuer.asked(2).await;
        let began = Instant::now();
        assert_eq!(manager.token(&app).await.unwrap(), old);
        assert_eq!(began.elapsed(), Duration::ZERO);
    });
    let new = tokens[0].as_ref().unwrap();
    assert_ne!(*new, old);
    assert!(tokens.iter().all(|it| it.as_ref().unwrap() == new));
    assert_eq!(manager.token(&app).await.unwrap(), *new);
    assert_eq!(forced(&world), [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_cooldown_does_not_hold_it_back_and_ends_with_its_success() {
    for failure in [
        errcode(40001),
        errcode(60020),
        Behaviour::Fail(Error::refused("no")),
        Behaviour::Panic,
    ] {
        let world = World::new();
        world.issuer.next(failure);
        let manager = world.manager();
        assert!(manager.token(&app()).await.is_err());
        assert!(manager.token(&app()).await.is_err());
        assert_eq!(world.issuer.fetch_count(), 1);
        let token = manager.refresh(&app()).await.unwrap();
        assert_eq!(manager.token(&app()).await.unwrap(), token);
        world.issuer.end(&app(), 40014);
        let value = token.expose_secret();
        let next = manager.refresh_rejected(&app(), value).await;
        assert!(next.is_ok(), "no cooldown is left");
        assert_eq!(forced(&world), [false, true, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_source_gets_exactly_one_call_and_is_open_again_after_a_success() {
    let world = World::new();
    world.issuer.usually(errcode(45009));
    let manager = world.manager();
    let others: Vec<_> = (0..20)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    assert!(fails_with(&manager.token(&app()).await, 45009));
    advance(30 * SECOND).await;
    assert!(fails_with(&manager.refresh(&app()).await, 45009));
    assert_eq!(world.issuer.fetch_count(), 2);
    // It closes the gate as any other does.
    advance(31 * SECOND).await;
    for other in &others {
        assert!(fails_with(&manager.token(other).await, 45009));
    }
    assert_eq!(world.issuer.fetch_count(), 2);

    world.issuer.usually(Behaviour::Issue);
    assert!(manager.refresh(&app()).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 3);
    for other in &others {
        assert!(manager.token(other).await.is_ok());
    }
    assert_eq!(world.issuer.fetch_count(), 3 + 20);
}

#[tokio::test(start_paused = true)]
async fn a_45009_closes_the_gate_for_requests() {
    let world = World::new();
    world.issuer.next(errcode(45009));
    let manager = world.manager();
    assert!(fails_with(&manager.refresh(&app()).await, 45009));
    assert!(fails_with(&manager.token(&app()).await, 45009));
    advance(60 * SECOND).await;
    assert!(manager.token(&app()).await.is_ok());
    assert_eq!(forced(&world), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_full_gate_does_not_hold_it_back() {
    let world = World::new();
    world.issuer.takes(millis(900));
    let manager = world.manager();
    for n in 0..50 {
        let manager = manager.clone();
        let other = Credentials::new("corp", n.to_string());
        tokio::spawn(async move { manager.token(&other).await });
    }
    world.issuer.asked(8).await;
    let began = Instant::now();
    manager.refresh(&app()).await.unwrap();
    assert_eq!(began.elapsed(), millis(900));
}

#[tokio::test(start_paused = true)]
async fn the_guard_does_not_hold_it_back() {
    let world = World::new();
    let manager = world.builder().refresh_budget(0).build();
    let old = manager.token(&app()).await.unwrap();
    world.issuer.end(&app(), 40014);
    let value = old.expose_secret();
    let held_back = manager.refresh_rejected(&app(), value).await;
    assert!(fails_as(&held_back, ErrorKind::HeldBack));
    let new = manager.refresh(&app()).await.unwrap();
    assert_eq!(manager.refresh_rejected(&app(), value).await.unwrap(), new);
}

#[tokio::test(start_paused = true)]
async fn a_broken_store_does_not_hold_it_back() {
    for way in [Way::Fails, Way::Hangs, Way::Panics] {
        let world = World::new();
        let store = Store::new(way, way);
        let manager = world.builder().store(store.clone()).build();
        let began = Instant::now();
        let token = manager.refresh(&app()).await.unwrap();
        assert_eq!((began.elapsed(), store.gets()), (Duration::ZERO, 0));
        assert_eq!(manager.token(&app()).await.unwrap(), token);
    }
}

#[tokio::test(start_paused = true)]
async fn managers_over_a_plain_store_find_its_token_there() {
    let world = World::new();
    let store = MokaStore::new();
    let [one, two] = [(); 2].map(|()| world.builder().store(store.clone()).build());
    let old = two.token(&app()).await.unwrap();
    advance(SECOND).await;
    let new = one.refresh(&app()).await.unwrap();
    assert_ne!(new, old);
    let value = old.expose_secret();
    assert_eq!(two.refresh_rejected(&app(), value).await.unwrap(), new);
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn it_makes_one_try_and_the_old_token_stays_if_that_fails() {
    for failure in [
        Behaviour::Fail(Error::transient("lost")),
        errcode(-1),
        errcode(40001),
        Behaviour::Panic,
        Behaviour::Hang,
    ] {
        let world = World::new();
        let (manager, began) = (world.manager(), Instant::now());
        let old = manager.token(&app()).await.unwrap();
        world.issuer.next(failure.clone());
        assert!(manager.refresh(&app()).await.is_err());
        assert!(began.elapsed() <= 5 * SECOND, "one try");
        assert_eq!(world.issuer.fetch_count(), 2, "{failure:?}");
        assert_eq!(manager.token(&app()).await.unwrap(), old);
        // There is no cooldown either.
        world.issuer.end(&app(), 40014);
        let value = old.expose_secret();
        assert!(manager.refresh_rejected(&app(), value).await.is_ok());
        assert_eq!(world.issuer.fetch_count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn its_failure_does_not_make_a_cooldown_longer() {
    let world = World::new();
    world.issuer.usually(errcode(40001));
    let manager = world.manager();
    assert!(manager.token(&app()).await.is_err());
    for _ in 0..9 {
        advance(SECOND).await;
        assert!(fails_with(&manager.refresh(&app()).await, 40001));
        assert!(fails_with(&manager.token(&app()).await, 40001));
    }
    assert_eq!(world.issuer.fetch_count(), 1 + 9);
    advance(SECOND).await;
    world.issuer.usually(Behaviour::Issue);
    assert!(manager.token(&app()).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 1 + 9 + 1);
}

#[tokio::test(start_paused = true)]
async fn ten_are_possible_in_a_row_and_one_more_every_72_seconds() {
    let world = World::new();
    let manager = world.manager();
    // Those that fail count too.
    for n in 0..10 {
        if n % 2 == 0 {
            world.issuer.next(errcode(40001));
        }
        assert_eq!(manager.refresh(&app()).await.is_err(), n % 2 == 0);
    }
    advance(2 * SECOND).await;
    let too_many = manager.refresh(&app()).await;
    assert!(fails_as(&too_many, ErrorKind::HeldBack));
    let error = too_many.unwrap_err();
    assert_eq!(error.retry_after(), Some(70 * SECOND));
    assert_eq!(
        error.to_string(),
        "too many forced refreshes: wait 70s before the next one"
    );
    assert_eq!(world.issuer.fetch_count(), 10);
    let other = Credentials::new("corp", "other");
    assert!(manager.refresh(&other).await.is_ok(), "one for each key");
    advance(70 * SECOND).await;
    assert!(manager.refresh(&app()).await.is_ok());
    let too_many = manager.refresh(&app()).await;
    assert!(fails_as(&too_many, ErrorKind::HeldBack));
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_not_forgotten_while_the_app_is_not_used() {
    let world = World::new();
    let manager = world.manager();
    for _ in 0..10 {
        manager.refresh(&app()).await.unwrap();
    }
    for _ in 0..2 {
        sleep(301 * SECOND).await;
        world.issuer.end(&app(), 40014);
        let other = Credentials::new("corp", "other");
        manager.token(&other).await.unwrap();
        sleep(millis(1)).await;
    }
    let mut made = 0;
    while manager.refresh(&app()).await.is_ok() {
        made += 1;
    }
    assert_eq!(made, 602 / 72);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_call_costs_no_budget() {
    let world = World::new();
    let http = reqwest::Client::new();
    let manager = world.manager_of(crate::GetToken::new(http));
    let without_secret = Credentials::without_secret("corp", app().app());
    for _ in 0..20 {
        let result = manager.refresh(&without_secret).await;
        assert!(fails_as(&result, ErrorKind::NoSecret), "{result:?}");
        let result = manager.refresh(&Credentials::new("", "")).await;
        assert!(fails_as(&result, ErrorKind::InvalidCredentials));
    }
    let manager = world.manager();
    for _ in 0..20 {
        let app = app();
        let outside = std::thread::scope(|scope| {
            let outside = scope.spawn(|| manager.refresh(&app).now_or_never());
            outside.join().unwrap()
        });
        assert!(fails_as(&outside.unwrap(), ErrorKind::NoRuntime));
    }
    assert!(manager.refresh(&app()).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_refreshes_and_then_a_real_revocation_is_healed_by_one_fetch() {
    for shared in [false, true] {
        let world = World::new();
        let manager = match shared {
            false => world.manager(),
            true => member(&world, &Memory::new()),
        };
        let client = world.client(&manager);
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        for _ in 0..10 {
            manager.refresh(&app()).await.unwrap();
            assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        }
        let revoke = async {
            sleep(SECOND).await;
            world.issuer.end(&app(), 40014);
        };
        let (bad, ()) = tokio::join!(traffic(&client, "user/get", 3 * SECOND), revoke);
        assert!(bad.is_empty(), "{bad:?}");
        assert_eq!(world.issuer.fetch_count(), 1 + 10 + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn it_does_not_join_the_refresh_of_a_request_which_is_served_first() {
    let world = World::new();
    world.issuer.takes(millis(100));
    let (manager, app) = (world.manager(), app());
    let began = Instant::now();
    let (first, second, third) = tokio::join!(
        async { (manager.token(&app).await.unwrap(), began.elapsed()) },
        async {
            world.issuer.asked(1).await;
            (manager.refresh(&app).await.unwrap(), began.elapsed())
        },
        async {
            world.issuer.asked(1).await;
            manager.refresh(&app).await.unwrap()
        },
    );
    assert_eq!((first.1, second.1), (millis(100), millis(200)));
    assert_eq!(second.0, third);
    assert_ne!(first.0, second.0);
    assert_eq!(manager.token(&app).await.unwrap(), second.0);
    assert_eq!(forced(&world), [false, true]);
    assert_eq!(world.issuer.most_under_way(), 1);
}

#[tokio::test(start_paused = true)]
async fn it_is_next_even_if_requests_ask_the_source_without_a_pause() {
    let world = World::new();
    world.issuer.takes(millis(100));
    world
        .issuer
        .usually(Behaviour::Fail(Error::not_ready("wait")));
    let manager = world.manager();
    for _ in 0..5 {
        let manager = manager.clone();
        tokio::spawn(async move {
            loop {
                let _ = manager.token(&app()).await;
            }
        });
    }
    world.issuer.asked(3).await;
    let began = Instant::now();
    assert!(manager.refresh(&app()).await.is_err());
    assert_eq!(began.elapsed(), millis(200));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_hangs_is_waited_for_until_it_has_ended() {
    let world = World::new();
    let manager = world.manager();
    manager.token(&app()).await.unwrap();
    advance(LIFETIME - 60 * SECOND).await;
    world.issuer.next(Behaviour::Hang);
    world.issuer.next(Behaviour::Hang);
    manager.token(&app()).await.unwrap();
    world.issuer.asked(1 + 1).await;
    world.issuer.takes(millis(4900));
    let began = Instant::now();
    assert!(manager.refresh(&app()).await.is_ok());
    assert_eq!(began.elapsed(), 8 * SECOND + millis(4900));
    assert_eq!(forced(&world), [false, false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_token_use_what_it_brings_or_fetch_after_its_failure() {
    for (failure, fetches) in [
        (None, 1),
        (Some(Behaviour::Fail(Error::transient("lost"))), 2),
        (Some(errcode(40001)), 2),
    ] {
        let world = World::new();
        world.issuer.takes(millis(100));
        if let Some(failure) = failure {
            world.issuer.next(failure);
        }
        let (manager, app) = (world.manager(), app());
        let (operator, requests) = tokio::join!(manager.refresh(&app), async {
            world.issuer.asked(1).await;
            join_all((0..100).map(|_| manager.token(&app))).await
        });
        assert_eq!(operator.is_ok(), fetches == 1);
        assert!(requests.iter().all(Result::is_ok), "{requests:?}");
        assert_eq!(world.issuer.fetch_count(), fetches);
        assert_eq!(world.issuer.most_under_way(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejection_meanwhile_is_healed_by_it_or_after_its_failure() {
    for fails in [false, true] {
        let world = World::new();
        let manager = world.manager();
        let client = world.client(&manager);
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        world.issuer.takes(millis(100));
        if fails {
            world.issuer.next(Behaviour::Fail(Error::transient("lost")));
        }
        let app = app();
        let (operator, answer) = tokio::join!(manager.refresh(&app), async {
            world.issuer.asked(2).await;
            world.issuer.end(&app, 40014);
            call(&client, "user/get").await
        });
        assert_eq!(operator.is_err(), fails);
        assert_eq!(answer.unwrap(), 0);
        assert_eq!(world.issuer.fetch_count(), 2 + usize::from(fails));
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_may_be_dropped_at_any_point() {
    for with_request in [false, true] {
        for polls in 1..8 {
            let world = World::new();
            world.issuer.takes(millis(300));
            let (manager, app) = (world.manager(), app());
            if with_request {
                let mut request = Box::pin(manager.token(&app));
                assert!(poll!(&mut request).is_pending());
            }
            {
                let mut operator = Box::pin(manager.refresh(&app));
                for _ in 0..polls {
                    assert!(poll!(&mut operator).is_pending());
                    yield_now().await;
                }
            }
            sleep(SECOND).await;
            let fetches = 1 + usize::from(with_request);
            assert_eq!(world.issuer.fetch_count(), fetches, "after {polls} polls");
            let token = manager.token(&app).await.unwrap();
            assert!(world.issuer.takes_token(&token));
            assert_eq!(world.issuer.fetch_count(), fetches);
        }
    }
}

#[test]
fn one_that_is_lost_with_its_runtime_is_replaced_and_starts_no_cooldown() {
    for with_request in [false, true] {
        let first = paused_runtime();
        let (world, manager) = first.block_on(async {
            let world = World::new();
            world.issuer.usually(Behaviour::Hang);
            let manager = world.manager();
            if with_request {
                let manager = manager.clone();
                tokio::spawn(async move { manager.token(&app()).await });
                world.issuer.asked(1).await;
            }
            for _ in 0..2 {
                let manager = manager.clone();
                tokio::spawn(async move { manager.refresh(&app()).await });
            }
            for _ in 0..10 {
                yield_now().await;
            }
            (world, manager)
        });
        drop(first);
        world.issuer.usually(Behaviour::Issue);
        assert_eq!(world.issuer.fetch_count(), 1);
        paused_runtime().block_on(async {
            let (app, began) = (app(), Instant::now());
            let (operator, request) = tokio::join!(manager.refresh(&app), manager.token(&app));
            assert_eq!(operator.unwrap(), request.unwrap());
            assert_eq!(began.elapsed(), Duration::ZERO);
        });
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[test]
fn one_that_is_lost_while_there_is_a_token_starts_no_cooldown_either() {
    let first = paused_runtime();
    let (world, manager, old) = first.block_on(async {
        let world = World::new();
        let manager = world.manager();
        let old = manager.token(&app()).await.unwrap();
        world.issuer.next(Behaviour::Hang);
        let operator = manager.clone();
        tokio::spawn(async move { operator.refresh(&app()).await });
        world.issuer.asked(2).await;
        (world, manager, old)
    });
    drop(first);
    paused_runtime().block_on(async {
        let app = app();
        assert_eq!(manager.token(&app).await.unwrap(), old);
        world.issuer.end(&app, 40014);
        let healed = manager.refresh_rejected(&app, old.expose_secret()).await;
        assert!(healed.is_ok(), "{healed:?}");
    });
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_issuer_repeats_is_a_success() {
    for repeat in [
        Repeat::SameToken,
        Repeat::SameTokenShorter,
        Repeat::SameTokenExtended,
    ] {
        for passed in [0, 1, 1000] {
            let world = World::new();
            world.issuer.repeats(repeat);
            let manager = world.manager();
            let old = manager.token(&app()).await.unwrap();
            advance(Duration::from_secs(passed)).await;
            let new = manager.refresh(&app()).await.unwrap();
            assert_eq!(new.expose_secret(), old.expose_secret());
            assert_eq!(manager.token(&app()).await.unwrap(), new);
            assert_eq!(forced(&world), [false, true]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_refuses_it_and_makes_no_call() {
    let world = World::new();
    let store = Store::new(Way::Works, Way::Works);
    let builder = crate::TokenManagerBuilder {
        source: std::sync::Arc::new(StoreOnly::default()),
        ..world.builder()
    };
    let reader = builder.store(store.clone()).build();
    let result = reader.refresh(&app()).await;
    assert!(fails_as(&result, ErrorKind::Refused), "{result:?}");
    assert_eq!(store.gets(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_ends_a_cooldown_for_the_whole_fleet() {
    for failure in [
        errcode(40001),
        errcode(60020),
        Behaviour::Fail(Error::transient("no route")),
    ] {
        let (world, database) = (World::new(), Memory::new());
        let members: Vec<_> = (0..8).map(|_| member(&world, &database)).collect();
        world.issuer.usually(failure);
        for _ in 0..4 {
            for member in &members {
                assert!(member.token(&app()).await.is_err());
            }
        }
        let (began, fetches) = (Instant::now(), world.issuer.fetch_count());
        world.issuer.usually(Behaviour::Issue);
        let token = members[7].refresh(&app()).await.unwrap();
        for member in &members {
            assert_eq!(member.token(&app()).await.unwrap(), token);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(world.issuer.fetch_count(), fetches + 1);
        // Nothing of the failure is left.
        world.issuer.end(&app(), 40014);
        let value = token.expose_secret();
        assert!(members[0].refresh_rejected(&app(), value).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn its_failure_does_not_make_a_cooldown_of_the_fleet_longer() {
    let (world, database) = (World::new(), Memory::new());
    let [one, two] = [(); 2].map(|()| member(&world, &database));
    world.issuer.usually(errcode(40001));
    assert!(one.token(&app()).await.is_err());
    for _ in 0..9 {
        sleep(SECOND).await;
        assert!(fails_with(&two.refresh(&app()).await, 40001));
        assert!(fails_with(&two.token(&app()).await, 40001));
    }
    assert_eq!(world.issuer.fetch_count(), 1 + 9);
    sleep(SECOND).await;
    world.issuer.usually(Behaviour::Issue);
    let token = two.token(&app()).await.unwrap();
    assert_eq!(one.token(&app()).await.unwrap(), token);
    assert_eq!(world.issuer.fetch_count(), 1 + 9 + 1);
}

#[tokio::test(start_paused = true)]
async fn its_failure_starts_no_cooldown_of_the_fleet() {
    for failure in [40001, 60020, -1].map(errcode) {
        let (world, database) = (World::new(), Memory::new());
        let [one, two] = [(); 2].map(|()| member(&world, &database));
        world.issuer.next(failure);
        assert!(one.refresh(&app()).await.is_err());
        let token = two.token(&app()).await.unwrap();
        assert_eq!(one.token(&app()).await.unwrap(), token);
        assert_eq!(forced(&world), [true, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_member_that_fetches() {
    let (world, database) = (World::new(), Memory::new());
    let [one, two] = [(); 2].map(|()| member(&world, &database));
    world.issuer.takes(millis(100));
    let (app, began) = (app(), Instant::now());
    let (first, second) = tokio::join!(one.token(&app), async {
        world.issuer.asked(1).await;
        two.refresh(&app).await
    });
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_ne!(first, second);
    assert!(began.elapsed() <= millis(100 + 250 + 100));
    assert_eq!(forced(&world), [false, true]);
    let tries = world.issuer.with_tries(<[_]>::to_vec);
    let ended = tries[0].ended.as_ref().unwrap().0.instant;
    assert!(tries[1].began.instant >= ended);
    let (text, _) = database.text(two.key(&app).as_str()).unwrap();
    assert!(text.contains(second.expose_secret()), "{text}");
    let healed = one.refresh_rejected(&app, first.expose_secret()).await;
    assert_eq!(healed.unwrap(), second);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_waits_gets_what_it_brings() {
    let (world, database) = (World::new(), Memory::new());
    let members: Vec<_> = (0..8).map(|_| member(&world, &database)).collect();
    world.issuer.takes(millis(100));
    let app = app();
    let (operator, tokens) = tokio::join!(members[0].refresh(&app), async {
        world.issuer.asked(1).await;
        join_all(members.iter().map(|member| member.token(&app))).await
    });
    let token = operator.unwrap();
    let is_it = |it: &Result<AccessToken, Error>| *it.as_ref().unwrap() == token;
    assert!(tokens.iter().all(is_it));
    assert_eq!(forced(&world), [true]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_others_for_8_seconds_at_most() {
    let (world, database) = (World::new(), Memory::new());
    let member = member(&world, &database);
    let key = member.key(&app()).to_string();
    let others = database.clone();
    let fetching = tokio::spawn(async move {
        for n in 0.. {
            let lease = format!("{{\"turn\":{{\"owner\":\"{n}\"}}}}");
            others.set(&key, &lease, 2 * SECOND);
            sleep(SECOND).await;
        }
    });
    yield_now().await;
    let began = Instant::now();
    assert!(member.refresh(&app()).await.is_ok());
    assert_eq!(began.elapsed(), 8 * SECOND);
    fetching.abort();
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_does_not_hold_it_back() {
    let (world, database) = (World::new(), Memory::new());
    let [dead, member] = [(); 2].map(|()| member(&world, &database));
    world.issuer.next(Behaviour::Hang);
    let app = app();
    assert!(poll!(Box::pin(dead.token(&app))).is_pending());
    world.issuer.asked(1).await;
    let began = Instant::now();
    assert!(member.refresh(&app).await.is_ok());
    assert!(began.elapsed() <= 3 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_the_database_it_fetches_alone_and_writes_back_later() {
    for way in [Way::Fails, Way::Hangs, Way::Panics] {
        let (world, database) = (World::new(), Memory::new());
        let member = member(&world, &database);
        member.token(&app()).await.unwrap();
        database.goes(way);
        let began = Instant::now();
        let token = member.refresh(&app()).await.unwrap();
        assert!(began.elapsed() <= millis(2250), "{:?}", began.elapsed());
        assert_eq!(forced(&world), [false, true]);
        database.goes(Way::Works);
        sleep(5 * SECOND).await;
        let (text, _) = database.text(member.key(&app()).as_str()).unwrap();
        assert!(text.contains(token.expose_secret()), "{way:?}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_does_not_keep_the_fleet_waiting() {
    let (world, database) = (World::new(), Memory::new());
    let [one, two] = [(); 2].map(|()| member(&world, &database));
    world.issuer.next(Behaviour::Hang);
    let (app, began) = (app(), Instant::now());
    let (operator, token) = tokio::join!(one.refresh(&app), async {
        world.issuer.asked(1).await;
        let token = two.token(&app).await;
        (token, began.elapsed())
    });
    assert!(fails_as(&operator, ErrorKind::TimedOut));
    assert_eq!(began.elapsed(), 5 * SECOND, "one try");
    assert!(token.0.is_ok() && token.1 <= millis(2250), "{:?}", token.1);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_member_of_a_fleet_makes_exactly_one_call() {
    let (world, database) = (World::new(), Memory::new());
    let member = member(&world, &database);
    world.issuer.usually(errcode(45009));
    assert!(fails_with(&member.token(&app()).await, 45009));
    assert!(fails_with(&member.refresh(&app()).await, 45009));
    assert!(fails_with(&member.token(&app()).await, 45009));
    assert_eq!(forced(&world), [false, true]);
    world.issuer.usually(Behaviour::Issue);
    let token = member.refresh(&app()).await.unwrap();
    assert_eq!(member.token(&app()).await.unwrap(), token);
    assert_eq!(forced(&world), [false, true, true]);
}
