//! Tokens are kept where the program wants them, and a store that is in trouble costs no request.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, BoxError, Error, FetchRequest, FetchedToken, MokaStore,
    TokenKey, TokenManager, TokenSource, TokenStore, async_trait,
};
use support::{Qyapi, SECRET, app, token, with_tokens};

const TWO_HOURS: Duration = Duration::from_secs(7200);

/// A store as a user might write it: a table that keeps the parts of a token in columns, the times in whole seconds.
#[derive(Default)]
struct Table {
    rows: Mutex<HashMap<String, (String, u64, u64)>>,
    calls: AtomicUsize,
}

#[async_trait]
impl TokenStore for Table {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.calls.fetch_add(1, Relaxed);
        let time = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let rows = self.rows.lock().unwrap();
        Ok(rows
            .get(key.as_str())
            .map(|(value, fetched_at, expires_at)| {
                AccessToken::from_parts(value.as_str(), time(*fetched_at), time(*expires_at))
            }))
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.calls.fetch_add(1, Relaxed);
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let row = (
            token.expose_secret().to_owned(),
            seconds(token.fetched_at()),
            seconds(token.expires_at()),
        );
        self.rows.lock().unwrap().insert(key.to_string(), row);
        Ok(())
    }
}

impl Table {
    /// Puts a token there that the stand-in has given to another process.
    async fn with_issued(qyapi: &Qyapi) -> Arc<Self> {
        let table = Arc::new(Self::default());
        table.put_issued(qyapi).await;
        table
    }

    async fn put_issued(&self, qyapi: &Qyapi) {
        let token = token(qyapi.issue(SECRET), TWO_HOURS);
        self.put(&qyapi.key(&app()), &token).await.unwrap();
    }

    fn value(&self) -> Option<String> {
        let rows = self.rows.lock().unwrap();
        rows.values().next().map(|row| row.0.clone())
    }
}

/// A store that is asked for one thing only, and gives it no matter what is put there.
struct Gives(AccessToken);

#[async_trait]
impl TokenStore for Gives {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        Ok(Some(self.0.clone()))
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Ok(())
    }
}

/// A store in trouble.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    GetFails,
    PutFails,
    GetPanics,
    PutPanics,
    GetHangs,
    PutHangs,
}

#[async_trait]
impl TokenStore for Trouble {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        match self {
            Self::GetFails => Err("down".into()),
            Self::GetPanics => panic!("as the test wants it"),
            Self::GetHangs => pending().await,
            _ => Ok(None),
        }
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        match self {
            Self::PutFails => Err("down".into()),
            Self::PutPanics => panic!("as the test wants it"),
            Self::PutHangs => pending().await,
            _ => Ok(()),
        }
    }
}

/// A source of numbered tokens.
#[derive(Default)]
struct Numbered(AtomicUsize);

#[async_trait]
impl TokenSource for Numbered {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        let number = self.0.fetch_add(1, Relaxed);
        Ok(FetchedToken::new(number.to_string(), TWO_HOURS))
    }
}

fn wecom_with(qyapi: &Qyapi, store: impl TokenStore) -> ClientWithMiddleware {
    let manager = TokenManager::builder(qyapi.source()).store(store);
    qyapi.wecom_on(&manager.build())
}

/// Sees that a request succeeds, and gives the token that it was sent with.
async fn token_sent(qyapi: &Qyapi, client: &ClientWithMiddleware) -> Option<String> {
    let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
    qyapi.last("user/get").access_token()
}

#[tokio::test]
async fn a_store_of_ones_own_gets_the_token_that_is_sent() {
    let qyapi = Qyapi::builder().tls().start().await;
    let table = Arc::new(Table::default());
    let http = qyapi.client();
    let middleware = AccessTokenMiddleware::with_store(http.clone(), app(), table.clone());
    let sent = token_sent(&qyapi, &with_tokens(http, middleware)).await;
    assert_eq!(sent, qyapi.current_token(SECRET));
    assert_eq!(sent, table.value());
    let token = table.get(&qyapi.key(&app())).await.unwrap().unwrap();
    let lifetime = token.expires_at().duration_since(token.fetched_at());
    assert_eq!(lifetime.unwrap(), TWO_HOURS);
}

