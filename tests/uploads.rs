//! What is sent arrives byte for byte, the second time too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io::Write;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use reqwest::multipart::{Form, Part};
use reqwest::{Body, Request, Version};
use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use reqwest_wecom::{AccessTokenMiddleware, Error};
use serde_json::Value;
use support::{
    Answer, Ledger, MIB, Qyapi, Received, SECRET, URL, app, noise, offline, pieces, sha256, soon,
    with_tokens,
};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

/// A call that takes any body.
const CALL: &str = "any/upload";

type Sent = std::io::Result<&'static str>;

/// A body whose pieces a test sends one by one.
fn gated() -> (mpsc::Sender<Sent>, Body) {
    let (sender, mut receiver) = mpsc::channel(1);
    let pieces = stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, Body::wrap_stream(pieces))
}

/// Sends a piece, and waits until it has been asked for and taken.
async fn taken(sender: &mpsc::Sender<Sent>, piece: Sent) {
    sender.send(piece).await.unwrap();
    drop(soon(sender.reserve()).await.unwrap());
}

/// Clients with the middleware and with a token in hand, for HTTP/1.1 and HTTP/2.
async fn both_wecoms(qyapi: &Qyapi, replay_limit: usize) -> [ClientWithMiddleware; 2] {
    let middleware = AccessTokenMiddleware::builder(qyapi.manager())
        .credentials(app())
        .replay_limit(replay_limit)
        .build();
    let clients = qyapi.both_clients();
    let clients = clients.map(|http| with_tokens(http, middleware.clone()));
    qyapi.warm(&clients[0]).await;
    clients
}

fn post(qyapi: &Qyapi, client: &ClientWithMiddleware, body: Body) -> RequestBuilder {
    client.post(qyapi.url(CALL)).body(body)
}

fn calls(qyapi: &Qyapi, path: &str) -> Vec<Received> {
    let received = qyapi.received().into_iter();
    received.filter(|it| it.path == path).collect()
}

/// Waits until the `n`th call, from nought, has come, and what was read of its body is known.
async fn until_read(qyapi: &Qyapi, n: usize) -> Received {
    let is_call = |it: &&Received| it.path == CALL;
    soon(qyapi.until(|received| {
        let call = received.iter().filter(is_call).nth(n);
        call.is_some_and(|it| it.body_complete || !it.body.is_empty())
    }))
    .await;
    calls(qyapi, CALL).swap_remove(n)
}

/// Waits until so many calls have come.
async fn called(qyapi: &Qyapi, times: usize) {
    let is_call = |it: &&Received| it.path == CALL;
    let enough = |received: &[Received]| received.iter().filter(is_call).count() >= times;
    qyapi.until(enough).await;
}

/// How the length of a body was told.
fn framing(headers: &HeaderMap) -> [Option<&HeaderValue>; 2] {
    [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| headers.get(name))
}

/// An error of the caller's own.
#[derive(Debug, thiserror::Error)]
#[error("the disk is gone")]
struct DiskGone;

fn is_caused_by_disk(error: &reqwest_middleware::Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        let of_io = error.downcast_ref::<std::io::Error>();
        if of_io.is_some_and(|error| error.get_ref().is_some_and(|inner| inner.is::<DiskGone>())) {
            return true;
        }
        next = error.source();
    }
    false
}

mod forms {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Media {
        Memory,
        File,
        StreamWithoutLength,
    }

    async fn form(media: Media, content: &Bytes, file: &NamedTempFile) -> Form {
        let part = match media {
            Media::Memory => Part::bytes(content.to_vec()),
            Media::File => Part::file(file.path()).await.unwrap(),
            Media::StreamWithoutLength => {
                let pieces = pieces(content, 100_000).map(Ok::<_, Infallible>);
                Part::stream(Body::wrap_stream(stream::iter(pieces)))
            }
        };
        Form::new().part("media", part.file_name("报告.pdf"))
    }

    async fn arrives_whole_both_times(media: Media) {
        let content = noise(20 * MIB);
        let fingerprint = sha256(&content);
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&content).unwrap();
        let qyapi = Qyapi::start().await;
        let url = qyapi.url("media/upload?type=file");
        let clients = both_wecoms(&qyapi, 32 * MIB).await;
        for (client, plain) in clients.into_iter().zip(qyapi.both_clients()) {
            qyapi.script("media/upload", Answer::status(200));
            let form_as_is = form(media, &content, &file).await;
            plain.post(&url).multipart(form_as_is).send().await.unwrap();
            let as_is = qyapi.last("media/upload");
            qyapi.forget_received();

            qyapi.revoke(SECRET);
            let form = form(media, &content, &file).await;
            let answer = client.post(&url).multipart(form).send().await.unwrap();
            assert_eq!(answer.url().as_str(), url);
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["errcode"], 0, "{answer}");
            assert_eq!(answer["sha256"], fingerprint);

