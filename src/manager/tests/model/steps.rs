//! What can happen in a history, and how histories are drawn.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;

use super::store::Way;
use crate::Error;
use crate::manager::tests::world::{Behaviour, Member, Repeat};

const MOST_MEMBERS: usize = 3;
pub(super) const APPS: usize = 2;

/// A path that accepts good tokens. [`BAD`] rejects all of them.
pub(super) const GOOD: [&str; 2] = ["good", "other"];
pub(super) const BAD: &str = "bad";
pub(super) const PATHS: [&str; 3] = ["good", "other", BAD];

/// What does not change during a history.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) members: usize,
    pub(super) lifetime: Duration,
    /// Whether each request looks into the store.
    pub(super) looks: bool,
    /// How far the first second has gone when the history begins.
    pub(super) fraction: Duration,
    /// For the random waits.
    pub(super) seed: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Request {
        member: Member,
        app: usize,
        path: &'static str,
    },
    /// A request on a runtime that shuts down after this time.
    ShortLived {
        member: Member,
        app: usize,
        time: Duration,
    },
    /// A token is asked for outside of any runtime.
    Outside {
        member: Member,
        app: usize,
    },
    /// A caller gives up.
    Drop,
    End {
        app: usize,
        errcode: i64,
    },
    /// The API rejects every token, or no longer does.
    RejectAll(bool),
    /// Another process fetches a token and puts it into the store.
    Other {
        app: usize,
    },
    /// The same, and the token is revoked at once.
    Dead {
        app: usize,
    },
    /// The store has a token again that it had before.
    Old {
        app: usize,
        which: prop::sample::Index,
    },
    Advance(Duration),
    Jump(i64),
    Source(Behaviour),
    Latency(Duration),
    ApiLatency(Duration),
    Repeat(Repeat),
    Get(Way),
    Put(Way),
    /// An operator forces a refresh.
    Force {
        member: Member,
        app: usize,
    },
}

impl Step {
    /// Leaves it to one of so many managers.
    pub(super) fn choose_from(&mut self, members: usize) {
        if let Self::Request { member, .. }
        | Self::ShortLived { member, .. }
        | Self::Outside { member, .. }
        | Self::Force { member, .. } = self
        {
            *member %= members;
        }
    }
}

pub(super) fn setups() -> impl Strategy<Value = Setup> {
    let parts = (
        select(vec![1, 1, 2, MOST_MEMBERS]),
        select(vec![2, 15, 7200, 7200, 7200]),
        select(vec![false, false, false, true]),
        0..1_000_000_u64,
        any::<u64>(),
    );
    parts.prop_map(|(members, lifetime, looks, fraction, seed)| Setup {
        members,
        lifetime: Duration::from_secs(lifetime),
        looks,
        fraction: Duration::from_micros(fraction),
        seed,
    })
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let way = || {
        select(vec![
            Way::Works,
            Way::Works,
            Way::Works,
            Way::Fails,
            Way::Hangs,
            Way::Panics,
            Way::Forgets,
            Way::KeepsFirst,
        ])
    };
    let (member, app) = (0..MOST_MEMBERS, 0..APPS);
    let who = || (member.clone(), app.clone());
    let paths = vec!["good", "good", "good", "other", "bad"];
    let step = prop_oneof![
        24 => (who(), select(paths))
            .prop_map(|((member, app), path)| Step::Request { member, app, path }),
        2 => (who(), select(micros([0, 5_000])))
            .prop_map(|((member, app), time)| Step::ShortLived { member, app, time }),
        1 => who().prop_map(|(member, app)| Step::Outside { member, app }),
        3 => Just(Step::Drop),
        8 => (app.clone(), select(vec![40014, 42001]))
            .prop_map(|(app, errcode)| Step::End { app, errcode }),
        2 => any::<bool>().prop_map(Step::RejectAll),
        2 => app.clone().prop_map(|app| Step::Other { app }),
        2 => app.clone().prop_map(|app| Step::Dead { app }),
        2 => (app.clone(), any::<prop::sample::Index>())
            .prop_map(|(app, which)| Step::Old { app, which }),
        14 => select(times()).prop_map(Step::Advance),
        1 => select(vec![-10_000, -3, 3, 10_000]).prop_map(Step::Jump),
        8 => select(behaviours()).prop_map(Step::Source),
        2 => select(micros([0, 1_300, 50_000, 3_000_000])).prop_map(Step::Latency),
        2 => select(micros([0, 1_300, 50_000, 3_000_000])).prop_map(Step::ApiLatency),
        2 => select(REPEATS.to_vec()).prop_map(Step::Repeat),
        2 => way().prop_map(Step::Get),
        2 => way().prop_map(Step::Put),
        1 => who().prop_map(|(member, app)| Step::Force { member, app }),
    ];
    prop::collection::vec(step, 1..40)
}

/// Each way in which an issuer answers a fetch within the lifetime of a token.
pub(in crate::manager::tests) const REPEATS: [Repeat; 5] = [
    Repeat::SameToken,
    Repeat::SameTokenShorter,
    Repeat::SameTokenExtended,
    Repeat::NewTokenOldValid,
    Repeat::NewTokenEndsOld,
];

fn behaviours() -> Vec<Behaviour> {
    let errcode = |errcode| Behaviour::Fail(Error::api(errcode, ""));
    vec![
        Behaviour::Issue,
        Behaviour::Issue,
        Behaviour::Issue,
        Behaviour::Issue,
        Behaviour::Fail(Error::transient("lost")),
        Behaviour::Fail(Error::refused("no")),
        Behaviour::Fail(Error::not_ready("wait")),
        errcode(45009),
        errcode(-1),
        Behaviour::Hang,
        Behaviour::Panic,
    ]
}

fn times() -> Vec<Duration> {
    micros([
        300,
        1_000,
        1_300,
        100_000,
        250_700,
        999_700,
        1_000_000,
        2_000_000,
        10_000_000,
        13_700_500,
        60_000_000,
        300_000_000,
        6_900_000_000,
    ])
}

fn micros<const N: usize>(times: [u64; N]) -> Vec<Duration> {
    times.map(Duration::from_micros).to_vec()
}
