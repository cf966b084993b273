//! What must hold of every run.

use std::collections::HashMap;
use std::time::Duration;

use super::super::world::Repeat;
use super::log::Entry;
use super::scene::{Event, Fault, Peer, Scene, Silence};

type Entries = [(Duration, Entry)];

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(2);

/// How long a refresh takes at most: 8 s to fetch, 12 s in the fleet, 1 s of tolerance, and 2 s for the put before.
const LONGEST_WAIT: Duration = Duration::from_secs(8 + 12 + 1 + 2);

/// How many tries may fail within ten seconds, however many members there are.
const MOST_FAILED: usize = 40;

/// The pause of a member after the database has failed, with the call that finds out.
const GRACE: Duration = Duration::from_secs(35);

/// What runs have cost.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) runs: usize,
    pub(super) issued: usize,
    pub(super) lost_leases: usize,
    pub(super) failed_tries: usize,
    pub(super) commands: usize,
    pub(super) asked: usize,
    pub(super) longest_wait: Duration,
    pub(super) longest_healthy_wait: Duration,
    pub(super) most_commands_per_member_and_token: usize,
    pub(super) most_failed_tries_in_ten_seconds: usize,
}

impl Summary {
    pub(super) fn add(&mut self, other: Self) {
        self.runs += other.runs;
        self.issued += other.issued;
        self.lost_leases += other.lost_leases;
        self.failed_tries += other.failed_tries;
        self.commands += other.commands;
        self.asked += other.asked;
        self.longest_wait = self.longest_wait.max(other.longest_wait);
        self.longest_healthy_wait = self.longest_healthy_wait.max(other.longest_healthy_wait);
        let most = &mut self.most_commands_per_member_and_token;
        *most = (*most).max(other.most_commands_per_member_and_token);
        let most = &mut self.most_failed_tries_in_ten_seconds;
        *most = (*most).max(other.most_failed_tries_in_ten_seconds);
    }
}

/// Checks what has happened in a run of this scene.
pub(super) fn check(scene: &Scene, entries: &Entries) -> Result<Summary, String> {
    let run = Run::new(scene, entries);
    let mut bad = Vec::new();
    run.fetches(&mut bad);
    run.order(&mut bad);
    let longest_wait = run.waits(&mut bad);
    let longest_healthy_wait = run.healthy(&mut bad);
    let most_failed = run.failed_tries(&mut bad);
    let per_token = run.commands(&mut bad);
    if !bad.is_empty() {
        let mut calm = scene.clone();
        calm.events.retain(|(at, _)| !at.is_zero());
        calm.events.truncate(40);
        bad.truncate(3);
        return Err(format!("{bad:#?} in {calm:?}"));
    }
    Ok(Summary {
        runs: 1,
        issued: run.count(|entry| matches!(entry, Entry::Issued { .. })),
        lost_leases: run.lost_leases.len(),
        failed_tries: run.count(is_failed_try),
        commands: run.count(|entry| matches!(entry, Entry::Command { .. })),
        asked: run.count(|entry| matches!(entry, Entry::Asked { .. })),
        longest_wait,
        longest_healthy_wait,
        most_commands_per_member_and_token: per_token,
        most_failed_tries_in_ten_seconds: most_failed,
    })
}

fn is_failed_try(entry: &Entry) -> bool {
    match entry {
        Entry::Lost { peer, .. } => *peer == Peer::Issuer,
        Entry::NoEgress { .. } | Entry::Refused { .. } => true,
        Entry::Issued { lifetime, .. } => lifetime.is_zero(),
        _ => false,
    }
}

/// A time, from and until.
type Span = (Duration, Duration);

fn meets(one: Span, two: Span) -> bool {
    one.0 <= two.1 && two.0 <= one.1
}

struct Run<'a> {
    scene: &'a Scene,
    entries: &'a Entries,
    /// When they were lost: when the next one was taken, or the document replaced.
    lost_leases: Vec<Duration>,
    /// When the database was down for all, and when a member could not rely on it.
    database_down: Vec<Span>,
    database_lost: HashMap<usize, Vec<Span>>,
    issuer_down: Vec<Span>,
    /// When there was something wrong with a member.
    troubles: HashMap<usize, Vec<Span>>,
    stops: HashMap<usize, Vec<Span>>,
}