            assert_eq!(qyapi.gettoken_count(), 1);
            let calls = calls(&qyapi, "media/upload");
            let [first, second] = &*calls else {
                panic!("sent {} times", calls.len())
            };
            assert!(first.body_complete && second.body_complete);
            assert!(first.body == second.body, "not the same bytes");
            assert_eq!(first.headers, second.headers);
            assert_eq!(first.version, as_is.version);
            assert_eq!(framing(&first.headers), framing(&as_is.headers));

            let [tells_length, is_chunked] = framing(&first.headers).map(|it| it.is_some());
            assert_eq!(tells_length, media != Media::StreamWithoutLength);
            let is_http1 = first.version == Version::HTTP_11;
            assert_eq!(is_chunked, is_http1 && !tells_length);
        }
    }

    #[tokio::test]
    async fn from_memory_arrives_whole_both_times() {
        arrives_whole_both_times(Media::Memory).await;
    }

    #[tokio::test]
    async fn from_a_file_arrives_whole_both_times() {
        arrives_whole_both_times(Media::File).await;
    }

    #[tokio::test]
    async fn from_a_stream_without_length_arrives_whole_both_times() {
        arrives_whole_both_times(Media::StreamWithoutLength).await;
    }
}

mod early_answers {
    use super::*;

    #[tokio::test]
    async fn a_body_rejected_before_it_was_sent_arrives_whole() {
        let content = noise(4 * MIB);
        let qyapi = Qyapi::start().await;
        let is_proper = |call: &Received| !call.body_complete || call.body == content;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            let rejection = Answer::errcode(42001);
            for rejection in [rejection.clone().before_body(), rejection.during_body()] {
                for length in [None, Some(content.len())] {
                    qyapi.forget_received();
                    qyapi.script(CALL, rejection.clone());
                    let pieces = pieces(&content, 10_000).map(Ok::<_, Infallible>);
                    let body = Body::wrap_stream(stream::iter(pieces));
                    let mut request = post(&qyapi, &client, body);
                    if let Some(length) = length {
                        request = request.header(CONTENT_LENGTH, length);
                    }
                    let answer = request.send().await.unwrap();
                    assert_eq!(answer.headers()["error-code"], "0");

                    let calls = calls(&qyapi, CALL);
                    let [first, second] = &*calls else {
                        panic!("sent {} times", calls.len())
                    };
                    assert!(is_proper(first));
                    assert!(second.body_complete);
                    assert!(second.body == content, "not the same bytes");
                    assert_eq!(framing(&second.headers), framing(&first.headers));
                    assert_eq!(qyapi.gettoken_count(), 1);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_slow_source_goes_over_to_the_replay() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            for length in [None, Some(6)] {
                qyapi.forget_received();
                let (source, body) = gated();
                let gate = qyapi.hold_api();
                qyapi.script(CALL, Answer::errcode(40014).during_body());
                let mut request = post(&qyapi, &client, body);
                if let Some(length) = length {
                    request = request.header(CONTENT_LENGTH, length);
                }
                let request = tokio::spawn(request.send());

                taken(&source, Ok("one")).await;
                gate.open();
                // The first ends in an error, while the source has more to come.
                let first = until_read(&qyapi, 0).await;
                assert_eq!(first.body, "one");
                assert!(!first.body_complete);

                source.send(Ok("two")).await.unwrap();
                drop(source);
                let answer = soon(request).await.unwrap().unwrap();
                assert_eq!(answer.headers()["error-code"], "0");
                let second = until_read(&qyapi, 1).await;
                assert_eq!(second.body, "onetwo");
                assert!(second.body_complete);
                assert_eq!(framing(&second.headers), framing(&first.headers));
                assert_eq!(qyapi.count(CALL), 2);
            }
        }
    }
}

mod sources {
    use super::*;

    /// A body with this length in all, which it tells from first to last, as those that show progress do.
    struct Progress<S>(S, usize);

