//! Tickets for pages: an issuer that repeats its ticket says the whole lifetime each time, and no call ever rejects a ticket.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::memory::Memory;
use super::world::{LIFETIME, World};
use crate::{
    AccessToken, Credentials, JsapiTicket, SharedStore, TokenKind, TokenManager,
    TokenManagerBuilder,
};

const SECOND: Duration = Duration::from_secs(1);
const AHEAD: Duration = Duration::from_secs(300);

/// How long after its first answer a repeated ticket may serve once its expiry is over.
const AT_MOST: Duration = Duration::from_secs(360);

/// Issues tickets, as the last layer of a client.
#[derive(Clone)]
struct Tickets(Arc<Mutex<Issued>>);

struct Issued {
    /// How long the same ticket is returned. It always says [`LIFETIME`].
    lasts: Duration,
    since: Instant,
    number: usize,
    asked: Vec<Instant>,
}

impl Tickets {
    fn lasting(lasts: Duration) -> Self {
        Self(Arc::new(Mutex::new(Issued {
            lasts,
            since: Instant::now(),
            number: 0,
            asked: Vec::new(),
        })))
    }

    /// The ticket that is good now.
    fn current(&self) -> String {
        let issued = &mut *self.0.lock().unwrap();
        while issued.since.elapsed() >= issued.lasts {
            issued.since += issued.lasts;
            issued.number += 1;
        }
        format!("canary-ticket-{}", issued.number)
    }

    /// Ends the ticket before its time.
    fn end(&self) {
        let issued = &mut *self.0.lock().unwrap();
        issued.since = Instant::now();
        issued.number += 1;
    }

    /// When it was asked, in seconds after this.
    fn asked(&self, began: Instant) -> Vec<u64> {
        let issued = self.0.lock().unwrap();
        let times = issued.asked.iter();
        times.map(|at| (*at - began).as_secs()).collect()
    }

    /// After the first lifetime it was asked every five minutes at most, and no more once there was another ticket.
    fn assert_asked_seldom(&self, began: Instant) {
        let asked = self.asked(began);
        let after: Vec<_> = asked.iter().filter(|at| **at >= 7200).collect();
        assert!(
            after.windows(2).all(|two| *two[1] - *two[0] >= 300),
            "{asked:?}"
        );
        assert!((20..=26).contains(&after.len()), "{asked:?}");
    }

    fn builder(&self, world: &World) -> TokenManagerBuilder {
        let http = ClientBuilder::new(reqwest::Client::new()).with(self.clone());
        TokenManagerBuilder {
            source: Arc::new(JsapiTicket::of_corp(http.build())),
            ..world.builder()
        }
    }

    fn member(&self, world: &World, database: &Memory) -> TokenManager {
        let store = SharedStore::new(database.clone());
        self.builder(world).store(store).build()
    }
}

#[crate::async_trait]
impl Middleware for Tickets {
    async fn handle(
        &self,
        _: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let ticket = self.current();
        self.0.lock().unwrap().asked.push(Instant::now());
        let told = json!({ "ticket": ticket, "expires_in": LIFETIME.as_secs() });
        Ok(http::Response::new(told.to_string()).into())
    }
}

fn page() -> Credentials {
    Credentials::new("corp", "canary-secret").of_kind(&TokenKind::jsapi_ticket())
}

async fn ticket(manager: &TokenManager) -> String {
    let ticket = manager.token(&page()).await.unwrap();
    ticket.expose_secret().to_owned()
}

/// Pages are signed once a second for so long. Returns for how long they were signed with an old ticket.
async fn old_for(managers: &[TokenManager], tickets: &Tickets, time: Duration) -> Duration {
    let (began, mut old) = (Instant::now(), Duration::ZERO);
    while began.elapsed() < time {
        for manager in managers {
            if ticket(manager).await != tickets.current() {
                old += SECOND;
            }
        }
        sleep(SECOND).await;
    }
    old
}

