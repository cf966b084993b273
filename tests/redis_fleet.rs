//! Many processes share one token: real processes and a real Redis.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and tells what it has measured"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use redis_support::{Process, Server, Setup, be_a_process_if_told, signal};
use reqwest_wecom::{AccessToken, RedisStore, TokenStore};
use support::{Answer, Qyapi, Repeat, SECRET, app};

const FLEET: usize = 8;
const CALLS: usize = 50;

#[test]
fn process() {
    be_a_process_if_told();
}

fn setup(qyapi: &Qyapi, redis: &Server) -> Setup {
    Setup::new(qyapi.base_url().as_str(), &redis.url())
}

/// With short leases.
fn quick_setup(qyapi: &Qyapi, redis: &Server) -> Setup {
    Setup {
        fetch_limit: Duration::from_secs(1),
        ..setup(qyapi, redis)
    }
}

async fn begin_calls(fleet: &mut [Process], n: usize) {
    join_all(fleet.iter_mut().map(|process| process.begin_calls(n))).await;
}

async fn all_succeed(fleet: &mut [Process], n: usize) {
    for ended in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert_eq!(ended, (n, vec![]));
    }
}

#[tokio::test]
async fn a_fleet_at_a_cold_start_makes_one_gettoken() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    let gate = qyapi.hold_gettoken();
    begin_calls(&mut fleet, CALLS).await;
    gate.arrived(1).await;
    redis.until_called("eval", FLEET).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 0));
    gate.open();
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(
        (qyapi.gettoken_count(), qyapi.api_count()),
        (1, FLEET * CALLS)
    );
}

#[tokio::test]
async fn a_fleet_whose_token_is_revoked_in_the_middle_makes_one_more_gettoken() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    begin_calls(&mut fleet, CALLS).await;
    let is_call = |path: &str| path == "user/get";
    qyapi
        .until(|log| log.iter().filter(|it| is_call(&it.path)).count() >= FLEET * CALLS / 2)
        .await;
    qyapi.revoke(SECRET);
    all_succeed(&mut fleet, CALLS).await;
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(qyapi.gettoken_count(), 2);

    qyapi.revoke(SECRET);
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(qyapi.gettoken_count(), 3);
}

#[tokio::test]
async fn those_who_wait_learn_of_the_token_soon() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    let gate = qyapi.hold_gettoken();
    for process in &mut fleet {
        process.tell("token").await;
    }
    gate.arrived(1).await;
    redis.until_called("eval", 2 * FLEET).await;
    let issued_at = SystemTime::now();
    gate.open();
    let times = join_all(fleet.iter_mut().map(Process::token_at)).await;
    let last = times.into_iter().max().unwrap();
    let waited = last.duration_since(issued_at).unwrap_or_default();
    println!("the last of {FLEET} processes had the token {waited:?} after it was issued");
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn commands_grow_no_faster_than_the_fleet() {
    for processes in [1, FLEET, 4 * FLEET] {
        let (qyapi, redis) = (Qyapi::start().await, Server::start());
        qyapi.gettoken_latency(Duration::from_millis(100));
        let mut fleet = Process::start_many(processes, &setup(&qyapi, &redis)).await;
        let began = SystemTime::now();
        for process in &mut fleet {
            process.tell("token").await;
        }
        let times = join_all(fleet.iter_mut().map(Process::token_at)).await;
        let last = times.into_iter().max().unwrap();
        let waited = last.duration_since(began).unwrap_or_default();
        let commands = redis.calls("eval").await;
        println!(
            "{processes} processes: {commands} commands, the last was served after {waited:?}"
        );
        assert_eq!(qyapi.gettoken_count(), 1);
        assert!(commands <= 6 * processes, "{commands} commands");
    }
}

#[tokio::test]
async fn a_fleet_with_a_wrong_secret_makes_no_more_fetches_than_one_process() {
    let made = join_all([1, FLEET].map(fetches_of_a_minute_with_a_wrong_secret)).await;
    println!("fetches of one process and of {FLEET}: {made:?}");
    assert!(made[0] >= made[1]);
    assert_eq!(made[1], 3, "at the start, 10 s later, 20 s later");
}