    impl<S: futures_util::Stream<Item = Result<Bytes, Infallible>> + Unpin> http_body::Body
        for Progress<S>
    {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_next_unpin(context).map_ok(Frame::data)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.1 as u64)
        }
    }

    #[tokio::test]
    async fn one_that_has_ended_is_not_asked_again() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            qyapi.script(CALL, Answer::errcode(40014));
            // Panics when it is asked after its end.
            let countdown = stream::unfold(3_usize, async |left| {
                let next = left.checked_sub(1)?;
                Some((Ok::<_, Infallible>("piece"), next))
            });
            let body = Body::wrap_stream(countdown.map_ok(Bytes::from));
            let answer = post(&qyapi, &client, body).send().await.unwrap();
            assert_eq!(answer.headers()["error-code"], "0");
            assert_eq!(until_read(&qyapi, 1).await.body, "piecepiecepiece");
        }
    }

    #[tokio::test]
    async fn one_that_always_tells_its_whole_length_is_believed() {
        let content = noise(MIB);
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            qyapi.script(CALL, Answer::errcode(40014));
            let pieces = stream::iter(pieces(&content, 10_000).map(Ok));
            let body = Body::wrap(Progress(pieces, content.len()));
            let answer = soon(post(&qyapi, &client, body).send()).await.unwrap();
            assert_eq!(answer.headers()["error-code"], "0");
            let calls = calls(&qyapi, CALL);
            for call in &calls {
                assert!(call.body == content, "not the same bytes");
                assert_eq!(call.headers[CONTENT_LENGTH], content.len().to_string());
            }
            assert_eq!(calls.len(), 2);
        }
    }

    #[tokio::test]
    async fn an_error_of_the_callers_own_stays_that_error() {
        let qyapi = Qyapi::start().await;
        let clients = both_wecoms(&qyapi, 32 * MIB).await;
        let mut causes_seen = Vec::new();
        for (client, plain) in clients.into_iter().zip(qyapi.both_clients()) {
            qyapi.forget_received();
            let body = || {
                let broken = [Ok("one"), Err(std::io::Error::other(DiskGone))];
                Body::wrap_stream(stream::iter(broken))
            };
            let error = post(&qyapi, &client, body()).send().await.unwrap_err();
            assert!(Error::find(&error).is_none(), "{error:?}");
            assert!(qyapi.count(CALL) <= 1, "sent again");
            assert_eq!(qyapi.gettoken_count(), 0);

            let plain = plain.post(qyapi.url(CALL)).body(body()).send().await;
            assert_same_kind(&error, &plain.unwrap_err().into());
            causes_seen.push(is_caused_by_disk(&error));
        }
        // Over HTTP/2 hyper lets nobody see the cause.
        assert_eq!(causes_seen, [true, false]);
    }

    fn assert_same_kind(error: &reqwest_middleware::Error, other: &reqwest_middleware::Error) {
        assert_eq!(error.is_request(), other.is_request());
        assert_eq!(error.is_body(), other.is_body());
        assert_eq!(error.is_timeout(), other.is_timeout());
        assert_eq!(is_caused_by_disk(error), is_caused_by_disk(other));
        assert_eq!(error.to_string(), other.to_string());
    }

    #[tokio::test]
    async fn an_error_during_the_replay_stays_that_error_too() {
        let qyapi = Qyapi::start().await;
        let mut causes_seen = Vec::new();
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            let (source, body) = gated();
            qyapi.script(CALL, Answer::errcode(40014).during_body());
            let request = tokio::spawn(post(&qyapi, &client, body).send());
            source.send(Ok("one")).await.unwrap();
            soon(qyapi.until(|received| received.iter().filter(|it| it.path == CALL).count() == 2))
                .await;
            let broken = Err(std::io::Error::other(DiskGone));
            source.send(broken).await.unwrap();
            drop(source);
            let error = soon(request).await.unwrap().unwrap_err();
            assert!(error.is_request(), "{error:?}");
            causes_seen.push(is_caused_by_disk(&error));
            assert_eq!(qyapi.count(CALL), 2);
        }
        assert_eq!(causes_seen, [true, false], "as above");
    }

    #[tokio::test]
    async fn one_that_breaks_during_the_refresh_leaves_the_first_answer() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            let (source, body) = gated();
            let gate = qyapi.hold_gettoken();
            qyapi.script(CALL, Answer::errcode(40014).during_body());
            let request = tokio::spawn(post(&qyapi, &client, body).send());
            taken(&source, Ok("one")).await;
            soon(gate.arrived(1)).await;
            taken(&source, Err(std::io::Error::other(DiskGone))).await;
            gate.open();
            let answer = soon(request).await.unwrap().unwrap();
            assert_eq!(answer.headers()["error-code"], "40014");
            assert_eq!((qyapi.count(CALL), qyapi.gettoken_count()), (1, 1));
        }
    }

    #[tokio::test]
    async fn trailers_are_sent_both_times() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let see = seen.clone();
        let client = offline(move |number, mut request: Request| {
            let seen = see.clone();
            async move {
                let body = request.body_mut().take().unwrap();
                let body = body.collect().await.unwrap();
                let trailers = body.trailers().cloned();
                seen.lock().unwrap().push((body.to_bytes(), trailers));
                rejected_at_first(number)
            }
        });
        let trailers =
            HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("1"))]);
        let frames = [
            Frame::data(Bytes::from("content")),
            Frame::trailers(trailers.clone()),
        ];
        let frames = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
        client
            .post(URL)
            .body(Body::wrap(frames))
            .send()
            .await
            .unwrap();
        let expected = (Bytes::from("content"), Some(trailers));
        assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected]);
    }
}

