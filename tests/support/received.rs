//! What the stand-in saw.

use axum::{
    extract::Query,
    http::{HeaderMap, Method, Uri, Version, request::Parts},
};
use bytes::Bytes;

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The method.
    pub method: Method,
    /// Path and query, byte for byte.
    pub uri: String,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// As much of the body as has been read by now.
    pub body: Bytes,
    /// Whether the body has been read to its proper end.
    pub body_complete: bool,
    /// What follows `/cgi-bin/`, or for a request outside the API the whole path.
    pub path: String,
}

impl Received {
    pub(super) fn new(parts: Parts, prefix: &str) -> Self {
        let path = parts.uri.path();
        let below = path.strip_prefix(prefix);
        let call = below.and_then(|path| path.strip_prefix("/cgi-bin/"));
        Self {
            method: parts.method,
            path: call.unwrap_or(path).to_owned(),
            uri: parts
                .uri
                .path_and_query()
                .map(ToString::to_string)
                .unwrap_or_default(),
            version: parts.version,
            headers: parts.headers,
            body: Bytes::new(),
            body_complete: false,
        }
    }

    /// The query, byte for byte, without the question mark.
    pub fn query_raw(&self) -> &str {
        self.uri.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first `access_token` of the query, decoded.
    pub fn access_token(&self) -> Option<String> {
        self.param("access_token")
    }

    /// Every `access_token` of the query, decoded.
    pub fn access_tokens(&self) -> Vec<String> {
        self.params("access_token").collect()
    }

    /// The first parameter of this name in the query, decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        self.params(name).next()
    }

    fn params(&self, name: &str) -> impl Iterator<Item = String> {
        let uri: Uri = self.uri.parse().expect("it was one");
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).expect("pairs");
        let named = pairs.into_iter().filter(move |(key, _)| key == name);
        named.map(|(_, value)| value)
    }
}

/// All requests since the start, or since they were last forgotten.
#[derive(Default)]
pub(super) struct Log {
    received: Vec<Received>,
    forgotten: usize,
}

impl Log {
    /// Adds a request, and gives the number by which its body can be added later.
    pub(super) fn add(&mut self, received: Received) -> usize {
        self.received.push(received);
        self.forgotten + self.received.len() - 1
    }

    pub(super) fn set_body(&mut self, number: usize, body: Bytes, complete: bool) {
        let index = number.checked_sub(self.forgotten);
        if let Some(received) = index.and_then(|index| self.received.get_mut(index)) {
            received.body = body;
            received.body_complete = complete;
        }
    }

    pub(super) fn received(&self) -> &[Received] {
        &self.received
    }

    pub(super) fn forget(&mut self) {
        self.forgotten += self.received.len();
        self.received.clear();
    }
}
