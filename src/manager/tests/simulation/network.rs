//! The database, the issuer, and the network between them and the members.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fastrand::Rng;
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::memory::Memory;
use super::super::world::{World, app};
use super::log::{Entry, Log};
use super::scene::{Event, Fault, Peer, Scene, Silence};
use crate::{
    AccessToken, BoxError, Error, FetchRequest, FetchedToken, Kept, SharedDatabase, TokenSource,
};

/// What all members share.
pub(super) struct Network {
    pub(super) scene: Scene,
    pub(super) world: World,
    pub(super) database: Memory,
    pub(super) log: Log,
    rng: Mutex<Rng>,
    down: Mutex<Vec<(Peer, Silence, Instant)>>,
    /// What the next owners of the lease will suffer.
    of_owners: Mutex<Vec<(Fault, Duration)>>,
}

/// One process on the network. A member that is started again is another one.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) network: Arc<Network>,
    pub(super) member: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    stopped_until: Option<Instant>,
    is_killed: bool,
    fault: Option<(Fault, Instant)>,
}

impl Network {
    pub(super) fn new(scene: Scene) -> Arc<Self> {
        let world = World::at(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
        world.issuer.repeats(scene.repeat);
        world.issuer.lives(scene.lifetime);
        Arc::new(Self {
            world,
            database: Memory::new(),
            log: Log::new(),
            rng: Mutex::new(Rng::with_seed(scene.seed ^ 1)),
            down: Mutex::default(),
            of_owners: Mutex::default(),
            scene,
        })
    }

    pub(super) fn goes_down(&self, peer: Peer, silence: Silence, time: Duration) {
        let until = Instant::now() + time;
        self.down.lock().unwrap().push((peer, silence, until));
    }

    fn is_down(&self, peer: Peer) -> Option<Silence> {
        let (now, down) = (Instant::now(), self.down.lock().unwrap());
        let it = down.iter().find(|it| it.0 == peer && now < it.2)?;
        Some(it.1)
    }

    /// How long a message is on its way, and whether it is lost.
    fn draw(&self, peer: Peer) -> (Duration, Option<Silence>) {
        let mut rng = self.rng.lock().unwrap();
        let latency = rng.u64(0..=self.scene.latency[peer as usize]);
        let is_lost = rng.u32(0..10_000) < self.scene.losses[peer as usize];
        let silence = if rng.bool() {
            Silence::Fails
        } else {
            Silence::Hangs
        };
        (Duration::from_millis(latency), is_lost.then_some(silence))
    }
}

impl Link {
    pub(super) fn new(network: &Arc<Network>, member: usize) -> Self {
        Self {
            network: network.clone(),
            member,
            state: Arc::default(),
        }
    }

    pub(super) fn suffers(&self, fault: Fault, time: Duration) {
        let (mut state, until) = (self.state.lock().unwrap(), Instant::now() + time);
        match fault {
            Fault::Stopped => state.stopped_until = state.stopped_until.max(Some(until)),
            Fault::Killed => state.is_killed = true,
            _ => state.fault = Some((fault, until)),
        }
    }

    pub(super) fn is_killed(&self) -> bool {
        self.state.lock().unwrap().is_killed
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        let state = self.state.lock().unwrap();
        let (fault, until) = state.fault?;
        (Instant::now() < until).then_some(fault)
    }

    /// Waits while the process is stopped. A killed one waits forever.
    pub(super) async fn runs(&self) {
        loop {
            let until = {
                let state = self.state.lock().unwrap();
                match state.stopped_until {
                    _ if state.is_killed => None,
                    Some(until) if until > Instant::now() => Some(until),
                    _ => return,
                }
            };
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Sends a message and waits for the reply. The message goes on when nobody waits for it any more.
    async fn send<T: Send + 'static>(
        &self,
        peer: Peer,
        act: impl FnOnce(&Network) -> T + Send + 'static,
    ) -> Result<T, BoxError> {
        let (sender, reply) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            this.runs().await;
            let network = &this.network;
            let (latency, lost) = network.draw(peer);
            sleep(latency).await;
            if this.is_lost(peer, network.is_down(peer).or(lost)).await {
                return;
            }
            let done = act(network);
            let (latency, lost) = network.draw(peer);
            sleep(latency).await;
            if this.is_lost(peer, lost).await {
                return;
            }
            this.runs().await;
            let _nobody_waits = sender.send(done);
        });
        Ok(reply.await?)
    }

