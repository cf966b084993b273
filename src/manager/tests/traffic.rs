//! Steady traffic through random scenes, in which requests may fail for a good reason only, and fetches may be made for one only.

mod bounds;
mod scenes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use reqwest_middleware::ClientWithMiddleware;
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use self::scenes::{Scene, Trouble, scenes};
use super::world::{Behaviour, Member, Repeat, World, app, call, paused_runtime, this_second};
use crate::{AccessToken, BoxError, Error, TokenKey, TokenStore};

/// A store of one row for each key, which counts how often it is asked.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<TokenKey, AccessToken>>,
    gets: AtomicUsize,
    keeps_first: bool,
    /// How long an answer takes at most, so that managers race.
    latency: Duration,
}

impl Table {
    async fn answer(&self) {
        if !self.latency.is_zero() {
            sleep(self.latency.mul_f64(fastrand::f64())).await;
        }
    }
}

#[crate::async_trait]
impl TokenStore for Table {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.answer().await;
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.answer().await;
        let mut rows = self.rows.lock().unwrap();
        if !self.keeps_first || !rows.contains_key(key) {
            rows.insert(key.clone(), token.clone());
        }
        Ok(())
    }
}

/// A scene that is played.
struct Stage {
    scene: Scene,
    runtime: Runtime,
    world: World,
    table: Arc<Table>,
    clients: Vec<ClientWithMiddleware>,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    calls: usize,
    /// When the good calls began that were not answered with 0.
    bad: Vec<Duration>,
    /// The longest time that a good call took.
    longest: Duration,
}

impl Stage {
    fn new(scene: Scene) -> Self {
        fastrand::seed(scene.seed);
        let runtime = paused_runtime();
        let world = runtime.block_on(async {
            // So that its clock is ahead of those of the runtimes that are built later.
            advance(Duration::from_secs(3600)).await;
            World::at(this_second(Duration::ZERO))
        });
        let issuer = &world.issuer;
        issuer.repeats(scene.repeat);
        issuer.lives(Duration::from_secs(scene.lifetime));
        for n in 0..scene.bad {
            issuer.rejects_always(&format!("bad{n}"));
        }
        let several = scene.managers > 1;
        let table = Arc::new(Table {
            keeps_first: scene.keeps_first,
            latency: Duration::from_millis(if several { 3 } else { 0 }),
            ..Table::default()
        });
        let inside = runtime.enter();
        let client = |member| {
            let mut builder = world.builder_of(member);
            let needs_store = matches!(scene.trouble, Trouble::OldToken | Trouble::DeadTokens(_));
            if several || needs_store || scene.keeps_first {
                builder = builder.store(table.clone());
            }
            if scene.looks_at_each_request {
                builder = builder.local_copy(Duration::ZERO);
            }
            world.client_of(member, &builder.build())
        };
        let clients = (0..scene.managers).map(client).collect();
        drop(inside);
        Self {
            scene,
            runtime,
            world,
            table,
            clients,
        }
    }

    fn play(&self) {
        let (scene, issuer) = (&self.scene, &self.world.issuer);
        let first_token_at = self.runtime.block_on(self.open());
        let asked = || {
            (
                issuer.fetch_count(),
                self.table.gets.load(Ordering::Relaxed),
            )
        };
        let before = asked();
        if let Trouble::ShortLivedRuntimes(tenths) = scene.trouble {
            self.call_from_short_lived_runtimes(Duration::from_millis(tenths * 100));
        }
        let seen = self.runtime.block_on(async {
            let callers = self.clients.iter().enumerate();
            let callers = callers.map(|(member, client)| self.traffic(member, client));
            let seen = join_all(callers);
            tokio::join!(seen, self.trouble()).0
        });
        let after = asked();

        for seen in &seen {
            let (bad, allowed) = (seen.bad.len(), scene.allowed_bad());
            assert!(bad <= allowed, "{bad} calls failed, {allowed} allowed");
            if scene.is_race() {
                for bad in &seen.bad {
                    let revoked = scene.trouble.times().iter().rev();
                    let revoked = revoked.map(|at| Duration::from_millis(at * 100));
                    let last = revoked.into_iter().find(|at| at <= bad).unwrap_or_default();
                    assert!(
                        *bad <= last + Duration::from_secs(1),
                        "a call failed {bad:?} after the start, {last:?} was the last revocation"
                    );
                }
            }
            if scene.refreshes_in_time() {
                assert_eq!(seen.longest, Duration::ZERO, "a call waited");
            }
        }
        if scene.is_repeated() {
            // In its last second, of which the issuer does not tell, it has expired for the manager.
            let expires = first_token_at + Duration::from_secs(scene.lifetime - 1);
            let ahead = issuer.with_tries(|tries| {
                let ahead = tries[before.0..].iter();
                ahead.filter(|it| it.began.instant < expires).count()
            });
            assert!(ahead <= 2, "{ahead} refreshes ahead of a repeated token");
        }
        let fetches = after.0 - before.0;
        let allowed = scene.allowed_fetches();
        assert!(fetches <= allowed, "{fetches} fetches, {allowed} allowed");
        self.check_looks(after.1 - before.1, fetches, &seen);
    }

