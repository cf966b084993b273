//! Beside a layer that retries.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use reqwest::Response;
use reqwest::multipart::{Form, Part};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_retry::{
    DefaultRetryableStrategy, RetryTransientMiddleware, Retryable, RetryableStrategy,
};
use reqwest_wecom::{AccessTokenMiddleware, Error, TokenManager};
use support::{Answer, Qyapi, SECRET, app};

/// The strategy that the docs of the middleware show.
struct RetryTokens;

impl RetryableStrategy for RetryTokens {
    fn handle(&self, result: &reqwest_middleware::Result<Response>) -> Option<Retryable> {
        let Some(error) = result.as_ref().err().and_then(|error| Error::find(error)) else {
            return DefaultRetryableStrategy.handle(result);
        };
        let is_soon = error
            .retry_after()
            .is_none_or(|wait| wait <= Duration::from_secs(5));
        let retry = error.is_transient() && is_soon;
        Some(if retry {
            Retryable::Transient
        } else {
            Retryable::Fatal
        })
    }
}

/// A client whose second try comes when the cooldown is over.
fn retrying(
    qyapi: &Qyapi,
    strategy: impl RetryableStrategy + Send + Sync + 'static,
) -> ClientWithMiddleware {
    let wait = Duration::from_millis(1100);
    let policy = ExponentialBackoff::builder()
        .retry_bounds(wait, wait)
        .jitter(reqwest_retry::Jitter::None)
        .build_with_max_retries(1);
    let retry = RetryTransientMiddleware::new_with_policy_and_strategy(policy, strategy);
    // One try only, so that the failures of one fetch are few.
    let manager = TokenManager::builder(qyapi.source()).fetch_limit(Duration::from_millis(100));
    let tokens = AccessTokenMiddleware::builder(manager.build()).credentials(app());
    ClientBuilder::new(qyapi.client())
        .with(retry)
        .with(tokens.build())
        .build()
}

#[tokio::test]
async fn a_strategy_can_retry_a_failure_to_get_a_token() {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", Answer::status(503));
    let client = retrying(&qyapi, RetryTokens);
    let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn the_default_strategy_does_not_retry_a_failure_to_get_a_token() {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", Answer::status(503));
    let client = retrying(&qyapi, DefaultRetryableStrategy);
    let failure = client.get(qyapi.url("user/get")).send().await.unwrap_err();
    assert!(Error::find(&failure).unwrap().is_transient());
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_strategy_can_give_up_when_the_wait_is_long_or_another_try_is_of_no_use() {
    for answer in [
        Answer::status(503).header("retry-after", "30"),
        Answer::errcode(40001),
    ] {
        let qyapi = Qyapi::start().await;
        qyapi.script("gettoken", answer);
        let client = retrying(&qyapi, RetryTokens);
        let failure = client.get(qyapi.url("user/get")).send().await.unwrap_err();
        assert!(Error::find(&failure).is_some(), "{failure:?}");
        assert_eq!(qyapi.gettoken_count(), 1);
    }
}

#[tokio::test]
async fn a_form_goes_through_a_second_client_on_the_same_manager() {
    let qyapi = Qyapi::start().await;
    let tokens = qyapi.middleware(&qyapi.manager());
    let policy = ExponentialBackoff::builder().build_with_max_retries(1);
    let calls = ClientBuilder::new(qyapi.client())
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .with(tokens.clone())
        .build();
    let uploads = ClientBuilder::new(qyapi.client()).with(tokens).build();
    calls.get(qyapi.url("user/get")).send().await.unwrap();
    qyapi.revoke(SECRET);

    let url = qyapi.url("media/upload?type=file");
    let form = || Form::new().part("media", Part::bytes(vec![7; 1000]).file_name("a"));
    assert!(calls.post(&url).multipart(form()).send().await.is_err());
    let answer = uploads.post(&url).multipart(form()).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
    assert_eq!(qyapi.gettoken_count(), 2, "one more after the revocation");
}
