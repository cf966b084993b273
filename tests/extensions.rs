//! The extensions of a response don't show the token. A version of `reqwest` that leaves the URL in another extension fails these tests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use http::Extensions;
use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::Response;
use reqwest_middleware::ClientBuilder;
use support::Qyapi;
use tower_http::follow_redirect::RequestUri;

/// How many extensions there are, and how many of them are known: where the connection goes to, and the URL.
fn count(extensions: &Extensions) -> (usize, [bool; 2]) {
    let known = [
        extensions.get::<HttpInfo>().is_some(),
        extensions.get::<RequestUri>().is_some(),
    ];
    (extensions.len(), known)
}

async fn responses() -> [Response; 2] {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let token = qyapi.current_token(support::SECRET).unwrap();
    let url = qyapi.url("user/get");
    let with_token = format!("{url}?access_token={token}");
    let plain = ClientBuilder::new(qyapi.client()).build();
    [
        plain.get(with_token).send().await.unwrap(),
        client.get(url).send().await.unwrap(),
    ]
}

#[tokio::test]
async fn reqwest_leaves_the_url_in_the_one_extension_that_is_taken_out() {
    let [plain, ours] = responses().await;
    assert_eq!(count(plain.extensions()), (2, [true, true]));
    assert_eq!(count(ours.extensions()), (1, [true, false]));
}

#[tokio::test]
async fn nothing_else_of_a_response_shows_the_token() {
    let [plain, ours] = responses().await;
    assert!(plain.url().as_str().contains("access_token="));
    let shown = format!("{ours:?} {:?}", ours.extensions());
    assert!(!shown.contains("access_token"), "{shown}");
    let ours: http::Response<reqwest::Body> = ours.into();
    let shown = format!("{ours:?}");
    assert!(!shown.contains("access_token"), "{shown}");
}