    /// A request looks into the store once at most, and so does each fetch.
    fn check_looks(&self, looks: usize, fetches: usize, seen: &[Seen]) {
        let scene = &self.scene;
        let calls: usize = seen.iter().map(|seen| seen.calls).sum();
        // Calls of bad paths that are held back look once more.
        let bad_calls = if scene.bad > 0 { calls } else { 0 };
        let at_each = if scene.looks_at_each_request {
            calls + bad_calls
        } else {
            0
        };
        let allowed = at_each + bad_calls + 4 * fetches + 4 * scene.managers;
        assert!(looks <= allowed || scene.managers > 1, "{looks} looks");
    }

    /// The first tokens, and what there is before the traffic. Returns when the first was fetched.
    async fn open(&self) -> Instant {
        let (scene, issuer) = (&self.scene, &self.world.issuer);
        let old = issuer.issue(&app());
        sleep(Duration::from_millis(1)).await;
        if scene.repeat != Repeat::NewTokenOldValid {
            issuer.end(&app(), 40014);
        }
        match &scene.trouble {
            Trouble::OneIsRefused(behaviour) => issuer.next(behaviour.clone()),
            Trouble::NotReady(_) => {
                issuer.usually(Behaviour::Fail(Error::not_ready("wait")));
            }
            _ => {
                for client in &self.clients {
                    assert!(matches!(call(client, "good").await, Ok(0)));
                }
            }
        }
        let first_token_at = Instant::now();
        advance(scene.begins).await;
        issuer.takes(scene.latency);
        match &scene.trouble {
            Trouble::RefreshesAheadFail(behaviour, times) => {
                for _ in 0..*times {
                    issuer.next(behaviour.clone());
                }
            }
            Trouble::OldToken => self.put(old),
            _ => {}
        }
        first_token_at
    }

    fn put(&self, token: AccessToken) {
        let key = self.world.manager().key(&app());
        self.table.rows.lock().unwrap().insert(key, token);
    }

    /// Does what happens beside the traffic.
    async fn trouble(&self) {
        let (scene, issuer) = (&self.scene, &self.world.issuer);
        let began = Instant::now();
        for at in scene.trouble.times() {
            sleep((began + Duration::from_millis(at * 100)).duration_since(Instant::now())).await;
            if matches!(scene.trouble, Trouble::DeadTokens(_)) {
                self.put(issuer.issue(&app()));
            }
            issuer.end(&app(), 40014);
        }
        if let Trouble::NotReady(tenths) = scene.trouble {
            sleep(Duration::from_millis(tenths * 100)).await;
            issuer.usually(Behaviour::Issue);
        }
    }

    /// One call after another by this client.
    async fn traffic(&self, member: Member, client: &ClientWithMiddleware) -> Seen {
        let (began, mut seen) = (Instant::now(), Seen::default());
        sleep(Duration::from_millis(7 * member as u64)).await;
        while began.elapsed() < self.scene.time() {
            let sent = Instant::now();
            if !matches!(call(client, "good").await, Ok(0)) {
                seen.bad.push(sent - began);
            }
            seen.longest = seen.longest.max(sent.elapsed());
            if self.scene.bad > 0 {
                let path = format!("bad{}", seen.calls % self.scene.bad);
                let _ = call(client, &path).await;
            }
            seen.calls += 1;
            sleep(self.scene.step).await;
        }
        seen
    }

    /// One call each 50 ms, each on a runtime of its own that shuts down as soon as the call is answered.
    fn call_from_short_lived_runtimes(&self, time: Duration) {
        let step = Duration::from_millis(50);
        let now = || self.runtime.block_on(async { Instant::now() });
        let end = now() + time;
        while now() < end {
            let (now, short) = (now(), paused_runtime());
            short.block_on(async {
                advance(now - Instant::now()).await;
                let answer = call(&self.clients[0], "good").await;
                assert!(matches!(answer, Ok(0)), "on a short-lived runtime");
                // So that a refresh has begun.
                for _ in 0..5 {
                    yield_now().await;
                }
            });
            drop(short);
            self.runtime.block_on(async { sleep(step).await });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn requests_fail_and_fetches_are_made_for_a_good_reason_only(scene in scenes()) {
        Stage::new(scene).play();
    }
}
