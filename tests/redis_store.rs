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
    AccessToken, Credentials, Kept, RedisStore, StoreOnly, TokenManager, TokenStore, redis,
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
    assert!(key.starts_with("wecom:access_token@127.0.0.1:"));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(kept["value"], qyapi.current_token(SECRET).unwrap());
    let millis = kept["expires_at"].as_u64().unwrap() - kept["fetched_at"].as_u64().unwrap();
    assert_eq!(millis, 7_200_000);
    let redis::Value::Int(left) = redis.tell(&format!("PTTL {key}")).await else {
        panic!("no PTTL")
    };
    assert!((7_100_000..=7_200_000).contains(&left));

    // Nothing else is kept, neither while a token is fetched nor after a failure.
    qyapi.revoke(SECRET);
    let gate = qyapi.hold_gettoken();
    let client = client(&qyapi, &redis);
    let call = tokio::spawn(client.get(qyapi.url("user/get")).send());
    gate.arrived(1).await;
    assert_eq!(redis.kept("*").await.unwrap().0, key);
    gate.open();
    call.await.unwrap().unwrap();
    redis.tell("FLUSHALL").await;
    let wrong = Credentials::new(support::CORP, "wrong");
    let error = manager(&qyapi, store(&redis)).token(&wrong).await;
    assert!(error.is_err());
    let (key, text) = redis.kept("*").await.unwrap();
    assert_eq!(key, format!("wecom:{}", qyapi.key(&wrong)));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert!(kept.get("value").is_none());
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
    // One load, one swap for the lease, one for the token.
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

fn kept(bytes: &str, left: Duration) -> Kept {
    Kept::new(bytes, left)
}

#[tokio::test]
async fn it_is_a_database_that_swaps_on_a_condition() {
    let redis = Server::start();
    let database = store(&redis).database().unwrap();
    let minute = Duration::from_secs(60);
    let swap = async |expected: Option<&str>, new: &str| {
        let expected = expected.map(str::as_bytes);
        let new = kept(new, minute);
        let swapped = database.compare_and_swap("key", expected, &new);
        swapped.await.unwrap()
    };
    assert!(database.load("key").await.unwrap().is_none());
    assert!(!swap(Some(""), "first").await);
    assert!(swap(None, "first").await);
    assert!(!swap(None, "second").await);
    assert!(!swap(Some("firs"), "second").await);
    assert!(swap(Some("first"), "").await);
    assert!(!swap(None, "second").await, "an empty value is a value");
    assert!(swap(Some(""), "second").await);
    let found = database.load("key").await.unwrap().unwrap();
    assert_eq!(found.expose_secret(), b"second");
    assert!(found.left() <= minute && found.left() > minute - Duration::from_secs(30));
    assert_eq!(redis.kept("*").await.unwrap().0, "wecom:key");

    let binary: Vec<u8> = (0..=255).collect();
    for (time, expected) in [(minute, &b"second"[..]), (Duration::MAX, &binary)] {
        let new = Kept::new(binary.clone(), time);
        let swapped = database.compare_and_swap("key", Some(expected), &new);
        assert!(swapped.await.unwrap());
        let found = database.load("key").await.unwrap().unwrap();
        assert_eq!(found.expose_secret(), binary);
    }
    let new = kept("gone", Duration::ZERO);
    let swapped = database.compare_and_swap("key", Some(&binary), &new);
    assert!(swapped.await.unwrap());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(database.load("key").await.unwrap().is_none());
    assert!(swap(None, "after").await);
}

