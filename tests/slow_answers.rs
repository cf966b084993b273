//! An answer whose body comes slowly is looked into for a short time only, and handed on whole.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Frame;
use http_body_util::BodyExt;
use reqwest::Body;
use reqwest_middleware::ClientWithMiddleware;
use support::{Answer, Qyapi, SECRET, URL, offline, soon};
use tokio::time::{Instant, sleep};

const BAD: &str = r#"{"errcode":40014,"errmsg":"invalid access_token"}"#;

/// These pieces, each so many milliseconds after the one before.
fn pieces(
    pieces: Vec<(u64, Bytes)>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
    stream::iter(pieces).then(|(after, piece)| async move {
        sleep(Duration::from_millis(after)).await;
        Ok(piece)
    })
}

/// A client that gets this answer, and a good one to its replay.
fn client(first: Vec<(u64, Bytes)>) -> ClientWithMiddleware {
    offline(move |number, _| {
        let answer = http::Response::builder().header("content-type", "application/json");
        let body = match number {
            0 => Body::wrap_stream(pieces(first.clone())),
            _ => Body::from(r#"{"errcode":0}"#),
        };
        std::future::ready(answer.body(body).unwrap())
    })
}

/// After how many milliseconds the answer was handed on, and its body.
async fn answer(first: Vec<(u64, Bytes)>) -> (u128, Bytes) {
    let began = Instant::now();
    let answer = client(first).get(URL).send().await.unwrap();
    let waited = began.elapsed().as_millis();
    (waited, answer.bytes().await.unwrap())
}

/// One byte after another, at this distance in milliseconds.
fn dripped(text: &str, distance: u64) -> Vec<(u64, Bytes)> {
    let bytes = text.bytes();
    bytes
        .map(|byte| (distance, Bytes::copy_from_slice(&[byte])))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn one_that_goes_silent_is_handed_on_after_a_second() {
    let first = vec![
        (10, Bytes::from(r#"{"a":1,"#)),
        (60_000, Bytes::from(r#""errcode":40014}"#)),
    ];
    let (waited, body) = answer(first).await;
    assert_eq!(waited, 10 + 1000);
    assert_eq!(body, r#"{"a":1,"errcode":40014}"#);
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_at_all_is_handed_on_after_a_second() {
    let (waited, body) = answer(vec![(60_000, Bytes::from(BAD))]).await;
    assert_eq!((waited, body), (1000, Bytes::from(BAD)));
}

#[tokio::test(start_paused = true)]
async fn one_that_drips_is_handed_on_after_three_seconds() {
    let (waited, body) = answer(dripped(BAD, 900)).await;
    assert_eq!((waited, body), (3000, Bytes::from(BAD)));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_drips_for_less_than_that_is_seen() {
    let time = BAD.len() as u64 * 50;
    assert!(time < 3000);
    let (waited, body) = answer(dripped(BAD, 50)).await;
    assert_eq!(body, r#"{"errcode":0}"#);
    assert_eq!(waited, u128::from(time));
}

/// A body of so many empty frames, and then a rejection.
struct Empty {
    left: usize,
    given: Arc<AtomicUsize>,
}

impl http_body::Body for Empty {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.given.fetch_add(1, Ordering::Relaxed);
        let data = match self.left {
            0 => return Poll::Ready(None),
            1 => Bytes::from(BAD),
            _ => Bytes::new(),
        };
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

#[tokio::test]
async fn one_of_countless_empty_frames_is_handed_on_before_all_are_read() {
    const FRAMES: usize = 100_000;
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let client = offline(move |_, _| {
        let given = count.clone();
        let body = Body::wrap(Empty {
            left: FRAMES,
            given,
        });
        std::future::ready(http::Response::new(body))
    });
    let answer = client.get(URL).send().await.unwrap();
    let read = given.load(Ordering::Relaxed);
    assert!(read <= 20_000, "{read} frames were read");
    let mut body = http::Response::<Body>::from(answer).into_body();
    let mut frames = 0;
    while let Some(frame) = body.frame().await {
        frame.unwrap();
        frames += 1;
    }
    assert_eq!(frames, FRAMES, "no frame is lost");
}

#[tokio::test]
async fn a_rejection_of_countless_empty_frames_is_not_read_to_its_end() {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let client = offline(move |number, _| {
        let given = count.clone();
        let code = if number == 0 { "40014" } else { "0" };
        let left = 100_000;
        let answer = http::Response::builder().header("error-code", code);
        std::future::ready(answer.body(Body::wrap(Empty { left, given })).unwrap())
    });
    let answer = client.get(URL).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
    let read = given.load(Ordering::Relaxed);
    assert!(read <= 20_000, "{read} frames were read");
}

#[test]
fn one_that_is_there_at_once_needs_no_timer() {
    let without_time = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let client = offline(|_, _| async { http::Response::new(r#"{"errcode":0}"#.into()) });
    // The first request waits for its token, and so needs a timer.
    let with_time = tokio::runtime::Runtime::new().unwrap();
    with_time.block_on(async { client.get(URL).send().await.unwrap() });
    without_time.block_on(async { client.get(URL).send().await.unwrap() });
}

/// How many new connections a request takes that is rejected with this answer.
async fn connections_for(qyapi: &Qyapi, client: &ClientWithMiddleware, rejection: Answer) -> usize {
    qyapi.revoke(SECRET);
    let rejection = rejection
        .header("content-type", "application/json")
        .header("error-code", "40014");
    qyapi.script("user/get", rejection);
    let before = qyapi.connection_count();
    let answer = soon(client.get(qyapi.url("user/get")).send());
    assert_eq!(answer.await.unwrap().headers()["error-code"], "0");
    qyapi.connection_count() - before
}

#[tokio::test]
async fn the_connection_of_a_rejection_is_used_again_if_its_body_comes_soon() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let (rejection, drip) = Answer::dripped();
    let later = async {
        qyapi
            .until(|received| received.iter().any(|it| it.path == "gettoken"))
            .await;
        drip.send(BAD);
        drop(drip);
    };
    let (connections, ()) = tokio::join!(connections_for(&qyapi, &client, rejection), later);
    assert_eq!(connections, 0);

    let hangs = pieces(vec![(60_000, Bytes::from(BAD))]);
    let connections = connections_for(&qyapi, &client, Answer::stream(hangs)).await;
    assert_eq!(connections, 1);
}
