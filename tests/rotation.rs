//! A secret can be replaced while the program runs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::sync::{Arc, RwLock};

use reqwest_middleware::RequestBuilder;
use reqwest_wecom::{AccessTokenMiddleware, ErrorKind};
use serde_json::Value;
use support::{Answer, OTHER_SECRET, Qyapi, SECRET, app, is_kind, other_app, with_tokens};

async fn errcode(request: RequestBuilder) -> Option<i64> {
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    answer["errcode"].as_i64()
}

#[tokio::test]
async fn a_secret_is_replaced_by_what_chooses_the_credentials() {
    let qyapi = Qyapi::start().await;
    let current = Arc::new(RwLock::new(app()));
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).credentials_for({
        let current = current.clone();
        move |_request, _extensions| Some(current.read().unwrap().clone())
    });
    let client = with_tokens(qyapi.client(), middleware.build());
    let call = || client.get(qyapi.url("user/get?userid=a"));
    assert_eq!(errcode(call()).await, Some(0));

    *current.write().unwrap() = other_app();
    qyapi.revoke(SECRET);
    for _ in 0..3 {
        assert_eq!(errcode(call()).await, Some(0));
    }
    assert_eq!(qyapi.gettoken_count_of(SECRET), 1);
    assert_eq!(qyapi.gettoken_count_of(OTHER_SECRET), 1);
}

#[tokio::test]
async fn a_secret_is_replaced_by_the_extension_while_the_old_one_is_refused() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    let call = || client.get(qyapi.url("user/get?userid=a"));
    assert_eq!(errcode(call()).await, Some(0));

    qyapi.revoke(SECRET);
    qyapi.script("gettoken", Answer::errcode(40001).always());
    let refused = call().send().await.unwrap_err();
    assert!(is_kind(&refused, ErrorKind::Api), "{refused}");
    // The cooldown of the old secret does not hold back the new one.
    qyapi.clear_script("gettoken");
    let with_new = || call().with_extension(other_app());
    assert_eq!(errcode(with_new()).await, Some(0));
    assert_eq!(errcode(with_new()).await, Some(0));
    assert_eq!(qyapi.gettoken_count_of(OTHER_SECRET), 1);
}
