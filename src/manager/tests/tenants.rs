//! Many keys on one manager.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::{Instant, advance};

use super::world::{Behaviour, World, app};
use crate::{
    AccessToken, BoxError, Credentials, Error, FetchRequest, FetchedToken, TokenKey, TokenManager,
    TokenSource, TokenStore,
};

const MANY: usize = 100_000;

fn tenant(n: usize) -> Credentials {
    Credentials::new("corp", n.to_string())
}

async fn tokens(manager: &TokenManager, tenants: impl Iterator<Item = usize>) {
    for n in tenants {
        manager.token(&tenant(n)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_many_tenants_costs_one_fetch() {
    let world = World::new();
    let manager = world.manager();
    tokens(&manager, (0..MANY).chain(0..MANY)).await;
    assert_eq!(world.issuer.fetch_count(), MANY);
}

#[tokio::test(start_paused = true)]
async fn idle_keys_are_let_go() {
    let world = World::new();
    let manager = world.manager();
    tokens(&manager, 0..10_000).await;
    advance(Duration::from_secs(3600)).await;
    tokens(&manager, 0..10).await;
    manager.token(&tenant(MANY)).await.unwrap();
    advance(Duration::from_secs(3600)).await;
    tokens(&manager, 0..10).await;
    manager.token(&tenant(MANY + 1)).await.unwrap();
    let held = manager.shared.slots.len();
    assert!((11..=20).contains(&held), "{held} keys are held");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_new_keys_is_never_refused_and_never_fills_the_memory() {
    let world = World::new();
    let manager = world.manager();
    for n in 0..MANY {
        manager.token(&tenant(n)).await.unwrap();
        if n % 16 == 0 {
            advance(Duration::from_secs(1)).await;
        }
    }
    let held = manager.shared.slots.len();
    assert!(held < MANY / 8, "{held} keys are held");
}

#[tokio::test(start_paused = true)]
async fn keys_in_use_are_kept_however_many_they_are() {
    let (world, many) = (World::new(), 10_000);
    let manager = world.manager();
    for _ in 0..10 {
        tokens(&manager, 0..many).await;
        advance(Duration::from_secs(60)).await;
    }
    manager.token(&tenant(many)).await.unwrap();
    assert_eq!(manager.shared.slots.len(), many + 1);
}

#[tokio::test(start_paused = true)]
async fn the_app_of_a_middleware_is_kept_as_long_as_that() {
    let world = World::new();
    let manager = world.manager();
    let client = world.client(&manager);
    let idle_long_enough = Duration::from_secs(301);
    let slots = async |app| {
        for _ in 0..3 {
            advance(idle_long_enough).await;
            tokens(&manager, app..=app).await;
            yield_now().await;
        }
        manager.shared.slots.len()
    };
    assert_eq!(slots(0).await, 2);
    drop(client);
    assert_eq!(slots(1).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_in_cooldown_is_kept() {
    let world = World::new();
    let manager = world.manager();
    // Each cooldown is twice as long, up to 5 min.
    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    for pause in [10, 20, 40, 80, 160] {
        assert!(manager.token(&app()).await.is_err());
        advance(Duration::from_secs(pause)).await;
    }
    assert!(manager.token(&app()).await.is_err());
    let fetches = world.issuer.fetch_count();
    world.issuer.usually(Behaviour::Issue);
    for (n, later) in [1, 290].into_iter().enumerate() {
        advance(Duration::from_secs(later)).await;
        tokens(&manager, n..=n).await;
    }
    assert!(manager.token(&app()).await.is_err());
    assert_eq!(world.issuer.fetch_count(), fetches + 2);
}

#[tokio::test(start_paused = true)]
async fn fetches_that_hang_do_not_keep_another_tenant_waiting() {
    for (hung, longest) in [(16, 2), (100, 4), (1000, 7)] {
        let world = World::new();
        for _ in 0..hung {
            world.issuer.next(Behaviour::Hang);
        }
        let manager = world.manager();
        for n in 0..hung {
            let manager = manager.clone();
            tokio::spawn(async move { manager.token(&tenant(n)).await });
        }
        world.issuer.asked(8).await;
        let began = Instant::now();
        assert!(manager.token(&tenant(hung)).await.is_ok());
        let waited = began.elapsed();
        assert!(waited <= Duration::from_secs(longest), "{waited:?}");
    }
}

#[test]
fn fetches_on_a_runtime_that_nobody_drives_do_not_keep_another_tenant_waiting() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let parked = runtime();
    let (world, manager) = parked.block_on(async {
        let world = World::new();
        let manager = world.manager();
        for n in 0..8 {
            world.issuer.next(Behaviour::Hang);
            let manager = manager.clone();
            tokio::spawn(async move { manager.token(&tenant(n)).await });
        }
        world.issuer.asked(8).await;
        (world, manager)
    });
    runtime().block_on(async {
        for n in 8..20 {
            let began = Instant::now();
            manager.token(&tenant(n)).await.unwrap();
            let waited = began.elapsed();
            assert!(waited <= Duration::from_secs(2), "{waited:?}");
        }
    });
    assert_eq!(world.issuer.fetch_count(), 20);
    drop(parked);
}

/// A source that needs the token of another app of the same manager first.
struct Nested {
    world: World,
    manager: OnceLock<TokenManager>,
}

#[crate::async_trait]
impl TokenSource for Nested {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        if request.credentials().id() != "upstream" {
            let upstream = Credentials::new("upstream", "secret");
            self.manager.get().unwrap().token(&upstream).await?;
        }
        self.world.issuer.fetch(request).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_needs_a_token_of_the_same_manager_is_served() {
    for tenants in [20, 100] {
        let world = World::new();
        world.issuer.takes(Duration::from_millis(100));
        let nested = Arc::new(Nested {
            world: world.clone(),
            manager: OnceLock::new(),
        });
        let manager = world.manager_of(nested.clone());
        assert!(nested.manager.set(manager.clone()).is_ok());
        let began = Instant::now();
        let tokens = (0..tenants).map(|n| {
            let manager = &manager;
            async move { manager.token(&tenant(n)).await }
        });
        assert!(join_all(tokens).await.iter().all(Result::is_ok));
        let waited = began.elapsed();
        assert!(waited <= Duration::from_secs(5), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slots_go_within_ten_minutes_of_their_last_use_also_if_one_key_is_in_use() {
    let world = World::new();
    let manager = world.manager();
    tokens(&manager, 0..50_000).await;
    for _ in 0..60 {
        tokens(&manager, 0..=0).await;
        advance(Duration::from_secs(10)).await;
    }
    tokens(&manager, 0..=0).await;
    yield_now().await;
    assert_eq!(manager.shared.slots.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slot_whose_token_no_store_has_is_kept_until_the_token_expires() {
    /// A store that keeps nothing.
    struct Full;

    #[crate::async_trait]
    impl TokenStore for Full {
        async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
            Ok(None)
        }

        async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
            Err("the disk is full".into())
        }
    }

    let world = World::new();
    let manager = world.builder().store(Full).build();
    tokens(&manager, 0..2).await;
    for _ in 0..4 {
        advance(Duration::from_secs(301)).await;
        tokens(&manager, 0..=0).await;
        yield_now().await;
    }
    tokens(&manager, 1..=1).await;
    assert_eq!(world.issuer.fetch_count(), 2);
}
