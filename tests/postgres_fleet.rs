//! Many processes share one token: real processes and a real Postgres.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints what it has measured"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "the example has the fake API too, and the tests use its database"
)]

#[path = "postgres_support/mod.rs"]
mod postgres_support;
#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::env;
use std::fmt::Debug;
use std::io::{self, BufRead};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use postgres_support::{PostgresDatabase, Server};
use redis_support::{Process, Setup, within_a_minute};
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, Credentials, GetToken, SharedStore, TokenManager,
    TokenStore,
};
use support::{Answer, Qyapi, SECRET, app, with_tokens};
use tokio::runtime::Runtime;
use tokio::time::sleep;

const FLEET: usize = 8;
const CALLS: usize = 50;

/// One process of the fleet. It takes its orders from [`Process`], which is the other end.
#[test]
fn process() {
    let Ok(setup) = env::var("WECOM_TEST_PROCESS") else {
        return;
    };
    let setup: Setup = serde_json::from_str(&setup).unwrap();
    let runtime = Runtime::new().unwrap();
    let http = reqwest::Client::builder().no_proxy().referer(false);
    let http = http.build().unwrap();
    let source = GetToken::new(http.clone()).base_url(setup.api.parse().unwrap());
    let database = PostgresDatabase::new(setup.redis[0].parse().unwrap());
    let manager = TokenManager::builder(source)
        .fetch_limit(setup.fetch_limit)
        .store(SharedStore::new(database))
        .build();
    let credentials = Credentials::new(setup.corp, setup.secret);
    let tokens = AccessTokenMiddleware::builder(manager.clone()).credentials(credentials.clone());
    let client = with_tokens(http, tokens.build());
    let url = format!("{}cgi-bin/user/get", setup.api);
    let call = async || {
        let answer = client
            .get(&url)
            .send()
            .await
            .map_err(|e| format!("{e:?}"))?;
        let body = answer.text().await.map_err(|e| format!("{e:?}"))?;
        body.contains(r#""errcode":0"#).then_some(()).ok_or(body)
    };
    println!("\n@ ready");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match line.split_once(' ') {
            Some(("call", n)) => {
                let calls = (0..n.parse().unwrap()).map(|_| call());
                let results = runtime.block_on(join_all(calls));
                told(results)
            }
            Some(("refresh", n)) => {
                let refreshes = (0..n.parse().unwrap()).map(|_| manager.refresh(&credentials));
                told(runtime.block_on(join_all(refreshes)))
            }
            Some(("valid_for", numbers)) => {
                let (n, secs) = numbers.split_once(' ').unwrap();
                let min = Duration::from_secs(secs.parse().unwrap());
                let all =
                    (0..n.parse().unwrap()).map(|_| manager.token_valid_for(&credentials, min));
                told(runtime.block_on(join_all(all)))
            }
            None if line == "token" => {
                runtime.block_on(manager.token(&credentials)).unwrap();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.as_millis().to_string()
            }
            _ => panic!("unknown order: {line}"),
        };
        println!("\n@ {answer}");
    }
    // The test has closed the pipe for the output, so the test harness must not print a summary.
    std::process::exit(0);
}

/// How many have succeeded, and the errors of the others.
fn told<T>(results: Vec<Result<T, impl Debug>>) -> String {
    let errors = results.iter().filter_map(|it| it.as_ref().err());
    let errors: Vec<_> = errors.map(|error| format!("{error:?}")).collect();
    serde_json::to_string(&(results.len() - errors.len(), errors)).unwrap()
}

fn setup(qyapi: &Qyapi, postgres: &Server) -> Setup {
    Setup::new(qyapi.base_url().as_str(), &postgres.url())
}

async fn all_call(fleet: &mut [Process]) {
    join_all(fleet.iter_mut().map(|process| process.calls(CALLS))).await;
}

