//! What the stores cost, beside a token that the manager has in hand: `RedisStore` asks a Redis on this machine.
//!
//! `cargo bench --bench store --features redis`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

#[path = "support/mod.rs"]
mod bench;
mod comparison;
#[path = "../tests/redis_support/mod.rs"]
mod redis_support;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, SystemTime};

use bench::{Fixed, TOKEN};
use comparison::{Comparison, criterion};
use redis_support::Server;
use reqwest_wecom::{
    AccessToken, Credentials, MokaStore, RedisStore, TokenKey, TokenManager, TokenStore,
};
use tokio::runtime::{Builder, Runtime};

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = Server::start();
    let redis = RedisStore::connect(server.url()).unwrap();
    let moka = MokaStore::new();
    let manager = TokenManager::builder(Fixed::default())
        .store(redis.clone())
        .build();
    let credentials = Credentials::new("corp", "secret");
    let key = manager.key(&credentials);
    let mut criterion = criterion();
    let mut comparison = Comparison::new(&mut criterion, "a token in hand, and one from a store");
    comparison.way(
        "local copy, whatever the store",
        || (),
        |()| runtime.block_on(manager.token(&credentials)).unwrap(),
    );
    add(
        &mut comparison,
        &runtime,
        ["MokaStore get", "MokaStore put"],
        (&moka, &key),
    );
    add(
        &mut comparison,
        &runtime,
        ["RedisStore get", "RedisStore put"],
        (&redis, &key),
    );
    println!("{}", comparison.measured());
}

fn add<'a>(
    comparison: &mut Comparison<'a>,
    runtime: &'a Runtime,
    [get, put]: [&'static str; 2],
    (store, key): (&'a impl TokenStore, &'a TokenKey),
) {
    let now = SystemTime::now();
    let token = AccessToken::from_parts(TOKEN, now, now + Duration::from_secs(7200));
    runtime.block_on(store.put(key, &token)).unwrap();
    comparison.way(
        get,
        || (),
        move |()| assert!(runtime.block_on(store.get(key)).unwrap().is_some()),
    );
    comparison.way(
        put,
        || (),
        move |()| runtime.block_on(store.put(key, &token)).unwrap(),
    );
}
