//! When the source may be asked.

use std::time::Duration;

use tokio::time::Instant;

use super::{BUDGET, History, Who};
use crate::clock::Moment;
use crate::manager::tests::world::{End, Try};
use crate::{ErrorKind, Stats};

const SECOND: Duration = Duration::from_secs(1);
const FIFTH: &str = "a fifth try without a pause";
const MINUTE: Duration = Duration::from_secs(60);

impl History {
    /// Fetches keep within the bounds of single-flight, cooldowns, and budget.
    pub(super) fn check_fetches(&mut self) {
        let issuer = &self.world.issuer;
        assert!(issuer.most_under_way() <= 1, "two fetches for one key");
        let seen = std::mem::replace(&mut self.tries, issuer.fetch_count());
        if self.tries == seen {
            return;
        }
        let mut early = Vec::new();
        issuer.with_tries(|tries| {
            for member in 0..self.members.len() {
                let tries = tries.iter().filter(|it| it.member == member);
                let tries: Vec<_> = tries.collect();
                check_rate_limit(&tries);
                check_stats(self.members[member].0.stats(), &tries);
            }
            for who @ (member, app) in self.all() {
                let name = self.apps[app].name();
                let is_of = |it: &&Try| it.member == member && it.app == *name && !it.is_forced;
                let tries: Vec<_> = tries.iter().filter(is_of).collect();
                early.extend((1..tries.len()).filter_map(|n| {
                    let (what, since) = too_soon(&tries[..n], tries[n])?;
                    Some((who, what, since, tries[n].began.instant))
                }));
            }
        });
        for (who, what, since, began) in early {
            // A refresh that was lost while it waited for its next try is replaced at once.
            let was_lost = self
                .lost
                .iter()
                .any(|(other, at)| *other == who && (since..=began).contains(at));
            let is_replaced = what == FIFTH && was_lost;
            assert!(is_replaced || self.had_success(who, since, began), "{what}");
        }
        for who in self.all() {
            self.check_count(who);
        }
    }

    /// Whether a cooldown may have ended in this time, because there was a token.
    fn had_success(&self, (member, app): Who, from: Instant, to: Instant) -> bool {
        let name = self.apps[app].name();
        let has_forced = self.world.issuer.with_tries(|tries| {
            let mut mine = tries
                .iter()
                .filter(|it| it.member == member && it.app == *name);
            mine.any(|it| it.is_forced && it.was_issued_between(from, to))
        });
        let is_new = |given: &[_], calls: &[_]| {
            let mut mine = self.calls_of((member, app), given, calls);
            let before: Vec<_> = mine.by_ref().take_while(|call| call.began < from).collect();
            self.calls_of((member, app), given, calls)
                .filter(|call| (from..=to).contains(&call.began))
                .any(|call| before.iter().all(|other| other.token != call.token))
        };
        has_forced
            || self.table.was_put_between(&self.keys[app], from, to)
            || self.world.issuer.with_calls(is_new)
    }

    /// Tokens are fetched because they expire, are rejected, or something else happened to them.
    fn check_count(&self, (member, app): Who) {
        let name = self.apps[app].name();
        let (mine, others) = self.world.issuer.with_calls(|given, _| {
            let of_app = given.iter().filter(|it| it.app == *name);
            // The API tells whole seconds. A token of which it tells none is asked for again.
            let of_app = of_app.filter(|it| !it.lifetime.is_zero());
            let (mine, others): (Vec<_>, Vec<_>) = of_app.partition(|it| it.member == Some(member));
            (mine.len() as u64, others.len() as u64)
        });
        let elapsed = self.in_time(|it| it.began.elapsed());
        let of_expiry = 2 + 3 * (elapsed.as_millis() / (self.setup.lifetime / 10 * 9).as_millis());
        let of_budget = u64::from(BUDGET) + elapsed.as_secs() / 72;
        let allowed = of_expiry as u64 + of_budget + u64::from(self.causes) + others;
        assert!(mine <= allowed, "{mine} tokens fetched, {allowed} allowed");
    }
}

/// How much time has passed, by the clock that says more.
fn passed(from: Moment, to: Moment) -> Duration {
    let by_wall = to.wall.duration_since(from.wall).unwrap_or_default();
    to.instant.duration_since(from.instant).max(by_wall)
}

/// Each try is counted, and so is each that did not bring a token.
fn check_stats(stats: Stats, tries: &[&Try]) {
    assert_eq!(stats.fetches, tries.len() as u64, "{stats:?}");
    let has_failed =
        |it: &&&Try| matches!(&it.ended, Some((_, end)) if !matches!(end, End::Issued));
    let failed = stats.failed_transient
        + stats.failed_refused
        + stats.failed_rate_limited
        + stats.failed_not_ready;
    // A token that the issuer has given may have expired already.
    let at_least = tries.iter().filter(has_failed).count() as u64;
    assert!((at_least..=stats.fetches).contains(&failed), "{stats:?}");
}

/// After 45009 a manager fetches for no app in the next minute, unless an operator's fetch succeeds.
fn check_rate_limit(tries: &[&Try]) {
    for (n, limited) in tries.iter().enumerate() {
        let Some((at, End::Failed(error))) = &limited.ended else {
            continue;
        };
        if error.errcode() != Some(45009) {
            continue;
        }
        let mut after = tries[n + 1..]
            .iter()
            .filter(|it| it.began.instant > at.instant && !it.is_forced);
        let was_opened = |until: Instant| {
            let mut forced = tries.iter().filter(|it| it.is_forced);
            forced.any(|it| it.was_issued_between(at.instant, until))
        };
        let too_soon =
            after.find(|it| passed(*at, it.began) < MINUTE && !was_opened(it.began.instant));
        assert!(too_soon.is_none(), "a fetch while rate limited");
    }
}

/// Whether this try came too soon after those before it, and since when it was to wait.
///
/// After a refusal or a panic there is none for 1 s, after four transient failures neither. Two that were lost may follow each other at once.
fn too_soon(before: &[&Try], next: &Try) -> Option<(&'static str, Instant)> {
    let last = *before.last()?;
    let (at, end) = last.ended.as_ref()?;
    let pause = passed(*at, next.began);
    let is_transient =
        |it: &&&Try| matches!(&it.ended, Some((_, End::Failed(error))) if error.is_transient());
    let is_lost = |it: &&&Try| matches!(&it.ended, Some((_, End::Lost)));
    match end {
        End::Failed(error) if error.kind() == ErrorKind::Refused && pause < SECOND => {
            Some(("a fetch after a refusal", last.began.instant))
        }
        End::Panicked if pause < SECOND => Some(("a fetch after a panic", last.began.instant)),
        End::Failed(_) if before.iter().rev().take_while(is_transient).count() >= 4 => {
            let four = &before[before.len() - 4..];
            let mut pauses = four.windows(2).map(|two| {
                let ended = two[0].ended.as_ref().map_or(two[0].began, |(at, _)| *at);
                passed(ended, two[1].began)
            });
            let rested = pause >= SECOND || pauses.any(|it| it >= SECOND);
            (!rested).then_some((FIFTH, four[0].began.instant))
        }
        End::Lost if before.iter().rev().take_while(is_lost).count() >= 2 => {
            let first = before[before.len() - 2];
            let is_soon = passed(first.began, next.began) < SECOND;
            is_soon.then_some(("a third fetch within a second", first.began.instant))
        }
        _ => None,
    }
}
