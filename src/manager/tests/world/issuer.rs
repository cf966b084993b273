//! The issuer of tokens, and what the API says to them.

use std::collections::{HashMap, VecDeque};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{HandClock, LIFETIME};
use crate::clock::Moment;
use crate::{AccessToken, Credentials, Error, FetchRequest, FetchedToken, TokenSource};

/// What a `gettoken` does.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    Issue,
    Fail(Error),
    Panic,
    Hang,
}

/// What another `gettoken` within the lifetime of a token does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Repeat {
    /// The same token; it says the full lifetime, and means what was left.
    SameToken,
    /// The same token, and what is left of its lifetime.
    SameTokenShorter,
    /// The same token, with a new lifetime.
    SameTokenExtended,
    NewTokenOldValid,
    #[default]
    NewTokenEndsOld,
}

impl Repeat {
    /// Whether it is the same value.
    pub(crate) fn is_same(self) -> bool {
        !matches!(self, Self::NewTokenOldValid | Self::NewTokenEndsOld)
    }
}

pub(crate) struct Issuer {
    clock: HandClock,
    state: Mutex<IssuerState>,
    asked: watch::Sender<usize>,
}

/// Who asks the issuer or calls the API: the number of a manager.
pub(crate) type Member = usize;

#[derive(Default)]
struct IssuerState {
    repeat: Repeat,
    script: VecDeque<Behaviour>,
    usually: Option<Behaviour>,
    latency: Duration,
    api_delay: Duration,
    api_latency: Duration,
    issued: usize,
    given: Vec<Given>,
    lifetime: Option<Duration>,
    valid: HashMap<Arc<str>, Vec<Valid>>,
    ended_with: HashMap<String, i64>,
    always_rejects: Vec<String>,
    rejects_all: bool,
    under_way: HashMap<(Member, Arc<str>), usize>,
    most_under_way: usize,
    log: Vec<Try>,
    calls: Vec<Call>,
}

/// One try of a fetch, as the issuer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) member: Member,
    pub(crate) app: Arc<str>,
    /// Whether an operator wanted it.
    pub(crate) is_forced: bool,
    pub(crate) began: Moment,
    pub(crate) ended: Option<(Moment, End)>,
}

impl Try {
    /// Whether it brought a token in this time.
    pub(crate) fn was_issued_between(&self, from: Instant, to: Instant) -> bool {
        let mut ended = self.ended.iter();
        ended.any(|(at, end)| matches!(end, End::Issued) && (from..=to).contains(&at.instant))
    }
}

#[derive(Clone, Debug)]
pub(crate) enum End {
    Issued,
    Failed(Error),
    Panicked,
    /// Its caller gave it up.
    Lost,
}

/// A token that the issuer has given.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    /// `None` is another process.
    pub(crate) member: Option<Member>,
    pub(crate) app: Arc<str>,
    pub(crate) value: String,
    /// The lifetime that the issuer told.
    pub(crate) lifetime: Duration,
    pub(crate) at: Instant,
}

/// One call of the API.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) member: Member,
    /// The number of its request, if that has one. A request that is sent again keeps it.
    pub(crate) request: Option<usize>,
    pub(crate) path: String,
    pub(crate) token: String,
    pub(crate) errcode: i64,
    pub(crate) began: Instant,
    pub(crate) answered: Instant,
    /// How many tokens had been given before it.
    pub(crate) given: usize,
}

