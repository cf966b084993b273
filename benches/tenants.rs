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

/// The longest that a token of WeCom may be.
const LONG_TOKEN: usize = 512;

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
        let bytes = tenants.bytes / tenants.credentials.len();
        println!(
            "{name:<10} apps: {bytes} bytes for each, its token of {LONG_TOKEN} bytes and its credentials included"
        );
    }
}

struct Tenants {
    manager: TokenManager,
    credentials: Vec<Credentials>,
    bytes: usize,
}

impl Tenants {
    fn new(apps: usize, runtime: &Runtime) -> Self {
        let manager = TokenManager::builder(Fixed("t".repeat(LONG_TOKEN))).build();
        let mut credentials = Vec::with_capacity(apps);
        let counted = allocation_counter::measure(|| {
            for n in 0..apps {
                credentials.push(Credentials::new("ww0123456789abcdef", format!("{n:043}")));
            }
            // More than once, since while the number grows, those not used for long are let go.
            while !credentials
                .iter()
                .all(|app| manager.token(app).now_or_never().is_some())
            {
                for app in &credentials {
                    runtime.block_on(manager.token(app)).unwrap();
                }
            }
        });
        Self {
            manager,
            credentials,
            bytes: counted.bytes_current.try_into().unwrap(),
        }
    }
}
