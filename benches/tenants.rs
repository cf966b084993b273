//! What many apps in one program cost: the time of `token()` for one of them at random, and the memory that each takes up.
//!
//! `cargo bench --bench tenants`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

#[path = "support/mod.rs"]
mod bench;
mod comparison;

use bench::Fixed;
use comparison::{Comparison, criterion, is_test};
use futures_util::FutureExt;
use reqwest_wecom::{Credentials, TokenManager};
use tokio::runtime::{Builder, Runtime};

/// As long as the tokens that WeCom returns.
const TOKEN_LENGTH: usize = 214;

fn main() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let many = if is_test() { 100 } else { 100_000 };
    let so_many = [("1", 1), ("1,000", 1_000), ("100,000", many)]
        .map(|(name, apps)| (name, Tenants::new(apps, &runtime)));
    let mut criterion = criterion();
    let mut comparison = Comparison::new(&mut criterion, "token() for one of so many apps");
    for (name, tenants) in &so_many {
        let apps = tenants.credentials.len();
        let mut next = 0;
        comparison.way(
            name,
            move || {
                next = (next * 1_103_515_245 + 12_345) % (1 << 31);
                &tenants.credentials[next % apps]
            },
            |credentials| tenants.manager.token(credentials).now_or_never().unwrap(),
        );
    }
    println!("{}", comparison.measured());
    for (name, tenants) in &so_many {
        let apps = tenants.credentials.len();
        let bytes = tenants.bytes / apps;
        let with_credentials = bytes + tenants.bytes_of_credentials / apps;
        println!(
            "{name:<10} apps: {bytes} bytes for each with a token of {TOKEN_LENGTH} bytes, {with_credentials} with its credentials"
        );
    }
}

struct Tenants {
    manager: TokenManager,
    credentials: Vec<Credentials>,
    /// What the manager and its store hold.
    bytes: usize,
    /// What the caller holds. The manager shares it.
    bytes_of_credentials: usize,
}

impl Tenants {
    fn new(apps: usize, runtime: &Runtime) -> Self {
        let manager = TokenManager::builder(Fixed("t".repeat(TOKEN_LENGTH))).build();
        let mut credentials = Vec::with_capacity(apps);
        let bytes_of_credentials = allocated(|| {
            for n in 0..apps {
                credentials.push(Credentials::new("ww0123456789abcdef", format!("{n:043}")));
            }
        });
        let bytes = allocated(|| {
            for app in &credentials {
                runtime.block_on(manager.token(app)).unwrap();
            }
        });
        Self {
            manager,
            credentials,
            bytes,
            bytes_of_credentials,
        }
    }
}

fn allocated(run: impl FnOnce()) -> usize {
    let counted = allocation_counter::measure(run);
    counted.bytes_current.try_into().unwrap()
}