impl<'a> Run<'a> {
    fn new(scene: &'a Scene, entries: &'a Entries) -> Self {
        let mut this = Self {
            scene,
            entries,
            lost_leases: lost_leases(entries),
            database_down: Vec::new(),
            database_lost: HashMap::new(),
            issuer_down: Vec::new(),
            troubles: HashMap::new(),
            stops: HashMap::new(),
        };
        let second = Duration::from_secs(1);
        for (at, entry) in entries {
            match *entry {
                Entry::Happened(Event::Down(Peer::Database, _, time)) => {
                    this.database_down.push((*at, *at + time + GRACE));
                }
                Entry::Happened(Event::Down(Peer::Issuer, _, time)) => {
                    this.issuer_down.push((*at, *at + time + GRACE));
                }
                Entry::Happened(Event::Faulty(member, fault, time)) => {
                    let until = *at + time;
                    let span = match fault {
                        Fault::Stopped => (*at, until + 15 * second),
                        Fault::Killed => (*at, until),
                        Fault::NoEgress(_) => (*at, until + GRACE),
                        // Its own pauses are long.
                        Fault::Blocked(_) => (*at, scene.lasts),
                        Fault::WrongSecret => (*at, until + 10 * second),
                    };
                    this.troubles.entry(member).or_default().push(span);
                    if fault == Fault::Stopped {
                        this.stops.entry(member).or_default().push((*at, until));
                    }
                }
                Entry::Lost { member, peer, .. } => {
                    let span = (*at, *at + 15 * second);
                    this.troubles.entry(member).or_default().push(span);
                    if peer == Peer::Database {
                        this.database_lost
                            .entry(member)
                            .or_default()
                            .push((*at, *at + GRACE));
                    }
                }
                _ => {}
            }
        }
        this
    }

    fn count(&self, is_it: impl Fn(&Entry) -> bool) -> usize {
        self.entries
            .iter()
            .filter(|(_, entry)| is_it(entry))
            .count()
    }

    /// One fetch for each lifetime and each revocation, and more only where a lease was lost or the database of no help.
    fn fetches(&self, bad: &mut Vec<String>) {
        let (mut holder, mut issued, mut alone) = (None, 0, 0);
        for (at, entry) in self.entries {
            match *entry {
                Entry::Swapped {
                    member, ref owner, ..
                } => {
                    holder = owner.as_ref().map(|_| member);
                }
                // One that has expired already is a failure.
                Entry::Issued {
                    member,
                    lifetime,
                    asked_at,
                    ..
                } if !lifetime.is_zero() => {
                    issued += 1;
                    let now = (*at, *at);
                    let is_without_database = self.database_down.iter().any(|it| meets(*it, now))
                        || hits(&self.database_lost, member, now);
                    // Those who have waited long enough for others go on their own too.
                    let patience = at.saturating_sub(Duration::from_secs(15));
                    let lost = self.lost_leases.iter();
                    let lost = lost.filter(|lost| (patience..=*at).contains(lost));
                    let is_impatient =
                        lost.count() >= 3 || self.issuer_down.iter().any(|it| meets(*it, now));
                    // To a stopped member, the database does not answer either. It may have several requests on their way.
                    let is_late =
                        *at - asked_at > LEASE || hits(&self.stops, member, (asked_at, *at));
                    let is_alone = holder != Some(member) && (is_without_database || is_impatient);
                    alone += usize::from(is_alone || is_late);
                }
                _ => {}
            }
        }
        let ends_old = self.scene.repeat == Repeat::NewTokenEndsOld;
        let each = if ends_old { 2 } else { 1 };
        let repeats = matches!(
            self.scene.repeat,
            Repeat::SameToken | Repeat::SameTokenShorter
        );
        let period = self.scene.lifetime.mul_f64(0.9);
        let lasts = self.entries.last().map_or(Duration::ZERO, |(at, _)| *at);
        let lifetimes = lasts.div_duration_f64(period) as usize + 1;
        let lifetimes = if repeats { 2 * lifetimes } else { lifetimes };
        let ended = self.count(|entry| match entry {
            Entry::Happened(Event::Revoked | Event::Flushed) => true,
            Entry::Lost { peer, .. } => *peer == Peer::Issuer,
            _ => false,
        });
        let jumps = self.entries.iter().filter(|(at, entry)| {
            matches!(entry, Entry::Happened(Event::Jumped(..))) && !at.is_zero()
        });
        let allowed = lifetimes + ended + jumps.count() + each * (self.lost_leases.len() + alone);
        if issued > allowed {
            let lost = self.lost_leases.len();
            bad.push(format!("{issued} fetches, {allowed} allowed: {lifetimes} lifetimes, {ended} ended, {lost} lost leases, {alone} alone"));
        }
    }

    /// A token in the database is never replaced by an older one.
    fn order(&self, bad: &mut Vec<String>) {
        let (mut before, mut asked) = (None, HashMap::new());
        for (at, entry) in self.entries {
            match *entry {
                Entry::Happened(Event::Flushed) => before = None,
                Entry::Issued {
                    token, asked_at, ..
                } => {
                    asked.insert(token, asked_at);
                }
                Entry::Swapped { member, token, .. } => {
                    if let (Some(before), Some(token)) = (before, token)
                        && token < before
                        // A request that was overtaken on its way has brought a newer one than who sent it can know.
                        && asked[&token] < asked[&before]
                    {
                        bad.push(format!(
                            "{at:?}: member {member} replaced token {before} by the older {token}"
                        ));
                    }
                    before = token.or(before);
                }
                _ => {}
            }
        }
    }

