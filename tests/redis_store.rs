//! The store in one real Redis: what is kept there, who may, and what trouble costs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use redis_support::Server;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessToken, Credentials, Error, RedisStore, StoreOnly, TokenManager, TokenStore, redis,
};
use serde_json::Value;
use support::{Answer, Qyapi, SECRET, app, key, other_app, token};

const TWO_HOURS: Duration = Duration::from_secs(7200);
const LIMIT: Duration = Duration::from_millis(200);

fn store_at(url: &str) -> RedisStore {
    let client = redis::Client::open(url).unwrap();
    RedisStore::builder(client).operation_limit(LIMIT).build()
}

fn store(redis: &Server) -> RedisStore {
    store_at(&redis.url())
}

fn manager(qyapi: &Qyapi, store: RedisStore) -> TokenManager {
    TokenManager::builder(qyapi.source()).store(store).build()
}

fn client(qyapi: &Qyapi, redis: &Server) -> ClientWithMiddleware {
    qyapi.wecom_on(&manager(qyapi, store(redis)))
}

async fn succeeds(qyapi: &Qyapi, client: &ClientWithMiddleware) {
    let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
}

fn token_key(qyapi: &Qyapi) -> String {
    format!("wecom:{}", qyapi.key(&app()))
}

#[tokio::test]
async fn what_is_put_there_comes_back_the_same() {
    let redis = Server::start();
    let store = store(&redis);
    assert_eq!(store.get(&key(&app())).await.unwrap(), None);
    let token = token("value \"'\\ 企业", TWO_HOURS);
    store.put(&key(&app()), &token).await.unwrap();
    let kept = store.get(&key(&app())).await.unwrap().unwrap();
    assert_eq!(kept, token);
    let left = kept.expires_at().duration_since(SystemTime::now()).unwrap();
    assert!(left <= TWO_HOURS && left > TWO_HOURS - Duration::from_secs(60));
    let expired = AccessToken::from_parts("expired", UNIX_EPOCH, UNIX_EPOCH);
    store.put(&key(&app()), &expired).await.unwrap();
    assert_eq!(store.get(&key(&app())).await.unwrap(), Some(token));
}

#[tokio::test]
async fn the_layout_is_as_documented() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    succeeds(&qyapi, &client(&qyapi, &redis)).await;
    let (key, text) = redis.kept("*").await.unwrap();
    assert_eq!(key, token_key(&qyapi));
    assert!(key.starts_with("wecom:{access_token@127.0.0.1:") && key.ends_with('}'));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(kept["value"], qyapi.current_token(SECRET).unwrap());
    let millis = kept["expires_at"].as_u64().unwrap() - kept["fetched_at"].as_u64().unwrap();
    assert_eq!(millis, 7_200_000);
    assert_eq!(kept.as_object().unwrap().len(), 3);
    let redis::Value::Int(left) = redis.tell(&format!("PTTL {key}")).await else {
        panic!("no PTTL")
    };
    assert!((7_100_000..=7_200_000).contains(&left));

    qyapi.revoke(SECRET);
    let gate = qyapi.hold_gettoken();
    let client = client(&qyapi, &redis);
    let call = tokio::spawn(client.get(qyapi.url("user/get")).send());
    gate.arrived(1).await;
    let (_, owner) = redis.kept(&format!("{key}:lease")).await.unwrap();
    assert!(owner.starts_with(&std::process::id().to_string()));
    gate.open();
    call.await.unwrap().unwrap();
    assert!(redis.kept("*:lease").await.is_none());

    let wrong = Credentials::new(support::CORP, "wrong");
    let error = manager(&qyapi, store(&redis)).token(&wrong).await;
    assert!(error.is_err());
    let (_, failure) = redis.kept("*:failure").await.unwrap();
    let failure: Value = serde_json::from_str(&failure).unwrap();
    assert_eq!(failure["kind"]["errcode"], 40001);
    assert_eq!(failure["pause"], 10_000);
}

#[tokio::test]
async fn a_token_that_another_program_has_put_there_is_used() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let value = qyapi.issue(SECRET);
    // By a clock that is a day ahead, and with an expiry that nobody relies on.
    let fetched_at = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    let fetched_at = fetched_at.duration_since(UNIX_EPOCH).unwrap().as_millis();
    let text = format!(r#"{{"value":"{value}","fetched_at":{fetched_at},"expires_at":1}}"#);
    redis
        .tell(&format!("SET {} {text} PX 60000", token_key(&qyapi)))
        .await;
    succeeds(&qyapi, &client(&qyapi, &redis)).await;
    assert_eq!(qyapi.gettoken_count(), 0);
}