fn assert_same_expiry(one: &AccessToken, two: &AccessToken) {
    let apart = one.expires_at().duration_since(two.expires_at());
    let apart = apart.unwrap_or_else(|error| error.duration());
    assert!(apart < SECOND, "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn a_repeated_ticket_keeps_its_expiry() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
    let (manager, began) = (tickets.builder(&world).build(), Instant::now());
    let old = old_for(&[manager], &tickets, LIFETIME * 3).await;
    assert_eq!(old, Duration::ZERO);
    // Each time it is asked ahead in vain, and again when the ticket has expired.
    assert_eq!(
        tickets.asked(began),
        [0, 6900, 7200, 14_100, 14_400, 21_300]
    );
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_repeated_after_its_expiry_is_asked_for_at_most_every_five_minutes() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME * 2));
    let (manager, began) = (tickets.builder(&world).build(), Instant::now());
    let old = old_for(&[manager], &tickets, LIFETIME * 2 + AHEAD * 4).await;
    assert!(old <= AT_MOST, "{old:?}");
    tickets.assert_asked_seldom(began);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_keeps_the_expiry_of_a_repeated_ticket() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
    let (database, began) = (Memory::new(), Instant::now());
    let members: Vec<_> = (0..3).map(|_| tickets.member(&world, &database)).collect();
    let old = old_for(&members, &tickets, LIFETIME * 2 + AHEAD).await;
    // The others may see the new ticket up to a second later.
    assert!(old <= 4 * SECOND, "{old:?}");
    let asked = tickets.asked(began);
    assert_eq!(asked.len(), 5, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_later_keeps_the_expiry_that_the_database_has() {
    for started in [LIFETIME / 2, LIFETIME - AHEAD / 2, LIFETIME - SECOND] {
        let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
        let database = Memory::new();
        let first = tickets.member(&world, &database);
        let issued = first.token(&page()).await.unwrap();
        drop(first);
        sleep(started).await;
        let second = tickets.member(&world, &database);
        assert_eq!(second.token(&page()).await.unwrap(), issued);
        let old = old_for(&[second], &tickets, LIFETIME).await;
        assert!(old <= SECOND, "{started:?}: {old:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_fetches_although_the_database_has_a_ticket_keeps_its_expiry() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
    let database = Memory::new();
    let issued = tickets.member(&world, &database).token(&page()).await;
    let issued = issued.unwrap();
    sleep(LIFETIME / 2).await;
    let second = tickets.member(&world, &database);
    let value = issued.expose_secret();
    let repeated = second.refresh_rejected(&page(), value).await.unwrap();
    assert_eq!(repeated.expose_secret(), value);
    assert_same_expiry(&issued, &repeated);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_asks_at_most_every_five_minutes_for_a_ticket_that_is_repeated_after_its_expiry() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME * 2));
    let (database, began) = (Memory::new(), Instant::now());
    let members: Vec<_> = (0..3).map(|_| tickets.member(&world, &database)).collect();
    let old = old_for(&members, &tickets, LIFETIME * 2 + AHEAD * 4).await;
    assert!(old <= AT_MOST * 3, "{old:?}");
    tickets.assert_asked_seldom(began);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_in_a_fleet_makes_one_call() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
    let (database, began) = (Memory::new(), Instant::now());
    let members: Vec<_> = (0..8).map(|_| tickets.member(&world, &database)).collect();
    let crowd = (0..200).map(|n| ticket(&members[n % members.len()]));
    let all = join_all(crowd).await;
    assert!(all.iter().all(|it| *it == all[0]));
    assert_eq!(tickets.asked(began).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_operator_replaces_a_dead_ticket_and_lengthens_none() {
    let (world, tickets) = (World::new(), Tickets::lasting(LIFETIME));
    let database = Memory::new();
    let first = tickets.member(&world, &database);
    let issued = first.token(&page()).await.unwrap();
    sleep(LIFETIME / 2).await;
    // One that has it in hand, and one that has just started.
    for member in [first, tickets.member(&world, &database)] {
        let forced = member.refresh(&page()).await.unwrap();
        assert_eq!(forced.expose_secret(), issued.expose_secret());
        assert_same_expiry(&issued, &forced);
    }

    let member = tickets.member(&world, &database);
    assert_eq!(ticket(&member).await, issued.expose_secret());
    tickets.end();
    let forced = member.refresh(&page()).await.unwrap();
    assert_eq!(forced.expose_secret(), tickets.current());
    let old = old_for(&[member], &tickets, LIFETIME).await;
    assert_eq!(old, Duration::ZERO);
}