#[tokio::test]
async fn a_token_in_the_store_costs_no_gettoken() {
    let qyapi = Qyapi::start().await;
    let table = Table::with_issued(&qyapi).await;
    let sent = token_sent(&qyapi, &wecom_with(&qyapi, table.clone())).await;
    assert_eq!(sent, table.value());
    assert_eq!(qyapi.gettoken_count(), 0);
}

#[tokio::test]
async fn a_rejected_token_is_replaced_in_the_store() {
    let qyapi = Qyapi::start().await;
    let found = Table::with_issued(&qyapi).await;
    let fetched = Arc::new(Table::default());
    for table in [found, fetched] {
        let client = wecom_with(&qyapi, table.clone());
        qyapi.warm(&client).await;
        let old = table.value();
        qyapi.revoke(SECRET);
        let sent = token_sent(&qyapi, &client).await;
        assert_ne!(sent, old);
        assert_eq!(sent, table.value());
        assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (2, 1));
    }
}

#[tokio::test]
async fn a_token_that_another_process_has_refreshed_costs_no_gettoken() {
    let qyapi = Qyapi::start().await;
    let table = Table::with_issued(&qyapi).await;
    let client = wecom_with(&qyapi, table.clone());
    qyapi.warm(&client).await;
    table.put_issued(&qyapi).await;
    assert_eq!(token_sent(&qyapi, &client).await, table.value());
    assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (2, 0));
}