#[tokio::test]
async fn garbage_under_our_keys_costs_one_fetch() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let key = token_key(&qyapi);
    let mut expected = 0;
    for garbage in [
        format!("SET {key} garbage PX 60000"),
        format!("SET {key} {{}} PX 60000"),
        format!(r#"SET {key} {{"value":"","fetched_at":1,"expires_at":1}} PX 60000"#),
        format!(r#"SET {key} {{"value":"x","fetched_at":1,"expires_at":1}}"#),
        format!("RPUSH {key} a b"),
        format!("SET {key}:lease held-for-ever"),
        format!("RPUSH {key}:lease a"),
        format!("SET {key}:failure {{}}"),
        format!("HSET {key}:failure a b"),
    ] {
        redis.tell("FLUSHALL").await;
        redis.tell(&garbage).await;
        expected += 1;
        for _ in 0..2 {
            succeeds(&qyapi, &client(&qyapi, &redis)).await;
        }
        assert_eq!(qyapi.gettoken_count(), expected, "{garbage}");
    }
}

#[tokio::test]
async fn a_request_that_the_local_copy_serves_sends_nothing_to_redis() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let client = client(&qyapi, &redis);
    succeeds(&qyapi, &client).await;
    redis.tell("CONFIG RESETSTAT").await;
    for _ in 0..100 {
        succeeds(&qyapi, &client).await;
    }
    for command in ["eval", "get", "set", "pttl", "ping"] {
        assert_eq!(redis.calls(command).await, 0, "{command}");
    }
    qyapi.revoke(SECRET);
    succeeds(&qyapi, &client).await;
    // The step that finds the rejected token, the one that takes the lease, the commit.
    assert_eq!(redis.calls("eval").await, 3);
}

#[tokio::test]
async fn the_documented_rights_are_enough_and_end_at_the_prefix() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    redis
        .tell("ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +pttl")
        .await;
    let url = redis.url().replace("://", "://wecom:PASSWORD@");
    let wecom = store_at(&url);
    let client = qyapi.wecom_on(&manager(&qyapi, wecom.clone()));
    succeeds(&qyapi, &client).await;
    qyapi.revoke(SECRET);
    succeeds(&qyapi, &client).await;
    assert_eq!(qyapi.gettoken_count(), 2);
    let token = wecom.get(&qyapi.key(&app())).await.unwrap().unwrap();
    assert_eq!(
        Some(token.expose_secret()),
        qyapi.current_token(SECRET).as_deref()
    );
    wecom.put(&qyapi.key(&app()), &token).await.unwrap();
    let wrong = Credentials::new(support::CORP, "wrong");
    assert!(manager(&qyapi, wecom).token(&wrong).await.is_err());
    assert!(redis.kept("*:failure").await.is_some());

    assert!(redis.refused().await.is_empty());
    let client = redis::Client::open(url).unwrap();
    let other = RedisStore::builder(client).key_prefix("other").build();
    let error = other.get(&qyapi.key(&app())).await.unwrap_err().to_string();
    assert!(
        error.contains("NOPERM") || error.contains("NoPerm"),
        "{error}"
    );
    assert!(other.put(&qyapi.key(&app()), &token).await.is_err());
}

#[tokio::test]
async fn prefixes_keep_programs_apart() {
    let redis = Server::start();
    let with = |prefix: &str| {
        let client = redis::Client::open(redis.url()).unwrap();
        RedisStore::builder(client).key_prefix(prefix).build()
    };
    let token = token("value", TWO_HOURS);
    with("a").put(&key(&app()), &token).await.unwrap();
    assert_eq!(with("b").get(&key(&app())).await.unwrap(), None);
    assert_eq!(with("a").get(&key(&app())).await.unwrap(), Some(token));
}