async fn fetches_of_a_minute_with_a_wrong_secret(processes: usize) -> usize {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let setup = Setup {
        secret: "a-wrong-secret".into(),
        ..setup(&qyapi, &redis)
    };
    let mut fleet = Process::start_many(processes, &setup).await;
    let minute = Duration::from_secs(60);
    join_all(
        fleet
            .iter_mut()
            .map(|process| process.begin_traffic(minute)),
    )
    .await;
    for (succeeded, errors) in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert_eq!(succeeded, 0);
        assert!(errors.iter().all(|it| it.contains("40001")), "{errors:?}");
    }
    assert_eq!(qyapi.api_count(), 0);
    qyapi.gettoken_count()
}

#[tokio::test]
async fn a_refresh_by_an_operator_ends_the_cooldown_of_a_fleet() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    qyapi.script("gettoken", Answer::errcode(60011));
    begin_calls(&mut fleet, 1).await;
    for (succeeded, errors) in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert_eq!((succeeded, errors.len()), (0, 1));
    }
    assert_eq!(qyapi.gettoken_count(), 1);
    fleet[0].begin_refreshes(1).await;
    assert_eq!(fleet[0].ended().await, (1, vec![]));
    assert_eq!(qyapi.gettoken_count(), 2);
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn operators_of_all_processes_fetch_one_after_the_other_and_no_request_fails() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    begin_calls(&mut fleet, 1).await;
    all_succeed(&mut fleet, 1).await;
    join_all(fleet.iter_mut().map(|process| process.begin_refreshes(1))).await;
    all_succeed(&mut fleet, 1).await;
    assert_eq!(qyapi.gettoken_count(), 1 + FLEET);
    let (_, kept) = redis.kept("wecom:*").await.unwrap();
    let newest = qyapi.current_token(SECRET).unwrap();
    assert!(kept.contains(&newest), "an older token is kept");
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    qyapi.revoke(SECRET);
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(qyapi.gettoken_count(), 1 + FLEET + 1);
}

#[tokio::test]
async fn a_fleet_that_needs_a_token_for_longer_makes_one_gettoken() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    let half_used = AccessToken::from_parts(qyapi.issue(SECRET), now - hour, now + hour);
    let client = reqwest_wecom::redis::Client::open(redis.url());
    let store = RedisStore::builder(client.unwrap()).build();
    store.put(&qyapi.key(&app()), &half_used).await.unwrap();
    let valid_for = async |fleet: &mut [Process], secs| {
        let all = fleet.iter_mut();
        join_all(all.map(|process| process.begin_valid_for(CALLS, secs))).await;
        join_all(fleet.iter_mut().map(Process::ended)).await
    };
    for (secs, gettokens) in [(3000, 0), (5000, 1), (5000, 1)] {
        let ended = valid_for(&mut fleet, secs).await;
        assert!(ended.iter().all(|it| *it == (CALLS, vec![])), "{ended:?}");
        assert_eq!(qyapi.gettoken_count(), gettokens);
    }
    // No token lives for so long.
    for (succeeded, errors) in valid_for(&mut fleet, 8000).await {
        let is_it = |error: &String| error.contains("ExpiresTooSoon");
        assert!(succeeded == 0 && errors.iter().all(is_it), "{errors:?}");
    }
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn an_owner_that_was_killed_is_waited_for_no_longer_than_its_lease() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    // As long as the others have the patience for, which is 5 s here.
    let setup = Setup {
        fetch_limit: Duration::from_secs(2),
        ..quick_setup(&qyapi, &redis)
    };
    let mut owner = Process::start(&setup).await;
    let mut others = Process::start_many(FLEET - 1, &setup).await;
    let gate = qyapi.hold_gettoken();
    owner.begin_calls(1).await;
    gate.arrived(1).await;
    // Long enough for others to fetch too, if they did.
    qyapi.gettoken_latency(Duration::from_millis(500));
    let began = Instant::now();
    begin_calls(&mut others, CALLS).await;
    redis.until_called("eval", FLEET).await;
    signal("KILL", owner.pid());
    gate.arrived(2).await;
    gate.open();
    all_succeed(&mut others, CALLS).await;
    println!("served {:?} after the owner had begun", began.elapsed());
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn an_owner_that_was_stopped_past_its_time_does_not_replace_the_newer_token() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let setup = quick_setup(&qyapi, &redis);
    let mut stopped = Process::start(&Setup {
        stops_after_fetch: true,
        ..setup.clone()
    })
    .await;
    let mut other = Process::start(&setup).await;
    stopped.begin_calls(1).await;
    qyapi.until(|log| log.len() == 1).await;
    other.calls(1).await;
    assert_eq!(qyapi.gettoken_count(), 2);
    let newer = qyapi.current_token(SECRET).unwrap();

    let (key, _) = redis.kept("wecom:*").await.unwrap();
    signal("CONT", stopped.pid());
    assert_eq!(stopped.ended().await, (1, vec![]));
    let (same_key, kept) = redis.kept("wecom:*").await.unwrap();
    assert_eq!(key, same_key);
    assert!(
        kept.contains(&newer),
        "the older token was put in its place"
    );
    other.calls(1).await;
    assert_eq!(qyapi.gettoken_count(), 2);
    assert_eq!(qyapi.count("user/get"), 3, "the older token was used");
}

