//! A manager that asks the store for each request (`local_copy` of zero) keeps all its other promises.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest_wecom::{
    AccessToken, BoxError, Error, FetchRequest, FetchedToken, TokenKey, TokenManager, TokenSource,
    TokenStore, async_trait,
};
use support::app;
use tokio::sync::{Semaphore, watch};

/// A token that is to be refreshed ahead: it has less than 5 minutes left.
fn expiring() -> AccessToken {
    let secs = Duration::from_secs;
    let now = SystemTime::now();
    AccessToken::from_parts("expiring", now - secs(7000), now + secs(200))
}

/// A store to which nothing can be written.
struct ReadOnly(AccessToken);

#[async_trait]
impl TokenStore for ReadOnly {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        Ok(Some(self.0.clone()))
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Err("read only".into())
    }
}

struct Source {
    gives_tokens: bool,
    fetches: watch::Sender<usize>,
    turns: Semaphore,
}

impl Source {
    fn new(gives_tokens: bool, turns: usize) -> Arc<Self> {
        Arc::new(Self {
            gives_tokens,
            fetches: watch::Sender::new(0),
            turns: Semaphore::new(turns),
        })
    }

    fn fetch_count(&self) -> usize {
        *self.fetches.borrow()
    }

    /// Waits until it has been asked so often.
    async fn asked(&self, times: usize) {
        let mut fetches = self.fetches.subscribe();
        fetches.wait_for(|&fetches| fetches >= times).await.unwrap();
    }

    /// A manager that has taken an expiring token from a store that keeps it.
    async fn manager(self: &Arc<Self>) -> TokenManager {
        let manager = TokenManager::builder(self.clone())
            .store(ReadOnly(expiring()))
            .local_copy(Duration::ZERO)
            .build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(token.expose_secret(), "expiring");
        manager
    }
}

#[async_trait]
impl TokenSource for Source {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        let number = self.fetch_count();
        self.fetches.send_modify(|fetches| *fetches += 1);
        self.turns.acquire().await.unwrap().forget();
        if self.gives_tokens {
            let value = number.to_string();
            Ok(FetchedToken::new(value, Duration::from_secs(7200)))
        } else {
            Err(Error::refused("as the test wants it"))
        }
    }
}

#[tokio::test]
async fn the_token_in_hand_serves_while_its_refresh_ahead_fails() {
    let source = Source::new(false, 0);
    let manager = source.manager().await;
    let credentials = app();
    let first = manager.token(&credentials).await.unwrap();
    source.asked(1).await;
    let (second, third, ()) = tokio::join!(
        manager.token(&credentials),
        manager.token(&credentials),
        async { source.turns.add_permits(1) },
    );
    for token in [first, second.unwrap(), third.unwrap()] {
        assert_eq!(token.expose_secret(), "expiring");
    }
    assert_eq!(source.fetch_count(), 1);
}

#[tokio::test]
async fn an_older_token_in_the_store_does_not_replace_the_one_in_hand() {
    let source = Source::new(true, Semaphore::MAX_PERMITS);
    let manager = source.manager().await;
    while manager.token(&app()).await.unwrap().expose_secret() == "expiring" {
        source.asked(1).await;
    }
    for _ in 0..20 {
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(token.expose_secret(), "0");
    }
    assert_eq!(source.fetch_count(), 1);
}