#[tokio::test]
async fn one_who_is_told_that_another_was_blocked_makes_no_fetch_for_any_app() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    qyapi.script("gettoken", Answer::errcode(45009));
    let blocked = |result| matches!(result, Err(error) if Error::errcode(&error) == Some(45009));
    let [first, second] = [store(&redis), store(&redis)].map(|store| manager(&qyapi, store));
    assert!(blocked(first.token(&app()).await));
    assert!(blocked(second.token(&app()).await));
    assert!(blocked(second.token(&other_app()).await));
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_failure_of_another_counts_for_as_long_as_is_left_of_it() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    qyapi.script("gettoken", Answer::errcode(40001));
    let [first, second] = [store(&redis), store(&redis)].map(|store| manager(&qyapi, store));
    assert!(first.token(&app()).await.is_err());
    let key = format!("{}:failure", token_key(&qyapi));
    redis.tell(&format!("PEXPIRE {key} 500")).await;
    let began = Instant::now();
    while let Err(error) = second.token(&app()).await {
        assert_eq!(error.errcode(), Some(40001));
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn tokens_are_told_apart_by_their_fetch_and_not_by_their_text_alone() {
    let redis = Server::start();
    let (store, app) = (store(&redis), app());
    let reader = TokenManager::builder(StoreOnly::default()).store(store.clone());
    let reader = reader.build();
    let old = token("same", TWO_HOURS);
    store.put(&key(&app), &old).await.unwrap();
    assert_eq!(reader.token(&app).await.unwrap(), old);
    assert!(reader.refresh_rejected(&app, "same").await.is_err());
    assert!(reader.token(&app).await.is_err(), "it is known to be dead");

    // The times of tokens are kept to the millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let new = token("same", TWO_HOURS);
    store.put(&key(&app), &new).await.unwrap();
    assert_eq!(reader.token(&app).await.unwrap(), new);
}

#[test]
fn a_store_is_made_outside_of_a_runtime_and_outlives_those_that_use_it() {
    let redis = Server::start();
    let lazy = RedisStore::connect(redis.url()).unwrap();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let token = token("value", TWO_HOURS);
    runtime().block_on(async { lazy.put(&key(&app()), &token).await.unwrap() });
    let first = runtime();
    let manager = first.block_on(async {
        let client = redis::Client::open(redis.url()).unwrap();
        client.get_connection_manager().await.unwrap()
    });
    let given = RedisStore::new(manager);
    first.block_on(async { given.get(&key(&app())).await.unwrap().unwrap() });
    drop(first);
    for store in [lazy, given] {
        for _ in 0..2 {
            let kept = runtime().block_on(async { store.get(&key(&app())).await.unwrap() });
            assert_eq!(kept.as_ref(), Some(&token));
        }
    }
}

#[tokio::test]
async fn a_program_starts_while_redis_is_down_and_its_token_is_kept_when_it_is_back() {
    let qyapi = Qyapi::start().await;
    let mut redis = Server::start();
    redis.kill();
    let client = client(&qyapi, &redis);
    succeeds(&qyapi, &client).await;
    redis.run();
    redis.until_called("set", 1).await;
    let (_, text) = redis.kept(&token_key(&qyapi)).await.unwrap();
    assert!(text.contains(&qyapi.current_token(SECRET).unwrap()));
    succeeds(&qyapi, &self::client(&qyapi, &redis)).await;
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn trouble_costs_one_fetch_and_its_end_none() {
    let qyapi = Qyapi::start().await;
    let redis = Server::start();
    for (begin, end) in [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    ] {
        redis.tell("FLUSHALL").await;
        let client = client(&qyapi, &redis);
        let before = qyapi.gettoken_count();
        redis.tell(begin).await;
        succeeds(&qyapi, &client).await;
        assert_eq!(qyapi.gettoken_count(), before + 1, "{begin}");
        redis.tell("CONFIG RESETSTAT").await;
        redis.tell(end).await;
        while redis.kept(&token_key(&qyapi)).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        succeeds(&qyapi, &self::client(&qyapi, &redis)).await;
        assert_eq!(qyapi.gettoken_count(), before + 1, "{end}");
    }
}

#[tokio::test]
async fn a_token_can_be_read_while_redis_takes_no_writes() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    for trouble in ["CONFIG SET maxmemory 1", "REPLICAOF 127.0.0.1 1"] {
        let token = token(qyapi.issue(SECRET), TWO_HOURS);
        store(&redis).put(&qyapi.key(&app()), &token).await.unwrap();
        redis.tell(trouble).await;
        succeeds(&qyapi, &client(&qyapi, &redis)).await;
        assert_eq!(qyapi.gettoken_count(), 0, "{trouble}");
        redis.tell("CONFIG SET maxmemory 0").await;
    }
}

#[tokio::test]
async fn a_redis_that_stands_still_is_not_waited_for_long() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let client = client(&qyapi, &redis);
    redis.pause();
    succeeds(&qyapi, &client).await;
    succeeds(&qyapi, &client).await;
    assert_eq!(qyapi.gettoken_count(), 1);
    redis.go_on();
    while redis.kept(&token_key(&qyapi)).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    succeeds(&qyapi, &self::client(&qyapi, &redis)).await;
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_token_that_came_while_one_was_fetched_is_not_replaced() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let gate = qyapi.hold_gettoken();
    let manager = manager(&qyapi, store(&redis));
    let fetching = tokio::spawn({
        let manager = manager.clone();
        async move { manager.token(&app()).await }
    });
    gate.arrived(1).await;
    let newer = token("newer", TWO_HOURS);
    store(&redis).put(&qyapi.key(&app()), &newer).await.unwrap();
    gate.open();
    assert_eq!(fetching.await.unwrap().unwrap(), newer);
    let (_, kept) = redis.kept("wecom:*").await.unwrap(); // and no lease
    assert!(kept.contains("newer"));
}

