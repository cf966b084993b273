//! The errors of a request and of `gettoken` keep their kind, their source and their URL, and lose only what is secret.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::error::Error as StdError;
use std::time::Duration;

use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{AccessTokenMiddleware, Error, GetToken, TokenManager};
use support::{Answer, Drip, Qyapi, SECRET, app, with_tokens};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CALL: &str = "user/get?a=1";

#[derive(Clone, Copy, Debug)]
enum Sending {
    First,
    Replay,
}

/// Calls an API that gives this answer to the first sending or to the replay.
async fn call(
    sending: Sending,
    answer: Answer,
    http: &reqwest::Client,
) -> (Qyapi, reqwest_middleware::Result<reqwest::Response>) {
    let qyapi = Qyapi::start().await;
    let client = client(&qyapi, http);
    qyapi.warm(&client).await;
    if matches!(sending, Sending::Replay) {
        qyapi.revoke(SECRET);
        qyapi.script("user/get", Answer::errcode(40014));
    }
    qyapi.script("user/get", answer.always());
    let result = client.get(qyapi.url(CALL)).send().await;
    (qyapi, result)
}

fn client(qyapi: &Qyapi, http: &reqwest::Client) -> ClientWithMiddleware {
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).credentials(app());
    with_tokens(http.clone(), middleware.build())
}

fn http() -> reqwest::ClientBuilder {
    reqwest::Client::builder().no_proxy().referer(false)
}

/// The request's own error, with the caller's URL.
async fn assert_fails(answer: Answer, http: reqwest::Client, is_kind: fn(&reqwest::Error) -> bool) {
    for sending in [Sending::First, Sending::Replay] {
        let (qyapi, result) = call(sending, answer.clone(), &http).await;
        let reqwest_middleware::Error::Reqwest(error) = result.unwrap_err() else {
            panic!("not the request's own error")
        };
        assert!(is_kind(&error), "{sending:?}: {error:?}");
        assert!(error.source().is_some(), "{sending:?}: {error:?}");
        assert_eq!(error.url().unwrap().as_str(), qyapi.url(CALL));
    }
}

/// The error of reading a body that begins, and goes on as `ends` has it.
async fn assert_body_fails(
    http: reqwest::Client,
    ends: fn(Drip) -> Option<Drip>,
    is_kind: fn(&reqwest::Error) -> bool,
) {
    for sending in [Sending::First, Sending::Replay] {
        let (answer, drip) = Answer::dripped();
        drip.send("no object");
        let qyapi = Qyapi::start().await;
        let client = client(&qyapi, &http);
        qyapi.warm(&client).await;
        if matches!(sending, Sending::Replay) {
            qyapi.revoke(SECRET);
            qyapi.script("user/get", Answer::errcode(40014));
        }
        qyapi.script("user/get", answer);
        let response = client.get(qyapi.url(CALL)).send().await.unwrap();
        let _drip = ends(drip);
        let error = response.bytes().await.unwrap_err();
        assert!(is_kind(&error), "{sending:?}: {error:?}");
        assert!(error.source().is_some(), "{sending:?}: {error:?}");
        let token = qyapi.current_token(SECRET).unwrap();
        assert!(!format!("{error} {error:?}").contains(&token));
    }
}

#[tokio::test]
async fn a_timeout_stays_a_timeout() {
    let http = http().timeout(Duration::from_secs(1)).build().unwrap();
    assert_fails(Answer::hang(), http, |error| {
        error.is_timeout() && error.is_request()
    })
    .await;
}

#[tokio::test]
async fn a_failed_request_stays_one() {
    let http = http().build().unwrap();
    assert_fails(Answer::close(), http, |error| {
        error.is_request() && !error.is_connect()
    })
    .await;
}

#[tokio::test]
async fn a_redirect_without_end_stays_one() {
    let loops = Answer::status(302).header("location", "?a=1");
    let http = http().build().unwrap();
    for sending in [Sending::First, Sending::Replay] {
        let (_, result) = call(sending, loops.clone(), &http).await;
        let error = result.unwrap_err();
        assert!(error.is_redirect(), "{error:?}");
        assert!(error.url().is_some());
    }
}

#[tokio::test]
async fn a_missing_connection_stays_one() {
    let http = http().build().unwrap();
    let nobody = Answer::status(302).header("location", "http://127.0.0.1:1/login");
    for sending in [Sending::First, Sending::Replay] {
        let (_, result) = call(sending, nobody.clone(), &http).await;
        assert!(result.unwrap_err().is_connect());
    }
}

#[tokio::test]
async fn a_url_that_cannot_be_sent_stays_a_builder_error() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let error = client
        .get("hxxp://127.0.0.1/cgi-bin/user/get?a=1")
        .send()
        .await
        .unwrap_err();
    assert!(error.is_builder(), "{error:?}");

    let http = http().https_only(true).build().unwrap();
    let manager = qyapi.manager();
    manager.token(&app()).await.unwrap();
    let middleware = AccessTokenMiddleware::builder(manager).credentials(app());
    let client = with_tokens(http, middleware.build());
    let error = client.get(qyapi.url(CALL)).send().await.unwrap_err();
    assert!(error.is_builder(), "{error:?}");
    assert_eq!(error.url().unwrap().as_str(), qyapi.url(CALL));
}

