//! However many requests need a token at once, it is fetched once; and each app has its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;

use futures_util::future::join_all;
use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, RequestBuilder};
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, BoxError, Credentials, TokenKey, TokenManager, TokenStore,
    async_trait,
};
use support::{OTHER_SECRET, Qyapi, SECRET, app, other_app};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const CROWD: usize = 1000;

/// Counts what comes by.
#[derive(Clone, Default)]
struct Turnstile(watch::Sender<usize>);

impl Turnstile {
    fn pass(&self) {
        self.0.send_modify(|passed| *passed += 1);
    }

    async fn passed(&self, n: usize) {
        let mut passed = self.0.subscribe();
        passed.wait_for(|passed| *passed >= n).await.unwrap();
    }
}

/// A layer above the middleware: counts the requests that come to it.
struct Entrance(Turnstile);

/// A layer below the middleware: counts the answers that come to it.
struct Exit(Turnstile);

#[async_trait]
impl Middleware for Entrance {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.0.pass();
        next.run(request, extensions).await
    }
}

#[async_trait]
impl Middleware for Exit {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let answer = next.run(request, extensions).await;
        self.0.pass();
        answer
    }
}

/// A client of [`app`] for a crowd. The turnstiles count the requests that have asked for a token, and the answers.
fn crowd_client(qyapi: &Qyapi) -> (ClientWithMiddleware, Turnstile, Turnstile) {
    let http = qyapi.client_builder().http2_prior_knowledge();
    let (asked, answered) = <(Turnstile, Turnstile)>::default();
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).credentials(app());
    let client = ClientBuilder::new(http.build().unwrap())
        .with(Entrance(asked.clone()))
        .with(middleware.build())
        .with(Exit(answered.clone()))
        .build();
    (client, asked, answered)
}

fn user(qyapi: &Qyapi, client: &ClientWithMiddleware, credentials: &Credentials) -> RequestBuilder {
    let request = client.get(qyapi.url("user/get"));
    request.with_extension(credentials.clone())
}

type Call = JoinHandle<reqwest_middleware::Result<Response>>;

fn send_all(n: usize, request: impl Fn(usize) -> RequestBuilder) -> Vec<Call> {
    (0..n).map(|n| tokio::spawn(request(n).send())).collect()
}

async fn assert_all_succeed(calls: Vec<Call>) {
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap().unwrap().headers()["error-code"], "0");
    }
}

#[tokio::test]
async fn a_crowd_at_a_cold_start_costs_one_gettoken() {
    let qyapi = Qyapi::start().await;
    let (client, asked, _) = crowd_client(&qyapi);
    let gate = qyapi.hold_gettoken();
    let calls = send_all(CROWD, |_| user(&qyapi, &client, &app()));
    asked.passed(CROWD).await;
    gate.arrived(1).await;
    assert_eq!(qyapi.api_count(), 0);
    gate.open();
    assert_all_succeed(calls).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, CROWD));
}

#[tokio::test]
async fn a_crowd_that_is_rejected_at_once_costs_one_gettoken() {
    let qyapi = Qyapi::start().await;
    let (client, _, answered) = crowd_client(&qyapi);
    qyapi.warm(&client).await;
    qyapi.revoke(SECRET);
    let (api, gettoken) = (qyapi.hold_api(), qyapi.hold_gettoken());
    let calls = send_all(CROWD, |_| user(&qyapi, &client, &app()));
    api.arrived(CROWD).await;
    api.open();
    answered.passed(1 + CROWD).await;
    gettoken.arrived(1).await;
    assert_eq!(qyapi.api_count(), CROWD);
    gettoken.open();
    assert_all_succeed(calls).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 2 * CROWD));
}

/// A store that keeps nothing.
struct Nothing;

#[async_trait]
impl TokenStore for Nothing {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        Ok(None)
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_late_rejection_of_an_old_token_costs_no_gettoken() {
    let qyapi = Qyapi::start().await;
    let manager = TokenManager::builder(qyapi.source()).store(Nothing).build();
    let client = qyapi.wecom_on(&manager);
    qyapi.warm(&client).await;
    qyapi.revoke(SECRET);
    let late_gate = qyapi.hold_api();
    let late = send_all(3, |_| user(&qyapi, &client, &app()));
    late_gate.arrived(3).await;
    qyapi.hold_api().open(); // for those that come from now on
    assert_all_succeed(send_all(1, |_| user(&qyapi, &client, &app()))).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 3 + 2));

    late_gate.open();
    assert_all_succeed(late).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 3 + 2 + 3));
}