/// Answers of an API that rejects the first token.
fn rejected_at_first(number: usize) -> http::Response<Body> {
    let errcode = if number == 0 { "40014" } else { "0" };
    let answer = http::Response::builder().header("error-code", errcode);
    answer.body(Body::default()).unwrap()
}

mod memory {
    use super::*;

    /// Where the pieces of a body are, and how long.
    type Places = Vec<(usize, usize)>;

    /// Where the pieces are of the body of each request that this client sends.
    fn client_that_shows_places() -> (ClientWithMiddleware, Arc<Mutex<Vec<Places>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let see = seen.clone();
        let client = offline(move |number, mut request: Request| {
            let seen = see.clone();
            async move {
                let mut body = request.body_mut().take().unwrap();
                let mut places = Vec::new();
                while let Some(frame) = body.frame().await {
                    let piece = frame.unwrap().into_data().unwrap();
                    places.push((piece.as_ptr().addr(), piece.len()));
                }
                seen.lock().unwrap().push(places);
                rejected_at_first(number)
            }
        });
        (client, seen)
    }

    fn place(piece: &Bytes) -> (usize, usize) {
        (piece.as_ptr().addr(), piece.len())
    }

    #[tokio::test]
    async fn a_body_in_memory_is_shared_and_not_copied() {
        let (client, seen) = client_that_shows_places();
        let content = noise(MIB);
        let request = client.post(URL).body(content.clone());
        request.send().await.unwrap();
        let expected = vec![place(&content)];
        assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected]);
    }

    #[tokio::test]
    async fn the_pieces_of_a_stream_are_shared_and_not_copied() {
        let (client, seen) = client_that_shows_places();
        let content = noise(MIB);
        let expected: Places = pieces(&content, 10_000).map(|it| place(&it)).collect();
        let pieces = pieces(&content, 10_000).map(Ok::<_, Infallible>);
        let body = Body::wrap_stream(stream::iter(pieces));
        client.post(URL).body(body).send().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), [expected.clone(), expected]);
    }

    const PIECE: usize = 16 * 1024;

    /// A stream of so many pieces, each made when it is asked for.
    fn stream_of(ledger: &Ledger, pieces: usize) -> Body {
        let ledger = ledger.clone();
        let pieces = (0..pieces).map(move |_| Ok::<_, Infallible>(ledger.piece(PIECE)));
        Body::wrap_stream(stream::iter(pieces))
    }

    #[tokio::test]
    async fn a_stream_over_the_limit_is_not_kept_and_the_first_answer_handed_on() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, MIB).await {
            qyapi.forget_received();
            qyapi.revoke(SECRET);
            let ledger = Ledger::default();
            let request = post(&qyapi, &client, stream_of(&ledger, 1024));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["error-code"], "40014");
            assert_eq!(answer.url().as_str(), qyapi.url(CALL));
            assert!(
                answer
                    .text()
                    .await
                    .unwrap()
                    .contains("invalid access_token")
            );
            assert_eq!((qyapi.count(CALL), qyapi.gettoken_count()), (1, 1));
            assert_eq!(calls(&qyapi, CALL)[0].body.len(), 1024 * PIECE);
            // What the connection has in hand comes on top of the limit.
            assert!(ledger.most_held() <= 2 * MIB, "{}", ledger.most_held());
            soon(ledger.until_none_held()).await;

            let next = post(&qyapi, &client, Body::from("next"));
            let answer = next.send().await.unwrap();
            assert_eq!(answer.headers()["error-code"], "0");
            assert_eq!((qyapi.count(CALL), qyapi.gettoken_count()), (2, 1));
        }
    }

    #[tokio::test]
    async fn a_stream_of_just_the_limit_is_sent_again() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, MIB).await {
            for (pieces, errcode) in [(MIB / PIECE, "0"), (MIB / PIECE + 1, "42001")] {
                qyapi.expire(SECRET);
                let ledger = Ledger::default();
                let request = post(&qyapi, &client, stream_of(&ledger, pieces));
                let answer = request.send().await.unwrap();
                assert_eq!(answer.headers()["error-code"], errcode);
                soon(ledger.until_none_held()).await;
            }
        }
    }

    #[tokio::test]
    async fn tiny_pieces_count_with_the_room_that_they_take_up() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 1024).await {
            for (pieces, errcode) in [(5, "0"), (1000, "42001")] {
                qyapi.expire(SECRET);
                let bytes = stream::iter((0..pieces).map(|_| Ok::<_, Infallible>("x")));
                let request = post(&qyapi, &client, Body::wrap_stream(bytes));
                let answer = request.send().await.unwrap();
                assert_eq!(answer.headers()["error-code"], errcode, "{pieces} pieces");
            }
        }
    }

    #[tokio::test]
    async fn a_body_in_memory_knows_no_limit() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 0).await {
            qyapi.forget_received();
            qyapi.expire(SECRET);
            let ledger = Ledger::default();
            let request = post(&qyapi, &client, Body::from(ledger.piece(4 * MIB)));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["error-code"], "0");
            assert_eq!(until_read(&qyapi, 1).await.body.len(), 4 * MIB);
            soon(ledger.until_none_held()).await;
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_still_sent_after_its_answer_is_kept_no_longer() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            let ledger = Ledger::default();
            let (sender, mut receiver) = mpsc::channel::<std::io::Result<Bytes>>(1);
            let pieces = stream::poll_fn(move |context| receiver.poll_recv(context));
            qyapi.script(CALL, Answer::errcode(0).during_body());
            let request = post(&qyapi, &client, Body::wrap_stream(pieces));
            sender.send(Ok(ledger.piece(MIB))).await.unwrap();
            let answer = soon(request.send()).await.unwrap();
            sender.send(Ok(ledger.piece(PIECE))).await.unwrap();
            drop(soon(sender.reserve()).await.unwrap());
            soon(ledger.until_none_held()).await;
            drop(answer);
        }
    }
}

