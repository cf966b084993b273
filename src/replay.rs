//! A request that can be sent a second time, streamed bodies included.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::FutureExt;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use reqwest::header::HeaderMap;
use reqwest::{Body, Method, Request, Url, Version};

use crate::BoxError;
use crate::resumed::Resumed;

/// What it takes to send a request once more.
///
/// It is kept in parts: a copy made by `Request::try_clone` costs three allocations more for a time limit that is not there.
pub(crate) struct Replay {
    method: Method,
    url: Url,
    version: Version,
    headers: HeaderMap,
    body: Kept,
}

enum Kept {
    Nothing,
    InMemory(Bytes),
    Recording(Arc<Mutex<Recording>>),
}

impl Replay {
    /// Prepares to send the request twice, and gives it back to be sent first. A body in memory is shared; a streamed one is recorded
    /// while it is sent, up to `limit` bytes.
    pub(crate) fn of(request: &mut Request, limit: usize) -> Self {
        let (body, kept) = match request.body_mut().take() {
            None => (None, Kept::Nothing),
            Some(body) => match in_memory(body) {
                Ok(bytes) => (Some(bytes.clone().into()), Kept::InMemory(bytes)),
                Err(streamed) => {
                    let recording = Arc::new(Mutex::new(Recording::new(streamed, limit)));
                    let first = Body::wrap(FirstSending(recording.clone()));
                    (Some(first), Kept::Recording(recording))
                }
            },
        };
        *request.body_mut() = body;
        Self {
            method: request.method().clone(),
            url: request.url().clone(),
            version: request.version(),
            headers: request.headers().clone(),
            body: kept,
        }
    }

    /// The request's URL, as the caller gave it.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn into_url(self) -> Url {
        self.url
    }

    /// The request, to be sent again from its first byte, without its time limit; `None` if not all of what was sent is there any
    /// more.
    ///
    /// The source of a streamed body goes over to it: the first sending's body, if it is still being read, ends in an error.
    pub(crate) fn into_request(self) -> Option<Request> {
        let mut request = Request::new(self.method, self.url);
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.body_mut() = match self.body {
            Kept::Nothing => None,
            Kept::InMemory(bytes) => Some(bytes.into()),
            Kept::Recording(recording) => Some(Body::wrap(lock(&recording).take_over()?)),
        };
        Some(request)
    }
}

/// The bytes of a body that is in memory, which gives them as its only frame; else the body.
fn in_memory(mut body: Body) -> Result<Bytes, Body> {
    if body.as_bytes().is_none() {
        return Err(body);
    }
    let frame = body.frame().now_or_never().flatten();
    let data = frame.and_then(|frame| frame.ok()?.into_data().ok());
    Ok(data.unwrap_or_default())
}

/// A streamed body and what has been read of it.
struct Recording {
    source: Source,
    /// The size that the body told before it was read.
    size: SizeHint,
    frames: VecDeque<Frame<Bytes>>,
    held: usize,
    limit: usize,
    is_whole: bool,
    reader: Option<Waker>,
}

/// Where the frames come from.
enum Source {
    Body(Body),
    Ended,
    /// It is the second sending's now.
    TakenOver,
}

impl Recording {
    fn new(body: Body, limit: usize) -> Self {
        Self {
            size: body.size_hint(),
            source: Source::Body(body),
            frames: VecDeque::new(),
            held: 0,
            limit,
            is_whole: true,
            reader: None,
        }
    }

    fn record(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        if !self.is_whole {
            return frame;
        }
        let (copy, frame) = shared(frame);
        // A tiny piece takes up as much room as its frame.
        let length = copy.data_ref().map_or(0, Bytes::len);
        self.held += length.max(size_of::<Frame<Bytes>>());
        self.frames.push_back(copy);
        if self.held > self.limit {
            self.let_go();
        }
        frame
    }

    fn let_go(&mut self) {
        self.is_whole = false;
        self.frames = VecDeque::new();
    }

    fn take_over(&mut self) -> Option<Resumed> {
        if !self.is_whole {
            return None;
        }
        let rest = match std::mem::replace(&mut self.source, Source::TakenOver) {
            Source::Body(body) => Some(body),
            Source::Ended => None,
            Source::TakenOver => return None,
        };
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        let recorded = std::mem::take(&mut self.frames);
        Some(Resumed::new(
            recorded.into_iter().map(Ok).collect(),
            rest,
            self.size,
        ))
    }
}

/// Two frames that share their bytes.
fn shared(frame: Frame<Bytes>) -> (Frame<Bytes>, Frame<Bytes>) {
    match frame.into_data() {
        Ok(data) => (Frame::data(data.clone()), Frame::data(data)),
        Err(frame) => {
            let trailers = frame.into_trailers().unwrap_or_default();
            (Frame::trailers(trailers.clone()), Frame::trailers(trailers))
        }
    }
}

fn lock(recording: &Mutex<Recording>) -> MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the body of the first sending ends when the second takes its source over.
#[derive(Debug, thiserror::Error)]
#[error("the request is being sent again with another access token")]
struct TakenOver;

/// The body as it is sent first, and recorded.
struct FirstSending(Arc<Mutex<Recording>>);

impl http_body::Body for FirstSending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut recording = lock(&self.0);
        if Arc::strong_count(&self.0) == 1 {
            // The answer was taken: nobody will ask for the recording any more.
            recording.let_go();
        }
        let body = match &mut recording.source {
            Source::Body(body) => body,
            Source::Ended => return Poll::Ready(None),
            Source::TakenOver => return Poll::Ready(Some(Err(TakenOver.into()))),
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(recording.record(frame)))),
            Poll::Ready(Some(Err(error))) => {
                recording.let_go();
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                recording.source = Source::Ended;
                Poll::Ready(None)
            }
            Poll::Pending => {
                recording.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &lock(&self.0).source {
            Source::Body(body) => body.size_hint(),
            Source::Ended => SizeHint::with_exact(0),
            Source::TakenOver => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &lock(&self.0).source {
            Source::Body(body) => body.is_end_stream(),
            Source::Ended => true,
            Source::TakenOver => false,
        }
    }
}
