//! Random histories of requests, revocations, faults and clocks, and what must hold after every step of each.

mod fetches;
mod requests;
mod steps;
mod store;
mod tokens;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use proptest::prelude::*;
use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use tokio::time::{Instant, advance, sleep};

use self::requests::Asked;
pub(super) use self::steps::REPEATS;
use self::steps::{APPS, BAD, Setup, Step};
use self::store::{Table, Way};
use self::tokens::{Standing, Told};
use super::world::{Behaviour, Member, Numbered, World, errcode_of, paused_runtime, this_second};
use crate::{Credentials, TokenKey, TokenManager};

/// Any request is over within this time: two refreshes that each take as long as they may.
const LONGEST_WAIT: Duration = Duration::from_secs(80);
const BUDGET: u32 = 4;

/// One history.
struct History {
    setup: Setup,
    runtime: Runtime,
    world: World,
    table: Arc<Table>,
    members: Vec<(TokenManager, ClientWithMiddleware)>,
    apps: Vec<Credentials>,
    keys: Vec<TokenKey>,
    began: Instant,
    api_latency: Duration,
    asked: VecDeque<Asked>,
    requests: usize,
    /// When the callers of these requests gave up, so that the manager learns nothing of later answers.
    given_up: HashMap<usize, Instant>,
    told: Told,
    /// How many tries have been looked at.
    tries: usize,
    /// When which manager was asked for which app on a runtime that shut down.
    lost: Vec<(Who, Instant)>,
    /// Fetches that clocks, revocations and callers may cause beside the expiry of tokens.
    causes: u32,
}

/// A manager and an app.
type Who = (Member, usize);

impl History {
    fn new(setup: Setup) -> Self {
        fastrand::seed(setup.seed);
        let runtime = paused_runtime();
        let table = Table::new();
        let world = runtime.block_on(async {
            // So that its clock is ahead of those of the runtimes that are built later.
            advance(Duration::from_secs(3600)).await;
            World::at(this_second(setup.fraction))
        });
        world.issuer.rejects_always(BAD);
        world.issuer.lives(setup.lifetime);
        let member = |member| {
            let mut builder = world.builder_of(member).store(table.clone());
            if setup.looks {
                builder = builder.local_copy(Duration::ZERO);
            }
            let manager = builder.refresh_budget(BUDGET).build();
            let client = world.client_of(member, &manager);
            (manager, client)
        };
        let inside = runtime.enter();
        let members: Vec<_> = (0..setup.members).map(member).collect();
        let began = Instant::now();
        drop(inside);
        let apps = (0..APPS).map(|n| Credentials::new("corp", n.to_string()));
        let apps: Vec<_> = apps.collect();
        Self {
            keys: apps.iter().map(|app| members[0].0.key(app)).collect(),
            began,
            setup,
            runtime,
            world,
            table,
            members,
            apps,
            api_latency: Duration::ZERO,
            asked: VecDeque::new(),
            requests: 0,
            given_up: HashMap::new(),
            told: Told::default(),
            tries: 0,
            lost: Vec::new(),
            causes: 0,
        }
    }

    fn run(mut self, steps: Vec<Step>) {
        let mut before = self.standings();
        for step in steps {
            self.take(&step);
            self.check_requests();
            self.check_fetches();
            let after = self.standings();
            self.check_tokens(&step, &before, &after);
            before = after;
        }
        self.let_all_end();
    }

    fn standings(&self) -> Vec<(Who, Option<Standing>)> {
        self.in_time(|it| it.all().map(|who| (who, it.standing(who))).collect())
    }

    /// All managers with all apps.
    fn all(&self) -> impl Iterator<Item = Who> + use<> {
        let members = self.members.len();
        (0..members).flat_map(|member| (0..APPS).map(move |app| (member, app)))
    }

    fn take(&mut self, step: &Step) {
        let issuer = &self.world.issuer;
        match *step {
            Step::Request { member, app, path } => self.ask((member, app), path),
            Step::ShortLived { member, app, time } => self.ask_for_so_long((member, app), time),
            Step::Outside { member, app } => self.ask_outside((member, app)),
            Step::Drop => {
                if let Some(asked) = self.asked.pop_front() {
                    asked.answer.abort();
                    let now = self.in_time(|_| Instant::now());
                    self.given_up.insert(asked.request, now);
                }
            }
            Step::End { app, errcode } => {
                self.causes += 1;
                issuer.end(&self.apps[app], errcode);
            }
            Step::RejectAll(all) => issuer.rejects_all(all),
            Step::Other { app } => self.put_other(app),
            Step::Dead { app } => {
                self.put_other(app);
                self.world.issuer.end(&self.apps[app], 40014);
            }
            Step::Old { app, which } => {
                let past = self.table.past(&self.keys[app]);
                if !past.is_empty() {
                    self.in_time(|it| it.table.keep(&it.keys[app], which.get(&past)));
                }
            }
            Step::Advance(by) => self.advance(by),
            Step::Jump(secs) => {
                self.causes += 2 * APPS as u32;
                self.world.clock.jump(secs);
            }
            Step::Source(ref behaviour) => issuer.usually(behaviour.clone()),
            Step::Latency(latency) => issuer.takes(latency),
            Step::ApiLatency(latency) => {
                self.api_latency = latency;
                issuer.answers_after(latency);
            }
            Step::Repeat(repeat) => issuer.repeats(repeat),
            Step::Get(way) => *self.table.get.lock().unwrap() = way,
            Step::Put(way) => *self.table.put.lock().unwrap() = way,
            Step::Force { member, app } => {
                // In place of the token in hand, and of the one that replaces it where a new token ends the old one.
                self.causes += 2;
                let (manager, app) = (self.members[member].0.clone(), self.apps[app].clone());
                self.runtime
                    .spawn(async move { manager.refresh(&app).await });
            }
        }
        self.settle();
    }

