//! Which tokens are used, kept and sent.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::steps::{BAD, GOOD, PATHS, Step};
use super::{BUDGET, History, Who};
use crate::AccessToken;
use crate::manager::tests::world::{Call, Given, Member, Try};

const MILLISECOND: Duration = Duration::from_millis(1);

/// What the calls so far have told.
#[derive(Default)]
pub(super) struct Told {
    /// How many calls have been looked at.
    calls: usize,
    /// Calls that condemned their token: no path had rejected a fresh one before.
    condemning: HashMap<(Member, String), Vec<usize>>,
    /// Tokens that may be condemned, with how many had been given when they were sent. Given again after that, they are as good as new.
    suspects: HashMap<(Member, String), usize>,
    /// Those of them whose request was sent again: the manager had a better token.
    replaced: HashMap<(Member, String), usize>,
    /// When the newest token was fetched that was a local copy.
    newest: HashMap<Who, SystemTime>,
    /// Whether the clock was set. After that, times say little of the order of tokens.
    was_set: bool,
}

/// How a manager stands with an app.
pub(super) struct Standing {
    pub(super) local: Option<Local>,
    /// Whether a request would start a refresh, or one is under way.
    is_being_refreshed: bool,
    pub(super) is_being_refreshed_now: bool,
    /// The paths that have a record in the guard.
    records: Vec<&'static str>,
    /// How often the source had been asked by then, other than for an operator.
    tries: usize,
}

pub(super) struct Local {
    pub(super) token: AccessToken,
    /// Whether the manager gives it to requests, as far as it knows.
    pub(super) serves: bool,
    /// Whether the API would take it too, and no call has condemned it.
    pub(super) is_usable: bool,
}

impl History {
    pub(super) fn standing(&self, who: Who) -> Option<Standing> {
        self.in_time(|it| it.standing_now(who))
    }

    fn standing_now(&self, (member, app): Who) -> Option<Standing> {
        let name = self.apps[app].name();
        let tries = self.world.issuer.with_tries(|tries| {
            let is_mine = |it: &&Try| it.member == member && it.app == *name && !it.is_forced;
            tries.iter().filter(is_mine).count()
        });
        let (now, instant) = (self.world.clock.now(), Instant::now());
        let shared = &self.members[member].0.shared;
        let slot = shared.slots.find(&self.apps[app])?;
        let mut state = slot.lock();
        let is_expiring = |at: SystemTime| now >= at;
        let local = state.local.as_ref().map(|local| {
            let token = local.token.clone();
            let serves = state.usable(now).is_some();
            let is_condemned = self.is_suspect(member, &token);
            let is_usable = serves && !is_condemned && self.world.issuer.takes_token(&token);
            Local {
                token,
                serves,
                is_usable,
            }
        });
        Some(Standing {
            is_being_refreshed: state.refresh.is_some()
                || state
                    .local
                    .as_ref()
                    .is_some_and(|it| is_expiring(it.refresh_at)),
            is_being_refreshed_now: state.refresh.is_some(),
            records: PATHS
                .into_iter()
                .filter(|path| {
                    state
                        .guard()
                        .has_record(&format!("/cgi-bin/{path}"), instant)
                })
                .collect(),
            tries,
            local,
        })
    }

    /// Whether this manager has reason not to use the token.
    fn is_suspect(&self, member: Member, token: &AccessToken) -> bool {
        let value = token.expose_secret();
        let sent = self.told.suspects.get(&(member, value.to_owned()));
        sent.is_some_and(|sent| {
            self.world.issuer.with_calls(|given, _| {
                let since = &given[*sent..];
                !since
                    .iter()
                    .any(|it| it.member == Some(member) && it.value == value)
            })
        })
    }

    /// Whether the store has a token that is new to the manager, and that the API would take.
    pub(super) fn store_has_token(&self, who @ (member, app): Who) -> bool {
        let Some(token) = self
            .table
            .row(&self.keys[app])
            .filter(|_| self.table.works())
        else {
            return false;
        };
        let now = self.in_time(|it| it.world.clock.now());
        let was_rejected = self.world.issuer.with_calls(|given, calls| {
            let mut mine = self.calls_of(who, given, calls);
            mine.any(|call| call.errcode != 0 && call.token == token.expose_secret())
        });
        let newest = self.told.newest.get(&(member, app));
        let is_newest = newest.is_none_or(|newest| *newest < token.fetched_at());
        // A store that has just failed is not asked again at once.
        let manager = &self.members[member].0;
        let is_asked = self.in_time(|_| manager.shared.store_health.may_be_asked(Instant::now()));
        let is_idle = self
            .standing(who)
            .is_none_or(|it| !it.is_being_refreshed_now);
        now < token.expires_at()
            && token.fetched_at() <= now
            && self.world.issuer.takes_token(&token)
            && !was_rejected
            && is_newest
            && is_asked
            && is_idle
            && !self.told.was_set
    }

