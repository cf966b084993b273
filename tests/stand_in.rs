//! The stand-in keeps to what is known of qyapi, and does what tests tell it to.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::{error::Error, io, time::Duration};

use bytes::Bytes;
use futures_util::{
    future::{join_all, pending},
    stream::{self, StreamExt},
};
use http_body::Frame;
use http_body_util::StreamBody;
use reqwest::{Body, Client, Response, StatusCode, Version, multipart};
use serde_json::{Value, json};
use support::{
    Answer, CORP, HOST, OTHER_CORP, OTHER_CORP_SECRET, OTHER_SECRET, PageTicket, Qyapi, Repeat,
    SECRET,
};
use tokio::sync::mpsc;

async fn get(qyapi: &Qyapi, call: &str) -> Response {
    qyapi.client().get(qyapi.url(call)).send().await.unwrap()
}

async fn json_of(qyapi: &Qyapi, call: &str) -> Value {
    get(qyapi, call).await.json().await.unwrap()
}

async fn errcode(qyapi: &Qyapi, call: &str) -> i64 {
    json_of(qyapi, call).await["errcode"].as_i64().unwrap()
}

/// The errcode that a call with this token is answered.
async fn verdict(qyapi: &Qyapi, token: &str) -> i64 {
    errcode(qyapi, &format!("user/get?access_token={token}")).await
}

async fn fetch(qyapi: &Qyapi, corp: &str, secret: &str) -> Value {
    json_of(
        qyapi,
        &format!("gettoken?corpid={corp}&corpsecret={secret}"),
    )
    .await
}

/// Fetches a token of the first app, and the lifetime told.
async fn gettoken(qyapi: &Qyapi) -> (String, u64) {
    let answer = fetch(qyapi, CORP, SECRET).await;
    let token = answer["access_token"].as_str().unwrap().to_owned();
    (token, answer["expires_in"].as_u64().unwrap())
}

fn header<'a>(response: &'a Response, name: &str) -> &'a [u8] {
    response.headers()[name].as_bytes()
}

mod issuer {
    use super::*;

    #[tokio::test]
    async fn each_app_has_its_own_token() {
        let qyapi = Qyapi::start().await;
        let mut tokens = Vec::new();
        for (corp, secret) in [
            (CORP, SECRET),
            (CORP, OTHER_SECRET),
            (OTHER_CORP, OTHER_CORP_SECRET),
        ] {
            let answer = fetch(&qyapi, corp, secret).await;
            assert_eq!(answer["errcode"], 0);
            assert_eq!(answer["errmsg"], "ok");
            assert_eq!(answer["expires_in"], 7200);
            let token = answer["access_token"].as_str().unwrap().to_owned();
            assert!(token.len() > 100 && token.len() <= 512);
            assert_eq!(qyapi.current_token(secret), Some(token.clone()));
            assert_eq!(verdict(&qyapi, &token).await, 0);
            assert!(!tokens.contains(&token));
            tokens.push(token);
        }
    }

    #[tokio::test]
    async fn wrong_credentials_are_refused() {
        let qyapi = Qyapi::start().await;
        let wrong_secret = fetch(&qyapi, CORP, OTHER_CORP_SECRET).await;
        assert_eq!(wrong_secret["errcode"], 40001);
        let errmsg = wrong_secret["errmsg"].as_str().unwrap();
        assert!(
            errmsg.starts_with("invalid credential, hint: ["),
            "{errmsg}"
        );
        assert!(errmsg.ends_with("query?e=40001"), "{errmsg}");
        let wrong_corp = fetch(&qyapi, "ww_nobody", SECRET).await;
        assert_eq!(wrong_corp["errcode"], 40013);
    }

    #[tokio::test]
    async fn ended_tokens_are_answered_as_told() {
        let qyapi = Qyapi::start().await;
        let (other, revoked) = (qyapi.issue(OTHER_SECRET), qyapi.issue(SECRET));
        qyapi.revoke(SECRET);
        assert_eq!(qyapi.current_token(SECRET), None);
        let expired = qyapi.issue(SECRET);
        qyapi.expire(SECRET);
        let good = qyapi.issue(SECRET);

        assert_eq!(verdict(&qyapi, &revoked).await, 40014);
        assert_eq!(verdict(&qyapi, &expired).await, 42001);
        assert_eq!(verdict(&qyapi, &good).await, 0);
        assert_eq!(verdict(&qyapi, &other).await, 0);
        assert_eq!(qyapi.gettoken_count(), 0, "issued unseen");
    }