#[tokio::test]
async fn a_store_that_fails_or_panics_costs_no_request() {
    for trouble in [
        Trouble::GetFails,
        Trouble::PutFails,
        Trouble::GetPanics,
        Trouble::PutPanics,
    ] {
        let qyapi = Qyapi::start().await;
        let client = wecom_with(&qyapi, trouble);
        assert_eq!(
            token_sent(&qyapi, &client).await,
            qyapi.current_token(SECRET)
        );
        assert_eq!(qyapi.gettoken_count(), 1, "{trouble:?}");
        qyapi.revoke(SECRET);
        assert_eq!(
            token_sent(&qyapi, &client).await,
            qyapi.current_token(SECRET)
        );
        assert_eq!(qyapi.gettoken_count(), 2, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_no_token() {
    for trouble in [Trouble::GetHangs, Trouble::PutHangs] {
        let source = Arc::new(Numbered::default());
        let manager = TokenManager::builder(source.clone()).store(trouble).build();
        let token = manager.token(&app()).await.unwrap();
        assert_eq!(token.expose_secret(), "0");
        let refreshed = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
        assert_eq!(refreshed.expose_secret(), "1");
        assert_eq!(manager.token(&app()).await.unwrap(), refreshed);
        assert_eq!(source.0.load(Relaxed), 2, "{trouble:?}");
    }
}

#[tokio::test]
async fn what_a_store_gives_is_used_only_if_it_can_serve() {
    let now = SystemTime::now();
    let qyapi = Qyapi::start().await;
    let rejected = qyapi.issue(SECRET);
    qyapi.revoke(SECRET);
    for (given, sendings) in [
        (token(rejected, TWO_HOURS), 2),
        (AccessToken::from_parts("expired", now - TWO_HOURS, now), 1),
        (token("", TWO_HOURS), 1),
        (token("x".repeat(5000), TWO_HOURS), 1),
    ] {
        qyapi.forget_received();
        let client = wecom_with(&qyapi, Gives(given));
        for calls in [sendings, sendings + 1] {
            assert_eq!(
                token_sent(&qyapi, &client).await,
                qyapi.current_token(SECRET)
            );
            assert_eq!(
                (qyapi.count("user/get"), qyapi.gettoken_count()),
                (calls, 1)
            );
        }
    }
}

#[tokio::test]
async fn managers_that_share_a_store_share_its_tokens() {
    let qyapi = Qyapi::start().await;
    let store = MokaStore::new();
    let clients = [(); 2].map(|()| wecom_with(&qyapi, store.clone()));
    for gettokens in [1, 2] {
        for client in &clients {
            assert_eq!(
                token_sent(&qyapi, client).await,
                qyapi.current_token(SECRET)
            );
            assert_eq!(qyapi.gettoken_count(), gettokens);
        }
        qyapi.revoke(SECRET);
    }
}

#[tokio::test]
async fn a_store_can_be_given_in_an_arc_or_a_box() {
    let qyapi = Qyapi::start().await;
    let gives = || Gives(token(qyapi.current_token(SECRET).unwrap(), TWO_HOURS));
    qyapi.issue(SECRET);
    let object: Arc<dyn TokenStore> = Arc::new(gives());
    let boxed: Box<dyn TokenStore> = Box::new(gives());
    let clients = [
        wecom_with(&qyapi, Arc::new(gives())),
        wecom_with(&qyapi, object.clone()),
        wecom_with(&qyapi, Arc::new(object)),
        wecom_with(&qyapi, boxed),
    ];
    for client in clients {
        assert_eq!(
            token_sent(&qyapi, &client).await,
            qyapi.current_token(SECRET)
        );
    }
    assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (4, 0));
}

#[tokio::test]
async fn the_store_is_not_asked_on_the_way_of_ordinary_requests() {
    let qyapi = Qyapi::start().await;
    let table = Arc::new(Table::default());
    let client = wecom_with(&qyapi, table.clone());
    qyapi.warm(&client).await;
    let calls = table.calls.load(Relaxed);
    for _ in 0..100 {
        token_sent(&qyapi, &client).await;
    }
    assert_eq!(table.calls.load(Relaxed), calls);
}

#[tokio::test]
async fn the_store_is_asked_for_each_request_if_so_wanted() {
    let qyapi = Qyapi::start().await;
    let table = Table::with_issued(&qyapi).await;
    let manager = TokenManager::builder(qyapi.source())
        .store(table.clone())
        .local_copy(Duration::ZERO);
    let client = qyapi.wecom_on(&manager.build());
    for _ in 0..10 {
        let calls = table.calls.load(Relaxed);
        assert_eq!(token_sent(&qyapi, &client).await, table.value());
        assert_eq!(table.calls.load(Relaxed), calls + 1);
    }

    table.put_issued(&qyapi).await; // ends the one before it
    assert_eq!(token_sent(&qyapi, &client).await, table.value());
    assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (11, 0));
}

#[tokio::test]
async fn a_rejected_token_is_not_given_out_again_when_the_store_has_cut_its_times_to_seconds() {
    let manager = TokenManager::builder(Numbered::default())
        .store(Table::default())
        .local_copy(Duration::ZERO)
        .build();
    let fetched = manager.token(&app()).await.unwrap();
    let stored = manager.token(&app()).await.unwrap();
    assert_eq!(stored.expose_secret(), fetched.expose_secret());
    let refreshed = manager
        .refresh_rejected(&app(), fetched.expose_secret())
        .await
        .unwrap();
    assert_ne!(refreshed.expose_secret(), fetched.expose_secret());
}

#[tokio::test]
async fn two_base_urls_over_one_store_never_see_each_others_token() {
    let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
    let behind = Qyapi::builder().prefix("/proxy/qyapi").start().await;
    let store = MokaStore::new();
    let servers = [&qyapi, &other, &behind];
    for _ in 0..2 {
        for server in servers {
            let client = wecom_with(server, store.clone());
            assert_eq!(
                token_sent(server, &client).await,
                server.current_token(SECRET)
            );
        }
    }
    for server in servers {
        assert_eq!(server.gettoken_count(), 1, "the second time it is there");
        assert_eq!(server.count("user/get"), 2);
        let kept = store.get(&server.key(&app())).await.unwrap().unwrap();
        let current = server.current_token(SECRET);
        assert_eq!(Some(kept.expose_secret()), current.as_deref());
    }
}
