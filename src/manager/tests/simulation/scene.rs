//! What happens in one run, drawn from its seed.

use std::time::Duration;

use fastrand::Rng;

use super::super::world::Repeat;

/// How many members are stopped, killed or broken in a run of a thousand.
const MOST_FAULTS: usize = 200;

/// Everything that a run is made of, apart from the dice of its members and of the network.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) seed: u64,
    pub(super) members: usize,
    pub(super) lasts: Duration,
    pub(super) lifetime: Duration,
    pub(super) repeat: Repeat,
    /// How long a message to the database or to the issuer is on its way at most, in milliseconds.
    pub(super) latency: [u64; 2],
    /// How many of 10,000 messages to the database or to the issuer are lost.
    pub(super) losses: [u32; 2],
    /// How long a member is idle between two calls at most, in milliseconds.
    pub(super) idle: u64,
    /// Sorted by time.
    pub(super) events: Vec<(Duration, Event)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Event {
    Revoked,
    Flushed,
    /// What does not work, how, and for how long.
    Down(Peer, Silence, Duration),
    /// The wall clock of a member is set by so many seconds.
    Jumped(usize, i64),
    Faulty(usize, Fault, Duration),
    /// The next member that takes the lease suffers this.
    OwnerFaulty(Fault, Duration),
    /// A killed member is started again.
    Started(usize),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Peer {
    Database,
    Issuer,
}

/// How a message is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Silence {
    /// The sender gets an error.
    Fails,
    /// The sender gets no answer.
    Hangs,
}

/// What is wrong with one member.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    /// It does not run, and then it goes on as if nothing had happened.
    Stopped,
    /// It is gone, and then it is started again.
    Killed,
    /// It does not reach the issuer.
    NoEgress(Silence),
    /// The issuer rejects its IP address.
    Blocked(i64),
    /// It uses another secret.
    WrongSecret,
}

impl Scene {
    pub(super) fn draw(seed: u64, members: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let lasts = Duration::from_secs(rng.u64(120..=300));
        let repeats = [
            Repeat::SameToken,
            Repeat::SameTokenShorter,
            Repeat::SameTokenExtended,
            Repeat::NewTokenOldValid,
            Repeat::NewTokenEndsOld,
            Repeat::NewTokenEndsOld,
        ];
        let has_losses = rng.bool();
        let loss = |rng: &mut Rng| if has_losses { rng.u32(0..=100) } else { 0 };
        let mut scene = Self {
            seed,
            members,
            lasts,
            lifetime: Duration::from_secs(rng.u64(60..=400)),
            repeat: repeats[rng.usize(..repeats.len())],
            latency: [rng.u64(0..=25), rng.u64(1..=60)],
            losses: [loss(&mut rng), loss(&mut rng)],
            idle: if members > 100 { 8000 } else { 4000 },
            events: Vec::new(),
        };
        scene.draw_events(&mut rng);
        scene
    }

    fn draw_events(&mut self, rng: &mut Rng) {
        for _ in 0..rng.usize(0..=6) {
            self.add(rng, Event::Revoked);
        }
        if rng.bool() {
            for _ in 0..rng.usize(0..=5) {
                let fault = match rng.u8(..4) {
                    0 | 1 => Fault::Stopped,
                    2 => Fault::Killed,
                    _ => Fault::NoEgress(silence(rng)),
                };
                let time = Duration::from_millis(rng.u64(100..=20_000));
                self.add(rng, Event::OwnerFaulty(fault, time));
            }
        }
        if rng.u8(..4) == 0 {
            self.add(rng, Event::Flushed);
        }
        for peer in [Peer::Database, Peer::Issuer] {
            if rng.u8(..3) == 0 {
                let time = Duration::from_millis(rng.u64(500..=45_000));
                let silence = silence(rng);
                self.add(rng, Event::Down(peer, silence, time));
            }
        }
        if rng.bool() {
            // Members whose clocks were never set.
            for member in 0..self.members {
                if rng.u8(..3) == 0 {
                    let secs = rng.i64(-10_000..=10_000);
                    self.events
                        .push((Duration::ZERO, Event::Jumped(member, secs)));
                }
            }
        }
        for _ in 0..rng.usize(0..=2) {
            let member = rng.usize(..self.members);
            let secs = rng.i64(-10_000..=10_000);
            self.add(rng, Event::Jumped(member, secs));
        }
        let most = MOST_FAULTS.min(self.members / 3);
        for _ in 0..if rng.u8(..4) == 0 {
            0
        } else {
            rng.usize(0..=most)
        } {
            let member = rng.usize(..self.members);
            let fault = match rng.u8(..7) {
                0 | 1 => Fault::Stopped,
                2 | 3 => Fault::Killed,
                4 => Fault::NoEgress(silence(rng)),
                5 => Fault::Blocked(if rng.bool() { 45009 } else { 60020 }),
                _ => Fault::WrongSecret,
            };
            let longest = match fault {
                Fault::NoEgress(_) | Fault::Blocked(_) => 100_000,
                _ => 20_000,
            };
            let time = Duration::from_millis(rng.u64(100..=longest));
            self.add(rng, Event::Faulty(member, fault, time));
        }
        self.events.sort_by_key(|(at, _)| *at);
    }

    fn add(&mut self, rng: &mut Rng, event: Event) {
        let at = rng.u64(0..self.lasts.as_millis() as u64);
        self.events.push((Duration::from_millis(at), event));
    }
}

fn silence(rng: &mut Rng) -> Silence {
    if rng.bool() {
        Silence::Fails
    } else {
        Silence::Hangs
    }
}
