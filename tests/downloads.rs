//! What is received is handed on byte for byte, as it comes, in a constant amount of memory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::error::Error as StdError;
use std::fmt::Debug;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Body, Response, StatusCode, Version};
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::AccessTokenMiddleware;
use support::{Answer, MIB, Qyapi, SECRET, app, noise, pieces, sha256, soon, with_tokens};

/// A call that can be answered in any way.
const CALL: &str = "any/download";
const KIB: usize = 1024;
const JSON: &str = "application/json; charset=UTF-8";

/// A client and the same one with the middleware and a token in hand, for HTTP/1.1 and HTTP/2.
async fn clients(qyapi: &Qyapi) -> [(ClientWithMiddleware, ClientWithMiddleware); 2] {
    let middleware = AccessTokenMiddleware::builder(qyapi.manager())
        .credentials(app())
        .build();
    let clients = qyapi.both_clients();
    let clients = clients.map(|http| (http.clone().into(), with_tokens(http, middleware.clone())));
    qyapi.warm(&clients[0].1).await;
    clients
}

async fn get(qyapi: &Qyapi, client: &ClientWithMiddleware) -> Response {
    soon(client.get(qyapi.url(CALL)).send()).await.unwrap()
}

/// An answer that comes in pieces, and does not tell its length.
fn in_pieces(content: &Bytes, length: usize) -> Answer {
    Answer::stream(stream::iter(pieces(content, length).map(Ok)))
}

/// Both ways to send an answer: in one piece with its length, and chunked.
fn both_ways(content: &Bytes, content_type: &str) -> [Answer; 2] {
    let whole = Answer::status(200).body(content.clone());
    let answers = [whole, in_pieces(content, 10_000)];
    answers.map(|answer| answer.header("content-type", content_type))
}

/// An object of just this length.
fn object(errcode: &str, length: usize) -> Bytes {
    let (start, end) = ("{\"a\":\"", format!("\",\"errcode\":{errcode}}}"));
    let filler = "x".repeat(length - start.len() - end.len());
    format!("{start}{filler}{end}").into()
}

mod json {
    use super::*;

