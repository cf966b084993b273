//! How scenes are drawn.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use crate::Error;
use crate::manager::tests::model::REPEATS;
use crate::manager::tests::world::{Behaviour, Repeat};

/// In scenes of the last minutes of a token, this is its lifetime. A refresh ahead begins 20 s before its end.
pub(super) const LIFETIME: u64 = 200;

#[derive(Clone, Debug)]
pub(super) struct Scene {
    /// One has a store of its own, several share one.
    pub(super) managers: usize,
    pub(super) repeat: Repeat,
    pub(super) lifetime: u64,
    /// How long the traffic begins after the first token was fetched.
    pub(super) begins: Duration,
    /// How long a fetch takes.
    pub(super) latency: Duration,
    /// How far apart the calls of one client are.
    pub(super) step: Duration,
    /// So many paths that always reject are called in turn with the good one.
    pub(super) bad: usize,
    pub(super) looks_at_each_request: bool,
    /// Whether the store keeps its first token, whatever is put there later.
    pub(super) keeps_first: bool,
    pub(super) trouble: Trouble,
    /// For the random waits.
    pub(super) seed: u64,
}

/// What happens beside the traffic. Times are in tenths of a second.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    None,
    /// The token is revoked at these times.
    Revoked(Vec<u64>),
    /// So many fetches fail like this, before the token expires.
    RefreshesAheadFail(Behaviour, usize),
    /// The first fetch fails like this, for one of the managers.
    OneIsRefused(Behaviour),
    /// There is no token yet, and the source is not ready before this time.
    NotReady(u64),
    /// In the last minutes of the token, requests are made on runtimes that shut down at once, before this time.
    ShortLivedRuntimes(u64),
    /// The store has a token that was issued before the first, as if a replica lagged.
    OldToken,
    /// At these times the token is revoked, and the store gets a newer token that is dead too.
    DeadTokens(Vec<u64>),
}

impl Scene {
    /// How long the traffic goes on: until the token of the last minutes has expired.
    pub(super) fn time(&self) -> Duration {
        if self.is_late() {
            Duration::from_secs(self.lifetime + 4) - self.begins
        } else {
            Duration::from_secs(14)
        }
    }

    /// Whether it plays in the last minutes of a token.
    pub(super) fn is_late(&self) -> bool {
        self.begins > Duration::from_secs(1)
    }
}

impl Trouble {
    /// The times at which something happens.
    pub(super) fn times(&self) -> &[u64] {
        match self {
            Self::Revoked(times) | Self::DeadTokens(times) => times,
            _ => &[],
        }
    }
}

fn times(most: usize) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..120_u64, 1..most).prop_map(|mut times| {
        times.sort_unstable();
        // The quick budget gives one fetch a second.
        times.dedup_by_key(|at| *at / 10);
        times
    })
}

fn troubles() -> impl Strategy<Value = Trouble> {
    let errcode = |errcode| Behaviour::Fail(Error::api(errcode, "no"));
    let refused = || Behaviour::Fail(Error::refused("no"));
    let transient = || Behaviour::Fail(Error::transient("lost"));
    let not_ready = || Behaviour::Fail(Error::not_ready("wait"));
    let ahead = prop_oneof![
        (Just(refused()), 1..=2_usize),
        (Just(transient()), 1..=8_usize),
        (Just(Behaviour::Panic), 1..=4_usize),
        (Just(not_ready()), 1..=10_usize),
    ];
    prop_oneof![
        2 => Just(Trouble::None),
        3 => times(4).prop_map(Trouble::Revoked),
        1 => times(40).prop_map(Trouble::Revoked),
        2 => ahead.prop_map(|(behaviour, times)| Trouble::RefreshesAheadFail(behaviour, times)),
        1 => select(vec![errcode(45009), errcode(60020), refused()])
            .prop_map(Trouble::OneIsRefused),
        1 => (10..50_u64).prop_map(Trouble::NotReady),
        1 => (10..50_u64).prop_map(Trouble::ShortLivedRuntimes),
        1 => Just(Trouble::OldToken),
        2 => times(6).prop_map(Trouble::DeadTokens),
    ]
}

