//! The way to Redis: shared by all, over TLS, slow, and for users with few rights.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, future::join_all};
use redis_support::{Server, SlowWay, free_port};
use reqwest_wecom::{
    Credentials, ErrorKind, Kept, RedisConnection, RedisStore, StoreOnly, TokenManager, TokenStore,
    redis,
};
use support::{Qyapi, SECRET, app, is_kind, key, token};

const LIMIT: Duration = Duration::from_millis(300);
const TWO_HOURS: Duration = Duration::from_secs(7200);

fn store(connection: impl Into<RedisConnection>) -> RedisStore {
    RedisStore::builder(connection)
        .operation_limit(LIMIT)
        .build()
}

fn store_at(url: &str) -> RedisStore {
    store(redis::Client::open(url).unwrap())
}

async fn succeeds(qyapi: &Qyapi, store: RedisStore) {
    let manager = TokenManager::builder(qyapi.source()).store(store).build();
    let request = qyapi.wecom_on(&manager).get(qyapi.url("user/get"));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
}

async fn connections(server: &Server) -> u64 {
    let mut info = redis::cmd("INFO");
    let info: String = info
        .arg("stats")
        .query_async(&mut server.admin().await)
        .await
        .unwrap();
    let mut lines = info.lines();
    lines
        .find_map(|line| line.strip_prefix("total_connections_received:"))
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_crowd_of_keys_at_the_first_use_makes_one_connection() {
    let redis = Server::start();
    let store = RedisStore::connect(redis.url()).unwrap();
    let before = connections(&redis).await;
    let keys: Vec<_> = (0..500)
        .map(|n| Credentials::new("ww1234", n.to_string()))
        .collect();
    for found in join_all(keys.iter().map(|it| async { store.get(&key(it)).await })).await {
        assert_eq!(found.unwrap(), None);
    }
    // Ours, and the one that counts.
    assert_eq!(connections(&redis).await - before, 2);
}

#[tokio::test]
async fn a_slow_redis_is_shared_like_any_other() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let way = SlowWay::to(&redis).await;
    way.answers_after(LIMIT / 5);
    let client = || redis::Client::open(way.url()).unwrap();
    let patient = || RedisStore::builder(client()).operation_limit(TWO_HOURS);
    let ended = (0..3).map(|_| succeeds(&qyapi, patient().build()));
    join_all(ended).await;
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn an_answer_may_take_600_ms() {
    let redis = Server::start();
    let way = SlowWay::to(&redis).await;
    way.answers_after(Duration::from_millis(600));
    let store = RedisStore::connect(way.url()).unwrap();
    let token = token("value", TWO_HOURS);
    store.put(&key(&app()), &token).await.unwrap();
    assert_eq!(store.get(&key(&app())).await.unwrap(), Some(token));
    assert_eq!(way.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_call_may_serves_the_next() {
    let redis = Server::start();
    let way = SlowWay::to(&redis).await;
    way.answers_after(LIMIT * 3 / 4);
    let slow = store_at(&way.url());
    let first = slow.get(&key(&app())).await.unwrap_err();
    assert_eq!(first.to_string(), "no answer from Redis within 300ms");
    // Connecting takes a few answers.
    tokio::time::sleep(LIMIT * 2).await;
    assert_eq!(slow.get(&key(&app())).await.unwrap(), None);
    assert_eq!(way.connections(), 1);
}

#[tokio::test]
async fn a_wrong_password_and_a_closed_port_are_errors_at_once() {
    let redis = Server::start();
    let wrong = redis.url().replace("://", "://user:wrong@");
    for url in [wrong, format!("redis://127.0.0.1:{}/", free_port())] {
        let store = RedisStore::connect(url.as_str()).unwrap();
        for _ in 0..2 {
            let began = Instant::now();
            let error = store.get(&key(&app())).await.unwrap_err();
            assert!(began.elapsed() < Duration::from_secs(1), "{error}");
        }
    }
}

#[tokio::test]
async fn a_lost_connection_fails_no_call() {
    let mut redis = Server::with(&["--appendonly", "yes"]);
    let store = RedisStore::connect(redis.url()).unwrap();
    let token = token("value", TWO_HOURS);
    store.put(&key(&app()), &token).await.unwrap();
    for _ in 0..3 {
        redis.kill();
        redis.run();
        assert_eq!(store.get(&key(&app())).await.unwrap(), Some(token.clone()));
        redis.tell("CLIENT KILL TYPE normal").await;
        store.put(&key(&app()), &token).await.unwrap();
    }
}

#[tokio::test]
async fn a_swap_is_not_sent_again_when_its_answer_is_lost() {
    let redis = Server::start();
    let way = SlowWay::to(&redis).await;
    let database = RedisStore::connect(way.url()).unwrap().database().unwrap();
    assert!(database.load("key").await.unwrap().is_none());
    way.answers_after(Duration::from_secs(1));
    let new = Kept::new("new", TWO_HOURS);
    let swapping = database.compare_and_swap("key", None, &new);
    let losing = async {
        redis.until_called("set", 1).await;
        redis.tell("CLIENT KILL TYPE normal").await;
        way.close();
    };
    let (swapped, ()) = tokio::join!(swapping, losing);
    // It was done, and false would tell that it was not.
    assert!(swapped.is_err());
    way.answers_after(Duration::ZERO);
    let found = database.load("key").await.unwrap().unwrap();
    assert_eq!(found.expose_secret(), b"new");
}

#[tokio::test]
async fn a_server_that_falls_silent_costs_the_limit_once_even_for_those_with_less_patience() {
    let redis = Server::start();
    let way = SlowWay::to(&redis).await;
    let store = store_at(&way.url());
    store.get(&key(&app())).await.unwrap();
    way.answers_after(TWO_HOURS);
    let began = Instant::now();
    let wanted = key(&app());
    let asking = tokio::time::timeout(LIMIT * 9 / 10, store.get(&wanted));
    assert!(asking.await.is_err());
    // The old connection still waits for an answer.
    way.answers_after(Duration::ZERO);
    assert_eq!(store.get(&key(&app())).await.unwrap(), None);
    assert!(began.elapsed() < LIMIT * 2);
    assert_eq!(way.connections(), 2);

    // A call that was given up early says nothing of the server.
    way.answers_after(TWO_HOURS);
    let asking = tokio::time::timeout(LIMIT / 10, store.get(&wanted));
    assert!(asking.await.is_err());
    assert_eq!(way.connections(), 2);
}

#[test]
fn runtimes_that_work_in_turn_do_not_wait_for_each_other() {
    let redis = Server::start();
    let store = RedisStore::connect(redis.url()).unwrap();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let runtimes = [runtime(), runtime()];
    let began = Instant::now();
    for _ in 0..10 {
        for runtime in &runtimes {
            runtime.block_on(async { store.get(&key(&app())).await.unwrap() });
        }
    }
    assert!(began.elapsed() < Duration::from_secs(1));
    drop(runtimes);
    // Each runtime had one connection, and the last to ask lets those of the others go.
    let counting = runtime();
    for _ in 0..20 {
        runtime().block_on(async { store.get(&key(&app())).await.unwrap() });
    }
    let open = counting.block_on(redis.tell("CLIENT LIST"));
    let open = format!("{open:?}").matches("laddr=").count();
    assert!(open <= 3, "{open} connections");
}

#[tokio::test]
async fn commands_whose_answers_come_too_late_cost_one_fetch_and_leave_no_lease() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let way = SlowWay::to(&redis).await;
    let slow = store_at(&way.url());
    slow.get(&key(&app())).await.unwrap();
    // Redis does all that it is asked, but nobody hears of it.
    way.answers_after(LIMIT * 2);
    succeeds(&qyapi, slow.clone()).await;
    assert_eq!(qyapi.gettoken_count(), 1);
    let is_leased = async || match redis.kept("*").await {
        Some((_, document)) => document.contains("\"turn\""),
        None => true,
    };

    way.answers_after(Duration::ZERO);
    let given_back = async {
        while is_leased().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(8), given_back).await;
    assert!(in_time.is_ok());
    succeeds(&qyapi, store_at(&redis.url())).await;
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_lease_whose_answer_was_lost_is_known_for_ones_own() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    let way = SlowWay::to(&redis).await;
    let slow = store_at(&way.url());
    slow.get(&key(&app())).await.unwrap();
    way.answers_after(TWO_HOURS);
    let answered = async {
        redis.until_called("eval", 2).await;
        way.answers_after(Duration::ZERO);
    };
    tokio::join!(succeeds(&qyapi, slow), answered);
    assert_eq!(qyapi.gettoken_count(), 1);
    // Not as many as there are in the 10 s of a lease.
    assert!(redis.calls("eval").await < 10);
}

#[test]
fn outside_of_a_runtime_there_is_an_error() {
    let store = RedisStore::connect("redis://127.0.0.1:1/").unwrap();
    let error = store.get(&key(&app())).now_or_never().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the call was made outside a tokio runtime"
    );
}

/// A server with TLS as well, where to find it, and the certificate to trust.
fn with_tls() -> (Server, String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| files.path().join(name));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = [&certificate, &key].map(|path| path.to_str().unwrap());
    let port = free_port().to_string();
    let server = Server::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        certificate,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        certificate,
        "--tls-auth-clients",
        "no",
    ]);
    let url = format!("rediss://localhost:{port}/");
    (server, url, made.cert.pem().into_bytes())
}

