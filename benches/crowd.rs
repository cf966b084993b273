//! How long the last of a crowd waits that asks for the same token at once, from the moment at which the token arrives.
//!
//! The ratios are to a bare `tokio::sync::watch` with 10,000 receivers, the least that hands one value to all of them.
//!
//! `cargo bench --bench crowd`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

#[path = "support/mod.rs"]
mod bench;
mod comparison;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bench::TOKEN;
use comparison::{Comparison, criterion};
use criterion::Bencher;
use futures_util::future::join_all;
use futures_util::poll;
use reqwest_wecom::{
    AccessToken, Credentials, Error, FetchRequest, FetchedToken, TokenManager, TokenSource,
    async_trait,
};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell, Semaphore, watch};

fn main() {
    let runtime = Runtime::new().unwrap();
    let mut criterion = criterion();
    let name = "from the token's arrival to the last caller";
    let mut comparison = Comparison::new(&mut criterion, name);
    let runtime = &runtime;
    comparison.timed_way("a bare watch, 10,000 receivers", move |bencher| {
        timed(bencher, runtime, || watched(10_000));
    });
    comparison.timed_way("ours, 10,000 callers", move |bencher| {
        timed(bencher, runtime, || ours(10_000));
    });
    comparison.timed_way("ours, 1,000 callers", move |bencher| {
        timed(bencher, runtime, || ours(1_000));
    });
    comparison.timed_way(
        "a lock held while fetching, 10,000 callers",
        move |bencher| {
            timed(bencher, runtime, || locked(10_000));
        },
    );
    println!("{}", comparison.measured());
}

fn timed<F: Future<Output = Duration>>(
    bencher: &mut Bencher<'_>,
    runtime: &Runtime,
    crowd: impl Fn() -> F,
) {
    bencher.iter_custom(|times| (0..times).map(|_| runtime.block_on(crowd())).sum());
}

async fn watched(receivers: u32) -> Duration {
    let source = Arc::new(Gated::default());
    let (sender, receiver) = watch::channel(None);
    let fetching = source.clone();
    tokio::spawn(async move {
        let request = FetchRequest::new(Credentials::new("corp", "secret"));
        let fetched = fetching.fetch(request).await.unwrap();
        let now = SystemTime::now();
        let (value, expires_at) = (fetched.expose_secret(), now + fetched.expires_in());
        sender.send_replace(Some(AccessToken::from_parts(value, now, expires_at)));
    });
    crowd(receivers, &source, || {
        let mut receiver = receiver.clone();
        async move {
            let token = receiver.wait_for(Option::is_some).await.unwrap().clone();
            drop(token);
        }
    })
    .await
}

async fn ours(callers: u32) -> Duration {
    let source = Arc::new(Gated::default());
    let manager = TokenManager::builder(source.clone()).build();
    let credentials = Credentials::new("corp", "secret");
    crowd(callers, &source, || {
        let (manager, credentials) = (manager.clone(), credentials.clone());
        async move {
            manager.token(&credentials).await.unwrap();
        }
    })
    .await
}

/// The first to come fetches, and all others wait for its lock.
async fn locked(callers: u32) -> Duration {
    let source = Arc::new(Gated::default());
    let cached = Arc::new(Mutex::new(None));
    let credentials = Credentials::new("corp", "secret");
    crowd(callers, &source, || {
        let (source, cached) = (source.clone(), cached.clone());
        let credentials = credentials.clone();
        async move {
            let mut cached = cached.lock().await;
            if cached.is_none() {
                let request = FetchRequest::new(credentials.clone());
                *cached = Some(source.fetch(request).await.unwrap());
            }
        }
    })
    .await
}

/// Lets the token come when all are waiting for it.
async fn crowd<F: Future<Output = ()> + Send + 'static>(
    callers: u32,
    source: &Gated,
    call: impl Fn() -> F,
) -> Duration {
    let waiting = Arc::new(Semaphore::new(0));
    let tasks = (0..callers).map(|_| {
        let (call, waiting) = (call(), waiting.clone());
        tokio::spawn(async move {
            let mut call = pin!(call);
            assert!(poll!(call.as_mut()).is_pending());
            waiting.add_permits(1);
            call.await;
            Instant::now()
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let _all = waiting.acquire_many(callers).await.unwrap();
    source.gate.add_permits(1);
    let served = join_all(tasks).await;
    let last = served.into_iter().map(Result::unwrap).max().unwrap();
    assert_eq!(source.fetches.load(Ordering::Relaxed), 1);
    last - *source.arrived_at.get().unwrap()
}

struct Gated {
    fetches: AtomicUsize,
    gate: Semaphore,
    arrived_at: OnceCell<Instant>,
}

impl Default for Gated {
    fn default() -> Self {
        Self {
            fetches: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            arrived_at: OnceCell::new(),
        }
    }
}

#[async_trait]
impl TokenSource for Gated {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        self.gate.acquire().await.unwrap().forget();
        self.arrived_at.set(Instant::now()).unwrap();
        Ok(FetchedToken::new(TOKEN, Duration::from_secs(7200)))
    }
}