    /// Nobody waits longer than a refresh may take.
    fn waits(&self, bad: &mut Vec<String>) -> Duration {
        let mut longest = Duration::ZERO;
        for (at, entry) in self.entries {
            let Entry::Asked { member, began, .. } = *entry else {
                continue;
            };
            let waited = *at - began;
            if hits(&self.stops, member, (began, *at)) {
                continue;
            }
            longest = longest.max(waited);
            if waited > LONGEST_WAIT {
                bad.push(format!("{at:?}: member {member} waited for {waited:?}"));
            }
        }
        longest
    }

    /// A healthy member is served soon, whatever happens to others.
    fn healthy(&self, bad: &mut Vec<String>) -> Duration {
        let (mut since, mut longest) = (HashMap::new(), Duration::ZERO);
        for (at, entry) in self.entries {
            match *entry {
                Entry::Happened(Event::Faulty(member, Fault::Killed, _)) => {
                    since.remove(&member);
                }
                Entry::Asked {
                    member,
                    began,
                    ref answer,
                    ..
                } => {
                    let began = *since.entry(member).or_insert(began);
                    if answer.is_ok() {
                        since.remove(&member);
                    }
                    let span = (began, *at);
                    let is_down = self.database_down.iter().chain(&self.issuer_down);
                    if hits(&self.troubles, member, span)
                        || is_down.copied().any(|down| meets(down, span))
                    {
                        continue;
                    }
                    let waited = *at - began;
                    longest = longest.max(waited);
                    let bound = self.longest_healthy(span);
                    if waited > bound {
                        bad.push(format!("{at:?}: the healthy member {member} was not served for {waited:?}: more than {bound:?}: {answer:?}"));
                    }
                }
                _ => {}
            }
        }
        longest
    }

    /// A broken owner keeps the others waiting for up to 2 s. Each further one in a row costs as much again.
    fn longest_healthy(&self, (from, to): Span) -> Duration {
        let broken = self.entries.iter().filter(|(at, entry)| {
            let held = (*at, *at + LEASE);
            matches!(entry, Entry::Swapped { member, owner: Some(_), .. }
                if meets((from, to), held) && hits(&self.troubles, *member, held))
        });
        let more = broken.count().saturating_sub(1) as u32;
        Duration::from_secs(3) + (LEASE + Duration::from_millis(300)) * more
    }

    /// What fails is not asked too often, however many members there are.
    fn failed_tries(&self, bad: &mut Vec<String>) -> usize {
        let times = self
            .entries
            .iter()
            .filter(|(_, entry)| is_failed_try(entry));
        let times: Vec<_> = times.map(|(at, _)| *at).collect();
        let (mut first, mut most) = (0, 0);
        for (last, at) in times.iter().enumerate() {
            while *at - times[first] > Duration::from_secs(10) {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        let hangs = |entry: &Entry| {
            matches!(
                entry,
                Entry::Happened(Event::Down(Peer::Issuer, Silence::Hangs, _))
            )
        };
        let is_alone = !self.database_down.is_empty() || !self.database_lost.is_empty();
        if most > MOST_FAILED && !is_alone && self.count(hangs) == 0 {
            bad.push(format!("{most} failed tries within ten seconds"));
        }
        most
    }

    /// The number of commands grows with the number of members, and not faster.
    fn commands(&self, bad: &mut Vec<String>) -> usize {
        let commands = self.count(|entry| matches!(entry, Entry::Command { .. }));
        let issued = self.count(|entry| matches!(entry, Entry::Issued { .. }));
        let (mut asked, mut waited) = (0, Duration::ZERO);
        for (at, entry) in self.entries {
            if let Entry::Asked { began, .. } = entry {
                asked += 1;
                waited += *at - *began;
            }
        }
        // Each refresh needs a few, also one ahead, for which nobody waits. Who waits looks about seven times a second.
        let hangs = self.issuer_down.iter().map(|(from, to)| *to - *from);
        let in_background = LEASE * self.lost_leases.len() as u32 + hangs.sum::<Duration>();
        let waiting =
            waited.as_secs() as usize + self.scene.members * in_background.as_secs() as usize;
        let bound = 6 * asked + 10 * waiting + 8 * self.scene.members * (issued + 1);
        if commands > bound {
            bad.push(format!("{commands} commands, {bound} allowed, {issued} tokens, {asked} asked, {waited:?} waited"));
        }
        commands / self.scene.members / (issued + 1)
    }
}

fn hits(spans: &HashMap<usize, Vec<Span>>, member: usize, span: Span) -> bool {
    let spans = spans.get(&member).into_iter().flatten();
    spans.copied().any(|other| meets(other, span))
}

/// When leases ended otherwise than by their owners.
fn lost_leases(entries: &Entries) -> Vec<Duration> {
    let (mut holder, mut lost) = (None, Vec::new());
    for (at, entry) in entries {
        match entry {
            Entry::Happened(Event::Flushed) if holder.is_some() => {
                lost.push(*at);
                holder = None;
            }
            Entry::Swapped { member, owner, .. } => {
                if holder.is_some_and(|holder| holder != *member || owner.is_some()) {
                    lost.push(*at);
                }
                holder = owner.as_ref().map(|_| *member);
            }
            _ => {}
        }
    }
    lost
}
