//! One member: a real manager, and a program that calls the API through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::super::world::{HandClock, app};
use super::log::Entry;
use super::network::{Link, Network};
use super::scene::{Event, Fault};
use crate::clock::Clock;
use crate::{AccessToken, Credentials, Error, SharedStore, TokenManager, TokenManagerBuilder};

/// What the program calls.
const PATH: &str = "user/get";

/// How long it waits at most after an error, in milliseconds.
const AGAIN: std::ops::RangeInclusive<u64> = 100..=400;

pub(super) struct Member {
    index: usize,
    network: Arc<Network>,
    clock: HandClock,
    link: Link,
}

impl Member {
    pub(super) fn start(network: &Arc<Network>, index: usize) -> Self {
        let this = Self {
            index,
            network: network.clone(),
            clock: network.world.clone_with_clock().clock,
            link: Link::new(network, index),
        };
        this.start_process(0);
        this
    }

    /// Starts a process: the first one, or another after so many.
    fn start_process(&self, before: u64) {
        let clock = self.clock.clone();
        let store = SharedStore::new(self.link.clone());
        let builder = TokenManagerBuilder {
            clock: Clock::new(move || clock.now()),
            ..TokenManager::builder(self.link.clone())
        };
        let seed = (self.network.scene.seed << 20) + ((self.index as u64) << 4) + before % 16;
        let program = Program {
            manager: builder.store(store).build(),
            link: self.link.clone(),
            network: self.network.clone(),
            rng: Rng::with_seed(seed),
            has_failed: AtomicBool::new(false),
        };
        tokio::spawn(program.run());
    }

    pub(super) fn suffers(&mut self, event: Event) {
        match event {
            Event::Jumped(member, secs) if member == self.index => self.clock.jump(secs),
            Event::Faulty(member, fault, time) if member == self.index => {
                self.link.suffers(fault, time);
            }
            _ => {}
        }
    }

    pub(super) fn is_killed(&self) -> bool {
        self.link.is_killed()
    }

    /// Starts a killed member again.
    pub(super) fn start_again(&mut self, times: u64) {
        self.link = Link::new(&self.network, self.index);
        self.start_process(times);
    }
}

struct Program {
    manager: TokenManager,
    link: Link,
    network: Arc<Network>,
    rng: Rng,
    /// Whether the last answer was an error.
    has_failed: AtomicBool,
}

impl Program {
    async fn run(mut self) {
        let mut idle = 0..=self.network.scene.idle;
        loop {
            sleep(Duration::from_millis(self.rng.u64(idle))).await;
            self.link.runs().await;
            let called = self.call().await;
            idle = match called {
                Ok(()) => 0..=self.network.scene.idle,
                Err(_) => AGAIN,
            };
        }
    }

    fn credentials(&self) -> Credentials {
        match self.link.fault() {
            Some(Fault::WrongSecret) => Credentials::new("corp", "wrong"),
            _ => app(),
        }
    }

    /// One call of the API, as the middleware makes it.
    async fn call(&self) -> Result<(), Error> {
        let credentials = self.credentials();
        let tenant = self.manager.tenant(&credentials);
        let token = self.log(false, self.manager.token_of(&tenant)).await?;
        self.on_its_way().await;
        if self.link.takes(&token) {
            self.manager.accepted(&tenant, || PATH.into());
            return Ok(());
        }
        let other = self.manager.refresh_rejected_on(&tenant, &token, PATH);
        let token = self.log(true, other).await?;
        self.on_its_way().await;
        if self.link.takes(&token) {
            self.manager.accepted(&tenant, || PATH.into());
            self.manager.healed(&tenant, &token, PATH);
        } else {
            let member = self.link.member;
            self.network.log.add(Entry::RejectedAgain { member });
            self.manager.rejected_again(&tenant, &token, PATH);
        }
        Ok(())
    }

    /// A request to the API is under way.
    async fn on_its_way(&self) {
        sleep(Duration::from_millis(5)).await;
        self.link.runs().await;
    }

    async fn log(
        &self,
        is_rejected: bool,
        token: impl Future<Output = Result<AccessToken, Error>>,
    ) -> Result<AccessToken, Error> {
        let log = &self.network.log;
        let (began, asked_at) = (log.now(), Instant::now());
        let token = token.await;
        self.link.runs().await;
        let has_failed = self.has_failed.swap(token.is_err(), Ordering::Relaxed);
        // The local copy needs no entry of its own, unless it ends a wait.
        if has_failed || token.is_err() || is_rejected || !asked_at.elapsed().is_zero() {
            let answer = match &token {
                Ok(token) => Ok(log.number(token.expose_secret())),
                Err(error) => Err(format!("{:?} {error}", error.kind())),
            };
            let member = self.link.member;
            log.add(Entry::Asked {
                member,
                began,
                is_rejected,
                answer,
            });
        }
        token
    }
}
