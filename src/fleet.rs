//! The protocol by which the processes that share a database make one fetch for all.

mod commit;
mod document;
mod failure;
mod lease;
mod unreadable;
mod write_back;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, timeout};

use self::document::{Document, Timed, Turn};
pub(crate) use self::document::{of_token, token};
use self::failure::{Failure, Verdict};
use self::lease::{Leases, Owner};
use self::unreadable::Unreadable;
use self::write_back::WriteBack;
use crate::clock::Clock;
use crate::fetch::{Gate, Hearsay, Pass};
use crate::store::{STORE_LIMIT, StoreCalls};
use crate::{AccessToken, Error, Kept, SharedDatabase};

/// How long one member may keep the others waiting while it fetches. A dead one is replaced after this time.
const LEASE: Duration = Duration::from_millis(2300);

/// How long after the first try the holder of the lease may try again. So it can tell of its failure before the lease ends.
pub(crate) const RETRIES: Duration = Duration::from_millis(1500);

/// A holder that has no answer after this time tells the others so before its lease ends, and goes on.
pub(crate) const LONGEST_SILENCE: Duration = Duration::from_secs(2);

/// How often those who wait look, in milliseconds, at random.
const POLL: std::ops::RangeInclusive<u64> = 20..=250;

/// How long a member waits for others.
const PATIENCE: Duration = Duration::from_secs(8);

/// The longest time that a refresh takes in addition to the fetch: it may tell of a failure, and swap in a token.
pub(crate) const LONGEST_WAIT: Duration = PATIENCE.saturating_add(STORE_LIMIT.saturating_mul(2));

/// A call to the database that fails within this time is made again.
const LONGEST_RETRY: Duration = Duration::from_millis(500);

/// How often a swap is tried again after another member was faster.
const MOST_SWAPS: usize = 8;

/// One member of the fleet that shares a database.
pub(crate) struct Fleet {
    database: Arc<dyn SharedDatabase>,
    member: String,
    leases: Leases,
    unreadable: Unreadable,
    write_back: WriteBack,
}

/// How the wait for a token ended.
pub(crate) enum Wait<'a> {
    /// The database has a token that can serve.
    Found(AccessToken),
    /// Others have failed, or this member has, and it is too early to try again.
    Failed(Hearsay),
    /// This member fetches, and the others wait. It has a place for its first try.
    Ours(Box<Lease>, Pass<'a>),
    /// There is no token, and this member must not fetch.
    Nothing,
    /// The database is of no help: this member fetches on its own.
    Alone,
}

/// The right to fetch, which others respect for a limited time.
pub(crate) struct Lease {
    owner: Owner,
    taken_at: Instant,
    seen: Box<Seen>,
    /// The failure that was there before.
    failure: Option<Timed<Failure>>,
}

impl Lease {
    /// Whether others may have fetched meanwhile.
    pub(crate) fn has_run_out(&self) -> bool {
        self.taken_at.elapsed() >= LEASE
    }

    /// The token that the database has, even if it can't serve.
    pub(crate) fn token(&self, now: SystemTime) -> Option<AccessToken> {
        self.seen.document.token(now)
    }

    /// Whether the last fetch failed. Then one try is enough.
    pub(crate) fn is_after_failure(&self) -> bool {
        self.failure.is_some()
    }
}

/// What the database returned, to be swapped for something else.
#[derive(Clone)]
struct Seen {
    kept: Option<Kept>,
    document: Document,
}

impl Seen {
    fn bytes(&self) -> Option<&[u8]> {
        self.kept.as_ref().map(Kept::expose_secret)
    }
}

/// The refresh that the fleet works for.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) calls: &'a StoreCalls<'a>,
    pub(crate) clock: &'a Clock,
}

impl Task<'_> {
    /// Whether an operator wants a new token, whatever there is.
    fn is_forced(&self) -> bool {
        self.calls.request.is_forced()
    }

    /// The token of the document, if this refresh needs no other.
    fn wanted(&self, document: &Document) -> Option<AccessToken> {
        self.usable(document).filter(|_| !self.is_forced())
    }

    /// The token of the document, if it can serve.
    fn usable(&self, document: &Document) -> Option<AccessToken> {
        let now = self.clock.now();
        let token = document.token(now)?;
        self.calls.in_hand.can_serve(&token, now).then_some(token)
    }

    /// Whether the token of the document is good, even if this refresh is to replace it.
    fn has_good(&self, document: &Document) -> bool {
        let now = self.clock.now();
        let token = document.token(now);
        token.is_some_and(|token| {
            !self
                .calls
                .in_hand
                .unusable
                .rejected
                .covers_stored(&token, now)
        })
    }
}

