//! What operators do does not get in the way of requests, and reports of rejected tokens cost no more than they cause.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::fleet::{member, millis};
use super::memory::Memory;
use super::world::{Issuer, World, app, call, traffic};
use crate::{Error, FetchRequest, FetchedToken, MokaStore, TokenSource};

const SECOND: Duration = Duration::from_secs(1);

/// The old token ends when the issuer is asked, and its answer is on its way for a while.
struct AnswersLate(Arc<Issuer>, Duration);

#[crate::async_trait]
impl TokenSource for AnswersLate {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let token = self.0.fetch(request).await;
        sleep(self.1).await;
        token
    }
}

#[tokio::test(start_paused = true)]
async fn two_refreshes_in_a_row_hold_back_no_path() {
    let world = World::new();
    let manager = world.manager_of(AnswersLate(world.issuer.clone(), millis(100)));
    let client = world.client(&manager);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    let app = app();
    let (_answer, ()) = tokio::join!(
        async {
            world.issuer.asked(2).await;
            world.issuer.is_reached_after(millis(20));
            call(&client, "user/get").await
        },
        async {
            manager.refresh(&app).await.unwrap();
            manager.refresh(&app).await.unwrap();
        }
    );
    assert_eq!(manager.status(&app).held_paths, Default::default());
}

#[tokio::test(start_paused = true)]
async fn ten_refreshes_under_traffic_and_then_a_revocation_is_healed() {
    let world = World::new();
    let manager = world.manager_of(AnswersLate(world.issuer.clone(), millis(100)));
    let client = world.client(&manager);
    world.issuer.is_reached_after(millis(20));
    world.issuer.answers_after(millis(20));
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    let busy = join_all((0..5).map(|n| {
        let client = client.clone();
        async move {
            sleep(millis(7 * n)).await;
            traffic(&client, "user/get", 3 * SECOND).await
        }
    }));
    let app = app();
    tokio::join!(busy, async {
        for _ in 0..10 {
            manager.refresh(&app).await.unwrap();
        }
    });
    world.issuer.end(&app, 40014);
    let bad = traffic(&client, "user/get", 120 * SECOND).await;
    assert!(
        bad.is_empty(),
        "{} bad, the last {:?}",
        bad.len(),
        bad.last()
    );
}

#[tokio::test(start_paused = true)]
async fn reports_that_the_store_answers_cost_no_refresh_budget() {
    for shared in [true, false] {
        let (world, database, plain) = (World::new(), Memory::new(), MokaStore::new());
        let [one, two] = [(); 2].map(|()| match shared {
            true => member(&world, &database),
            false => world.builder().store(plain.clone()).build(),
        });
        let mut token = two.token(&app()).await.unwrap();
        for _ in 0..10 {
            sleep(2 * SECOND).await;
            one.refresh(&app()).await.unwrap();
            let value = token.expose_secret();
            token = two.refresh_rejected(&app(), value).await.unwrap();
        }
        assert_eq!(two.stats().fetches, 1);
        world.issuer.end(&app(), 40014);
        let value = token.expose_secret();
        let healed = two.refresh_rejected(&app(), value).await;
        assert!(healed.is_ok(), "{shared}: {healed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nor_do_they_hold_back_requests() {
    let (world, database) = (World::new(), Memory::new());
    let [one, two] = [(); 2].map(|()| member(&world, &database));
    let client = world.client(&two);
    let mut token = two.token(&app()).await.unwrap();
    for _ in 0..5 {
        sleep(2 * SECOND).await;
        one.refresh(&app()).await.unwrap();
        let value = token.expose_secret();
        token = two.refresh_rejected(&app(), value).await.unwrap();
    }
    world.issuer.end(&app(), 40014);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
}