    async fn is_handed_on_or_retried(lengths: &[usize], errcode: &str, is_retried: bool) {
        let qyapi = Qyapi::start().await;
        let clients = clients(&qyapi).await;
        for &length in lengths {
            let content = object(errcode, length);
            let fingerprint = sha256(&content);
            for (_, client) in &clients {
                for answer in both_ways(&content, JSON) {
                    qyapi.forget_received();
                    qyapi.script(CALL, answer);
                    let answer = get(&qyapi, client).await;
                    assert_eq!(answer.url().as_str(), qyapi.url(CALL));
                    let is_replay = answer.headers().contains_key("error-code");
                    assert_eq!(is_replay, is_retried, "{length}");
                    let times = 1 + usize::from(is_retried);
                    assert_eq!(qyapi.count(CALL), times);
                    assert_eq!(qyapi.gettoken_count(), times - 1);
                    if !is_retried {
                        assert_eq!(sha256(&answer.bytes().await.unwrap()), fingerprint);
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn of_any_length_is_handed_on_whole() {
        let lengths = [15 * KIB, 16 * KIB, 16 * KIB + 1, 17 * KIB, MIB];
        is_handed_on_or_retried(&lengths, "0", false).await;
    }

    #[tokio::test]
    async fn of_50_mib_is_handed_on_whole() {
        is_handed_on_or_retried(&[50 * MIB], "40014", false).await;
    }

    #[tokio::test]
    async fn that_rejects_counts_up_to_16_kib() {
        is_handed_on_or_retried(&[15 * KIB, 16 * KIB], "40014", true).await;
    }

    #[tokio::test]
    async fn that_rejects_is_handed_on_above_16_kib() {
        let lengths = [16 * KIB + 1, 17 * KIB];
        is_handed_on_or_retried(&lengths, "40014", false).await;
    }

    #[tokio::test]
    async fn that_comes_a_byte_at_a_time_is_read_and_handed_on() {
        let qyapi = Qyapi::start().await;
        for (_, client) in clients(&qyapi).await {
            for (errcode, is_retried) in [("0", false), ("40014", true)] {
                let content = object(errcode, 200);
                let byte_by_byte = pieces(&content, 1).collect();
                // Lets the connection send each byte by itself.
                let byte_by_byte = stream::unfold(
                    byte_by_byte,
                    async |mut left: std::collections::VecDeque<Bytes>| {
                        tokio::task::yield_now().await;
                        Some((Ok(left.pop_front()?), left))
                    },
                );
                let answer = Answer::stream(byte_by_byte);
                qyapi.script(CALL, answer.header("content-type", JSON));
                let answer = get(&qyapi, &client).await;
                assert_eq!(answer.headers().contains_key("error-code"), is_retried);
                if !is_retried {
                    assert_eq!(answer.bytes().await.unwrap(), content);
                }
            }
        }
    }
}

mod streams {
    use super::*;

    #[tokio::test]
    async fn the_first_byte_is_handed_on_before_the_last_is_sent() {
        let qyapi = Qyapi::start().await;
        for (_, client) in clients(&qyapi).await {
            for content_type in ["image/jpeg", "text/plain", "application/octet-stream"] {
                qyapi.script(CALL, Answer::errcode(42001));
                let (answer, drip) = Answer::dripped();
                qyapi.script(CALL, answer.header("content-type", content_type));
                drip.send("first");
                let mut answer = get(&qyapi, &client).await;
                assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "first");
                drip.send("last");
                assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "last");
                drop(drip);
                assert_eq!(soon(answer.bytes()).await.unwrap(), "");
            }
        }
    }

    #[tokio::test]
    async fn a_text_without_end_is_handed_on_at_once() {
        let qyapi = Qyapi::start().await;
        for (_, client) in clients(&qyapi).await {
            for content_type in ["text/event-stream", JSON] {
                let (answer, drip) = Answer::dripped();
                qyapi.script(CALL, answer.header("content-type", content_type));
                drip.send(" \n");
                drip.send("data: 1");
                let mut answer = get(&qyapi, &client).await;
                let mut text = soon(answer.chunk()).await.unwrap().unwrap().to_vec();
                while text.len() < 9 {
                    text.extend_from_slice(&soon(answer.chunk()).await.unwrap().unwrap());
                }
                assert_eq!(text, b" \ndata: 1");
                drop(drip);
            }
        }
    }

    #[tokio::test]
    async fn an_object_without_end_is_handed_on_after_16_kib() {
        let qyapi = Qyapi::start().await;
        for (_, client) in clients(&qyapi).await {
            let (answer, drip) = Answer::dripped();
            qyapi.script(CALL, answer.header("content-type", JSON));
            let start = object("40014", 16 * KIB + 1);
            drip.send(start.clone());
            let mut answer = get(&qyapi, &client).await;
            let mut read = Vec::new();
            while read.len() < start.len() {
                read.extend_from_slice(&soon(answer.chunk()).await.unwrap().unwrap());
            }
            assert_eq!(read, start);
            drip.send("more");
            assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "more");
        }
    }

    #[tokio::test]
    async fn an_object_that_tells_that_it_is_long_is_handed_on_at_once() {
        let qyapi = Qyapi::start().await;
        for (_, client) in clients(&qyapi).await {
            let (answer, drip) = Answer::dripped();
            let answer = answer.header("content-type", JSON);
            qyapi.script(CALL, answer.header("content-length", "16385"));
            let mut answer = get(&qyapi, &client).await;
            drip.send("{");
            assert_eq!(soon(answer.chunk()).await.unwrap().unwrap(), "{");
        }
    }

    #[tokio::test]
    async fn a_range_survives_a_replay() {
        let qyapi = Qyapi::start().await;
        let content = noise(MIB);
        let id = qyapi.keep_media("报告.pdf", "application/pdf", &content);
        for (_, client) in clients(&qyapi).await {
            qyapi.forget_received();
            qyapi.revoke(SECRET);
            let request = client.get(qyapi.url(&format!("media/get?media_id={id}")));
            let answer = request
                .header("range", "bytes=1000-299999")
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(
                answer.headers()["content-range"],
                "bytes 1000-299999/1048576"
            );
            let disposition = "attachment; filename=\"报告.pdf\"";
            assert_eq!(
                answer.headers()["content-disposition"],
                disposition.as_bytes()
            );
            assert!(answer.bytes().await.unwrap() == content[1000..300_000]);
            assert_eq!((qyapi.count("media/get"), qyapi.gettoken_count()), (2, 1));
            for received in qyapi.received().iter().filter(|it| it.path == "media/get") {
                assert_eq!(received.headers["range"], "bytes=1000-299999");
            }
        }
    }
}

/// What a caller can see of an answer before reading it.
fn head(answer: &Response) -> impl PartialEq + Debug + use<> {
    let mut headers = answer.headers().clone();
    headers.remove("date");
    (
        answer.status(),
        answer.version(),
        headers,
        answer.remote_addr(),
        answer.content_length(),
        answer.url().to_string(),
    )
}

mod as_without_us {
    use super::*;

    /// Sees that an answer looks the same with us and without us, and hands out both.
    async fn both_answers(
        qyapi: &Qyapi,
        (plain, client): &(ClientWithMiddleware, ClientWithMiddleware),
        answer: impl Fn() -> Answer,
    ) -> [Response; 2] {
        qyapi.script(CALL, answer());
        let plain = get(qyapi, plain).await;
        qyapi.script(CALL, answer());
        let with_us = get(qyapi, client).await;
        assert_eq!(head(&with_us), head(&plain));
        [with_us, plain]
    }

    #[tokio::test]
    async fn is_all_that_an_answer_has() {
        let qyapi = Qyapi::start().await;
        for (clients, version) in clients(&qyapi)
            .await
            .iter()
            .zip([Version::HTTP_11, Version::HTTP_2])
        {
            for status in [200, 201, 404, 500] {
                for (content, content_type) in [
                    (object("0", 100), JSON),
                    (object("0", 100 * KIB), JSON),
                    (noise(100), "image/jpeg"),
                    (Bytes::new(), JSON),
                ] {
                    for way in 0..2 {
                        let answer = || {
                            let [whole, mut chunked] = both_ways(&content, content_type);
                            chunked = chunked
                                .header("set-cookie", "a=b; path=/")
                                .header("x-raw", "报告");
                            let answer = if way == 0 { whole } else { chunked };
                            answer.with_status(status)
                        };
                        let [with_us, plain] = both_answers(&qyapi, clients, answer).await;
                        assert_eq!(
                            (with_us.version(), with_us.status().as_u16()),
                            (version, status)
                        );
                        assert!(with_us.remote_addr().is_some());
                        let length = (way == 0).then_some(content.len() as u64);
                        // HTTP/2 tells the end of an empty body with its beginning.
                        if !content.is_empty() {
                            assert_eq!(with_us.content_length(), length);
                        }
                        assert_eq!(with_us.bytes().await.unwrap(), plain.bytes().await.unwrap());
                    }
                }
            }
        }
        assert_eq!(qyapi.gettoken_count(), 0);
    }

    #[tokio::test]
    async fn is_what_is_compressed_or_a_file() {
        let qyapi = Qyapi::start().await;
        let rejection = object("40014", 100);
        for clients in clients(&qyapi).await {
            for (name, value) in [
                ("content-encoding", "gzip"),
                ("content-disposition", "attachment; filename=\"报告.json\""),
            ] {
                for content in [rejection.clone(), noise(100)] {
                    let answer = || Answer::json(content.clone()).header(name, value);
                    let [with_us, _] = both_answers(&qyapi, &clients, answer).await;
                    assert_eq!(with_us.bytes().await.unwrap(), content);
                }
            }
        }
        assert_eq!(qyapi.gettoken_count(), 0);
    }

    #[tokio::test]
    async fn is_an_answer_of_another_origin() {
        let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
        let moved = other.url(CALL);
        let rejection = object("40014", 100);
        other.script(CALL, Answer::json(rejection.clone()).always());
        for clients in clients(&qyapi).await {
            qyapi.forget_received();
            let answer = || Answer::status(302).header("location", &moved);
            let [with_us, _] = both_answers(&qyapi, &clients, answer).await;
            assert_eq!(with_us.url().as_str(), moved);
            assert_eq!(with_us.bytes().await.unwrap(), rejection);
            assert_eq!((qyapi.count(CALL), qyapi.gettoken_count()), (2, 0));
            assert_eq!(other.last(CALL).access_token(), None);
        }
    }

    #[tokio::test]
    async fn are_its_trailers() {
        let qyapi = Qyapi::start().await;
        let expected = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from(7))]);
        for clients in clients(&qyapi).await {
            for (content_type, content) in [(JSON, object("0", 100)), ("image/png", noise(100))] {
                let answer = || {
                    let trailers = Frame::trailers(expected.clone());
                    let frames = [Frame::data(content.clone()), trailers];
                    Answer::frames(StreamBody::new(stream::iter(frames.map(Ok))))
                        .header("content-type", content_type)
                        .header("trailer", "x-sum")
                };
                for client in [clients.0.clone(), clients.1.clone()] {
                    qyapi.script(CALL, answer());
                    let request = client.get(qyapi.url(CALL)).header("te", "trailers");
                    let answer = request.send().await.unwrap();
                    let body = http::Response::<Body>::from(answer).into_body();
                    let body = body.collect().await.unwrap();
                    assert_eq!(body.trailers(), Some(&expected));
                    assert_eq!(body.to_bytes(), content);
                }
            }
        }
    }

    /// The kind of an error, and what it shows.
    fn kind(error: &reqwest::Error) -> impl PartialEq + Debug + use<> {
        let mut root: &(dyn StdError + 'static) = error;
        while let Some(source) = root.source() {
            root = source;
        }
        (
            [
                error.is_body(),
                error.is_decode(),
                error.is_timeout(),
                error.is_request(),
                error.is_connect(),
                error.is_status(),
                error.is_redirect(),
                error.is_builder(),
            ],
            error.url().map(ToString::to_string),
            error.to_string(),
            root.to_string(),
        )
    }

    /// Reads an answer chunk by chunk up to its error.
    async fn chunks(mut answer: Response) -> (Vec<u8>, reqwest::Error) {
        let mut read = Vec::new();
        loop {
            match soon(answer.chunk()).await {
                Ok(Some(chunk)) => read.extend_from_slice(&chunk),
                Ok(None) => panic!("it has a proper end"),
                Err(error) => return (read, error),
            }
        }
    }

    #[tokio::test]
    async fn is_an_answer_that_is_cut_off() {
        let qyapi = Qyapi::start().await;
        for clients in clients(&qyapi).await {
            for start in [
                object("40014", 100).slice(..90),
                object("40014", 20 * KIB),
                noise(100),
            ] {
                for length in [None, Some("100000")] {
                    for content_type in [JSON, "image/jpeg"] {
                        let answer = || {
                            let cut = io::Error::from(io::ErrorKind::ConnectionAborted);
                            let pieces = stream::iter([Ok(start.clone()), Err(cut)]);
                            // The start is to be sent before the end is known.
                            let pieces = futures_util::StreamExt::then(pieces, async |piece| {
                                tokio::task::yield_now().await;
                                piece
                            });
                            let answer =
                                Answer::stream(pieces).header("content-type", content_type);
                            match length {
                                Some(length) => answer.header("content-length", length),
                                None => answer,
                            }
                        };
                        let [with_us, plain] = both_answers(&qyapi, &clients, answer).await;
                        let errors =
                            [with_us.bytes().await, plain.bytes().await].map(Result::unwrap_err);
                        assert_eq!(kind(&errors[0]), kind(&errors[1]));

                        let [with_us, plain] = both_answers(&qyapi, &clients, answer).await;
                        let ((read, error), (plain_read, plain_error)) =
                            (chunks(with_us).await, chunks(plain).await);
                        assert_eq!(kind(&error), kind(&plain_error));
                        assert_eq!(read, plain_read);
                    }
                }
            }
        }
        assert_eq!(qyapi.gettoken_count(), 0);
    }

    #[tokio::test]
    async fn is_an_answer_that_comes_too_late() {
        let qyapi = Qyapi::start().await;
        for (plain, client) in clients(&qyapi).await {
            for start in [object("40014", 100).slice(..90), noise(100)] {
                let late = async |client: &ClientWithMiddleware| {
                    let (answer, drip) = Answer::dripped();
                    qyapi.script(CALL, answer.header("content-type", JSON));
                    drip.send(start.clone());
                    let request = client
                        .get(qyapi.url(CALL))
                        .timeout(Duration::from_millis(300));
                    let (read, error) = chunks(request.send().await.unwrap()).await;
                    assert!(error.is_timeout(), "{error:?}");
                    assert_eq!(read, start);
                    drop(drip);
                    kind(&error)
                };
                assert_eq!(late(&client).await, late(&plain).await);
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod memory {
    use std::env;
    use std::process::Stdio;

    use tokio::process::Command;

    use super::*;

    const SIZE: usize = 256 * MIB;
    const PIECE: usize = 64 * KIB;

    /// Where a child is told what to download, and whether through the middleware.
    const CHILD_BASE_URL: &str = "DOWNLOADS_CHILD_BASE_URL";
    const CHILD_WITH_US: &str = "DOWNLOADS_CHILD_WITH_US";

    /// A child's part: it downloads all of it, and says how much memory it had at most. Without a parent it does nothing.
    #[tokio::test]
    #[ignore = "a part of `a_download_takes_no_more_memory_than_without_us`"]
    async fn child() {
        let Ok(base_url) = env::var(CHILD_BASE_URL) else {
            return;
        };
        let http = reqwest::Client::builder()
            .no_proxy()
            .referer(false)
            .build()
            .unwrap();
        let client = if env::var(CHILD_WITH_US).unwrap() == "true" {
            let source =
                reqwest_wecom::GetToken::new(http.clone()).base_url(base_url.parse().unwrap());
            let manager = reqwest_wecom::TokenManager::builder(source).build();
            let middleware = AccessTokenMiddleware::builder(manager).credentials(app());
            with_tokens(http, middleware.build())
        } else {
            http.into()
        };
        let request = client.get(format!("{base_url}cgi-bin/{CALL}"));
        let mut answer = request.send().await.unwrap();
        let mut length = 0;
        while let Some(chunk) = answer.chunk().await.unwrap() {
            length += chunk.len();
        }
        assert_eq!(length, SIZE);
        println!("peak={}", peak_memory());
    }

    /// The most memory that this process has had, in KiB.
    fn peak_memory() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    /// The most memory that a download takes in a process of its own, in KiB.
    async fn peak_of_child(qyapi: &Qyapi, with_us: bool) -> usize {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "memory::child", "--ignored", "--nocapture"])
            .env(CHILD_BASE_URL, qyapi.base_url().as_str())
            .env(CHILD_WITH_US, with_us.to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let output = tokio::time::timeout(Duration::from_secs(120), child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let peak = output
            .lines()
            .find_map(|line| line.split_once("peak="))
            .unwrap_or_else(|| panic!("{output}"));
        peak.1.parse().unwrap()
    }

    #[tokio::test]
    async fn a_download_takes_no_more_memory_than_without_us() {
        let qyapi = Qyapi::start().await;
        let piece = noise(PIECE);
        for (content_type, first) in [("application/octet-stream", "x"), (JSON, "{")] {
            let mut peaks = Vec::new();
            for with_us in [false, true] {
                if with_us {
                    qyapi.script(CALL, Answer::errcode(40014));
                }
                let first = Bytes::from(first.repeat(PIECE));
                let rest = std::iter::repeat_n(piece.clone(), SIZE / PIECE - 1);
                let pieces = stream::iter(std::iter::once(first).chain(rest).map(Ok));
                qyapi.script(
                    CALL,
                    Answer::stream(pieces).header("content-type", content_type),
                );
                peaks.push(peak_of_child(&qyapi, with_us).await);
            }
            println!(
                "{content_type}: {} KiB without us, {} KiB with us",
                peaks[0], peaks[1]
            );
            assert!(peaks[1] < peaks[0] + 8 * KIB, "{peaks:?} KiB");
        }
    }
}