mod callers_who_go {
    use super::*;

    /// Lets a request go when its first piece has been sent and `event` has happened.
    async fn goes_after(
        request: RequestBuilder,
        source: &mpsc::Sender<Sent>,
        event: impl Future<Output = ()>,
    ) {
        let mut request = pin!(request.send());
        let event = async {
            taken(source, Ok("one")).await;
            soon(event).await;
        };
        tokio::select! {
            answer = &mut request => panic!("the body has no end: {answer:?}"),
            () = event => {}
        }
    }

    /// Waits until a source is let go, and sees that the API did not take what it got for the whole.
    async fn until_let_go(qyapi: &Qyapi, source: mpsc::Sender<Sent>) {
        soon(source.closed()).await;
        assert!(calls(qyapi, CALL).iter().all(|it| !it.body_complete));
    }

    #[tokio::test]
    async fn during_the_first_sending_let_the_source_go() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            let (source, body) = gated();
            let request = post(&qyapi, &client, body);
            goes_after(request, &source, called(&qyapi, 1)).await;
            until_let_go(&qyapi, source).await;
        }
    }

    #[tokio::test]
    async fn during_the_replay_let_the_source_go() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            let (source, body) = gated();
            qyapi.script(CALL, Answer::errcode(40014).during_body());
            let request = post(&qyapi, &client, body);
            goes_after(request, &source, called(&qyapi, 2)).await;
            until_let_go(&qyapi, source).await;
        }
    }

    #[tokio::test]
    async fn during_the_refresh_leave_it_to_the_others() {
        let qyapi = Qyapi::start().await;
        for client in both_wecoms(&qyapi, 32 * MIB).await {
            qyapi.forget_received();
            let (source, body) = gated();
            let gate = qyapi.hold_gettoken();
            qyapi.script(CALL, Answer::errcode(40014).during_body());
            let request = post(&qyapi, &client, body);
            goes_after(request, &source, gate.arrived(1)).await;
            gate.open();

            // The answer has come, so that the connection goes on with the body as it would without us.
            source.send(Ok("two")).await.unwrap();
            drop(source);
            let first = until_read(&qyapi, 0).await;
            assert_eq!(first.body, "onetwo");
            let answer = post(&qyapi, &client, Body::from("all is well")).send();
            assert_eq!(soon(answer).await.unwrap().headers()["error-code"], "0");
            assert_eq!((qyapi.count(CALL), qyapi.gettoken_count()), (2, 1));
        }
    }
}
