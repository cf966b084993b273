//! Files: `media/upload` and `media/get`.

use std::{collections::HashMap, ops::Range};

use axum::{
    body::Body,
    extract::{DefaultBodyLimit, FromRequest, Multipart, Request},
};
use bytes::Bytes;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Answer, Received, Shared};

/// The files kept, by media id.
#[derive(Default)]
pub(super) struct Shelf(HashMap<String, File>);

#[derive(Clone)]
struct File {
    name: String,
    content_type: String,
    content: Bytes,
}

impl Shelf {
    pub(super) fn keep(&mut self, name: &str, content_type: &str, content: Bytes) -> String {
        let id = format!("3a_media_{}", self.0.len());
        let file = File {
            name: name.to_owned(),
            content_type: content_type.to_owned(),
            content,
        };
        self.0.insert(id.clone(), file);
        id
    }
}

pub(super) async fn upload(qyapi: &Shared, call: &Received) -> Answer {
    let Some((name, content_type, content)) = media_part(call).await else {
        return Answer::errcode(44002);
    };
    let length = content.len();
    let sha256 = Bytes::copy_from_slice(&Sha256::digest(&content));
    let media_id = qyapi
        .shelf
        .lock()
        .unwrap()
        .keep(&name, &content_type, content);
    Answer::ok(json!({
        "type": call.param("type"),
        "media_id": media_id,
        "created_at": "1700000000",
        // Not of the real API: for tests.
        "length": length,
        "sha256": format!("{sha256:x}"),
    }))
}

async fn media_part(call: &Received) -> Option<(String, String, Bytes)> {
    let mut request = Request::new(Body::from(call.body.clone()));
    *request.headers_mut() = call.headers.clone();
    DefaultBodyLimit::disable().apply(&mut request);
    let mut parts = Multipart::from_request(request, &()).await.ok()?;
    while let Some(part) = parts.next_field().await.ok()? {
        if part.name() == Some("media") {
            let name = part.file_name().unwrap_or_default().to_owned();
            let content_type = part.content_type().unwrap_or("application/octet-stream");
            let content_type = content_type.to_owned();
            return Some((name, content_type, part.bytes().await.ok()?));
        }
    }
    None
}

pub(super) fn get(qyapi: &Shared, call: &Received) -> Answer {
    let id = call.param("media_id").unwrap_or_default();
    let file = qyapi.shelf.lock().unwrap().0.get(&id).cloned();
    let Some(file) = file else {
        return Answer::errcode(40007);
    };
    let length = file.content.len();
    let answer = match range(call, length) {
        Some(Range { start, end }) => Answer::status(206)
            .header(
                "content-range",
                &format!("bytes {start}-{}/{length}", end - 1),
            )
            .body(file.content.slice(start..end)),
        None => Answer::status(200).body(file.content),
    };
    answer.header("content-type", &file.content_type).header(
        "content-disposition",
        &format!("attachment; filename=\"{}\"", file.name),
    )
}

/// The part asked for by a `Range` of the forms `bytes=2-5` and `bytes=2-`.
fn range(call: &Received, length: usize) -> Option<Range<usize>> {
    let range = call.headers.get("range")?.to_str().ok()?;
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let start = first.parse().ok()?;
    let end = last
        .parse()
        .map_or(length, |last: usize| length.min(last + 1));
    (start < end).then_some(start..end)
}
