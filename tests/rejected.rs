//! When the API rejects a token, there is one `gettoken` and one replay; nothing else is taken for a rejection.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use reqwest::header::HeaderMap;
use reqwest::{Body, Response, Version};
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{AccessTokenMiddleware, Error};
use serde_json::{Value, json};
use support::{Answer, Qyapi, Received, SECRET, app, with_tokens};

/// Calls `path` with this client, and gives the answer and what the API received for it.
async fn call(
    qyapi: &Qyapi,
    client: &ClientWithMiddleware,
    path: &str,
) -> (Response, Vec<Received>) {
    qyapi.forget_received();
    let url = qyapi.url(&format!("{path}?a=1"));
    let answer = client.get(url).send().await.unwrap();
    (answer, calls(qyapi, path))
}

fn calls(qyapi: &Qyapi, path: &str) -> Vec<Received> {
    let received = qyapi.received().into_iter();
    received.filter(|it| it.path == path).collect()
}

/// Sees that there was one `gettoken` and one replay, with the new token in the place of the old.
fn assert_replayed(qyapi: &Qyapi, calls: &[Received], old: &str) {
    assert_eq!(qyapi.gettoken_count(), 1);
    let [first, second] = calls else {
        panic!("sent {} times", calls.len())
    };
    let new = qyapi.current_token(SECRET).unwrap();
    assert_eq!(first.access_tokens(), [old]);
    assert_eq!(second.access_tokens(), [&*new]);
    assert_eq!(second.uri, first.uri.replace(old, &new));
}

/// Sees that this answer to a call is handed on as it is, and costs nothing.
async fn assert_no_rejection(qyapi: &Qyapi, client: &ClientWithMiddleware, answer: Answer) {
    qyapi.script("user/get", answer.clone().times(2));
    let plain = qyapi
        .client()
        .get(qyapi.url("user/get"))
        .send()
        .await
        .unwrap();
    let (answer, calls) = call(qyapi, client, "user/get").await;
    assert_same_answer(answer, plain).await;
    assert_eq!((calls.len(), qyapi.gettoken_count()), (1, 0));
}

async fn assert_same_answer(answer: Response, expected: Response) {
    let timeless = |response: &Response| -> HeaderMap {
        let mut headers = response.headers().clone();
        headers.remove("date");
        headers
    };
    assert_eq!(answer.status(), expected.status());
    assert_eq!(timeless(&answer), timeless(&expected));
    assert_eq!(answer.text().await.unwrap(), expected.text().await.unwrap());
}

#[tokio::test]
async fn a_rejected_token_costs_one_gettoken_and_one_replay() {
    for (errcode, error_headers, errcode_first, path) in [
        (40014, true, true, "user/get"),
        (40014, false, true, "user/get"),
        (40014, false, false, "user/get"),
        (40014, false, true, "get_api_domain_ip"),
        (42001, true, true, "user/get"),
        (42001, false, true, "user/get"),
        (42001, false, false, "user/get"),
        (42001, false, true, "get_api_domain_ip"),
    ] {
        let qyapi = Qyapi::start().await;
        qyapi.error_headers(error_headers);
        qyapi.errcode_first(errcode_first);
        let client = qyapi.warm_wecom().await;
        let old = qyapi.current_token(SECRET).unwrap();
        match errcode {
            40014 => qyapi.revoke(SECRET),
            _ => qyapi.expire(SECRET),
        }
        let (answer, calls) = call(&qyapi, &client, path).await;
        assert_replayed(&qyapi, &calls, &old);
        assert_eq!(answer.json::<Value>().await.unwrap()["errcode"], 0);
    }
}

