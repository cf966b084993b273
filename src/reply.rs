//! Reading the errcode of a response, and handing the response on whole.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use reqwest::{Body, Response, ResponseBuilderExt, Url};

use crate::errcode;
use crate::resumed::Resumed;

/// The longest body that is looked into, in bytes. The errors of the API are far shorter.
const LONGEST_ANSWER: usize = 16 * 1024;

/// What the API said.
pub(crate) struct Reply {
    response: Response,
    errcode: Option<i64>,
}

impl Reply {
    /// Looks for the errcode: in the header `Error-Code` if it holds a number, else in the body if that may be a short JSON
    /// object. No more of the body is read than that needs, and what has been read stays part of it.
    pub(crate) async fn read(response: Response) -> Self {
        if let Some(errcode) = errcode_of_header(response.headers()) {
            return Self {
                response,
                errcode: Some(errcode),
            };
        }
        if !may_be_json(response.headers()) || is_longer_than_looked_into(&response) {
            return Self {
                response,
                errcode: None,
            };
        }
        read_body(response).await
    }

    pub(crate) fn unread(response: Response) -> Self {
        Self {
            response,
            errcode: None,
        }
    }

    pub(crate) fn errcode(&self) -> Option<i64> {
        self.errcode
    }

    /// The response as it came, but for its URL.
    pub(crate) fn into_response(self, url: Url) -> Response {
        with_url(self.response.into(), url)
    }
}

fn with_url(response: http::Response<Body>, url: Url) -> Response {
    let (mut parts, body) = response.into_parts();
    // The only way to a `Response` with a certain URL is an extension that this builder alone can make.
    if let Ok(carrier) = http::Response::builder().url(url).body(()) {
        parts.extensions.extend(carrier.into_parts().0.extensions);
    }
    http::Response::from_parts(parts, body).into()
}

fn errcode_of_header(headers: &HeaderMap) -> Option<i64> {
    let mut values = headers.get_all("error-code").iter();
    match (values.next(), values.next()) {
        (Some(value), None) => errcode::of_digits(value.to_str().ok()?),
        _ => None,
    }
}

fn may_be_json(headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_DISPOSITION) || headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let Some(content_type) = headers.get(CONTENT_TYPE) else {
        return true;
    };
    let content_type = content_type.as_bytes();
    let essence = content_type.split(|&byte| byte == b';').next();
    let essence = essence.unwrap_or_default().trim_ascii();
    essence.eq_ignore_ascii_case(b"application/json")
        || essence
            .get(..5)
            .is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/"))
}

fn is_longer_than_looked_into(response: &Response) -> bool {
    response
        .content_length()
        .is_some_and(|length| length > LONGEST_ANSWER as u64)
}

async fn read_body(response: Response) -> Reply {
    let url = response.url().clone();
    let (parts, mut rest) = http::Response::<Body>::from(response).into_parts();
    let mut start = Start::default();
    while start.may_be_short_object() {
        match rest.frame().await {
            Some(frame) => start.push(frame),
            None => start.is_all = true,
        }
    }
    let errcode = if start.is_all {
        errcode::of_json(&start.to_bytes())
    } else {
        None
    };
    let body = Body::wrap(Resumed::new(start.frames, rest));
    Reply {
        response: with_url(http::Response::from_parts(parts, body), url),
        errcode,
    }
}

/// What has been read of a body.
#[derive(Default)]
struct Start {
    frames: VecDeque<Result<Frame<Bytes>, reqwest::Error>>,
    length: usize,
    has_begun_object: bool,
    cannot_be_object: bool,
    is_all: bool,
}

impl Start {
    fn push(&mut self, frame: Result<Frame<Bytes>, reqwest::Error>) {
        match frame.as_ref().map(Frame::data_ref) {
            Ok(Some(data)) => {
                self.length += data.len();
                if !self.has_begun_object {
                    let first = data.iter().find(|byte| !byte.is_ascii_whitespace());
                    self.has_begun_object = first == Some(&b'{');
                    self.cannot_be_object = first.is_some_and(|&byte| byte != b'{');
                }
            }
            Ok(None) => {}
            Err(_) => self.cannot_be_object = true,
        }
        self.frames.push_back(frame);
    }

    fn may_be_short_object(&self) -> bool {
        !self.is_all && !self.cannot_be_object && self.length <= LONGEST_ANSWER
    }

    fn to_bytes(&self) -> Bytes {
        let mut chunks = self
            .frames
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref());
        match (chunks.next(), chunks.next()) {
            (None, _) => Bytes::new(),
            (Some(only), None) => only.clone(),
            (Some(first), Some(second)) => [first, second]
                .into_iter()
                .chain(chunks)
                .flat_map(|chunk| chunk.iter().copied())
                .collect(),
        }
    }
}