    #[tokio::test]
    async fn a_repeated_gettoken_may_give_the_same_token() {
        for (repeat, lifetime_told) in [
            (Repeat::SameToken, 7200),
            (Repeat::SameTokenShorter, 7199),
            (Repeat::SameTokenExtended, 9000),
        ] {
            let qyapi = Qyapi::start().await;
            qyapi.on_repeat(repeat);
            let (first, _) = gettoken(&qyapi).await;
            qyapi.lifetime(Duration::from_secs(9000));
            assert_eq!(
                gettoken(&qyapi).await,
                (first.clone(), lifetime_told),
                "{repeat:?}"
            );

            qyapi.revoke(SECRET);
            let (second, lifetime_told) = gettoken(&qyapi).await;
            assert_ne!(first, second, "{repeat:?}");
            assert_eq!(lifetime_told, 9000);
        }
    }

    #[tokio::test]
    async fn a_repeated_gettoken_may_give_a_new_token() {
        let qyapi = Qyapi::start().await;
        let (first, _) = gettoken(&qyapi).await;
        let (second, _) = gettoken(&qyapi).await;
        assert_eq!(verdict(&qyapi, &first).await, 40014);

        qyapi.on_repeat(Repeat::NewTokenOldValid);
        let (third, _) = gettoken(&qyapi).await;
        assert_ne!(second, third);
        assert_eq!(verdict(&qyapi, &second).await, 0);
        assert_eq!(verdict(&qyapi, &third).await, 0);

        qyapi.revoke(SECRET);
        assert_eq!(verdict(&qyapi, &second).await, 40014);
        assert_eq!(verdict(&qyapi, &third).await, 40014);
    }

    #[tokio::test]
    async fn tickets_for_pages_are_repeated_with_the_whole_lifetime() {
        let qyapi = Qyapi::start().await;
        let [token, other] = [SECRET, OTHER_SECRET].map(|secret| qyapi.issue(secret));
        for (call, ticket) in [
            ("get_jsapi_ticket?", PageTicket::OfCorp(CORP.to_owned())),
            (
                "ticket/get?type=agent_config&",
                PageTicket::OfApp(SECRET.to_owned()),
            ),
        ] {
            let expected = qyapi.page_ticket(ticket);
            for _ in 0..2 {
                let answer = json_of(&qyapi, &format!("{call}access_token={token}")).await;
                assert_eq!(answer["ticket"], expected);
                assert_eq!(answer["expires_in"], 7200);
            }
            let answer = json_of(&qyapi, &format!("{call}access_token={other}")).await;
            assert_eq!(answer["ticket"] == expected, call.starts_with("get_jsapi"));
            assert_eq!(errcode(&qyapi, call).await, 41001);
        }
        let untyped = format!("ticket/get?access_token={token}");
        assert_eq!(errcode(&qyapi, &untyped).await, 40035);
    }

    #[tokio::test]
    async fn tokens_may_hold_what_a_url_must_encode() {
        let qyapi = Qyapi::start().await;
        qyapi.token_suffix("&=#+% \n/?é");
        let (token, _) = gettoken(&qyapi).await;
        assert!(token.ends_with("&=#+% \n/?é"));

        let call = qyapi.client().get(qyapi.url("user/get"));
        let answer = call
            .query(&[("access_token", &token)])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.json::<Value>().await.unwrap()["errcode"], 0);
        assert_eq!(qyapi.last("user/get").access_token(), Some(token));
    }

    #[tokio::test]
    async fn gettoken_may_leave_errcode_out() {
        let qyapi = Qyapi::start().await;
        qyapi.omit_errcode_on_success(true);
        let answer = fetch(&qyapi, CORP, SECRET).await;
        assert_eq!(answer.get("errcode"), None);
        assert!(answer["access_token"].is_string());
        assert_eq!(fetch(&qyapi, CORP, "wrong").await["errcode"], 40001);
    }
}

