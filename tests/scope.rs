//! A token goes to the API that it is for, and nowhere else: not to another deployment, and not along a redirect.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use reqwest_middleware::ClientBuilder;
use reqwest_wecom::{
    AccessTokenMiddleware, Credentials, Error, ErrorKind, FetchRequest, FetchedToken, GetToken,
    TokenManager, TokenSource, async_trait,
};
use support::{Answer, CORP, OTHER_SECRET, Qyapi, SECRET, app};

#[tokio::test]
async fn two_deployments_in_one_program_never_see_each_others_token_or_secret() {
    let (one, other) = (Qyapi::start().await, Qyapi::start().await);
    let middleware = |qyapi: &Qyapi, secret: &str| {
        let source = GetToken::new(qyapi.client()).base_url(qyapi.base_url());
        AccessTokenMiddleware::builder(TokenManager::builder(source).build())
            .credentials(Credentials::new(CORP, secret))
            .build()
    };
    // Both in one client, so that each sees the requests of the other.
    let client = ClientBuilder::new(one.client())
        .with(middleware(&one, SECRET))
        .with(middleware(&other, OTHER_SECRET))
        .build();
    for qyapi in [&one, &other] {
        for _ in 0..2 {
            let answer = client.get(qyapi.url("user/get?a=1")).send().await.unwrap();
            assert_eq!(answer.headers()["error-code"], "0");
            qyapi.revoke(SECRET);
            qyapi.revoke(OTHER_SECRET);
        }
    }
    for (qyapi, foreign) in [(&one, OTHER_SECRET), (&other, SECRET)] {
        assert!(qyapi.gettoken_count() == 2 && qyapi.gettoken_count_of(foreign) == 0);
        for call in qyapi.received() {
            assert!(!call.uri.contains(foreign), "{}", call.uri);
            assert!(call.access_tokens().len() <= 1, "{}", call.uri);
        }
    }
}

/// What another host receives as `Referer` when a redirect leads there.
async fn referer_after_redirect(http: reqwest::Client) -> (Option<String>, String) {
    let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).credentials(app());
    let client = ClientBuilder::new(http).with(middleware.build()).build();
    let elsewhere = Answer::status(302).header("location", &other.url("login"));
    qyapi.script("user/get", elsewhere);
    client.get(qyapi.url("user/get?a=1")).send().await.unwrap();

    let received = other.last("login");
    let token = qyapi.current_token(SECRET).unwrap();
    assert!(!received.uri.contains(&token), "{}", received.uri);
    let referer = received.headers.get("referer");
    (referer.map(|it| it.to_str().unwrap().to_owned()), token)
}

#[tokio::test]
async fn without_referer_false_a_redirect_takes_the_token_to_another_host() {
    let http = reqwest::Client::builder().no_proxy();
    let (referer, token) = referer_after_redirect(http.build().unwrap()).await;
    assert!(referer.unwrap().contains(&token));
}

#[tokio::test]
async fn with_referer_false_a_redirect_takes_nothing_along() {
    let http = reqwest::Client::builder().no_proxy().referer(false);
    let (referer, _) = referer_after_redirect(http.build().unwrap()).await;
    assert_eq!(referer, None);
}

/// Gives tokens of this length.
struct OfLength(usize);

#[async_trait]
impl TokenSource for OfLength {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        Ok(FetchedToken::new(
            "x".repeat(self.0),
            Duration::from_secs(7200),
        ))
    }
}

#[tokio::test]
async fn an_empty_token_and_one_over_4_kib_are_errors_of_the_source() {
    for (length, is_good) in [(0, false), (1, true), (4096, true), (4097, false)] {
        let result = TokenManager::builder(OfLength(length))
            .build()
            .token(&app())
            .await;
        assert_eq!(result.is_ok(), is_good, "{length}");
        assert!(
            is_good || matches!(&result, Err(error) if error.kind() == ErrorKind::Refused),
            "{length}"
        );
    }
}
