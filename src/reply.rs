//! Reading the errcode of a response, and handing the response on whole.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Body, Response, ResponseBuilderExt, Url};
use tokio::time::{Instant, timeout_at};

use crate::errcode::{self, BOM};
use crate::resumed::{ReadFrame, Resumed};

/// The longest body that is looked into, in bytes. The errors of the API are far shorter.
const LONGEST_ANSWER: usize = 16 * 1024;

/// A body is handed on, decided or not, after so much silence, and after so much time in all.
const LONGEST_SILENCE: Duration = Duration::from_secs(1);
const LONGEST_LOOK: Duration = Duration::from_secs(3);

/// How long the rest of a rejection is waited for.
const LONGEST_DRAIN: Duration = Duration::from_millis(100);

static ERROR_CODE: HeaderName = HeaderName::from_static("error-code");

/// What the API said.
pub(crate) struct Reply {
    response: http::Response<Body>,
    /// The URL that it came from, where a redirect has led there.
    moved: Option<Box<Url>>,
    errcode: Option<i64>,
    is_of_api: bool,
}

impl Reply {
    /// An answer of the API, or after a redirect, of somebody else: what that says is not looked at. Its errcode is that of the header
    /// `Error-Code`, if that holds a number.
    pub(crate) fn new(response: Response, moved: Option<Url>, is_of_api: bool) -> Self {
        let errcode = is_of_api.then(|| errcode_of_header(response.headers()));
        Self {
            response: response.into(),
            moved: moved.map(Box::new),
            errcode: errcode.flatten(),
            is_of_api,
        }
    }

    /// Whether the body is to be looked into, since it may be a short JSON object, and nothing else has told the errcode.
    pub(crate) fn may_hold_errcode(&self) -> bool {
        self.is_of_api && self.errcode.is_none() && may_hold_errcode(&self.response)
    }

    /// Looks for the errcode in the body. No more of that is read than it needs, and what has been read stays part of it.
    pub(crate) async fn with_errcode_of_body(mut self) -> Self {
        self.errcode = errcode_in(self.response.body_mut()).await;
        self
    }

    pub(crate) fn errcode(&self) -> Option<i64> {
        self.errcode
    }

    /// Whether the API has done what it was asked, or refused that for another reason than the token, as far as can be told.
    pub(crate) fn is_answer(&self) -> bool {
        self.is_of_api && (self.errcode.is_some() || self.response.status().is_success())
    }

    /// Reads the rest if it is short and comes soon, so that the connection can be used again.
    pub(crate) async fn drain(self) {
        let mut body = self.response.into_body();
        let (mut time, mut length) = (Time::new(LONGEST_DRAIN, LONGEST_DRAIN), 0);
        for _ in 0..LONGEST_ANSWER {
            match time.bounds(&mut body).await {
                Some(Some(Ok(frame))) if length <= LONGEST_ANSWER => {
                    length += frame.data_ref().map_or(0, |data| data.len());
                }
                _ => break,
            }
        }
    }

    /// The response as it came, but for its URL: that which the request was sent to, unless a redirect has led elsewhere.
    pub(crate) fn into_response(self, sent_to: Url) -> Response {
        let url = self.moved.map_or(sent_to, |moved| *moved);
        let mut response = self.response;
        // The only way to a `Response` with a certain URL is an extension that this builder alone can make.
        let mut carrier = http::Response::builder();
        if let Some(extensions) = carrier.extensions_mut() {
            std::mem::swap(extensions, response.extensions_mut());
        }
        if let Ok(carrier) = carrier.url(url).body(()) {
            *response.extensions_mut() = carrier.into_parts().0.extensions;
        }
        response.into()
    }
}

