//! The API: what becomes of a request, and what each call answers.

use std::{io, sync::Arc};

use axum::{http::Request, response::Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{
    Shared,
    answer::{Answer, Reads},
    issuer::Issuer,
    media, page_ticket, provider,
    received::{Log, Received},
};

/// Answers a request. An error is to end the connection.
pub(super) async fn answer(qyapi: Arc<Shared>, request: Request<Incoming>) -> io::Result<Response> {
    let (parts, body) = request.into_parts();
    let mut call = Received::new(parts, &qyapi.prefix);
    let number = log(&qyapi, |log| log.add(call.clone()));

    let is_gettoken = call.path == "gettoken";
    if is_gettoken {
        let latency = *qyapi.gettoken_latency.lock().unwrap();
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        qyapi.gettoken_gateway.pass().await;
    }

    let scripted = qyapi.script.lock().unwrap().next(&call.path);
    let reads = scripted
        .as_ref()
        .map_or(Reads::First, |answer| answer.reads);
    if !matches!(reads, Reads::Never) {
        // A task of its own, so that a caller who goes does not end it before it has told how far it came.
        let reading = tokio::spawn(read(qyapi.clone(), number, body));
        if matches!(reads, Reads::First) {
            call.body = reading.await.expect("the body is read");
        }
    }
    let answer = match scripted {
        Some(answer) => answer,
        None => decide(&qyapi, &call).await,
    };
    if !is_gettoken {
        qyapi.api_gateway.pass().await;
    }

    let mut style = *qyapi.style.lock().unwrap();
    // This call has always had it last.
    style.errcode_first &= call.path != "get_api_domain_ip";
    answer.send(style).await
}

fn log<T>(qyapi: &Shared, change: impl FnOnce(&mut Log) -> T) -> T {
    let mut result = None;
    qyapi.log.send_modify(|log| result = Some(change(log)));
    result.expect("the change was made")
}

/// Reads the body as far as it comes, and adds it to the log.
async fn read(qyapi: Arc<Shared>, number: usize, mut body: Incoming) -> Bytes {
    let mut read = BytesMut::new();
    let complete = loop {
        match body.frame().await {
            Some(Ok(frame)) => read.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    let read = read.freeze();
    log(&qyapi, |log| log.set_body(number, read.clone(), complete));
    read
}

async fn decide(qyapi: &Shared, call: &Received) -> Answer {
    let path = call.path.as_str();
    if let Some(answer) = provider::decide(qyapi, call) {
        return answer;
    }
    if path.starts_with('/') {
        return Answer::status(404);
    }
    if takes_access_token(path) {
        let tokens = call.access_tokens();
        let verdict = qyapi.issuer.lock().unwrap().judge(&tokens);
        if verdict != 0 {
            return Answer::errcode(verdict);
        }
    }
    match path {
        "gettoken" => gettoken(qyapi, call),
        "user/get" => Answer::ok(json!({ "userid": call.param("userid"), "name": "张三" })),
        "message/send" => message_send(call),
        "media/upload" => media::upload(qyapi, call).await,
        "media/get" => media::get(qyapi, call),
        "get_jsapi_ticket" | "ticket/get" => page_ticket::answer(qyapi, call),
        "get_api_domain_ip" => Answer::ok(json!({ "ip_list": ["182.254.11.176"] })),
        _ => Answer::ok(json!({})),
    }
}

/// Whether a call takes an access token, and not another credential.
fn takes_access_token(path: &str) -> bool {
    let (directory, _) = path.split_once('/').unwrap_or_default();
    !matches!(
        directory,
        "service" | "webhook" | "license" | "paytool" | "advanced_api" | "openhw"
    ) && !matches!(
        path,
        "gettoken"
            | "wedoc/smartsheet/webhook"
            | "hardware/get_device_feature"
            | "idconvert/upgrade_chatid_for_new_corp"
            | "aibot/response"
    ) && !path.starts_with("aibot/cli/")
}

fn gettoken(qyapi: &Shared, call: &Received) -> Answer {
    let param = |name| call.param(name).unwrap_or_default();
    let (corp, secret) = (param("corpid"), param("corpsecret"));
    let mut issuer = qyapi.issuer.lock().unwrap();
    let errcode = issuer.check(&corp, &secret);
    if errcode != 0 {
        return Answer::errcode(errcode);
    }
    issued(&mut issuer, &secret, "access_token")
}

/// The answer that gives a token of this app.
pub(super) fn issued(issuer: &mut Issuer, secret: &str, field: &str) -> Answer {
    let (token, lifetime) = issuer.issue(secret);
    let fields = json!({ field: token, "expires_in": lifetime.as_secs() });
    if issuer.omit_errcode {
        Answer::json(fields.to_string())
    } else {
        Answer::ok(fields)
    }
}

fn message_send(call: &Received) -> Answer {
    if call.body.is_empty() {
        Answer::errcode(44002)
    } else if serde_json::from_slice::<Value>(&call.body).is_err() {
        Answer::errcode(47001)
    } else {
        Answer::ok(json!({ "invaliduser": "", "msgid": "msg_1" }))
    }
}
