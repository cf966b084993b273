//! Random histories of requests, revocations, faults and clocks, and what must hold after every step of each.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep};

use super::world::{Behaviour, Call, End, LIFETIME, Repeat, Try, World, errcode_of};
use crate::clock::Moment;
use crate::{
    AccessToken, BoxError, Credentials, Error, ErrorKind, TokenKey, TokenManager, TokenStore,
};

const APPS: usize = 2;
/// Any request is over within this time: two refreshes that each take as long as they may.
const LONGEST_WAIT: Duration = Duration::from_secs(80);
const BUDGET: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    Request {
        app: usize,
        path: &'static str,
    },
    /// A caller gives up.
    Drop,
    End {
        app: usize,
        errcode: i64,
    },
    /// Another process fetches a token and puts it into the store.
    Other {
        app: usize,
    },
    Advance(Duration),
    Jump(i64),
    Source(Behaviour),
    Latency(Duration),
    ApiLatency(Duration),
    Repeat(Repeat),
    Get(Way),
    Put(Way),
    Forget {
        app: usize,
    },
}

/// What a method of the store does.
#[derive(Clone, Copy, Debug)]
enum Way {
    Works,
    Fails,
    Hangs,
    Panics,
    /// `get` finds nothing, `put` keeps nothing.
    Forgets,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let way = || {
        select(vec![
            Way::Works,
            Way::Works,
            Way::Fails,
            Way::Hangs,
            Way::Panics,
            Way::Forgets,
        ])
    };
    let errcode = |errcode| Behaviour::Fail(Error::api(errcode, ""));
    let behaviours = vec![
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
    ];
    let repeats = vec![
        Repeat::SameToken,
        Repeat::SameTokenShorter,
        Repeat::SameTokenExtended,
        Repeat::NewTokenOldValid,
        Repeat::NewTokenEndsOld,
    ];
    let times = [1, 100, 1000, 2000, 10_000, 60_000, 300_000, 6_900_000];
    let times = times.map(Duration::from_millis).to_vec();
    let step = prop_oneof![
        12 => (0..APPS, select(vec!["good", "good", "good", "other", "bad"]))
            .prop_map(|(app, path)| Step::Request { app, path }),
        2 => Just(Step::Drop),
        4 => (0..APPS, select(vec![40014, 42001])).prop_map(|(app, errcode)| Step::End { app, errcode }),
        1 => (0..APPS).prop_map(|app| Step::Other { app }),
        6 => select(times).prop_map(Step::Advance),
        1 => select(vec![-10_000, -3, 3, 10_000]).prop_map(Step::Jump),
        4 => select(behaviours).prop_map(Step::Source),
        1 => select(vec![0, 50, 3000]).prop_map(|ms| Step::Latency(Duration::from_millis(ms))),
        1 => select(vec![0, 50, 3000]).prop_map(|ms| Step::ApiLatency(Duration::from_millis(ms))),
        1 => select(repeats).prop_map(Step::Repeat),
        1 => way().prop_map(Step::Get),
        1 => way().prop_map(Step::Put),
        1 => (0..APPS).prop_map(|app| Step::Forget { app }),
    ];
    prop::collection::vec(step, 1..40)
}

/// A store of two rows that does what it is told.
struct Table {
    get: Mutex<Way>,
    put: Mutex<Way>,
    rows: Mutex<Vec<(TokenKey, AccessToken)>>,
}

impl Table {
    fn keep(&self, key: &TokenKey, token: &AccessToken) {
        let mut rows = self.rows.lock().unwrap();
        rows.retain(|(other, _)| other != key);
        rows.push((key.clone(), token.clone()));
    }
}

async fn go(way: Way) -> Result<bool, BoxError> {
    match way {
        Way::Works => Ok(true),
        Way::Forgets => Ok(false),
        Way::Fails => Err("a failure".into()),
        Way::Hangs => std::future::pending().await,
        Way::Panics => std::panic::resume_unwind(Box::new("a panic")),
    }
}

#[crate::async_trait]
impl TokenStore for Table {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let way = *self.get.lock().unwrap();
        if !go(way).await? {
            return Ok(None);
        }
        let rows = self.rows.lock().unwrap();
        Ok(rows
            .iter()
            .find(|(other, _)| other == key)
            .map(|(_, token)| token.clone()))
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        let way = *self.put.lock().unwrap();
        if go(way).await? {
            self.keep(key, token);
        }
        Ok(())
    }
}