#[tokio::test]
async fn every_way_to_write_the_errcode_is_understood() {
    for answer in [
        Answer::json(r#"{"errcode":40014}"#),
        Answer::json(r#"{"errcode":"40014","errmsg":"x"}"#),
        Answer::json(" \r\n{\"results\":[{\"errcode\":0}], \"errcode\" : \"42001\"}\n"),
        Answer::status(200).body(r#"{"errcode":40014}"#),
        Answer::status(200)
            .body(r#"{"errcode":40014}"#)
            .header("content-type", "text/plain"),
        Answer::status(200)
            .header("error-code", "40014")
            .body("no errcode here"),
        Answer::status(200)
            .header("error-code", "42001")
            .header("content-type", "image/png"),
        Answer::json(r#"{"errcode":0}"#).header("error-code", "40014"),
        Answer::json(r#"{"errcode":40014}"#).header("error-code", "none"),
    ] {
        let qyapi = Qyapi::start().await;
        let client = qyapi.warm_wecom().await;
        let old = qyapi.current_token(SECRET).unwrap();
        qyapi.script("user/get", answer);
        let (answer, calls) = call(&qyapi, &client, "user/get").await;
        assert_replayed(&qyapi, &calls, &old);
        assert_eq!(answer.headers()["error-code"], "0");
    }
}

#[tokio::test]
async fn the_replay_is_the_same_request_with_another_token() {
    for tls in [false, true] {
        let qyapi = match tls {
            true => Qyapi::builder().tls().start().await,
            false => Qyapi::start().await,
        };
        let client = qyapi.warm_wecom().await;
        let old = qyapi.current_token(SECRET).unwrap();
        qyapi.revoke(SECRET);
        let message = json!({ "touser": "张三", "text": { "content": "\u{0} & ü" } });
        let answer = client
            .post(qyapi.url("message/send?debug=%e4+'"))
            .header("x-mark", "one")
            .header("x-mark", "two")
            .json(&message)
            .send()
            .await
            .unwrap();

        assert_eq!(answer.json::<Value>().await.unwrap()["errcode"], 0);
        let calls = calls(&qyapi, "message/send");
        assert_replayed(&qyapi, &calls, &old);
        assert_eq!(
            calls[0].version,
            if tls {
                Version::HTTP_2
            } else {
                Version::HTTP_11
            }
        );
        assert_eq!(
            serde_json::from_slice::<Value>(&calls[0].body).unwrap(),
            message
        );
        let sent = |it: &Received| {
            (
                it.method.clone(),
                it.version,
                it.headers.clone(),
                it.body.clone(),
            )
        };
        assert_eq!(sent(&calls[1]), sent(&calls[0]));
        assert_eq!(calls[1].headers.get_all("x-mark").iter().count(), 2);
    }
}

#[tokio::test]
async fn a_second_rejection_is_handed_on_as_it_is() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let second = Answer::status(418)
        .header("content-type", "application/json")
        .header("x-mark", "second")
        .header("set-cookie", "a=b")
        .body(r#" {"errmsg":"again \" ","errcode":42001} "#);
    qyapi.script("user/get", second.clone());
    let plain = qyapi
        .client()
        .get(qyapi.url("user/get"))
        .send()
        .await
        .unwrap();

    qyapi.script("user/get", Answer::errcode(40014));
    qyapi.script("user/get", second);
    let (answer, calls) = call(&qyapi, &client, "user/get").await;
    assert_eq!((calls.len(), qyapi.gettoken_count()), (2, 1));
    assert_same_answer(answer, plain).await;
}

#[tokio::test]
async fn other_errcodes_are_handed_on() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    for errcode in [41001, 40001, 60020, 640_014, 740_014, 45009, -1, 0] {
        assert_no_rejection(&qyapi, &client, Answer::errcode(errcode)).await;
        qyapi.error_headers(false);
        assert_no_rejection(&qyapi, &client, Answer::errcode(errcode)).await;
        qyapi.error_headers(true);
    }
}

#[tokio::test]
async fn what_only_looks_like_a_rejection_is_handed_on() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    for answer in [
        Answer::json(r#"{"errcode":0,"results":[{"errcode":40014}]}"#),
        Answer::json(r#"{"results":{"errcode":40014}}"#),
        Answer::json(r#"{"errcode":0,"text":"\"errcode\":40014"}"#),
        Answer::json(r#"[{"errcode":40014}]"#),
        Answer::json(r#"{"errcode":40014"#),
        Answer::json(""),
        Answer::json(r#"{"errcode":40014}"#).header("error-code", "0"),
        Answer::json(r#"{"errcode":40014}"#).header("content-type", "application/octet-stream"),
        Answer::json(r#"{"errcode":40014}"#)
            .header("content-disposition", "attachment; filename=\"张三.json\""),
        Answer::status(502).body("<html>\"errcode\":40014</html>"),
    ] {
        assert_no_rejection(&qyapi, &client, answer).await;
    }
}

#[tokio::test]
async fn an_answer_of_another_host_is_no_rejection() {
    let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
    let client = qyapi.warm_wecom().await;
    let moved = other.url("user/get?moved=1");
    qyapi.script("user/get", Answer::status(302).header("location", &moved));
    other.reject_always("user/get", 40014);
    let (answer, calls) = call(&qyapi, &client, "user/get").await;
    assert_eq!((calls.len(), qyapi.gettoken_count()), (1, 0));
    assert_eq!(answer.headers()["error-code"], "40014");
    assert_eq!(answer.url().as_str(), moved);
}

#[tokio::test]
async fn a_replay_that_fails_on_the_wire_gives_that_error_without_the_token() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    qyapi.script("user/get", Answer::errcode(40014));
    qyapi.script("user/get", Answer::close());
    let url = qyapi.url("user/get?a=1");
    let error = client.get(&url).send().await.unwrap_err();
    assert!(
        error.is_request() && Error::find(&error).is_none(),
        "{error:?}"
    );
    assert_eq!(error.url().unwrap().as_str(), url);
    let token = qyapi.current_token(SECRET).unwrap();
    assert!(!format!("{error} {error:?}").contains(&token), "{error:?}");
    assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (2, 1));
}

#[tokio::test]
async fn a_refresh_that_fails_gives_its_own_error() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    qyapi.revoke(SECRET);
    qyapi.script("gettoken", Answer::errcode(40001));
    let error = client.get(qyapi.url("user/get")).send().await.unwrap_err();
    let found = Error::find(&error);
    assert!(found.and_then(Error::errcode) == Some(40001), "{error:?}");
    assert_eq!((qyapi.count("user/get"), qyapi.gettoken_count()), (1, 1));
}

#[tokio::test]
async fn replays_are_counted_by_how_they_end() {
    let qyapi = Qyapi::start().await;
    let manager = qyapi.manager();
    let middleware = AccessTokenMiddleware::builder(manager.clone())
        .credentials(app())
        .replay_limit(10);
    let client = with_tokens(qyapi.client(), middleware.build());
    let counts = || {
        let stats = manager.stats();
        [
            stats.replays,
            stats.replays_accepted,
            stats.replays_rejected,
            stats.replays_too_long,
        ]
    };
    qyapi.warm(&client).await;
    assert_eq!(counts(), [0, 0, 0, 0]);

    qyapi.revoke(SECRET);
    call(&qyapi, &client, "user/get").await;
    assert_eq!(counts(), [1, 1, 0, 0]);

    let rejected = Answer::errcode(40014);
    qyapi.script("user/get", rejected.clone().times(2));
    call(&qyapi, &client, "user/get").await;
    assert_eq!(counts(), [2, 1, 1, 0]);

    qyapi.script("user/list", rejected.clone());
    qyapi.script("user/list", Answer::close());
    let lost = client.get(qyapi.url("user/list")).send().await;
    assert!(lost.is_err());
    assert_eq!(counts(), [3, 1, 1, 0], "neither accepted nor rejected");

    qyapi.revoke(SECRET);
    let pieces = ["more than ", "ten bytes"].map(Ok::<_, Error>);
    let body = Body::wrap_stream(futures_util::stream::iter(pieces));
    let upload = client.post(qyapi.url("message/send")).body(body);
    let answer = upload.send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "40014");
    assert_eq!(counts(), [3, 1, 1, 1]);

    qyapi.script("user/get", Answer::errcode(60020));
    call(&qyapi, &client, "user/get").await;
    assert_eq!(counts(), [3, 1, 1, 1]);
}