#[tokio::test]
async fn a_token_of_an_outage_is_not_written_while_another_process_fetches() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    // Redis may be read, and takes no writes.
    redis
        .tell("ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +pttl")
        .await;
    let url = redis.url().replace("://", "://wecom:PASSWORD@");
    let alone = manager(&qyapi, store_at(&url));
    alone.token(&app()).await.unwrap();
    let lease = format!("SET {}:lease another-process PX 60000", token_key(&qyapi));
    redis.tell(&lease).await;
    redis.tell("ACL SETUSER wecom +set").await;
    let before = redis.calls("eval").await;
    while redis.calls("eval").await < before + 3 {
        assert!(redis.kept(&token_key(&qyapi)).await.is_none());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    redis
        .tell(&format!("DEL {}:lease", token_key(&qyapi)))
        .await;
    while redis.kept(&token_key(&qyapi)).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_redis_that_went_back_to_an_older_token_costs_one_fetch() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let managers = [(); 6].map(|()| manager(&qyapi, store(&redis)));
    let old = managers[0].token(&app()).await.unwrap();
    for manager in &managers {
        assert_eq!(manager.token(&app()).await.unwrap(), old);
    }
    qyapi.revoke(SECRET);
    let mut new = old.clone();
    for manager in &managers {
        new = manager
            .refresh_rejected(&app(), old.expose_secret())
            .await
            .unwrap();
    }
    assert_eq!(qyapi.gettoken_count(), 2);
    // As a replica does that has missed the last write.
    store(&redis).put(&qyapi.key(&app()), &old).await.unwrap();
    qyapi.revoke(SECRET);
    let credentials = app();
    let refreshes = managers
        .iter()
        .map(|it| it.refresh_rejected(&credentials, new.expose_secret()));
    for token in join_all(refreshes).await {
        let token = token.unwrap();
        let current = qyapi.current_token(SECRET);
        assert_eq!(current.as_deref(), Some(token.expose_secret()));
    }
    assert_eq!(qyapi.gettoken_count(), 3);
}

#[tokio::test]
async fn the_last_token_of_an_outage_replaces_what_redis_comes_back_with() {
    let qyapi = Qyapi::start().await;
    let mut redis = Server::with(&["--appendonly", "yes"]);
    let manager = manager(&qyapi, store(&redis));
    let mut token = manager.token(&app()).await.unwrap();
    redis.kill();
    for _ in 0..2 {
        qyapi.revoke(SECRET);
        token = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
    }
    redis.run();
    while !redis
        .kept(&token_key(&qyapi))
        .await
        .is_some_and(|(_, text)| text.contains(token.expose_secret()))
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_token_that_redis_never_takes_does_not_keep_others_from_being_written() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    redis
        .tell("ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval")
        .await;
    let url = redis.url().replace("://", "://wecom:PASSWORD@");
    let manager = manager(&qyapi, store_at(&url));
    let (good, bad) = (app(), other_app());
    for credentials in [&bad, &good] {
        manager.token(credentials).await.unwrap();
    }
    let key = format!("wecom:{}", qyapi.key(&good));
    redis
        .tell(&format!(
            "ACL SETUSER wecom resetkeys ~{key} +get +set +pttl"
        ))
        .await;
    while redis.kept("*").await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(redis.kept("*").await.unwrap().0, key);
}