pub(super) fn scenes() -> impl Strategy<Value = Scene> {
    prop_oneof![6 => any_scenes(), 2 => races(), 1 => last_minutes()]
}

/// The last minutes of a token that the issuer repeats.
fn last_minutes() -> impl Strategy<Value = Scene> {
    let repeats = REPEATS.into_iter().filter(|repeat| repeat.is_same());
    let parts = (
        select(repeats.collect::<Vec<_>>()),
        0..1_000_000_u64,
        select(vec![0, 1_300, 20_000]),
        any::<u64>(),
    );
    parts.prop_map(|(repeat, fraction, latency, seed)| Scene {
        managers: 1,
        repeat,
        lifetime: 2000,
        begins: Duration::from_secs(1798) + Duration::from_micros(fraction),
        latency: Duration::from_micros(latency),
        step: Duration::from_millis(500),
        bad: 0,
        looks_at_each_request: false,
        keeps_first: false,
        trouble: Trouble::None,
        seed,
    })
}

/// Revocations, after which each manager gets a new token that ends the one before.
fn races() -> impl Strategy<Value = Scene> {
    let parts = (
        2..=5_usize,
        select(vec![10, 20, 50]),
        times(4),
        any::<u64>(),
    );
    parts.prop_map(|(managers, step, times, seed)| Scene {
        managers,
        repeat: Repeat::NewTokenEndsOld,
        lifetime: 7200,
        begins: Duration::ZERO,
        latency: Duration::from_millis(20),
        step: Duration::from_millis(step),
        bad: 0,
        looks_at_each_request: false,
        keeps_first: false,
        trouble: Trouble::Revoked(times),
        seed,
    })
}

fn any_scenes() -> impl Strategy<Value = Scene> {
    let parts = (
        select(vec![1, 1, 2, 3, 5]),
        select(REPEATS.to_vec()),
        select(vec![2, 15, LIFETIME, 7200]),
        any::<bool>(),
        0..1_000_000_u64,
        select(vec![0, 1_300, 20_000, 300_000]),
        select(vec![20, 50]),
        select(vec![0, 0, 0, 1, 3, 10]),
        (any::<bool>(), any::<bool>()),
        troubles(),
        any::<u64>(),
    );
    parts.prop_map(
        |(
            managers,
            repeat,
            lifetime,
            ahead,
            fraction,
            latency,
            step,
            bad,
            (looks, keeps_first),
            trouble,
            seed,
        )| {
            let needs_good_paths = matches!(
                trouble,
                Trouble::RefreshesAheadFail(..)
                    | Trouble::OneIsRefused(_)
                    | Trouble::NotReady(_)
                    | Trouble::ShortLivedRuntimes(_)
            );
            let needs_last_minutes = matches!(
                trouble,
                Trouble::RefreshesAheadFail(..) | Trouble::ShortLivedRuntimes(_)
            );
            let is_late = needs_last_minutes || (ahead && lifetime == LIFETIME);
            let begins = if is_late { LIFETIME - 22 } else { 0 };
            Scene {
                managers: match trouble {
                    Trouble::OneIsRefused(_) => managers.max(2),
                    Trouble::NotReady(_) => 1,
                    _ if needs_last_minutes => 1,
                    _ => managers,
                },
                repeat,
                lifetime: match trouble {
                    Trouble::OneIsRefused(_) => 7200,
                    _ if needs_last_minutes => LIFETIME,
                    _ => lifetime,
                },
                begins: Duration::from_secs(begins) + Duration::from_micros(fraction),
                latency: Duration::from_micros(match trouble {
                    // Longer than such a runtime lives.
                    Trouble::ShortLivedRuntimes(_) => latency.max(20_000),
                    _ => latency,
                }),
                step: Duration::from_millis(if managers == 1 { step } else { 50 }),
                bad: if needs_good_paths { 0 } else { bad },
                looks_at_each_request: looks,
                keeps_first: keeps_first && matches!(trouble, Trouble::Revoked(_)),
                trouble,
                seed,
            }
        },
    )
}