/// A request under way.
struct Asked {
    since: Instant,
    /// Whether there was a local copy then that the API would take.
    must_succeed: bool,
    /// How long the answer is on its way.
    way: Duration,
    answer: JoinHandle<Result<i64, Error>>,
}

/// A local copy that a request would succeed with.
struct Usable {
    token: AccessToken,
    is_being_refreshed: bool,
    /// How often the source had been asked by then.
    tries: usize,
}

/// One history.
struct History {
    world: World,
    manager: TokenManager,
    table: Arc<Table>,
    client: reqwest_middleware::ClientWithMiddleware,
    apps: Vec<Credentials>,
    asked: VecDeque<Asked>,
    began: Instant,
    api_latency: Duration,
    /// When another process put a token into the store last, for which app.
    other_token_at: HashMap<Arc<str>, Instant>,
    /// When which app was forgotten, which ends its cooldown.
    forgotten: Vec<(Arc<str>, Instant)>,
    /// Fetches that clocks, other processes and callers may cause beside the expiry of tokens.
    causes: u32,
}

impl History {
    fn new() -> Self {
        let world = World::new();
        world.issuer.rejects_always("bad");
        let table = Arc::new(Table {
            get: Mutex::new(Way::Works),
            put: Mutex::new(Way::Works),
            rows: Mutex::default(),
        });
        let manager = world
            .builder()
            .store(table.clone())
            .refresh_budget(BUDGET)
            .build();
        Self {
            client: world.client(&manager),
            world,
            manager,
            table,
            apps: (0..APPS)
                .map(|n| Credentials::new("corp", n.to_string()))
                .collect(),
            asked: VecDeque::new(),
            began: Instant::now(),
            api_latency: Duration::ZERO,
            other_token_at: HashMap::new(),
            forgotten: Vec::new(),
            causes: 0,
        }
    }

    async fn run(mut self, steps: Vec<Step>) {
        for step in steps {
            let before: Vec<_> = self.apps.iter().map(|app| self.usable(app)).collect();
            let forgets = matches!(step, Step::Forget { .. });
            self.take(step).await;
            self.check_requests().await;
            self.check_fetches();
            if !forgets {
                self.check_nothing_was_lost(before);
            }
        }
        self.let_all_end().await;
    }

    async fn take(&mut self, step: Step) {
        let issuer = &self.world.issuer;
        match step {
            Step::Request { app, path } => {
                let calls = issuer.calls().len();
                self.ask(app, path);
                self.settle().await;
                if self.api_latency.is_zero() {
                    self.check_rejected_is_not_kept(app, path, calls);
                }
                return;
            }
            Step::Drop => {
                if let Some(asked) = self.asked.pop_front() {
                    asked.answer.abort();
                }
            }
            Step::End { app, errcode } => issuer.end(&self.apps[app], errcode),
            Step::Other { app } => {
                let app = &self.apps[app];
                self.table.keep(&self.manager.key(app), &issuer.issue(app));
                // Finding it is a success, which ends a cooldown.
                self.other_token_at
                    .insert(app.name().clone(), Instant::now());
            }
            Step::Advance(by) => {
                // Waits end on the way, one after the other, and what comes after them begins.
                sleep(by).await;
            }
            Step::Jump(secs) => {
                self.causes += 2 * APPS as u32;
                self.world.clock.jump(secs);
            }
            Step::Source(behaviour) => issuer.usually(behaviour),
            Step::Latency(latency) => issuer.takes(latency),
            Step::ApiLatency(latency) => {
                self.api_latency = latency;
                issuer.answers_after(latency);
            }
            Step::Repeat(repeat) => issuer.repeats(repeat),
            Step::Get(way) => *self.table.get.lock().unwrap() = way,
            Step::Put(way) => *self.table.put.lock().unwrap() = way,
            Step::Forget { app } => {
                self.causes += 1;
                let app = &self.apps[app];
                self.manager.forget(app);
                self.forgotten.push((app.name().clone(), Instant::now()));
            }
        }
        self.settle().await;
    }

    fn ask(&mut self, app: usize, path: &'static str) {
        let must_succeed = path != "bad" && self.usable(&self.apps[app]).is_some();
        let client = self.client.clone();
        let url = format!("https://qyapi.weixin.qq.com/cgi-bin/{path}");
        let request = client.get(url).with_extension(self.apps[app].clone());
        self.asked.push_back(Asked {
            since: Instant::now(),
            must_succeed,
            way: self.api_latency,
            answer: tokio::spawn(errcode_of(request)),
        });
    }