impl Fleet {
    pub(crate) fn new(database: Arc<dyn SharedDatabase>) -> Self {
        Self {
            database,
            member: format!("{:016x}", fastrand::u64(..)),
            leases: Leases::default(),
            unreadable: Unreadable::default(),
            write_back: WriteBack::default(),
        }
    }

    /// The token that the database has, if it can serve.
    pub(crate) async fn look(&self, task: Task<'_>) -> Option<AccessToken> {
        if !task.calls.may_ask() {
            return None;
        }
        let seen = self.load(task, None).await.ok()?;
        task.wanted(&seen.document)
    }

    /// Waits until there is a token that can serve, or until this member may fetch.
    pub(crate) async fn wait<'a>(
        self: &Arc<Self>,
        task: Task<'_>,
        gate: &'a Gate,
        may_fetch: bool,
    ) -> Wait<'a> {
        self.write_back.go_on(self, task);
        if may_fetch && !task.calls.may_ask() {
            return Wait::Alone;
        }
        let owner = self.leases.owner(&self.member);
        match timeout(PATIENCE, self.wait_as(owner, task, gate, may_fetch)).await {
            Ok(end) => end,
            Err(_elapsed) if !may_fetch => Wait::Nothing,
            Err(_elapsed) if task.is_forced() => Wait::Alone,
            // If each member went on alone now, an outage of the issuer would cause a flood.
            Err(_elapsed) => Wait::Failed(Hearsay {
                error: Error::timed_out(PATIENCE),
                left: Duration::from_millis(fastrand::u64(POLL)),
            }),
        }
    }

    async fn wait_as<'a>(
        &self,
        owner: Owner,
        task: Task<'_>,
        gate: &'a Gate,
        may_fetch: bool,
    ) -> Wait<'a> {
        let (mut has_failed, mut pass, mut watched) = (false, None, None);
        loop {
            let asked_at = Instant::now();
            let fetching = may_fetch.then_some((gate, &mut pass));
            match self.step(task, &owner, fetching, &mut watched).await {
                Ok(Step::Found(token)) => return Wait::Found(token),
                Ok(Step::Failed(heard)) => return Wait::Failed(heard),
                Ok(Step::Nothing) => return Wait::Nothing,
                Ok(Step::Ours(seen, failure)) => {
                    let lease = Lease {
                        owner,
                        taken_at: asked_at,
                        seen,
                        failure,
                    };
                    // Without a place there is no lease.
                    return pass.map_or(Wait::Nothing, |pass| Wait::Ours(Box::new(lease), pass));
                }
                // The others must not wait for one that waits for its place.
                Ok(Step::NeedsPass) => match gate.enter().await {
                    Ok(entered) => {
                        pass = Some(entered);
                        continue;
                    }
                    Err(error) => return Wait::Failed(closed(error)),
                },
                Ok(Step::Wait) => has_failed = false,
                // A database that hangs is not waited for twice.
                Err(Failed) if has_failed || asked_at.elapsed() > LONGEST_RETRY => {
                    return if may_fetch {
                        Wait::Alone
                    } else {
                        Wait::Nothing
                    };
                }
                Err(Failed) => has_failed = true,
            }
            pass = None;
            sleep(Duration::from_millis(fastrand::u64(POLL))).await;
        }
    }

    /// `fetching`: the gate, and the place there, if this member may fetch. `watched`: the owner that is waited for, and since when.
    async fn step<'a>(
        &self,
        task: Task<'_>,
        owner: &Owner,
        fetching: Option<(&'a Gate, &mut Option<Pass<'a>>)>,
        watched: &mut Option<(String, Instant)>,
    ) -> Result<Step, Failed> {
        let mut seen = self.load(task, None).await?;
        if let Some(token) = task.wanted(&seen.document) {
            return Ok(Step::Found(token));
        }
        let Some((gate, pass)) = fetching else {
            return Ok(match self.turn(task, &seen.document, owner) {
                Right::Others(_) => Step::Wait,
                Right::Failed(heard) => Step::Failed(heard),
                Right::Held | Right::Free(_) => Step::Nothing,
            });
        };
        for _ in 0..MOST_SWAPS {
            let failure = match self.turn(task, &seen.document, owner) {
                // A swap whose reply was lost has taken the lease.
                Right::Held if pass.is_some() => return Ok(Step::Ours(Box::new(seen), None)),
                Right::Held => None,
                Right::Others(name) if is_over(watched, &name) => None,
                Right::Others(_) => return Ok(Step::Wait),
                Right::Failed(heard) => return Ok(Step::Failed(heard)),
                Right::Free(failure) => failure,
            };
            if pass.is_none() {
                let entered = match task.is_forced() {
                    true => Ok(Some(gate.enter_anyway())),
                    false => gate.try_enter(),
                };
                match entered {
                    Ok(Some(entered)) => *pass = Some(entered),
                    Ok(None) => return Ok(Step::NeedsPass),
                    Err(error) => return Ok(Step::Failed(closed(error))),
                }
            }
            let lease = Turn::Owner(owner.name().to_owned());
            let document = Document {
                turn: Some(Timed::new(lease, LEASE)),
                ..seen.document.clone()
            };
            if let Some(seen) = self.swap(task, &seen, document).await? {
                return Ok(Step::Ours(Box::new(seen), failure));
            }
            seen = self.load(task, None).await?;
            if let Some(token) = task.wanted(&seen.document) {
                return Ok(Step::Found(token));
            }
        }
        Ok(Step::Wait)
    }

    fn turn(&self, task: Task<'_>, document: &Document, owner: &Owner) -> Right {
        let Some(turn) = &document.turn else {
            return Right::Free(None);
        };
        match turn.part() {
            Turn::Owner(name) if name == owner.name() => Right::Held,
            Turn::Owner(name) if self.leases.is_dead(&self.member, name) => Right::Free(None),
            Turn::Owner(name) => Right::Others(name.clone()),
            Turn::Failure(failure) => {
                let timed = Timed::new(failure.clone(), turn.left());
                if task.is_forced() {
                    return Right::Free(Some(timed));
                }
                match Failure::verdict(&timed, &self.member, task.has_good(document)) {
                    Verdict::MayTry => Right::Free(Some(timed)),
                    Verdict::Wait(left) => Right::Failed(failure.heard(left)),
                }
            }
        }
    }

    /// `token`: one that may be there, and must not show in an error.
    async fn load(&self, task: Task<'_>, token: Option<&AccessToken>) -> Result<Seen, Failed> {
        let asked_at = Instant::now();
        let loading = async { self.database.load(task.calls.key.as_str()).await };
        let kept = task.calls.load(loading, token).await;
        let kept = kept.ok_or(Failed)?;
        let document = match &kept {
            None => Document::default(),
            Some(kept) => Document::read(kept, asked_at).unwrap_or_else(|_unreadable| {
                self.unreadable.tell(task.calls.key, kept);
                Document::default()
            }),
        };
        Ok(Seen { kept, document })
    }

    /// Swaps this document in for what was seen. Returns it as it is kept now, unless another member was faster.
    async fn swap(
        &self,
        task: Task<'_>,
        seen: &Seen,
        document: Document,
    ) -> Result<Option<Seen>, Failed> {
        let kept = document.kept();
        let (key, expected) = (task.calls.key.as_str(), seen.bytes());
        let tokens = [&seen.document, &document].into_iter();
        let tokens: Vec<_> = tokens.filter_map(Document::written_token).collect();
        let swapping = async { self.database.compare_and_swap(key, expected, &kept).await };
        let swapped = task.calls.swap(swapping, &tokens).await.ok_or(Failed)?;
        let seen = Seen {
            kept: Some(kept),
            document,
        };
        Ok(swapped.then_some(seen))
    }
}

/// The database gave no answer. The store's side has told of it.
#[derive(Debug)]
pub(crate) struct Failed;

enum Step {
    Found(AccessToken),
    Failed(Hearsay),
    Ours(Box<Seen>, Option<Timed<Failure>>),
    Nothing,
    /// This member may fetch once it has a place for its first try.
    NeedsPass,
    Wait,
}

/// Whether this owner has been waited for longer than any lease lasts, by the clock of this machine.
fn is_over(watched: &mut Option<(String, Instant)>, owner: &str) -> bool {
    match watched {
        Some((name, since)) if *name == owner => since.elapsed() >= LEASE,
        _ => {
            *watched = Some((owner.to_owned(), Instant::now()));
            false
        }
    }
}

/// The gate holds back all fetches, so this key needs no cooldown.
fn closed(error: Error) -> Hearsay {
    let left = Duration::ZERO;
    Hearsay { error, left }
}

/// Who may fetch.
enum Right {
    Held,
    Others(String),
    Failed(Hearsay),
    Free(Option<Timed<Failure>>),
}
