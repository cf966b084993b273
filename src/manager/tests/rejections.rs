//! What rejections by the API cost.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance};

use super::world::{Behaviour, Repeat, World, app, call};
use crate::Error;

const HOUR: Duration = Duration::from_secs(3600);
const REQUESTS: u32 = 20_000;

#[tokio::test(start_paused = true)]
async fn a_path_that_rejects_everything_causes_no_flood() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let client = world.client(&manager);
    for _ in 0..REQUESTS {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        advance(HOUR / REQUESTS).await;
    }
    let fetches = world.issuer.fetches();
    assert!((5..=25).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_real_revocation_heals_at_once_beside_a_path_that_rejects_everything() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let client = world.client(&manager);
    for n in 0..REQUESTS {
        if n == REQUESTS / 3 || n == REQUESTS / 2 {
            world.issuer.end(app().key(), 40014);
        }
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
        advance(HOUR / REQUESTS).await;
    }
    let fetches = world.issuer.fetches();
    assert!((5..=25).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_on_a_path_that_rejects_everything_causes_no_flood() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    world.issuer.takes(Duration::from_millis(100));
    let manager = world.manager();
    let client = world.client(&manager);
    for _ in 0..20 {
        let crowd: JoinSet<_> = (0..100)
            .map(|_| {
                let client = client.clone();
                async move { call(&client, "bad").await }
            })
            .collect();
        for answer in crowd.join_all().await {
            assert_eq!(answer.unwrap(), 40014);
        }
    }
    let fetches = world.issuer.fetches();
    assert!(fetches <= 3, "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn two_managers_that_end_each_others_tokens_stay_within_the_budget() {
    let world = World::new();
    let clients = [
        world.client(&world.manager()),
        world.client(&world.manager()),
    ];
    let began = Instant::now();
    let mut answered = 0;
    while began.elapsed() < HOUR {
        for client in &clients {
            answered += u32::from(call(client, "user/get").await.unwrap() == 0);
        }
        advance(Duration::from_millis(500)).await;
    }
    let fetches = world.issuer.fetches();
    let budget = 2 * (1 + 10 + 3600 / 10);
    assert!(fetches <= budget, "{fetches} fetches");
    assert!(answered >= 3600, "{answered} answered");
}

#[tokio::test(start_paused = true)]
async fn revoked_expired_and_revoked_within_a_second_and_every_request_succeeds() {
    let world = World::new();
    let manager = world.manager();
    let client = world.client(&manager);
    for errcode in [40014, 42001, 40014] {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        world.issuer.end(app().key(), errcode);
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        advance(Duration::from_millis(300)).await;
    }
    assert_eq!(world.issuer.fetches(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_old_token_costs_nothing() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    let new = manager.renew(&app(), &old).await.unwrap();
    for _ in 0..100 {
        assert_eq!(manager.renew(&app(), &old).await.unwrap(), new);
    }
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_during_the_renewal_wait_for_the_new_token() {
    let world = World::new();
    let manager = world.manager();
    let app = app();
    let old = manager.token(&app).await.unwrap();
    world.issuer.takes(Duration::from_millis(100));
    let (renewed, asked) = tokio::join!(manager.renew(&app, &old), manager.token(&app));
    assert_eq!(renewed.unwrap(), asked.unwrap());
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_could_not_be_renewed_is_not_used_again() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert!(matches!(
        manager.renew(&app(), &old).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        manager.token(&app()).await,
        Err(Error::Refused(_))
    ));
    advance(Duration::from_secs(10)).await;
    assert_ne!(manager.token(&app()).await.unwrap(), old);
    assert_eq!(world.issuer.fetches(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_budget_can_be_set() {
    let world = World::new();
    let manager = world.builder().renewal_budget(2).build();
    let mut token = manager.token(&app()).await.unwrap();
    for _ in 0..2 {
        token = manager.renew(&app(), &token).await.unwrap();
    }
    let result = manager.renew(&app(), &token).await;
    assert!(matches!(result, Err(Error::HeldBack)), "{result:?}");
    advance(Duration::from_secs(10)).await;
    assert!(manager.renew(&app(), &token).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_the_rejected_token_again_is_asked_once_for_each_renewal() {
    let world = World::new();
    world.issuer.repeats(Repeat::SameToken);
    let manager = world.manager();
    let token = manager.token(&app()).await.unwrap();
    // At the same moment in time, so that not even the time of the fetch is another.
    assert_eq!(manager.renew(&app(), &token).await.unwrap(), token);
    assert_eq!(world.issuer.fetches(), 2);
}