    /// The calls that this manager has made for this app.
    pub(super) fn calls_of<'a>(
        &self,
        (member, app): Who,
        given: &'a [Given],
        calls: &'a [Call],
    ) -> impl Iterator<Item = &'a Call> + use<'a> {
        let name = self.apps[app].name().clone();
        let is_of = move |value: &str| given.iter().any(|it| it.value == value && it.app == name);
        calls
            .iter()
            .filter(move |call| call.member == member && is_of(&call.token))
    }

    pub(super) fn check_tokens(
        &mut self,
        step: &Step,
        before: &[(Who, Option<Standing>)],
        after: &[(Who, Option<Standing>)],
    ) {
        if let Step::Request { member, app, path } = step
            && self.api_latency.is_zero()
            && GOOD.contains(path)
        {
            self.check_rejected_is_not_kept((*member, *app), path);
        }
        let issuer = self.world.issuer.clone();
        self.told.was_set |= matches!(step, Step::Jump(_));
        for ((who, before), (_, now)) in before.iter().zip(after) {
            let records = |it: &Option<Standing>| match it {
                Some(it) => it.records.clone(),
                None => Vec::new(),
            };
            let records = (records(before), records(now));
            issuer.with_calls(|given, calls| {
                for index in self.told.calls..calls.len() {
                    if self.is_by(*who, given, &calls[index]) {
                        self.check_call(index, (given, calls), &records);
                    }
                }
                self.check_records(*who, &records.1, (given, calls));
            });
            self.check_age(*who, now.as_ref());
            if let (Some(before), Some(now)) = (before, now) {
                self.check_nothing_was_lost(*who, before, now);
            }
        }
        self.told.calls = issuer.with_calls(|_, calls| calls.len());
    }

    fn is_by(&self, (member, app): Who, given: &[Given], call: &Call) -> bool {
        let name = self.apps[app].name();
        let is_of = |it: &Given| it.value == call.token && it.app == *name;
        call.member == member && given.iter().any(is_of)
    }

    /// A rejected value is not sent again, unless it was fetched after that or there was no other.
    ///
    /// `records` are the paths that had a record before and after the step.
    fn check_call(
        &mut self,
        index: usize,
        (given, calls): (&[Given], &[Call]),
        records: &(Vec<&str>, Vec<&str>),
    ) {
        let call = &calls[index];
        let is_clear = records.0.is_empty() && records.1.is_empty();
        let token = (call.member, call.token.clone());
        // Times of tokens are kept to the millisecond.
        let given_since = |earlier: &Call| {
            let mut before = given[..call.given].iter().enumerate();
            before.any(|(n, it)| {
                let is_since = n >= earlier.given || it.at + MILLISECOND > earlier.answered;
                is_since && it.value == call.token
            })
        };
        for earlier in self.told.condemning.get(&token).into_iter().flatten() {
            let earlier = &calls[*earlier];
            let given_up = earlier.request.and_then(|it| self.given_up.get(&it));
            let was_told = (earlier.answered == earlier.began || earlier.answered < call.began)
                && given_up.is_none_or(|at| earlier.answered < *at);
            let is_better = |it: &Given| {
                it.member == Some(call.member)
                    && it.value != call.token
                    && given
                        .iter()
                        .any(|mine| mine.value == call.token && mine.app == it.app)
            };
            let had_better = given[earlier.given..call.given].iter().any(is_better);
            assert!(
                self.told.was_set || !was_told || !had_better || given_since(earlier),
                "a rejected token was sent, though there was another"
            );
        }
        if let Some(earlier) = self.told.replaced.get(&token) {
            let is_allowed = self.told.was_set || given_since(&calls[*earlier]);
            assert!(is_allowed, "a rejected token was sent again");
        }
        let mut same_request = calls[..index].iter().enumerate().rev();
        let earlier = same_request.find(|(_, it)| it.request == call.request);
        if let Some((earlier, first)) = earlier
            && first.errcode != 0
            && first.path != BAD
            && is_clear
        {
            assert!(
                first.token != call.token || given_since(first),
                "a request was sent again with the rejected token"
            );
            let rejected = (first.member, first.token.clone());
            self.told.replaced.insert(rejected, earlier);
        }
        let had_record = [&records.0, &records.1]
            .iter()
            .all(|records| records.contains(&&*call.path));
        if call.errcode != 0 && !had_record {
            let given = self.told.suspects.entry(token.clone()).or_default();
            *given = call.given.max(*given);
        }
        if call.errcode != 0 && call.path != BAD && is_clear {
            self.told.condemning.entry(token).or_default().push(index);
        }
    }

    /// Only a path that rejected a token which this manager has fetched has a record.
    fn check_records(
        &self,
        who @ (member, _): Who,
        records: &[&str],
        (given, calls): (&[Given], &[Call]),
    ) {
        for path in records {
            let is_mine = |call: &Call| {
                let mut given = given.iter();
                given.any(|it| it.member == Some(member) && it.value == call.token)
            };
            let is_again = |call: &Call| {
                let same = calls.iter().filter(|it| it.request == call.request);
                same.count() == 2
            };
            let mut mine = self.calls_of(who, given, calls);
            let is_futile =
                |it: &Call| it.errcode != 0 && it.path == *path && is_mine(it) && is_again(it);
            assert!(mine.any(is_futile), "a record, though no fetch was futile");
        }
    }

    /// The local copy never becomes older.
    fn check_age(&mut self, who: Who, now: Option<&Standing>) {
        let Some(now) = now.filter(|_| !self.told.was_set) else {
            self.told.newest.remove(&who);
            return;
        };
        if let Some(local) = &now.local {
            let fetched_at = local.token.fetched_at();
            let newest = self.told.newest.entry(who).or_insert(fetched_at);
            assert!(*newest <= fetched_at, "an older token was taken");
            *newest = fetched_at;
        }
    }

    /// A usable token is never lost by a failure: it is still there, or another is. And none is fetched beside it.
    fn check_nothing_was_lost(&self, who: Who, before: &Standing, now: &Standing) {
        let Some(held) = before.local.as_ref().filter(|it| it.is_usable) else {
            return;
        };
        let (token, clock) = (&held.token, self.in_time(|it| it.world.clock.now()));
        let value = token.expose_secret();
        if self.is_suspect(who.0, token) || token.expires_at() <= clock {
            return;
        }
        let Some(local) = &now.local else {
            panic!("a usable token was lost");
        };
        assert!(
            local.serves || local.token != *token || self.told.was_set,
            "a usable token was taken out of service"
        );
        let was_rejected = self.world.issuer.with_calls(|given, calls| {
            let mut mine = self.calls_of(who, given, calls);
            mine.any(|call| call.errcode != 0 && call.token == value)
        });
        let is_calm = !before.is_being_refreshed && !now.is_being_refreshed && !was_rejected;
        if local.is_usable && local.token == *token && is_calm {
            assert_eq!(now.tries, before.tries, "a fetch, though there was a token");
        }
    }

    /// A token that was rejected just now is being replaced, or gone, or the refresh is held back.
    fn check_rejected_is_not_kept(&self, (member, app): Who, path: &str) {
        let Some(slot) = self.members[member].0.shared.slots.find(&self.apps[app]) else {
            return;
        };
        let last = self.world.issuer.with_calls(|_, calls| {
            let new = &calls[self.told.calls..];
            let mut mine = new.iter().rev();
            mine.find(|it| it.request == Some(self.requests)).cloned()
        });
        let now = self.in_time(|_| Instant::now());
        let mut state = slot.lock();
        let path = format!("/cgi-bin/{path}");
        // The first futile fetch on a path may be the fault of another manager.
        let has_record = state.guard().has_record(&path, now);
        if let Some(local) = &state.local
            && !has_record
            && let Some(call) = last
            && call.errcode != 0
            && call.token == local.token.expose_secret()
            && state.refresh.is_none()
        {
            assert!(
                state.guard().take(&path, BUDGET, now).is_err(),
                "a rejected token is kept, though another is to be had"
            );
        }
    }
}
