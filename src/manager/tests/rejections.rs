//! What rejections by the API cost.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, advance};

use super::world::{Behaviour, Repeat, World, app, call, errcode_of, fails_as};
use crate::{Error, ErrorKind, RejectionScope};

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
    let fetches = world.issuer.fetch_count();
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
            world.issuer.end(&app(), 40014);
        }
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
        advance(HOUR / REQUESTS).await;
    }
    let fetches = world.issuer.fetch_count();
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
    let fetches = world.issuer.fetch_count();
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
    let fetches = world.issuer.fetch_count();
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
        world.issuer.end(&app(), errcode);
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        advance(Duration::from_millis(300)).await;
    }
    assert_eq!(world.issuer.fetch_count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_old_token_costs_nothing() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    let new = manager
        .refresh_rejected(&app(), old.expose_secret())
        .await
        .unwrap();
    for _ in 0..100 {
        assert_eq!(
            manager
                .refresh_rejected(&app(), old.expose_secret())
                .await
                .unwrap(),
            new
        );
    }
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_during_a_refresh_wait_for_the_new_token() {
    let world = World::new();
    let manager = world.manager();
    let app = app();
    let old = manager.token(&app).await.unwrap();
    world.issuer.takes(Duration::from_millis(100));
    let (refreshed, asked) = tokio::join!(
        manager.refresh_rejected(&app, old.expose_secret()),
        manager.token(&app)
    );
    assert_eq!(refreshed.unwrap(), asked.unwrap());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_could_not_be_replaced_is_not_used_again() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert!(fails_as(
        &manager.refresh_rejected(&app(), old.expose_secret()).await,
        ErrorKind::Refused
    ));
    assert!(fails_as(&manager.token(&app()).await, ErrorKind::Refused));
    advance(Duration::from_secs(10)).await;
    assert_ne!(manager.token(&app()).await.unwrap(), old);
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_budget_can_be_set() {
    let world = World::new();
    let manager = world.builder().refresh_budget(2).build();
    let mut token = manager.token(&app()).await.unwrap();
    for _ in 0..2 {
        token = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
    }
    let result = manager
        .refresh_rejected(&app(), token.expose_secret())
        .await;
    assert!(fails_as(&result, ErrorKind::HeldBack), "{result:?}");
    advance(Duration::from_secs(10)).await;
    assert!(
        manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_the_rejected_token_again_is_asked_once_for_each_refresh() {
    let world = World::new();
    world.issuer.repeats(Repeat::SameToken);
    let manager = world.manager();
    let token = manager.token(&app()).await.unwrap();
    // At the same moment in time, so that not even the time of the fetch is another.
    assert_eq!(
        manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap(),
        token
    );
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_scope_keeps_one_customers_rejections_from_holding_back_anothers() {
    for (has_scopes, healed) in [(true, 0), (false, 40014)] {
        let world = World::new();
        world.issuer.rejects_always("kf/send?customer=7");
        let client = world.client(&world.manager());
        let send = |customer: &str| {
            let url = format!("https://qyapi.weixin.qq.com/cgi-bin/kf/send?customer={customer}");
            let request = client.get(url);
            errcode_of(if has_scopes {
                request.with_extension(RejectionScope::new(customer))
            } else {
                request
            })
        };
        assert_eq!(send("8").await.unwrap(), 0);
        assert_eq!(send("7").await.unwrap(), 40014);
        let fetches = world.issuer.fetch_count();
        assert_eq!(send("7").await.unwrap(), 40014, "held back");
        assert_eq!(world.issuer.fetch_count(), fetches);

        world.issuer.end(&app(), 40014);
        assert_eq!(send("8").await.unwrap(), healed, "scopes: {has_scopes}");
    }
}

#[test]
fn a_scope_is_part_of_the_path_and_makes_no_other_path_of_it() {
    let mut extensions = http::Extensions::new();
    assert_eq!(RejectionScope::joined("/a", &extensions), "/a");
    extensions.insert(RejectionScope::new("b c"));
    assert_eq!(RejectionScope::joined("/a", &extensions), "/a b c");
}