#[tokio::test]
async fn clocks_that_are_hours_apart_cost_no_fetch() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let with_clock = |clock: &str| Setup {
        clock: Some(clock.into()),
        ..setup(&qyapi, &redis)
    };
    let mut fleet = join_all(
        [
            Process::start(&with_clock("+3h")),
            Process::start(&with_clock("-3h")),
            Process::start(&with_clock("+0")),
        ]
        .map(Box::pin),
    )
    .await;
    for first in 0..fleet.len() {
        fleet.rotate_left(1);
        for process in &mut fleet {
            process.calls(2).await;
        }
        assert_eq!(qyapi.gettoken_count(), first + 1);
        qyapi.revoke(SECRET);
    }
}

#[tokio::test]
async fn an_outage_of_redis_fails_no_request_and_costs_no_fetch_where_none_is_needed() {
    // It comes back empty, or with what it had.
    for arguments in [&["--appendonly", "no"], &["--appendonly", "yes"]] {
        outlives_an_outage(Server::with(arguments)).await;
    }
}

async fn outlives_an_outage(mut redis: Server) {
    let qyapi = Qyapi::start().await;
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &redis)).await;
    begin_calls(&mut fleet, 1).await;
    all_succeed(&mut fleet, 1).await;

    let load = Duration::from_secs(2);
    join_all(fleet.iter_mut().map(|process| process.begin_traffic(load))).await;
    redis.kill();
    let seen = qyapi.api_count();
    qyapi.until(|log| log.len() > seen + 50).await;
    redis.run();
    for (succeeded, errors) in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert!(succeeded > 10);
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert_eq!(qyapi.gettoken_count(), 1);

    // One more fetch where a token is needed.
    qyapi.revoke(SECRET);
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn a_token_needed_in_an_outage_costs_one_fetch_a_process_and_at_most_one_after_it() {
    let (qyapi, mut redis) = (Qyapi::start().await, Server::with(&["--appendonly", "yes"]));
    qyapi.on_repeat(Repeat::NewTokenOldValid);
    let mut fleet = Process::start_many(4, &setup(&qyapi, &redis)).await;
    begin_calls(&mut fleet, 1).await;
    all_succeed(&mut fleet, 1).await;
    assert_eq!(qyapi.gettoken_count(), 1);

    redis.kill();
    qyapi.revoke(SECRET);
    begin_calls(&mut fleet, CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    let during = qyapi.gettoken_count() - 1;
    assert!(during <= 4, "{during} fetches of 4 processes");

    redis.run(); // with the revoked token
    let mut newcomer = Process::start(&setup(&qyapi, &redis)).await;
    begin_calls(&mut fleet, CALLS).await;
    newcomer.calls(CALLS).await;
    all_succeed(&mut fleet, CALLS).await;
    let after = qyapi.gettoken_count() - 1 - during;
    assert!(after <= 1, "{after} fetches after the outage");
}