#[tokio::test]
async fn a_status_error_has_the_callers_url() {
    let http = http().build().unwrap();
    for sending in [Sending::First, Sending::Replay] {
        let (qyapi, result) = call(sending, Answer::status(503), &http).await;
        let error = result.unwrap().error_for_status().unwrap_err();
        assert!(error.is_status());
        assert_eq!(error.status().unwrap(), 503);
        assert_eq!(error.url().unwrap().as_str(), qyapi.url(CALL));
    }
}

#[tokio::test]
async fn a_decode_error_has_the_callers_url() {
    let http = http().build().unwrap();
    for sending in [Sending::First, Sending::Replay] {
        let (qyapi, result) = call(sending, Answer::json("[]"), &http).await;
        let error = result.unwrap().json::<u8>().await.unwrap_err();
        assert!(error.is_decode(), "{error:?}");
        assert!(error.source().unwrap().is::<serde_json::Error>());
        assert_eq!(error.url().unwrap().as_str(), qyapi.url(CALL));
    }
}

/// What plain reqwest makes of a body that is cut off.
fn is_of_the_body(error: &reqwest::Error) -> bool {
    (error.is_body() || error.is_decode()) && !error.is_timeout()
}

#[tokio::test]
async fn a_body_that_is_cut_off_stays_a_body_error() {
    let cut = |drip: Drip| {
        drip.cut();
        None
    };
    assert_body_fails(http().build().unwrap(), cut, is_of_the_body).await;
}

#[tokio::test]
async fn a_timeout_within_the_body_stays_a_timeout() {
    let http = http().timeout(Duration::from_secs(1)).build().unwrap();
    assert_body_fails(http, Some, reqwest::Error::is_timeout).await;
}

/// Begins to answer, and hangs up.
async fn cuts_answers_off() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{")
                .await;
        }
    });
    format!("http://{addr}/").parse().unwrap()
}

/// Sees that a failure of `gettoken` can be found, with its kind and its URL, the query left out.
async fn assert_gettoken_fails(
    qyapi: &Qyapi,
    source: GetToken,
    is_kind: fn(&reqwest::Error) -> bool,
) {
    let base_url = reqwest_wecom::TokenSource::audience(&source)
        .base_url()
        .clone();
    let url = base_url.join("cgi-bin/user/get").unwrap();
    let manager = TokenManager::builder(source).build();
    let client = with_tokens(
        qyapi.client(),
        AccessTokenMiddleware::builder(manager)
            .credentials(app())
            .build(),
    );
    let failure = client.get(url).send().await.unwrap_err();
    let cause = Error::find(&failure).unwrap().source().unwrap();
    let cause = cause.downcast_ref::<reqwest::Error>().unwrap();
    assert!(is_kind(cause), "{cause:?}");
    if let Some(url) = cause.url() {
        let expected: Url = base_url.join("cgi-bin/gettoken").unwrap();
        assert_eq!(url, &expected);
    }
    assert!(!format!("{failure:?} {cause:?}").contains(SECRET));
}

#[tokio::test]
async fn a_gettoken_that_fails_keeps_its_kind_and_its_url_without_the_query() {
    let qyapi = Qyapi::start().await;
    let to = |http: reqwest::ClientBuilder| {
        GetToken::new(http.build().unwrap()).base_url(qyapi.base_url())
    };
    let nobody: Url = "http://127.0.0.1:1/".parse().unwrap();
    assert_gettoken_fails(&qyapi, to(http()).base_url(nobody), |it| {
        it.is_connect() && it.url().is_some()
    })
    .await;

    qyapi.script("gettoken", Answer::close().always());
    assert_gettoken_fails(&qyapi, to(http()), |it| {
        it.is_request() && it.url().is_some()
    })
    .await;
    assert_gettoken_fails(&qyapi, to(http().https_only(true)), |it| {
        it.is_builder() && it.url().is_some()
    })
    .await;
    qyapi.clear_script("gettoken");

    qyapi.script("gettoken", Answer::hang().always());
    let impatient = http().timeout(Duration::from_millis(100));
    assert_gettoken_fails(&qyapi, to(impatient), |it| {
        it.is_timeout() && it.url().is_some()
    })
    .await;
    qyapi.clear_script("gettoken");

    qyapi.script(
        "gettoken",
        Answer::status(302).header("location", "gettoken").always(),
    );
    assert_gettoken_fails(&qyapi, to(http()), |it| {
        it.is_redirect() && it.url().is_some()
    })
    .await;
    qyapi.clear_script("gettoken");

    let cut = to(http()).base_url(cuts_answers_off().await);
    assert_gettoken_fails(&qyapi, cut, is_of_the_body).await;
}