mod calls {
    use super::*;

    #[tokio::test]
    async fn the_token_is_read_from_the_query_alone() {
        let qyapi = Qyapi::start().await;
        let token = qyapi.issue(SECRET);
        assert_eq!(errcode(&qyapi, "user/get").await, 41001);
        assert_eq!(verdict(&qyapi, "nobodys").await, 40014);
        assert_eq!(
            verdict(&qyapi, &format!("{token}&access_token={token}")).await,
            40014
        );

        let call = qyapi.client().post(qyapi.url("message/send"));
        let call = call
            .bearer_auth(&token)
            .json(&json!({ "access_token": token }));
        let answer: Value = call.send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["errcode"], 41001);
    }

    #[tokio::test]
    async fn other_stand_ins_tokens_are_unknown() {
        let (one, other) = (Qyapi::start().await, Qyapi::start().await);
        let token = one.issue(SECRET);
        other.issue(SECRET);
        assert_eq!(verdict(&other, &token).await, 40014);
    }

    #[tokio::test]
    async fn some_paths_take_other_credentials() {
        let qyapi = Qyapi::start().await;
        for (path, expected) in [
            ("service/get_login_info?access_token=providers", 40082),
            ("webhook/send?key=k", 0),
            ("wedoc/smartsheet/webhook?key=k", 0),
            ("license/create_new_order", 41001),
            ("service/get_admin_list", 41001),
            ("paytool/open_order", 0),
            ("advanced_api/corp/list", 0),
            ("hardware/get_device_feature", 0),
            ("idconvert/upgrade_chatid_for_new_corp", 0),
            ("openhw/get_device_token", 0),
            ("aibot/response", 0),
            ("aibot/cli/any", 0),
            ("corpgroup/corp/gettoken", 41001),
            ("hardware/other", 41001),
            ("aibot/other", 41001),
            ("services/any", 41001),
            ("department/list", 41001),
        ] {
            assert_eq!(errcode(&qyapi, path).await, expected, "{path}");
        }
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        let qyapi = Qyapi::builder().prefix("/proxy/qyapi").start().await;
        for path in ["/", "/cgi-bin/user/get", "/proxy/qyapi/other"] {
            let url = format!("http://{}{path}", qyapi.addr());
            let answer = qyapi.client().get(url).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            assert_eq!(answer.bytes().await.unwrap(), "");
            assert_eq!(qyapi.count(path), 1);
        }
        assert_eq!(qyapi.api_count(), 0);
    }

    #[tokio::test]
    async fn messages_need_a_body() {
        let qyapi = Qyapi::start().await;
        let url = qyapi.url(&format!(
            "message/send?access_token={}",
            qyapi.issue(SECRET)
        ));
        for (body, errcode) in [("", 44002), ("{", 47001), (r#"{"touser":"@all"}"#, 0)] {
            let answer = qyapi.client().post(&url).body(body).send().await.unwrap();
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["errcode"], errcode);
            assert_eq!(qyapi.last("message/send").body, body);
        }
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_went() {
        let qyapi = Qyapi::start().await;
        let token = qyapi.issue(SECRET);
        let file = multipart::Part::bytes(b"0123456789".to_vec());
        let file = file.file_name("报告.txt").mime_str("text/plain").unwrap();
        let upload = qyapi
            .client()
            .post(qyapi.url(&format!("media/upload?access_token={token}&type=file")))
            .multipart(multipart::Form::new().part("media", file));
        let upload: Value = upload.send().await.unwrap().json().await.unwrap();
        assert_eq!(upload["errcode"], 0);
        assert_eq!(upload["type"], "file");
        assert_eq!(upload["length"], 10);
        assert_eq!(
            upload["sha256"],
            "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
        );

        let id = upload["media_id"].as_str().unwrap();
        let call = format!("media/get?access_token={token}&media_id={id}");
        let whole = get(&qyapi, &call).await;
        assert_eq!(header(&whole, "content-type"), b"text/plain");
        let disposition = "attachment; filename=\"报告.txt\"";
        assert_eq!(
            header(&whole, "content-disposition"),
            disposition.as_bytes()
        );
        assert!(!whole.headers().contains_key("error-code"));
        assert_eq!(whole.bytes().await.unwrap(), "0123456789");

        for (range, content, content_range) in [
            ("bytes=2-5", "2345", "bytes 2-5/10"),
            ("bytes=7-", "789", "bytes 7-9/10"),
        ] {
            let part = qyapi.client().get(qyapi.url(&call)).header("range", range);
            let part = part.send().await.unwrap();
            assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
            assert_eq!(header(&part, "content-range"), content_range.as_bytes());
            assert_eq!(part.bytes().await.unwrap(), content);
        }

        let unknown = get(
            &qyapi,
            &format!("media/get?access_token={token}&media_id=x"),
        )
        .await;
        assert_eq!(header(&unknown, "error-code"), b"40007");
    }

    #[tokio::test]
    async fn a_kept_file_can_be_had() {
        let qyapi = Qyapi::start().await;
        let id = qyapi.keep_media("a.json", "application/json", br#"{"errcode":40014}"#);
        let token = qyapi.issue(SECRET);
        let file = get(
            &qyapi,
            &format!("media/get?access_token={token}&media_id={id}"),
        )
        .await;
        assert_eq!(file.text().await.unwrap(), r#"{"errcode":40014}"#);
    }
}

mod answers {
    use super::*;

    #[tokio::test]
    async fn json_answers_carry_their_errcode_in_headers() {
        let qyapi = Qyapi::start().await;
        let token = qyapi.issue(SECRET);
        let good = get(
            &qyapi,
            &format!("user/get?userid=zhangsan&access_token={token}"),
        )
        .await;
        assert_eq!(
            header(&good, "content-type"),
            b"application/json; charset=UTF-8"
        );
        assert_eq!(header(&good, "error-code"), b"0");
        assert_eq!(header(&good, "error-msg"), b"ok");
        let length: usize = str::from_utf8(header(&good, "content-length"))
            .unwrap()
            .parse()
            .unwrap();
        let text = good.text().await.unwrap();
        assert_eq!(text.len(), length);
        assert!(text.starts_with(r#"{"errcode":0,"errmsg":"ok","#), "{text}");

        let bad = get(&qyapi, "user/get?access_token=x").await;
        assert_eq!(bad.status(), StatusCode::OK);
        assert_eq!(header(&bad, "error-code"), b"40014");
        let errmsg = header(&bad, "error-msg").to_vec();
        let bad: Value = bad.json().await.unwrap();
        assert_eq!(
            bad["errmsg"],
            "invalid access_token, hint: [1700000000123456789012345], from ip: 127.0.0.1, \
             more info at https://open.work.weixin.qq.com/devtool/query?e=40014"
        );
        assert_eq!(bad["errmsg"].as_str().unwrap().as_bytes(), errmsg);

        qyapi.error_headers(false);
        let bare = get(&qyapi, "user/get?access_token=x").await;
        assert!(!bare.headers().contains_key("error-code"));
        assert!(!bare.headers().contains_key("error-msg"));
    }

    #[tokio::test]
    async fn errcode_may_come_last() {
        let qyapi = Qyapi::start().await;
        let call = format!("get_api_domain_ip?access_token={}", qyapi.issue(SECRET));
        assert_eq!(
            get(&qyapi, &call).await.text().await.unwrap(),
            r#"{"ip_list":["182.254.11.176"],"errcode":0,"errmsg":"ok"}"#
        );

        qyapi.errcode_first(false);
        let error = get(&qyapi, "user/get").await.text().await.unwrap();
        assert!(
            error.starts_with(r#"{"ip_list":[],"errcode":41001,"#),
            "{error}"
        );
    }

    #[tokio::test]
    async fn scripted_answers_come_in_order_and_then_the_usual_ones() {
        let qyapi = Qyapi::start().await;
        qyapi.script("user/get", Answer::json(r#"{"errcode":"7"}"#).times(2));
        qyapi.script("user/get", Answer::status(502).body("<html>"));
        qyapi.script("user/get", Answer::errcode(-1).header("x-more", "是"));

        for _ in 0..2 {
            let json = get(&qyapi, "user/get").await;
            assert!(!json.headers().contains_key("error-code"));
            assert_eq!(
                header(&json, "content-type"),
                b"application/json; charset=UTF-8"
            );
            assert_eq!(json.text().await.unwrap(), r#"{"errcode":"7"}"#);
        }
        let status = get(&qyapi, "user/get").await;
        assert_eq!(status.status(), StatusCode::BAD_GATEWAY);
        assert_eq!(status.text().await.unwrap(), "<html>");
        let busy = get(&qyapi, "user/get").await;
        assert_eq!(header(&busy, "error-code"), b"-1");
        assert_eq!(header(&busy, "x-more"), "是".as_bytes());
        assert_eq!(
            busy.text().await.unwrap(),
            r#"{"errcode":-1,"errmsg":"system busy"}"#
        );
        assert_eq!(errcode(&qyapi, "user/get").await, 41001);
    }

    #[tokio::test]
    async fn one_path_may_reject_every_token() {
        let qyapi = Qyapi::start().await;
        let token = qyapi.issue(SECRET);
        qyapi.reject_always("user/get", 40014);
        assert_eq!(verdict(&qyapi, &token).await, 40014);
        assert_eq!(verdict(&qyapi, &token).await, 40014);
        assert_eq!(
            errcode(&qyapi, &format!("agent/get?access_token={token}")).await,
            0
        );
        qyapi.clear_script("user/get");
        assert_eq!(verdict(&qyapi, &token).await, 0);
    }

    #[tokio::test]
    async fn a_connection_may_close_without_an_answer() {
        let qyapi = Qyapi::start().await;
        let h2 = qyapi
            .client_builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        for client in [qyapi.client(), h2] {
            qyapi.script("user/get", Answer::close());
            let error = client.get(qyapi.url("user/get")).send().await.unwrap_err();
            assert!(error.is_request(), "{error:?}");
            let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
        }
        assert_eq!(qyapi.count("user/get"), 4);
    }

    #[tokio::test]
    async fn a_body_may_drip_and_be_cut_off() {
        let qyapi = Qyapi::start().await;
        let (answer, drip) = Answer::dripped();
        qyapi.script("user/get", answer.header("content-type", "text/plain"));
        let mut response = get(&qyapi, "user/get").await;
        drip.send("one");
        assert_eq!(response.chunk().await.unwrap().unwrap(), "one");
        drip.send("two");
        assert_eq!(response.chunk().await.unwrap().unwrap(), "two");
        drip.cut();
        assert!(response.chunk().await.is_err());

        let (answer, drip) = Answer::dripped();
        qyapi.script("user/get", answer);
        drip.send("whole");
        drop(drip);
        assert_eq!(get(&qyapi, "user/get").await.text().await.unwrap(), "whole");
    }

    #[tokio::test]
    async fn a_body_may_be_a_stream() {
        let qyapi = Qyapi::start().await;
        let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"more")));
        qyapi.script("user/get", Answer::stream(endless));
        let mut response = get(&qyapi, "user/get").await;
        for _ in 0..100 {
            assert!(response.chunk().await.unwrap().is_some());
        }

        let trailers =
            [("x-last", "1")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let frames = [
            Frame::data(Bytes::from_static(b"text")),
            Frame::trailers(trailers.into_iter().collect()),
        ];
        let frames = StreamBody::new(stream::iter(frames.map(Ok)));
        qyapi.script("user/get", Answer::frames(frames));
        assert_eq!(get(&qyapi, "user/get").await.text().await.unwrap(), "text");
    }

    #[tokio::test]
    async fn all_ends_with_the_handle() {
        let qyapi = Qyapi::start().await;
        let h2 = qyapi
            .client_builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        for client in [qyapi.client(), h2] {
            let qyapi = Qyapi::start().await;
            qyapi.script("user/get", Answer::hang());
            let call = tokio::spawn(client.get(qyapi.url("user/get")).send());
            qyapi
                .until(|received| received.iter().any(|it| it.body_complete))
                .await;
            let url = qyapi.url("user/get");
            drop(qyapi);
            assert!(call.await.unwrap().unwrap_err().is_request());
            assert!(client.get(url).send().await.is_err());
        }
    }
}

mod gates {
    use super::*;

    #[tokio::test]
    async fn gettoken_waits_at_its_gate_undecided() {
        let qyapi = Qyapi::start().await;
        let gate = qyapi.hold_gettoken();
        let mut calls = join_all((0..3).map(|_| gettoken(&qyapi)));
        tokio::select! {
            () = gate.arrived(3) => {}
            _ = &mut calls => panic!("the gate is closed"),
        }
        assert_eq!(qyapi.gettoken_count(), 3);
        assert_eq!(qyapi.current_token(SECRET), None);
        gate.open();
        let tokens = calls.await;
        assert!(
            tokens
                .iter()
                .any(|(token, _)| qyapi.current_token(SECRET).as_ref() == Some(token))
        );
        gettoken(&qyapi).await;
    }

    #[tokio::test]
    async fn a_call_waits_at_its_gate_decided() {
        let qyapi = Qyapi::start().await;
        let token = qyapi.issue(SECRET);
        qyapi.revoke(SECRET);
        let gate = qyapi.hold_api();
        let late = async { (verdict(&qyapi, &token).await, qyapi.current_token(SECRET)) };
        let meanwhile = async {
            gate.arrived(1).await;
            let (token, _) = gettoken(&qyapi).await;
            gate.let_through(1);
            token
        };
        let ((late, current), fresh) = tokio::join!(late, meanwhile);
        assert_eq!(late, 40014);
        assert_eq!(current, Some(fresh.clone()));
        drop(gate);
        assert_eq!(verdict(&qyapi, &fresh).await, 0);
    }

    #[tokio::test]
    async fn gettoken_may_take_its_time() {
        let qyapi = Qyapi::start().await;
        qyapi.gettoken_latency(Duration::from_millis(50));
        let begun = std::time::Instant::now();
        gettoken(&qyapi).await;
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }

    #[tokio::test]
    async fn a_crowd_can_be_held_on_one_connection() {
        let qyapi = Qyapi::start().await;
        let client = qyapi
            .client_builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        let url = qyapi.url(&format!("user/get?access_token={}", qyapi.issue(SECRET)));
        let gate = qyapi.hold_api();
        let calls: Vec<_> = (0..10_000)
            .map(|_| tokio::spawn(client.get(&url).send()))
            .collect();
        gate.arrived(10_000).await;
        gate.open();
        for call in join_all(calls).await {
            assert_eq!(call.unwrap().unwrap().status(), StatusCode::OK);
        }
        assert_eq!(qyapi.count("user/get"), 10_000);
    }
}

mod received {
    use super::*;

    #[tokio::test]
    async fn requests_are_kept_byte_for_byte_and_in_order() {
        let qyapi = Qyapi::start().await;
        let query = "a=%e4%bd%a0&b=+|%27&&c&access_token=x%2By%26+z&access_token=";
        let call = qyapi.client().put(qyapi.url(&format!("some/path?{query}")));
        call.header("x-mark", "1")
            .body("body")
            .send()
            .await
            .unwrap();
        gettoken(&qyapi).await;
        fetch(&qyapi, CORP, OTHER_SECRET).await;

        let received = qyapi.received();
        let paths: Vec<_> = received.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(paths, ["some/path", "gettoken", "gettoken"]);
        let first = &received[0];
        assert_eq!(first.method, "PUT");
        assert_eq!(first.uri, format!("/cgi-bin/some/path?{query}"));
        assert_eq!(first.query_raw(), query);
        assert_eq!(first.version, Version::HTTP_11);
        assert_eq!(first.headers["x-mark"], "1");
        assert_eq!(first.body, "body");
        assert!(first.body_complete);
        assert_eq!(first.access_token().unwrap(), "x+y& z");
        assert_eq!(first.access_tokens(), ["x+y& z", ""]);

        assert_eq!(qyapi.gettoken_count(), 2);
        assert_eq!(qyapi.gettoken_count_of(OTHER_SECRET), 1);
        assert_eq!(qyapi.api_count(), 1);
        qyapi.forget_received();
        assert_eq!(qyapi.gettoken_count() + qyapi.api_count(), 0);
        gettoken(&qyapi).await;
        assert!(qyapi.last("gettoken").body_complete);
    }

    #[tokio::test]
    async fn an_answer_may_come_before_the_body() {
        let qyapi = Qyapi::start().await;
        qyapi.script("message/send", Answer::errcode(40014).before_body());
        let endless = Body::wrap_stream(stream::pending::<io::Result<Bytes>>());
        let call = qyapi.client().post(qyapi.url("message/send")).body(endless);
        assert_eq!(header(&call.send().await.unwrap(), "error-code"), b"40014");
        assert!(!qyapi.last("message/send").body_complete);
    }

    #[tokio::test]
    async fn a_body_may_be_read_on_after_the_answer() {
        let qyapi = Qyapi::start().await;
        for (last, complete) in [(Ok("two"), true), (Err(io::Error::other("cut")), false)] {
            qyapi.script("message/send", Answer::status(200).during_body());
            let (sender, mut receiver) = mpsc::unbounded_channel();
            let body = Body::wrap_stream(stream::poll_fn(move |it| receiver.poll_recv(it)));
            sender.send(Ok("one")).unwrap();
            let call = qyapi.client().post(qyapi.url("message/send")).body(body);
            let response = call.send().await.unwrap();

            sender.send(last).unwrap();
            drop(sender);
            let read = |body: &Bytes| body.starts_with(b"one");
            qyapi
                .until(|received| received.last().is_some_and(|it| read(&it.body)))
                .await;
            let received = qyapi.last("message/send");
            assert_eq!(received.body, if complete { "onetwo" } else { "one" });
            assert_eq!(received.body_complete, complete);
            drop(response);
        }
    }

    #[tokio::test]
    async fn a_caller_who_goes_leaves_half_a_body() {
        let qyapi = Qyapi::start().await;
        let half = stream::iter([io::Result::Ok("half")]).chain(stream::once(pending()));
        let call = qyapi
            .client()
            .post(qyapi.url("message/send"))
            .body(Body::wrap_stream(half));
        tokio::select! {
            _ = call.send() => panic!("the body has no end"),
            () = qyapi.until(|received| !received.is_empty()) => {}
        }
        qyapi.until(|received| received[0].body == "half").await;
        assert!(!qyapi.last("message/send").body_complete);
    }
}

mod places {
    use super::*;

    #[tokio::test]
    async fn it_can_lie_below_a_prefix() {
        let qyapi = Qyapi::builder().prefix("/proxy/qyapi").start().await;
        let base_url = format!("http://{}/proxy/qyapi/", qyapi.addr());
        assert_eq!(qyapi.base_url().as_str(), base_url);
        assert_eq!(qyapi.url("user/get"), format!("{base_url}cgi-bin/user/get"));
        let (token, _) = gettoken(&qyapi).await;
        assert_eq!(verdict(&qyapi, &token).await, 0);
        assert!(
            qyapi
                .last("user/get")
                .uri
                .starts_with("/proxy/qyapi/cgi-bin/user/get?")
        );
    }

    #[tokio::test]
    async fn it_can_stand_at_the_real_place() {
        let qyapi = Qyapi::builder().tls().start().await;
        assert_eq!(qyapi.base_url().as_str(), "https://qyapi.weixin.qq.com/");
        let http1 = qyapi.client_builder().http1_only().build().unwrap();
        for (client, version) in [(qyapi.client(), Version::HTTP_2), (http1, Version::HTTP_11)] {
            let url = "https://qyapi.weixin.qq.com/cgi-bin/user/get";
            let answer = client.get(url).send().await.unwrap();
            assert_eq!(answer.version(), version);
            assert_eq!(qyapi.last("user/get").version, version);
        }

        let stranger = Client::builder()
            .no_proxy()
            .resolve(HOST, qyapi.addr())
            .build()
            .unwrap();
        let error = stranger.get(qyapi.base_url()).send().await.unwrap_err();
        assert!(error.is_connect(), "{:?}", error.source());
    }

    #[tokio::test]
    async fn it_speaks_http2_in_the_clear() {
        let qyapi = Qyapi::start().await;
        let client = qyapi
            .client_builder()
            .http2_prior_knowledge()
            .build()
            .unwrap();
        let answer = client.get(qyapi.url("user/get")).send().await.unwrap();
        assert_eq!(answer.version(), Version::HTTP_2);
        assert_eq!(qyapi.last("user/get").version, Version::HTTP_2);
    }
}
