//! Answers: what they are made of, and those that a test has scripted.

use std::{
    collections::{HashMap, VecDeque},
    future::pending,
    io,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::Response,
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// An answer to one call, or to several.
#[derive(Clone)]
pub struct Answer {
    content: Content,
    status: StatusCode,
    headers: HeaderMap,
    times: usize,
    pub(super) reads: Reads,
}

#[derive(Clone)]
enum Content {
    /// What the API says, in the style of the day.
    Said {
        errcode: i64,
        fields: Value,
    },
    Bytes(Bytes),
    /// Taken out when it is sent.
    Streamed(Arc<Mutex<Option<Body>>>),
    Close,
    Hang,
}

/// When the body of the request is read.
#[derive(Clone, Copy, Default)]
pub(super) enum Reads {
    #[default]
    First,
    Meanwhile,
    Never,
}

impl Answer {
    /// 200 with this JSON text, and without an `Error-Code` header.
    pub fn json(text: impl Into<Bytes>) -> Self {
        let answer = Self::new(Content::Bytes(text.into()));
        answer.header("content-type", JSON)
    }

    /// This status with an empty body.
    pub fn status(status: u16) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            ..Self::new(Content::Bytes(Bytes::new()))
        }
    }

    /// The usual error of the API.
    pub fn errcode(errcode: i64) -> Self {
        let fields = json!({});
        Self::new(Content::Said { errcode, fields })
    }

    /// The usual success of the API, with these fields.
    pub fn ok(fields: Value) -> Self {
        Self::new(Content::Said { errcode: 0, fields })
    }

    /// No answer, the connection is closed. Over HTTP/2 the stream is reset.
    pub fn close() -> Self {
        Self::new(Content::Close)
    }

    /// No answer, ever.
    pub fn hang() -> Self {
        Self::new(Content::Hang)
    }

    /// 200 with this body, an item at a time. An error cuts it off: HTTP/1 closes the connection, HTTP/2
    /// resets the stream.
    pub fn stream<S>(body: S) -> Self
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        Self::frames(StreamBody::new(body.map_ok(http_body::Frame::data)))
    }

    /// The same for frames, so that there can be trailers.
    pub fn frames<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = io::Error> + Send + 'static,
    {
        let body = Arc::new(Mutex::new(Some(Body::new(body))));
        Self::new(Content::Streamed(body))
    }

    /// 200 with a body that comes as the other part is told to send it.
    pub fn dripped() -> (Self, Drip) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let body = stream::poll_fn(move |context| receiver.poll_recv(context));
        (Self::stream(body), Drip(sender))
    }

    fn new(content: Content) -> Self {
        Self {
            content,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            times: 1,
            reads: Reads::default(),
        }
    }

    /// With this body instead.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.content = Content::Bytes(body.into());
        self
    }

    /// With this status instead.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = StatusCode::from_u16(status).unwrap();
        self
    }

    /// With this header, in place of one that has the name. The value may be any text, raw UTF-8 too.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        self.headers.insert(name, value);
        self
    }

    /// For the next `n` calls.
    pub fn times(mut self, n: usize) -> Self {
        let once = matches!(self.content, Content::Streamed(_));
        assert!(!once || n == 1, "a stream can be sent only once");
        self.times = n;
        self
    }

    /// For all calls until the script is cleared.
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }

    /// Given without reading the body of the request.
    pub fn before_body(mut self) -> Self {
        self.reads = Reads::Never;
        self
    }

    /// Given at once, and the body of the request is read meanwhile and after.
    pub fn during_body(mut self) -> Self {
        self.reads = Reads::Meanwhile;
        self
    }

    /// An error is to end the connection.
    pub(super) async fn send(self, style: Style) -> io::Result<Response> {
        let mut response = match self.content {
            Content::Said { errcode, fields } => style.say(errcode, &fields),
            Content::Bytes(bytes) => Response::new(bytes.into()),
            Content::Streamed(body) => Response::new(body.lock().unwrap().take().unwrap()),
            Content::Close => return Err(io::ErrorKind::ConnectionAborted.into()),
            Content::Hang => pending().await,
        };
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        Ok(response)
    }
}

/// Sends the body of an [`Answer::dripped`]. The body ends when it is dropped.
pub struct Drip(mpsc::UnboundedSender<io::Result<Bytes>>);

impl Drip {
    /// Sends a piece.
    pub fn send(&self, piece: impl Into<Bytes>) {
        let _ = self.0.send(Ok(piece.into())); // The caller may have gone.
    }

    /// Cuts the body off in the middle.
    pub fn cut(self) {
        let _ = self.0.send(Err(io::ErrorKind::ConnectionAborted.into()));
    }
}

const JSON: &str = "application/json; charset=UTF-8";

/// In what form the API says things.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) error_headers: bool,
    pub(super) errcode_first: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            error_headers: true,
            errcode_first: true,
        }
    }
}

impl Style {
    fn say(self, errcode: i64, fields: &Value) -> Response {
        let errmsg = message(errcode);
        let verdict = format!(r#""errcode":{errcode},"errmsg":"{errmsg}""#);
        let fields = if self.errcode_first || errcode == 0 {
            fields.to_string()
        } else {
            r#"{"ip_list":[]}"#.to_owned()
        };
        let fields = &fields[1..fields.len() - 1];
        let text = match (fields, self.errcode_first) {
            ("", _) => format!("{{{verdict}}}"),
            (_, true) => format!("{{{verdict},{fields}}}"),
            (_, false) => format!("{{{fields},{verdict}}}"),
        };

        let mut response = Response::new(text.into());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        if self.error_headers {
            headers.insert("error-code", errcode.into());
            headers.insert("error-msg", errmsg.try_into().unwrap());
        }
        response
    }
}

fn message(errcode: i64) -> String {
    let what = match errcode {
        0 => return "ok".to_owned(),
        -1 => return "system busy".to_owned(),
        40001 => "invalid credential",
        40007 => "invalid media_id",
        40013 => "invalid corpid",
        40014 => "invalid access_token",
        41001 => "access_token missing",
        42001 => "access_token expired",
        44002 => "empty post data",
        45009 => "api freq out of limit",
        47001 => "data format error",
        _ => "an error",
    };
    format!(
        "{what}, hint: [1700000000123456789012345], from ip: 127.0.0.1, \
         more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"
    )
}

/// The answers that tests have asked for, by path.
#[derive(Default)]
pub(super) struct Script(HashMap<String, VecDeque<Answer>>);

impl Script {
    pub(super) fn add(&mut self, path: &str, answer: Answer) {
        self.0.entry(path.to_owned()).or_default().push_back(answer);
    }

    pub(super) fn clear(&mut self, path: &str) {
        self.0.remove(path);
    }

    pub(super) fn next(&mut self, path: &str) -> Option<Answer> {
        let answers = self.0.get_mut(path)?;
        let answer = answers.front_mut()?;
        if answer.times > 1 {
            answer.times -= 1;
            Some(answer.clone())
        } else {
            answers.pop_front()
        }
    }
}