impl Issuer {
    pub(super) fn new(clock: HandClock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            asked: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, IssuerState> {
        self.state.lock().unwrap()
    }

    pub(crate) fn fetch_count(&self) -> usize {
        *self.asked.borrow()
    }

    /// Waits until it has been asked so often.
    pub(crate) async fn asked(&self, times: usize) {
        let mut asked = self.asked.subscribe();
        asked.wait_for(|&asked| asked >= times).await.unwrap();
    }

    /// The most fetches for one key that were under way at one time.
    pub(crate) fn most_under_way(&self) -> usize {
        self.lock().most_under_way
    }

    pub(crate) fn next(&self, behaviour: Behaviour) {
        self.lock().script.push_back(behaviour);
    }

    pub(crate) fn usually(&self, behaviour: Behaviour) {
        self.lock().usually = Some(behaviour);
    }

    pub(crate) fn repeats(&self, repeat: Repeat) {
        self.lock().repeat = repeat;
    }

    pub(crate) fn takes(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// How long requests are on their way to the API.
    pub(crate) fn is_reached_after(&self, delay: Duration) {
        self.lock().api_delay = delay;
    }

    pub(crate) fn api_delay(&self) -> Duration {
        self.lock().api_delay
    }

    /// How long the answers of the API are on their way.
    pub(crate) fn answers_after(&self, latency: Duration) {
        self.lock().api_latency = latency;
    }

    pub(crate) fn lives(&self, lifetime: Duration) {
        self.lock().lifetime = Some(lifetime);
    }

    /// A path, with a parameter `customer` if there is one.
    pub(crate) fn rejects_always(&self, path: &str) {
        self.lock().always_rejects.push(path.to_owned());
    }

    /// From now on the API rejects every token, or no longer does.
    pub(crate) fn rejects_all(&self, all: bool) {
        self.lock().rejects_all = all;
    }

    /// Ends the tokens of an app before their time.
    pub(crate) fn end(&self, app: &Credentials, errcode: i64) {
        let mut state = self.lock();
        for token in state.valid.remove(app.name()).unwrap_or_default() {
            state.ended_with.insert(token.value, errcode);
        }
    }

    /// Whether the API would take it.
    pub(crate) fn takes_token(&self, token: &AccessToken) -> bool {
        self.verdict("", token.expose_secret()) == 0
    }

    fn verdict(&self, path: &str, value: &str) -> i64 {
        let (state, now) = (self.lock(), self.clock.true_now());
        if state.rejects_all || state.always_rejects.iter().any(|always| always == path) {
            return 40014;
        }
        let mut valid = state.valid.values().flatten();
        match valid.find(|token| token.value == value) {
            Some(token) if now < token.expires_at => 0,
            Some(_) => 42001,
            None => state.ended_with.get(value).copied().unwrap_or(40014),
        }
    }

    /// A call of the API: what it says, and how long that is on its way.
    pub(super) fn call(
        &self,
        (member, request): (Member, Option<usize>),
        path: String,
        token: String,
    ) -> (i64, Duration) {
        let errcode = self.verdict(&path, &token);
        let mut state = self.lock();
        let given = state.given.len();
        let began = Instant::now();
        let answered = began + state.api_latency;
        state.calls.push(Call {
            member,
            request,
            path,
            token,
            errcode,
            began,
            answered,
            given,
        });
        (errcode, state.api_latency)
    }

    fn begin(&self, member: Member, app: &Arc<str>, is_forced: bool) -> (Behaviour, Duration) {
        let mut state = self.lock();
        let under_way = state.under_way.entry((member, app.clone())).or_default();
        *under_way += 1;
        let under_way = *under_way;
        state.most_under_way = state.most_under_way.max(under_way);
        let usually = state.usually.clone().unwrap_or(Behaviour::Issue);
        let behaviour = state.script.pop_front().unwrap_or(usually);
        self.asked.send_modify(|asked| *asked += 1);
        state.log.push(Try {
            member,
            app: app.clone(),
            is_forced,
            began: self.clock.moment(),
            ended: None,
        });
        (behaviour, state.latency)
    }

    /// All tries so far, in order.
    pub(crate) fn with_tries<T>(&self, look: impl FnOnce(&[Try]) -> T) -> T {
        look(&self.lock().log)
    }

    /// All tokens that were given so far, and all calls, in order.
    pub(crate) fn with_calls<T>(&self, look: impl FnOnce(&[Given], &[Call]) -> T) -> T {
        let state = self.lock();
        look(&state.given, &state.calls)
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// Issues a token, as if `gettoken` had been called.
    pub(crate) fn issue(&self, app: &Credentials) -> AccessToken {
        AccessToken::stamped(self.give(None, app.name()), self.clock.now())
    }

    fn give(&self, member: Option<Member>, app: &Arc<str>) -> FetchedToken {
        let mut state = self.lock();
        let now = self.clock.true_now();
        let ends_old = state.repeat == Repeat::NewTokenEndsOld;
        let repeat = state.repeat;
        state.issued += 1;
        let fresh = format!("canary-token-{}", state.issued);
        let lifetime = state.lifetime.unwrap_or(LIFETIME);
        let valid = state.valid.entry(app.clone()).or_default();
        valid.retain(|token| now < token.expires_at);
        if ends_old {
            valid.clear();
        }
        let (value, told) = match (valid.last_mut(), repeat) {
            (Some(old), Repeat::SameToken) => (old.value.clone(), lifetime),
            (Some(old), Repeat::SameTokenShorter) => {
                // In whole seconds, as the API tells it.
                let left = old.expires_at.duration_since(now).unwrap().as_secs();
                (old.value.clone(), Duration::from_secs(left))
            }
            (Some(old), Repeat::SameTokenExtended) => {
                old.expires_at = now + lifetime;
                (old.value.clone(), lifetime)
            }
            _ => {
                let (value, expires_at) = (fresh.clone(), now + lifetime);
                valid.push(Valid { value, expires_at });
                (fresh, lifetime)
            }
        };
        let given = Given {
            member,
            app: app.clone(),
            value: value.clone(),
            lifetime: told,
            at: Instant::now(),
        };
        state.given.push(given);
        FetchedToken::new(value, told)
    }

    async fn fetch_for(
        &self,
        member: Member,
        request: FetchRequest,
    ) -> Result<FetchedToken, Error> {
        let app = request.credentials().name();
        let (behaviour, latency) = self.begin(member, app, request.is_forced());
        let mut this = UnderWay {
            issuer: self,
            member,
            app,
            index: self.fetch_count() - 1,
            end: End::Lost,
        };
        if !latency.is_zero() {
            sleep(latency).await;
        }
        match behaviour {
            Behaviour::Issue => {
                this.end = End::Issued;
                Ok(self.give(Some(member), app))
            }
            Behaviour::Fail(error) => {
                this.end = End::Failed(error.clone());
                Err(error)
            }
            Behaviour::Panic => {
                this.end = End::Panicked;
                resume_unwind(Box::new("a panic that the test asked for"))
            }
            Behaviour::Hang => std::future::pending().await,
        }
    }
}

/// A token as the issuer knows it.
struct Valid {
    value: String,
    expires_at: SystemTime,
}

#[async_trait]
impl TokenSource for Issuer {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        self.fetch_for(0, request).await
    }
}

/// The issuer, as this manager asks it.
pub(super) struct AskedBy(pub(super) Member, pub(super) Arc<Issuer>);

#[async_trait]
impl TokenSource for AskedBy {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        self.1.fetch_for(self.0, request).await
    }
}

/// A try under way.
struct UnderWay<'a> {
    issuer: &'a Issuer,
    member: Member,
    app: &'a Arc<str>,
    index: usize,
    end: End,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.issuer.lock();
        if let Some(count) = state.under_way.get_mut(&(self.member, self.app.clone())) {
            *count -= 1;
        }
        let now = self.issuer.clock.moment();
        state.log[self.index].ended = Some((now, self.end.clone()));
    }
}