    /// Lets all that can run do so, at this moment in time.
    async fn settle(&self) {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    /// The local copy, if it has not expired, no call has rejected it, and the API would take it.
    fn usable(&self, app: &Credentials) -> Option<Usable> {
        let (slot, now) = (self.manager.shared.slots.find(app)?, self.world.clock.now());
        let state = slot.lock();
        let local = state.local.as_ref()?;
        let token = local.token.clone();
        let was_rejected = self
            .world
            .issuer
            .calls()
            .iter()
            .any(|call| rejected(call, &token));
        let lives = now < token.expires_at() && self.world.issuer.takes_token(&token);
        (lives && !was_rejected).then(|| Usable {
            token,
            is_being_refreshed: now >= local.refresh_at || state.refresh.is_some(),
            tries: self.tries(app).len(),
        })
    }

    /// What the source was asked for this app.
    fn tries(&self, app: &Credentials) -> Vec<Try> {
        let mut log = self.world.issuer.log();
        log.retain(|it| it.app == *app.name());
        log
    }

    /// No caller waits without a bound, none gets anything but an answer or an error of ours, and one that found a usable
    /// token succeeds.
    async fn check_requests(&mut self) {
        let mut waiting = VecDeque::new();
        for asked in std::mem::take(&mut self.asked) {
            if !asked.answer.is_finished() {
                assert!(
                    asked.since.elapsed() < LONGEST_WAIT,
                    "a caller was left waiting"
                );
                let may_wait = !asked.must_succeed || asked.since.elapsed() <= asked.way;
                assert!(may_wait, "a caller waits, though there was a token");
                waiting.push_back(asked);
                continue;
            }
            let answer = asked.answer.await.expect("no panic");
            if asked.must_succeed {
                assert_eq!(answer.ok(), Some(0), "a usable token was at hand");
            }
        }
        self.asked = waiting;
    }

    /// Fetches keep within the bounds of single-flight, cooldowns, and budget.
    fn check_fetches(&self) {
        assert!(
            self.world.issuer.most_under_way() <= 1,
            "two fetches for one key"
        );
        let log = self.world.issuer.log();
        check_block(&log);
        for app in &self.apps {
            let tries = self.tries(app);
            let forgotten = self
                .forgotten
                .iter()
                .filter(|(other, _)| other == app.name());
            let mut forgotten: Vec<_> = forgotten.map(|(_, at)| *at).collect();
            forgotten.extend(self.other_token_at.get(app.name()));
            check_cooldowns(&tries, &forgotten);
            let issued = tries
                .iter()
                .filter(|it| matches!(it.ended, Some((_, End::Issued))))
                .count();
            let elapsed = self.began.elapsed().as_secs();
            let of_expiry = 2 + 3 * elapsed / (LIFETIME.as_secs() - 300);
            let of_budget = u64::from(BUDGET) + elapsed / 10;
            let allowed = of_expiry + of_budget + u64::from(self.causes);
            assert!(
                issued as u64 <= allowed,
                "{issued} tokens issued, {allowed} allowed"
            );
        }
    }

    /// A usable token is never lost by a failure: it is still there, or another is. And none is fetched beside it.
    fn check_nothing_was_lost(&self, before: Vec<Option<Usable>>) {
        for (app, before) in self.apps.iter().zip(before) {
            let Some(before) = before else { continue };
            let calls = self.world.issuer.calls();
            let was_rejected = calls.iter().any(|call| rejected(call, &before.token));
            if was_rejected || before.token.expires_at() <= self.world.clock.now() {
                continue;
            }
            // The slot of an app that was not used for long is dropped, since the store has the token.
            let Some(slot) = self.manager.shared.slots.find(app) else {
                continue;
            };
            assert!(slot.lock().local.is_some(), "a usable token was lost");
            let now = self.usable(app).filter(|now| now.token == before.token);
            if let Some(now) =
                now.filter(|now| !now.is_being_refreshed && !before.is_being_refreshed)
            {
                assert_eq!(now.tries, before.tries, "a fetch, though there was a token");
            }
        }
    }

    /// A token that was rejected just now is being replaced, or gone, or the refresh is held back.
    fn check_rejected_is_not_kept(&self, app: usize, path: &str, calls_before: usize) {
        let calls = self.world.issuer.calls();
        let slot = self
            .manager
            .shared
            .slots
            .find(&self.apps[app])
            .expect("a slot");
        let mut state = slot.lock();
        let now = Instant::now();
        if let Some(local) = &state.local
            && let Some(call) = calls[calls_before..].last()
            && call.path == path
            // A path that always rejects may be the fault of another manager the first time.
            && path != "bad"
            && rejected(call, &local.token)
            && state.refresh.is_none()
        {
            let path = format!("/cgi-bin/{path}");
            assert!(
                state.guard().take(&path, BUDGET, now).is_err(),
                "a rejected token is kept, though another is to be had"
            );
        }
        for (i, call) in calls.iter().enumerate() {
            let earlier = calls[..i].iter().filter(|earlier| {
                earlier.path != "bad"
                    && earlier.token == call.token
                    && earlier.errcode != 0
                    && (earlier.answered == earlier.began || earlier.answered < call.began)
            });
            for earlier in earlier {
                let bettered = self.bettered_between(&call.token, earlier.fetched, call.fetched);
                assert!(
                    !bettered,
                    "a rejected token was sent, though there was another"
                );
            }
        }
    }

    /// Whether another token was fetched for the app of this one in between.
    fn bettered_between(&self, token: &str, from: usize, to: usize) -> bool {
        let fetched = self.world.issuer.given();
        let Some((key, _)) = fetched.iter().find(|(_, value)| value == token) else {
            return false;
        };
        let between = fetched.get(from..to).unwrap_or_default();
        between
            .iter()
            .any(|(other, value)| other == key && value != token)
    }

    /// With faults gone and time going on, every caller gets an answer.
    async fn let_all_end(mut self) {
        self.world.issuer.usually(Behaviour::Issue);
        *self.table.get.lock().unwrap() = Way::Works;
        *self.table.put.lock().unwrap() = Way::Works;
        sleep(LONGEST_WAIT).await;
        self.settle().await;
        self.check_requests().await;
        assert!(self.asked.is_empty(), "a caller was left waiting");
    }
}

fn rejected(call: &Call, token: &AccessToken) -> bool {
    call.errcode != 0 && call.token == token.expose_secret()
}

/// How much time has passed, by the clock that says more.
fn passed(from: Moment, to: Moment) -> Duration {
    let by_wall = to.wall.duration_since(from.wall).unwrap_or_default();
    to.instant.duration_since(from.instant).max(by_wall)
}

/// After 45009 nobody is fetched for in the next minute.
fn check_block(log: &[Try]) {
    let minute = Duration::from_secs(60);
    for (n, blocked) in log.iter().enumerate() {
        let Some((at, End::Failed(error))) = &blocked.ended else {
            continue;
        };
        if error.errcode() != Some(45009) {
            continue;
        }
        let after = log[n + 1..]
            .iter()
            .filter(|it| it.began.instant > at.instant);
        let too_soon = after
            .map(|it| passed(*at, it.began))
            .find(|it| *it < minute);
        assert_eq!(too_soon, None, "a fetch while blocked");
    }
}

/// After a refusal there is none for 10 s, or for 1 s if there is no token any more. After four transient failures in a row there is none for
/// 1 s.
fn check_cooldowns(tries: &[Try], forgotten: &[Instant]) {
    let second = Duration::from_secs(1);
    let mut in_a_row: Vec<&Try> = Vec::new();
    for next in tries {
        let since = in_a_row.first().map(|first| first.began.instant);
        if forgotten
            .iter()
            .any(|at| since <= Some(*at) && *at <= next.began.instant)
        {
            in_a_row.clear();
        }
        let last = in_a_row.last().and_then(|last| last.ended.as_ref());
        match last {
            Some((at, End::Failed(error))) if error.kind() == ErrorKind::Refused => {
                assert!(passed(*at, next.began) >= second, "a fetch after a refusal");
            }
            Some((at, End::Failed(error))) if error.is_transient() && in_a_row.len() >= 4 => {
                let last_five = in_a_row[in_a_row.len() - 4..].windows(2);
                let mut pauses = last_five.map(|two| {
                    let ended = two[0].ended.as_ref().map_or(two[0].began, |(at, _)| *at);
                    passed(ended, two[1].began)
                });
                let rested = passed(*at, next.began) >= second || pauses.any(|it| it >= second);
                assert!(rested, "a fifth try without a pause");
            }
            _ => {}
        }
        match &next.ended {
            Some((_, End::Failed(error))) if error.is_transient() => in_a_row.push(next),
            Some((_, End::Failed(error))) if error.kind() == ErrorKind::Refused => {
                in_a_row = vec![next];
            }
            _ => in_a_row.clear(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn every_history_keeps_the_promises(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async { History::new().run(steps).await });
    }
}