#[tokio::test]
async fn what_no_writer_should_leave_counts_as_missing_and_is_replaced() {
    let redis = Server::start();
    let database = store(&redis).database().unwrap();
    let new = kept("new", Duration::from_secs(60));
    for garbage in ["SET wecom:key old", "RPUSH wecom:key old"] {
        redis.tell("FLUSHALL").await;
        redis.tell(garbage).await;
        assert!(database.load("key").await.unwrap().is_none(), "{garbage}");
        let swapped = database.compare_and_swap("key", Some(b"old"), &new);
        assert!(!swapped.await.unwrap(), "{garbage}");
        let swapped = database.compare_and_swap("key", None, &new);
        assert!(swapped.await.unwrap(), "{garbage}");
        assert!(database.load("key").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_value_and_its_time_are_read_together() {
    let redis = Server::start();
    let [writer, reader] = [store(&redis), store(&redis)].map(|it| it.database().unwrap());
    let (short, long) = (Duration::from_secs(30), Duration::from_secs(7200));
    let writing = async {
        let mut expected: Option<&[u8]> = None;
        for round in 0..500 {
            let (text, left) = [("short", short), ("long", long)][round % 2];
            let new = kept(text, left);
            let swapped = writer.compare_and_swap("key", expected, &new);
            assert!(swapped.await.unwrap());
            expected = Some(text.as_bytes());
        }
    };
    let reading = async {
        for _ in 0..500 {
            if let Some(found) = reader.load("key").await.unwrap() {
                let is_short = found.expose_secret() == b"short";
                assert_eq!(found.left() <= short, is_short);
            }
        }
    };
    tokio::join!(writing, reading);
}

/// What the docs use of the Python package `redis`.
const PYTHON_CLIENT: &str = r#"
import socket

class Redis:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.answers = self.socket.makefile("rb")

    def call(self, *words):
        words = [str(word).encode() for word in words]
        lines = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(b"*%d\r\n" % len(words) + lines)
        line = self.answers.readline()
        assert line[:1] in b"$+", line
        if line[:1] == b"$" and int(line[1:]) >= 0:
            return self.answers.read(int(line[1:]) + 2)[:-2]

    def get(self, key):
        return self.call("GET", key)

    def set(self, key, value, px):
        self.call("SET", key, value, "PX", px)
"#;

fn python(redis: &Server, documented: &str, call: &str) -> String {
    let port = redis.port();
    let program = format!("{PYTHON_CLIENT}\n{documented}\nredis = Redis({port})\n{call}\n");
    let output = std::process::Command::new("python3")
        .args(["-c", &program])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test]
async fn programs_in_python_read_and_write_tokens_as_documented() {
    let redis = Server::start();
    let (store, key) = (store(&redis), key(&app()));
    let app = format!("redis, {:?}, {SECRET:?}", support::CORP);
    let read = || {
        let documented = include_str!("../src/store/redis/reader.py");
        python(&redis, documented, &format!("print(read_token({app}))"))
    };
    let write = |value: &str| {
        let documented = include_str!("../src/store/redis/writer.py");
        let call = format!("write_token({app}, {value:?}, time.time(), 7200)");
        python(&redis, documented, &call);
    };
    assert_eq!(read(), "None");
    let token = token("from-rust", TWO_HOURS);
    store.put(&key, &token).await.unwrap();
    assert_eq!(read(), "from-rust");

    write("from-python");
    assert_eq!(read(), "from-python");
    let found = store.get(&key).await.unwrap().unwrap();
    assert_eq!(found.expose_secret(), "from-python");
    assert!(found.fetched_at() > token.fetched_at());
    let left = found
        .expires_at()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(left <= TWO_HOURS && left > TWO_HOURS - Duration::from_secs(60));
    let database = store.database().unwrap();
    let kept = database.load(key.as_str()).await.unwrap().unwrap();
    assert!(kept.left() <= TWO_HOURS && kept.left() > TWO_HOURS - Duration::from_secs(60));

    store.put(&key, &token).await.unwrap();
    assert_eq!(
        store.get(&key).await.unwrap(),
        Some(token),
        "it replaces any other"
    );
}

#[tokio::test]
async fn many_puts_at_once_all_succeed() {
    let redis = Server::start();
    let client = redis::Client::open(redis.url()).unwrap();
    let (store, key) = (RedisStore::new(client), key(&app()));
    let tokens = (0..8).map(|n| token(n.to_string(), TWO_HOURS));
    let tokens: Vec<_> = tokens.collect();
    for put in join_all(tokens.iter().map(|token| store.put(&key, token))).await {
        put.unwrap();
    }
    assert!(tokens.contains(&store.get(&key).await.unwrap().unwrap()));
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
async fn one_whose_address_is_blocked_keeps_no_other_from_fetching() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    qyapi.script("gettoken", Answer::errcode(45009));
    let [blocked, other] = [store(&redis), store(&redis)].map(|store| manager(&qyapi, store));
    let error = blocked.token(&app()).await.unwrap_err();
    assert_eq!(error.errcode(), Some(45009));
    other.token(&other_app()).await.unwrap();
    other.token(&app()).await.unwrap();
    assert_eq!(qyapi.gettoken_count(), 3);
}

#[tokio::test]
async fn a_failure_of_another_counts_for_as_long_as_is_left_of_it() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    qyapi.script("gettoken", Answer::errcode(40001));
    let [first, second] = [store(&redis), store(&redis)].map(|store| manager(&qyapi, store));
    assert!(first.token(&app()).await.is_err());
    let key = token_key(&qyapi);
    // The failure is remembered for 30 s longer than it counts.
    redis.tell(&format!("PEXPIRE {key} 30500")).await;
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
    for _ in 0..2 {
        let kept = runtime().block_on(async { lazy.get(&key(&app())).await.unwrap() });
        assert_eq!(kept.as_ref(), Some(&token));
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
    // Who waits gets the fetched token, and the next gets the newer one.
    fetching.await.unwrap().unwrap();
    while manager.token(&app()).await.unwrap() != newer {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (_, kept) = redis.kept("wecom:*").await.unwrap();
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
    let key = token_key(&qyapi);
    let lease = r#"{"turn":{"owner":"another-process"}}"#;
    redis.tell(&format!("SET {key} {lease} PX 60000")).await;
    redis.tell("ACL SETUSER wecom +set").await;
    let before = redis.calls("eval").await;
    while redis.calls("eval").await < before + 3 {
        assert_eq!(redis.kept(&key).await.unwrap().1, lease);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    redis.tell(&format!("DEL {key}")).await;
    while redis.kept(&key).await.is_none() {
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