/// Reads as much of the body as tells the errcode, and puts it together again.
async fn errcode_in(body: &mut Body) -> Option<i64> {
    let whole = body.size_hint();
    let mut start = Start::default();
    let mut time = Time::new(LONGEST_SILENCE, LONGEST_LOOK);
    while start.may_be_short_object() {
        match time.bounds(body).await {
            Some(Some(frame)) => start.push(frame),
            Some(None) => start.is_all = true,
            None => break,
        }
    }
    let errcode = start.errcode();
    let rest = std::mem::take(body);
    let rest = (!start.is_all).then_some(rest);
    *body = Body::wrap(Resumed::new(start.frames, rest, whole));
    errcode
}

/// How long a body is waited for: each frame, and all of them. There is no timer while frames are ready.
struct Time {
    silence: Duration,
    all: Duration,
    ends_at: Option<Instant>,
}

impl Time {
    fn new(silence: Duration, all: Duration) -> Self {
        Self {
            silence,
            all,
            ends_at: None,
        }
    }

    /// The next frame of the body, if it comes in time.
    async fn bounds(&mut self, body: &mut Body) -> Option<Option<ReadFrame>> {
        if let Some(frame) = body.frame().now_or_never() {
            return Some(frame);
        }
        let now = Instant::now();
        let ends_at = *self.ends_at.get_or_insert(now + self.all);
        let limit = ends_at.min(now + self.silence);
        timeout_at(limit, body.frame()).await.ok()
    }
}

fn errcode_of_header(headers: &HeaderMap) -> Option<i64> {
    let mut values = headers.get_all(&ERROR_CODE).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => errcode::of_digits(value.to_str().ok()?),
        _ => None,
    }
}

fn may_hold_errcode(response: &http::Response<Body>) -> bool {
    let at_least = response.body().size_hint().lower();
    may_be_json(response.headers()) && at_least <= LONGEST_ANSWER as u64
}

fn may_be_json(headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_DISPOSITION) || is_encoded(headers) {
        return false;
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let content_type = content_type.as_bytes();
    // Some gateways send it twice, joined by a comma.
    let essence = content_type.split(|byte| b";,".contains(byte)).next();
    let essence = essence.unwrap_or_default().trim_ascii();
    let is_text = |kind: &[u8]| kind.eq_ignore_ascii_case(b"text/");
    essence.eq_ignore_ascii_case(b"application/json") || essence.get(..5).is_some_and(is_text)
}

/// Whether the body is compressed: `reqwest` takes this header off when it decodes the body itself.
fn is_encoded(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    codings.any(|coding| {
        let coding = coding.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    })
}

/// What has been read of a body.
#[derive(Default)]
struct Start {
    frames: VecDeque<ReadFrame>,
    length: usize,
    /// How many bytes came before the object.
    before_object: usize,
    has_begun_object: bool,
    cannot_be_object: bool,
    is_all: bool,
}

impl Start {
    fn push(&mut self, frame: ReadFrame) {
        match frame.as_ref().map(Frame::data_ref) {
            Ok(Some(data)) => {
                self.length += data.len();
                if !self.has_begun_object {
                    self.look_for_object(data);
                }
            }
            Ok(None) => {}
            Err(_) => self.cannot_be_object = true,
        }
        self.frames.push_back(frame);
    }

    fn look_for_object(&mut self, data: &[u8]) {
        for byte in data {
            let is_bom = BOM.get(self.before_object) == Some(byte);
            if !is_bom && !byte.is_ascii_whitespace() {
                self.has_begun_object = *byte == b'{';
                self.cannot_be_object = *byte != b'{';
                break;
            }
            self.before_object += 1;
        }
    }

    fn may_be_short_object(&self) -> bool {
        let is_short = self.length <= LONGEST_ANSWER && self.frames.len() <= LONGEST_ANSWER;
        !self.is_all && !self.cannot_be_object && is_short
    }

    fn errcode(&self) -> Option<i64> {
        if !self.is_all || !self.has_begun_object {
            return None;
        }
        let data = self.frames.iter().flatten().filter_map(Frame::data_ref);
        match *data.map(AsRef::as_ref).collect::<Vec<&[u8]>>() {
            [whole] => errcode::of_json(whole),
            ref pieces => errcode::of_json(&pieces.concat()),
        }
    }
}
