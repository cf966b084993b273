//! A request's own time limit covers the wait for the token and both sendings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Extensions;
use reqwest::{Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wecom::{
    AccessTokenMiddleware, Credentials, Error, ErrorKind, FetchRequest, FetchedToken, TokenManager,
    TokenSource, async_trait,
};
use tokio::time::{Instant, sleep};

const URL: &str = "https://qyapi.weixin.qq.com/cgi-bin/user/get";
const SECOND: Duration = Duration::from_secs(1);

/// A source that takes its time.
struct Slow(Duration);

#[async_trait]
impl TokenSource for Slow {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        sleep(self.0).await;
        Ok(FetchedToken::new("token", Duration::from_secs(7200)))
    }
}

/// An API that takes its time and rejects the first call, as the last layer of a client. It notes the limit of each call.
#[derive(Clone, Default)]
struct Api {
    takes: Duration,
    limits: Arc<Mutex<Vec<Option<Duration>>>>,
}

#[async_trait]
impl Middleware for Api {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let calls = {
            let mut limits = self.limits.lock().unwrap();
            limits.push(request.timeout().copied());
            limits.len()
        };
        sleep(self.takes).await;
        let answer = http::Response::builder()
            .header("error-code", if calls == 1 { 40014 } else { 0 })
            .url(request.url().clone());
        Ok(answer.body("").unwrap().into())
    }
}

fn client(source: Slow, api: &Api) -> ClientWithMiddleware {
    let manager = TokenManager::builder(source).build();
    let middleware = AccessTokenMiddleware::builder(manager)
        .credentials(Credentials::new("corp", "secret"))
        .build();
    ClientBuilder::new(reqwest::Client::new())
        .with(middleware)
        .with(api.clone())
        .build()
}

#[tokio::test(start_paused = true)]
async fn each_sending_gets_what_is_left() {
    let api = Api {
        takes: SECOND,
        ..Api::default()
    };
    let client = client(Slow(2 * SECOND), &api);
    let answer = client.get(URL).timeout(10 * SECOND).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");

    // Two seconds for the token, one for the first sending, two for the refresh.
    let limits = api.limits.lock().unwrap().clone();
    let rounded = limits
        .iter()
        .map(|limit| limit.unwrap().as_secs_f64().round());
    assert_eq!(rounded.collect::<Vec<_>>(), [8.0, 5.0]);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_token_ends_with_the_limit() {
    let api = Api::default();
    let client = client(Slow(4 * SECOND), &api);
    let began = Instant::now();
    let error = client.get(URL).timeout(SECOND).send().await.unwrap_err();
    let error = Error::find(&error).unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let limit = format!("after {SECOND:?}");
    assert!(error.to_string().contains(&limit), "{error}");
    assert_eq!(began.elapsed(), SECOND);
    assert!(api.limits.lock().unwrap().is_empty(), "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn the_refresh_ends_with_the_limit() {
    let api = Api {
        takes: SECOND,
        ..Api::default()
    };
    let client = client(Slow(2 * SECOND), &api);
    let began = Instant::now();
    let error = client
        .get(URL)
        .timeout(4 * SECOND)
        .send()
        .await
        .unwrap_err();
    let error = Error::find(&error).unwrap();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(began.elapsed(), 4 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_none_is_set() {
    let api = Api::default();
    client(Slow(SECOND), &api).get(URL).send().await.unwrap();
    assert_eq!(*api.limits.lock().unwrap(), [None, None]);
}
