//! Steady traffic through random scenes, in which requests may fail for a good reason only, and fetches may be made for one only.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use reqwest_middleware::ClientWithMiddleware;
use tokio::time::{Instant, advance, sleep};

use super::world::{Behaviour, Repeat, World, app, call};
use crate::{AccessToken, BoxError, Error, TokenKey, TokenStore};

/// How long the traffic goes on, and how far apart the calls of one client are.
const TIME: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(50);
/// In scenes of the last minutes of a token, this is its lifetime. A refresh ahead begins 20 s before its end.
const LIFETIME: u64 = 200;

#[derive(Clone, Debug)]
struct Scene {
    /// One has a store of its own, several share one.
    managers: usize,
    repeat: Repeat,
    lifetime: u64,
    /// How long the traffic begins after the first token was fetched.
    begins: Duration,
    latency: Duration,
    /// So many paths that always reject are called in turn with the good one.
    bad: usize,
    looks_at_each_request: bool,
    trouble: Trouble,
}

/// What happens beside the traffic.
#[derive(Clone, Debug)]
enum Trouble {
    None,
    /// The token is revoked at these times, in seconds.
    Revoked(Vec<u64>),
    /// So many fetches fail like this, before the token expires.
    RefreshesAheadFail(Behaviour, usize),
    /// The first fetch fails like this, for one of the managers.
    OneIsRefused(Behaviour),
    /// The store has a token that was issued before the first, as if a replica lagged.
    OldToken,
    /// The store gets a newer token that is dead.
    DeadToken,
}

fn scenes() -> impl Strategy<Value = Scene> {
    let errcode = |errcode| Behaviour::Fail(Error::api(errcode, "no"));
    let refused = || Behaviour::Fail(Error::refused("no"));
    let transient = || Behaviour::Fail(Error::transient("lost"));
    let ahead = prop_oneof![
        (Just(refused()), 1..=2_usize),
        (Just(transient()), 1..=8_usize),
        (Just(Behaviour::Panic), 1..=4_usize),
        (
            Just(Behaviour::Fail(Error::not_ready("wait"))),
            1..=10_usize
        ),
    ];
    let trouble = prop_oneof![
        Just(Trouble::None),
        prop::collection::vec(0..25_u64, 1..4).prop_map(|mut times| {
            times.sort_unstable();
            times.dedup();
            Trouble::Revoked(times)
        }),
        ahead.prop_map(|(behaviour, times)| Trouble::RefreshesAheadFail(behaviour, times)),
        select(vec![errcode(45009), errcode(60020), refused()]).prop_map(Trouble::OneIsRefused),
        Just(Trouble::OldToken),
        Just(Trouble::DeadToken),
    ];
    let repeats = vec![
        Repeat::SameToken,
        Repeat::SameTokenShorter,
        Repeat::SameTokenExtended,
        Repeat::NewTokenOldValid,
        Repeat::NewTokenEndsOld,
    ];
    let parts = (
        1..=3_usize,
        select(repeats),
        select(vec![2, 15, LIFETIME, 7200]),
        any::<bool>(),
        0..1000_u64,
        select(vec![0, 20, 300]),
        select(vec![0, 0, 1, 3]),
        any::<bool>(),
        trouble,
    );
    parts.prop_map(
        |(managers, repeat, lifetime, ahead, fraction, latency, bad, looks, trouble)| {
            let fails_ahead = matches!(trouble, Trouble::RefreshesAheadFail(..));
            let one_is_refused = matches!(trouble, Trouble::OneIsRefused(_));
            let is_old = fails_ahead || (ahead && lifetime == LIFETIME);
            let begins = if is_old { LIFETIME - 22 } else { 0 };
            Scene {
                managers: match trouble {
                    Trouble::OneIsRefused(_) => managers.max(2),
                    Trouble::RefreshesAheadFail(..) => 1,
                    _ => managers,
                },
                repeat,
                lifetime: match trouble {
                    Trouble::RefreshesAheadFail(..) => LIFETIME,
                    Trouble::OneIsRefused(_) => 7200,
                    _ => lifetime,
                },
                begins: Duration::from_millis(begins * 1000 + fraction),
                latency: Duration::from_millis(latency),
                bad: if fails_ahead || one_is_refused {
                    0
                } else {
                    bad
                },
                looks_at_each_request: looks,
                trouble,
            }
        },
    )
}

/// A store of one row for each key, which counts how often it is asked.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<TokenKey, AccessToken>>,
    gets: AtomicUsize,
}

#[crate::async_trait]
impl TokenStore for Table {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(self.rows.lock().unwrap().get(key).cloned())
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.rows.lock().unwrap().insert(key.clone(), token.clone());
        Ok(())
    }
}