/// Waits until each process has asked the database.
async fn all_have_asked(postgres: &Server, processes: usize) {
    let admin = postgres.admin().await;
    let asked = "select count(*) from pg_stat_activity
        where pid <> pg_backend_pid() and query ~ '(from|into) wecom_tokens'";
    while admin.query_one(asked, &[]).await.unwrap().get::<_, i64>(0) < processes as i64 {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_fleet_at_a_cold_start_makes_one_gettoken() {
    within_a_minute(one_gettoken_for(FLEET)).await;
}

#[tokio::test]
async fn a_large_fleet_at_a_cold_start_makes_one_gettoken() {
    within_a_minute(one_gettoken_for(32)).await;
}

async fn one_gettoken_for(processes: usize) {
    let (qyapi, postgres) = (Qyapi::start().await, Server::start().await);
    let mut fleet = Process::start_many(processes, &setup(&qyapi, &postgres)).await;
    let gate = qyapi.hold_gettoken();
    for process in &mut fleet {
        process.tell("token").await;
    }
    gate.arrived(1).await;
    all_have_asked(&postgres, processes).await;
    assert_eq!(qyapi.gettoken_count(), 1);
    let issued_at = SystemTime::now();
    gate.open();
    let times = join_all(fleet.iter_mut().map(Process::token_at)).await;
    let last = times.into_iter().max().unwrap();
    let waited = last.duration_since(issued_at).unwrap_or_default();
    println!("the last of {processes} processes had the token {waited:?} after it was issued");
    assert_eq!(qyapi.gettoken_count(), 1);
    all_call(&mut fleet).await;
    assert_eq!(qyapi.gettoken_count(), 1);
    assert_eq!(qyapi.api_count(), processes * CALLS);
}

#[tokio::test]
async fn a_fleet_whose_token_is_revoked_makes_one_more_gettoken() {
    let (qyapi, postgres) = (Qyapi::start().await, Server::start().await);
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &postgres)).await;
    all_call(&mut fleet).await;
    qyapi.revoke(SECRET);
    all_call(&mut fleet).await;
    assert_eq!(qyapi.gettoken_count(), 2);
}

async fn all_succeed(fleet: &mut [Process], n: usize) {
    for ended in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert_eq!(ended, (n, vec![]));
    }
}

#[tokio::test]
async fn a_refresh_by_an_operator_ends_the_cooldown_of_a_fleet() {
    let (qyapi, postgres) = (Qyapi::start().await, Server::start().await);
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &postgres)).await;
    qyapi.script("gettoken", Answer::errcode(60011));
    join_all(fleet.iter_mut().map(|process| process.begin_calls(1))).await;
    for (succeeded, errors) in join_all(fleet.iter_mut().map(Process::ended)).await {
        assert_eq!((succeeded, errors.len()), (0, 1));
    }
    assert_eq!(qyapi.gettoken_count(), 1);
    fleet[0].begin_refreshes(1).await;
    all_succeed(&mut fleet[..1], 1).await;
    all_call(&mut fleet).await;
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn operators_of_all_processes_fetch_one_after_the_other_and_no_request_fails() {
    let (qyapi, postgres) = (Qyapi::start().await, Server::start().await);
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &postgres)).await;
    all_call(&mut fleet).await;
    join_all(fleet.iter_mut().map(|process| process.begin_refreshes(1))).await;
    all_succeed(&mut fleet, 1).await;
    assert_eq!(qyapi.gettoken_count(), 1 + FLEET);
    all_call(&mut fleet).await;
    assert_eq!(qyapi.gettoken_count(), 1 + FLEET);
}

#[tokio::test]
async fn a_fleet_that_needs_a_token_for_longer_makes_one_gettoken() {
    let (qyapi, postgres) = (Qyapi::start().await, Server::start().await);
    let mut fleet = Process::start_many(FLEET, &setup(&qyapi, &postgres)).await;
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    let half_used = AccessToken::from_parts(qyapi.issue(SECRET), now - hour, now + hour);
    let store = SharedStore::new(postgres.database());
    store.put(&qyapi.key(&app()), &half_used).await.unwrap();
    for (secs, gettokens) in [(3000, 0), (5000, 1), (5000, 1)] {
        let all = fleet.iter_mut();
        join_all(all.map(|process| process.begin_valid_for(CALLS, secs))).await;
        all_succeed(&mut fleet, CALLS).await;
        assert_eq!(qyapi.gettoken_count(), gettokens);
    }
}
