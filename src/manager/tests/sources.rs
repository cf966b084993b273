//! What a source is asked, and what becomes of its answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{advance, sleep};

use super::world::{Behaviour, LIFETIME, World, app, call};
use crate::{
    AccessToken, Error, FetchRequest, FetchedToken, TokenManager, TokenManagerBuilder, TokenSource,
};

/// Remembers what it was asked, and asks the issuer of the world.
struct Asked {
    world: World,
    requests: Mutex<Vec<FetchRequest>>,
}

impl Asked {
    fn manager(world: &World) -> (Arc<Self>, TokenManager) {
        let source = Arc::new(Self {
            world: world.clone(),
            requests: Mutex::default(),
        });
        let builder = TokenManagerBuilder {
            source: source.clone(),
            ..world.builder()
        };
        (source, builder.build())
    }

    /// The values of the tokens that it was told are rejected.
    fn rejected(&self) -> Vec<Option<String>> {
        let requests = self.requests.lock().unwrap();
        let value = |token: &AccessToken| token.expose_secret().to_owned();
        requests
            .iter()
            .map(|request| request.rejected().map(value))
            .collect()
    }
}

#[crate::async_trait]
impl TokenSource for Asked {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        self.requests.lock().unwrap().push(request.clone());
        self.world.issuer.fetch(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_learns_which_token_was_rejected_and_only_then() {
    let world = World::new();
    let (source, manager) = Asked::manager(&world);
    let client = world.client(&manager);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    let dead = manager.token(&app()).await.unwrap();
    world.issuer.end(&app(), 40014);
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);

    advance(LIFETIME - Duration::from_secs(60)).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);
    sleep(Duration::from_millis(1)).await;
    advance(LIFETIME * 2).await;
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);

    let dead = Some(dead.expose_secret().to_owned());
    assert_eq!(source.rejected(), [None, dead, None, None]);
    let requests = source.requests.lock().unwrap();
    assert!(requests.iter().all(|request| !request.is_forced()));
    assert!(
        requests
            .iter()
            .all(|request| request.credentials().id() == "corp")
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_learns_that_an_operator_wants_another_token_and_which_one_was_rejected() {
    let world = World::new();
    let (source, manager) = Asked::manager(&world);
    let first = manager.token(&app()).await.unwrap();
    manager.refresh(&app()).await.unwrap();
    let second = manager.refresh(&app()).await.unwrap();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    let value = second.expose_secret();
    assert!(manager.refresh_rejected(&app(), value).await.is_err());
    manager.refresh(&app()).await.unwrap();
    assert_ne!(first, second);
    let rejected = Some(value.to_owned());
    let expected = [None, None, None, rejected.clone(), rejected];
    assert_eq!(source.rejected(), expected);
    let requests = source.requests.lock().unwrap();
    let forced: Vec<_> = requests.iter().map(FetchRequest::is_forced).collect();
    assert_eq!(forced, [false, true, true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_source_is_told_again_of_the_rejected_token_until_it_has_returned_another() {
    let world = World::new();
    let (source, manager) = Asked::manager(&world);
    let dead = manager.token(&app()).await.unwrap();
    world
        .issuer
        .next(Behaviour::Fail(Error::refused("not now")));
    let refused = manager.refresh_rejected(&app(), dead.expose_secret()).await;
    assert!(refused.is_err());
    advance(Duration::from_secs(10)).await;
    manager.token(&app()).await.unwrap();

    let value = Some(dead.expose_secret().to_owned());
    assert_eq!(source.rejected(), [None, value.clone(), value]);
    let requests = source.requests.lock().unwrap();
    assert_eq!(requests[1].rejected(), Some(&dead));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_manager_never_had_can_be_reported_too() {
    let world = World::new();
    let (source, manager) = Asked::manager(&world);
    let token = manager.refresh_rejected(&app(), "from before").await;
    assert!(token.is_ok());
    assert_eq!(source.rejected(), [Some("from before".to_owned())]);
    let same = manager.refresh_rejected(&app(), "from before").await;
    assert_eq!(same.unwrap(), token.unwrap());
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_learns_the_current_token_even_if_it_has_expired() {
    let world = World::new();
    let (source, manager) = Asked::manager(&world);
    let first = manager.token(&app()).await.unwrap();
    advance(LIFETIME - Duration::from_secs(60)).await;
    manager.token(&app()).await.unwrap();
    world.issuer.asked(2).await;
    sleep(Duration::from_millis(1)).await;
    let second = manager.token(&app()).await.unwrap();
    advance(LIFETIME * 2).await;
    manager.token(&app()).await.unwrap();

    let requests = source.requests.lock().unwrap();
    let current = requests.iter().map(|it| (it.current(), it.current_left()));
    let minute = Duration::from_secs(60);
    for ((current, left), (expected, expected_left)) in current.zip([
        (None, Duration::ZERO),
        (Some(&first), minute),
        (Some(&second), Duration::ZERO),
    ]) {
        assert_eq!(current, expected);
        // Tokens keep whole milliseconds.
        let is_near = left <= expected_left && left + Duration::from_millis(1) > expected_left;
        assert!(is_near || left == expected_left, "{left:?}");
    }
    assert_eq!(requests.len(), 3);
}

/// Waits before it returns what it is told to.
struct Slow {
    go_on: Notify,
    expires_in: Duration,
}

#[crate::async_trait]
impl TokenSource for Slow {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        self.go_on.notified().await;
        Ok(FetchedToken::new("token", self.expires_in))
    }
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_counts_from_before_the_source_was_asked_by_the_managers_clock() {
    let world = World::new();
    world.clock.jump(-100_000_000);
    let source = Arc::new(Slow {
        go_on: Notify::new(),
        expires_in: Duration::from_millis(7_200_500),
    });
    let manager = TokenManagerBuilder {
        source: source.clone(),
        ..world.builder()
    }
    .build();
    let app = app();
    let asked_at = world.clock.now();
    let (token, ()) = tokio::join!(manager.token(&app), async {
        sleep(Duration::from_secs(3)).await;
        source.go_on.notify_one();
    });
    let token = token.unwrap();
    let late = token.fetched_at().duration_since(asked_at);
    let late = late.unwrap_or_else(|early| early.duration());
    assert!(late < Duration::from_millis(2), "{late:?}");
    let lifetime = token.expires_at().duration_since(token.fetched_at());
    assert_eq!(lifetime.unwrap(), source.expires_in);
}