#[tokio::test]
async fn tokens_are_shared_over_tls_with_a_server_that_is_trusted() {
    // Which one is the program's to choose, as for all that uses rustls.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (qyapi, (redis, url, certificate)) = (Qyapi::start().await, with_tls());
    let trusting = || {
        let certificates = redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(certificate.clone()),
        };
        let client = redis::Client::build_with_tls(url.as_str(), certificates);
        RedisStore::new(client.unwrap())
    };
    for _ in 0..2 {
        succeeds(&qyapi, trusting()).await;
    }
    assert_eq!(qyapi.gettoken_count(), 1);
    let (_, text) = redis.kept("wecom:*").await.unwrap();
    assert!(text.contains(&qyapi.current_token(SECRET).unwrap()));

    let untrusting = || RedisStore::builder(redis::Client::open(url.as_str()).unwrap());
    let untrusting = || untrusting().operation_limit(TWO_HOURS).build();
    let error = untrusting().get(&key(&app())).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    succeeds(&qyapi, untrusting()).await;
    assert_eq!(qyapi.gettoken_count(), 2, "served without the store");
}

#[tokio::test]
async fn another_database_takes_the_right_to_select_it() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    redis
        .tell("ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +pttl +select")
        .await;
    let url = redis.url().replace("://", "://wecom:PASSWORD@") + "3";
    for _ in 0..2 {
        succeeds(&qyapi, store_at(&url)).await;
    }
    assert_eq!(qyapi.gettoken_count(), 1);
    assert!(redis.kept("*").await.is_none(), "it is in the other one");
}

#[tokio::test]
async fn one_who_only_reads_needs_no_right_to_write() {
    let (qyapi, redis) = (Qyapi::start().await, Server::start());
    redis
        .tell(
            "ACL SETUSER reader on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +pttl",
        )
        .await;
    let url = redis.url().replace("://", "://reader:PASSWORD@");
    let reader = TokenManager::builder(StoreOnly::default())
        .store(store_at(&url))
        .build();
    let fingerprint = app().app().to_owned();
    let without_secret = Credentials::without_secret(app().id(), fingerprint);
    let nothing = reader.token(&without_secret).await;
    assert!(
        matches!(&nothing, Err(error) if is_kind(error, ErrorKind::NotReady)),
        "{nothing:?}"
    );
    let token = token(qyapi.issue(SECRET), TWO_HOURS);
    let writer = store_at(&redis.url());
    writer.put(&key(&app()), &token).await.unwrap();
    assert_eq!(reader.token(&without_secret).await.unwrap(), token);
}