    /// Another process fetches a token and puts it into the store.
    fn put_other(&mut self, app: usize) {
        self.causes += 1;
        self.in_time(|it| {
            let token = it.world.issuer.issue(&it.apps[app]);
            it.table.keep(&it.keys[app], &token);
        });
    }

    /// Does this where the clock is that of the history.
    fn in_time<T>(&self, act: impl FnOnce(&Self) -> T) -> T {
        let _inside = self.runtime.enter();
        act(self)
    }

    /// Waits end on the way, one after the other, and what comes after them begins. Timers go in whole milliseconds, the clock does not.
    fn advance(&self, by: Duration) {
        let whole = Duration::from_millis(by.as_millis() as u64);
        self.runtime.block_on(async {
            if !whole.is_zero() {
                sleep(whole).await;
            }
            if by > whole {
                advance(by - whole).await;
            }
        });
    }

    /// Lets all that can run do so, at this moment in time.
    fn settle(&self) {
        self.runtime.block_on(settle());
    }

    fn request(&mut self, (member, app): Who, path: &str) -> RequestBuilder {
        self.requests += 1;
        let url = format!("https://qyapi.weixin.qq.com/cgi-bin/{path}");
        let request = self.members[member].1.get(url);
        request
            .with_extension(self.apps[app].clone())
            .with_extension(Numbered(self.requests))
    }

    fn ask(&mut self, who: Who, path: &'static str) {
        let request = self.request(who, path);
        let must_succeed = path != BAD && self.in_time(|it| it.has_token(who));
        self.asked.push_back(Asked {
            request: self.requests,
            since: self.in_time(|_| Instant::now()),
            must_succeed,
            way: self.api_latency,
            answer: self.runtime.spawn(errcode_of(request)),
        });
    }

    /// Sends a request on a runtime that shuts down after this time. What was started on it is lost.
    fn ask_for_so_long(&mut self, who: Who, time: Duration) {
        let request = self.request(who, "good");
        let now = self.in_time(|_| Instant::now());
        let short = paused_runtime();
        short.block_on(async {
            advance(now - Instant::now()).await;
            let _dropped = tokio::spawn(errcode_of(request));
            settle().await;
            if !time.is_zero() {
                sleep(time).await;
            }
        });
        drop(short);
        self.given_up.insert(self.requests, now + time);
        self.lost.push((who, now));
        self.causes += 1;
        self.advance(time);
    }

    /// Asks for a token outside of any runtime.
    fn ask_outside(&self, who @ (member, app): Who) {
        let Some(standing) = self.standing(who) else {
            return;
        };
        if standing.is_being_refreshed_now {
            return;
        }
        self.in_time(|it| it.world.clock.stop());
        let manager = &self.members[member].0;
        let token = manager.token(&self.apps[app]).now_or_never();
        self.world.clock.go_on();
        let token = token.expect("no wait");
        if let Some(local) = &standing.local
            && local.is_usable
        {
            assert_eq!(token.ok().as_ref(), Some(&local.token), "outside");
        }
    }

    /// With faults gone and time going on, every caller gets an answer.
    fn let_all_end(mut self) {
        self.world.issuer.usually(Behaviour::Issue);
        *self.table.get.lock().unwrap() = Way::Works;
        *self.table.put.lock().unwrap() = Way::Works;
        self.advance(LONGEST_WAIT);
        self.settle();
        self.check_requests();
        assert!(self.asked.is_empty(), "a caller was left waiting");
    }
}

async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

fn histories() -> impl Strategy<Value = (Setup, Vec<Step>)> {
    (steps::setups(), steps::steps()).prop_map(|(setup, mut steps)| {
        for step in &mut steps {
            step.choose_from(setup.members);
        }
        (setup, steps)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_history_keeps_the_promises((setup, steps) in histories()) {
        History::new(setup).run(steps);
    }
}