impl Scene {
    async fn play(&self) {
        let world = World::new();
        world.issuer.repeats(self.repeat);
        world.issuer.lives(Duration::from_secs(self.lifetime));
        let old = world.issuer.issue(&app());
        sleep(Duration::from_millis(1)).await;
        if self.repeat != Repeat::NewTokenOldValid {
            world.issuer.end(&app(), 40014);
        }
        let table = Arc::new(Table::default());
        let clients: Vec<_> = (0..self.managers)
            .map(|_| self.client(&world, &table))
            .collect();
        let key = world.manager().key(&app());

        if let Trouble::OneIsRefused(behaviour) = &self.trouble {
            world.issuer.next(behaviour.clone());
        } else {
            for client in &clients {
                assert!(matches!(call(client, "good").await, Ok(0)));
            }
        }
        advance(self.begins).await;
        world.issuer.takes(self.latency);
        match &self.trouble {
            Trouble::RefreshesAheadFail(behaviour, times) => {
                for _ in 0..*times {
                    world.issuer.next(behaviour.clone());
                }
            }
            Trouble::OldToken => drop(table.rows.lock().unwrap().insert(key, old)),
            Trouble::DeadToken => {
                let dead = world.issuer.issue(&app());
                world.issuer.end(&app(), 40014);
                table.rows.lock().unwrap().insert(key, dead);
            }
            _ => {}
        }
        let before = (
            world.issuer.fetch_count(),
            table.gets.load(Ordering::Relaxed),
        );
        let (bad, calls) = self.traffic(&world, &clients).await;
        let fetches = world.issuer.fetch_count() - before.0;
        let gets = table.gets.load(Ordering::Relaxed) - before.1;

        for bad in &bad {
            assert!(*bad <= self.allowed_bad(), "{bad} calls failed");
        }
        let allowed = self.allowed_fetches();
        assert!(fetches <= allowed, "{fetches} fetches, {allowed} allowed");
        // Calls of bad paths that are held back look once more.
        let bad_calls = if self.bad > 0 { calls } else { 0 };
        let at_each = if self.looks_at_each_request {
            calls + bad_calls
        } else {
            0
        };
        let allowed = at_each + bad_calls + 4 * fetches + 4 * self.managers;
        assert!(gets <= allowed || self.waits_for_others(), "{gets} looks");
    }

    fn client(&self, world: &World, table: &Arc<Table>) -> ClientWithMiddleware {
        let mut builder = world.builder();
        if self.managers > 1 || matches!(self.trouble, Trouble::OldToken | Trouble::DeadToken) {
            builder = builder.store(table.clone());
        }
        if self.looks_at_each_request {
            builder = builder.local_copy(Duration::ZERO);
        }
        for n in 0..self.bad {
            world.issuer.rejects_always(&format!("bad{n}"));
        }
        world.client(&builder.build())
    }

    /// Returns how many good calls of each client were not answered 0, and how many calls there were.
    async fn traffic(
        &self,
        world: &World,
        clients: &[ClientWithMiddleware],
    ) -> (Vec<usize>, usize) {
        let began = Instant::now();
        let mut revoked: Vec<_> = match &self.trouble {
            Trouble::Revoked(times) => times.iter().rev().copied().collect(),
            _ => Vec::new(),
        };
        let (mut bad, mut calls) = (vec![0; clients.len()], 0);
        while began.elapsed() < TIME {
            if revoked
                .last()
                .is_some_and(|at| began.elapsed() >= Duration::from_secs(*at))
            {
                revoked.pop();
                world.issuer.end(&app(), 40014);
            }
            for (client, bad) in clients.iter().zip(&mut bad) {
                if !matches!(call(client, "good").await, Ok(0)) {
                    *bad += 1;
                }
                if self.bad > 0 {
                    let path = format!("bad{}", calls % self.bad);
                    let _ = call(client, &path).await;
                }
                calls += 1;
            }
            sleep(STEP).await;
        }
        (bad, calls)
    }

    /// Whether managers may end each other's tokens, or wait until another has one.
    fn waits_for_others(&self) -> bool {
        self.managers > 1
    }

    /// How many good calls of one client may fail.
    fn allowed_bad(&self) -> usize {
        let ends_others = self.managers > 1 && self.repeat == Repeat::NewTokenEndsOld;
        let refreshes = match &self.trouble {
            Trouble::Revoked(times) => times.len(),
            _ => 1,
        };
        let of_expiry = match self.lifetime {
            2 => 20,
            15 => 4,
            _ => 2,
        };
        let of_others = if ends_others {
            2 * (refreshes + of_expiry + self.bad * 6)
        } else {
            0
        };
        let of_trouble = match &self.trouble {
            Trouble::OneIsRefused(_) => 2,
            Trouble::DeadToken => 1,
            // Another manager has just put a token into the store that is revoked too, or is old.
            Trouble::Revoked(times) if self.managers > 1 => times.len(),
            Trouble::OldToken if self.managers > 1 => 1,
            _ => 0,
        };
        // The issuer tells whole seconds only. Of a token that lives two it may tell of none, as often as a fetch is tried.
        let is_told_of_none =
            self.managers > 1 && self.lifetime == 2 && self.repeat == Repeat::SameTokenShorter;
        of_others + of_trouble + if is_told_of_none { 4 } else { 0 }
    }

    fn allowed_fetches(&self) -> usize {
        // A repeated token is fetched twice ahead and once when it has expired. In its last second it has no time left to tell of, so that
        // fetch is tried again.
        let tries = if self.repeat == Repeat::SameTokenShorter {
            8
        } else {
            4
        };
        let of_expiry = match self.lifetime {
            2 => 20 * tries,
            15 => 3 * tries,
            _ => 4,
        };
        let of_trouble = match &self.trouble {
            Trouble::None | Trouble::OldToken => 0,
            Trouble::Revoked(times) => times.len(),
            Trouble::RefreshesAheadFail(_, times) => *times,
            Trouble::OneIsRefused(_) | Trouble::DeadToken => 2,
        };
        // Each bad path is held back 2, 4, 8 and 16 s, and the budget ends some of that.
        let of_bad = if self.bad == 0 { 0 } else { 12 };
        self.managers
            * (2 + of_expiry + of_trouble + of_bad)
            * if self.managers > 1 { 2 } else { 1 }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn requests_fail_and_fetches_are_made_for_a_good_reason_only(scene in scenes()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        fastrand::seed(7);
        runtime.block_on(async { scene.play().await });
    }
}