    fn took_lease(&self) {
        let next = self.network.of_owners.lock().unwrap().pop();
        if let Some((fault, time)) = next {
            let event = Event::Faulty(self.member, fault, time);
            self.network.log.add(Entry::Happened(event));
            self.suffers(fault, time);
        }
    }

    async fn is_lost(&self, peer: Peer, lost: Option<Silence>) -> bool {
        if let Some(silence) = lost {
            self.network.log.add(Entry::Lost {
                member: self.member,
                peer,
                silence,
            });
            if silence == Silence::Hangs {
                std::future::pending::<()>().await;
            }
        }
        lost.is_some()
    }
}

#[crate::async_trait]
impl SharedDatabase for Link {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        let (key, member) = (key.to_owned(), self.member);
        self.network.log.add(Entry::Command { member });
        self.send(Peer::Database, move |network| {
            let loaded = network.database.load(&key).now_or_never();
            loaded.expect("it has no latency of its own")
        })
        .await?
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        let (key, expected, new) = (key.to_owned(), expected.map(<[u8]>::to_vec), new.clone());
        let (member, this) = (self.member, self.clone());
        self.network.log.add(Entry::Command { member });
        self.send(Peer::Database, move |network| {
            let database = &network.database;
            let swapped = database.compare_and_swap(&key, expected.as_deref(), &new);
            let swapped = swapped
                .now_or_never()
                .expect("it has no latency of its own");
            if let Ok(true) = swapped
                && network.log.swapped(member, &key, &new)
            {
                this.took_lease();
            }
            swapped
        })
        .await?
    }
}

#[crate::async_trait]
impl TokenSource for Link {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        if let Some(Fault::NoEgress(silence)) = self.fault() {
            self.network.log.add(Entry::NoEgress {
                member: self.member,
            });
            sleep(Duration::from_millis(10)).await;
            if silence == Silence::Hangs {
                std::future::pending::<()>().await;
            }
            return Err(Error::transient("no route to the issuer"));
        }
        let (this, asked_at) = (self.clone(), self.network.log.now());
        let is_right = request.credentials().expose_secret() == app().expose_secret();
        let answer = self.send(Peer::Issuer, move |network| {
            this.answer(network, is_right, asked_at)
        });
        answer
            .await
            .unwrap_or_else(|_| Err(Error::transient("connection lost")))
    }
}

impl Link {
    /// What the issuer answers.
    fn answer(
        &self,
        network: &Network,
        is_right: bool,
        asked_at: Duration,
    ) -> Result<FetchedToken, Error> {
        let errcode = match self.fault() {
            Some(Fault::Blocked(errcode)) => Some(errcode),
            _ if !is_right => Some(40001),
            _ => None,
        };
        let member = self.member;
        if let Some(errcode) = errcode {
            network.log.add(Entry::Refused { member, errcode });
            return Err(Error::api(errcode, "no"));
        }
        let token = network.world.issuer.issue(&app());
        network.log.issued(member, &token, asked_at);
        Ok(FetchedToken::new(token.expose_secret(), token.lifetime()))
    }

    /// Whether the API takes the token.
    pub(super) fn takes(&self, token: &AccessToken) -> bool {
        self.network.world.issuer.takes_token(token)
    }
}

/// What happens to all, or to the issuer alone.
pub(super) fn happens(network: &Network, event: Event) {
    match event {
        Event::Revoked => network.world.issuer.end(&app(), 40014),
        Event::Flushed => network.database.clear(),
        Event::Down(peer, silence, time) => network.goes_down(peer, silence, time),
        Event::OwnerFaulty(fault, time) => network.of_owners.lock().unwrap().push((fault, time)),
        Event::Jumped(..) | Event::Faulty(..) | Event::Started(_) => {}
    }
}