#[tokio::test]
async fn callers_who_give_up_harm_nobody() {
    let qyapi = Qyapi::start().await;
    let (client, asked, _) = crowd_client(&qyapi);
    let gate = qyapi.hold_gettoken();
    let mut early = send_all(1, |_| user(&qyapi, &client, &app()));
    gate.arrived(1).await;
    early.extend(send_all(9, |_| user(&qyapi, &client, &app())));
    let others = send_all(10, |_| user(&qyapi, &client, &app()));
    asked.passed(20).await;
    for call in early {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    gate.open();
    assert_all_succeed(others).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 10));
}

#[tokio::test]
async fn a_fetch_that_all_have_given_up_on_serves_the_next() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    let gate = qyapi.hold_gettoken();
    for call in send_all(3, |_| user(&qyapi, &client, &app())) {
        gate.arrived(1).await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    gate.open();
    assert_all_succeed(send_all(1, |_| user(&qyapi, &client, &app()))).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 1));
}

#[tokio::test]
async fn clients_that_share_a_manager_share_its_token() {
    let qyapi = Qyapi::start().await;
    let manager = qyapi.manager();
    let clients = [qyapi.wecom_on(&manager), qyapi.wecom_on(&manager)];
    assert_all_succeed(send_all(4, |n| user(&qyapi, &clients[n % 2], &app()))).await;
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 4));
}

#[tokio::test]
async fn the_credentials_on_a_request_pick_its_app() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    for (credentials, secret) in [(other_app(), OTHER_SECRET), (app(), SECRET)] {
        user(&qyapi, &client, &credentials).send().await.unwrap();
        assert_eq!(
            qyapi.last("user/get").access_token(),
            qyapi.current_token(secret)
        );
    }
    client.get(qyapi.url("user/get")).send().await.unwrap();
    assert_eq!(
        qyapi.last("user/get").access_token(),
        qyapi.current_token(SECRET)
    );
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn apps_that_are_mixed_at_once_keep_their_tokens_apart() {
    let qyapi = Qyapi::start().await;
    let (client, asked, _) = crowd_client(&qyapi);
    let gate = qyapi.hold_gettoken();
    let calls = send_all(45, |n| {
        let credentials = if n % 2 == 0 { app() } else { other_app() };
        user(&qyapi, &client, &credentials).header("x-app", n % 2)
    });
    asked.passed(45).await;
    gate.arrived(2).await;
    gate.open();
    assert_all_succeed(calls).await;

    assert_eq!(qyapi.gettoken_count_of(SECRET), 1);
    assert_eq!(qyapi.gettoken_count_of(OTHER_SECRET), 1);
    let calls = qyapi.received().into_iter();
    let mut sent = HashMap::<_, usize>::new();
    for call in calls.filter(|it| it.path == "user/get") {
        *sent
            .entry((call.headers["x-app"].clone(), call.access_token()))
            .or_default() += 1;
    }
    let expected = [("0", SECRET, 23), ("1", OTHER_SECRET, 22)];
    let expected =
        expected.map(|(app, secret, n)| ((app.parse().unwrap(), qyapi.current_token(secret)), n));
    assert_eq!(sent, expected.into());
}

#[tokio::test]
async fn a_revoked_app_costs_the_other_nothing() {
    let qyapi = Qyapi::start().await;
    let (client, ..) = crowd_client(&qyapi);
    let both = |n| {
        user(
            &qyapi,
            &client,
            &if n % 2 == 0 { app() } else { other_app() },
        )
    };
    assert_all_succeed(send_all(2, both)).await;
    qyapi.revoke(SECRET);
    assert_all_succeed(send_all(20, both)).await;
    assert_eq!(qyapi.gettoken_count_of(SECRET), 2);
    assert_eq!(qyapi.gettoken_count_of(OTHER_SECRET), 1);
}
