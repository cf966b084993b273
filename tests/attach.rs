//! A request of ours is given the token and nothing else is changed; any other request goes out as it is.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use reqwest::Url;
use reqwest_middleware::{ClientWithMiddleware, RequestBuilder};
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, ErrorKind, GetToken, NoAccessToken, TokenManager,
};
use support::{Answer, HOST, Qyapi, SECRET, app, is_kind, with_tokens};

/// What of a URL goes over the wire.
fn on_the_wire(url: &Url) -> String {
    match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    }
}

/// Sees that the request is sent with the token at the end of its query, and answered as the API does.
async fn assert_given_the_token(qyapi: &Qyapi, client: &ClientWithMiddleware, url: &str) {
    let url: Url = url.parse().unwrap();
    let answer = client.get(url.clone()).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0", "{url}");
    let mut without_fragment = url.clone();
    without_fragment.set_fragment(None); // reqwest itself leaves it out.
    assert_eq!(answer.url(), &without_fragment);

    let separator = match url.query() {
        None => "?",
        Some("") => "",
        Some(_) => "&",
    };
    let token = qyapi.current_token(SECRET).unwrap();
    let received = qyapi.received().pop().unwrap();
    let expected = format!("{}{separator}access_token={token}", on_the_wire(&url));
    assert_eq!(received.uri, expected);
}

/// Sees that the request is sent once and as it is, and its answer handed on, though it is 40014.
async fn assert_untouched(qyapi: &Qyapi, request: RequestBuilder) {
    let url = request.try_clone().unwrap().build().unwrap().url().clone();
    let path = url.path();
    let path = path.strip_prefix("/cgi-bin/").unwrap_or(path);
    qyapi.forget_received();
    qyapi.reject_always(path, 40014);
    let answer = request.send().await.unwrap();
    qyapi.clear_script(path);

    assert_eq!(answer.headers()["error-code"], "40014", "{url}");
    assert_eq!(answer.url(), &url);
    let received: Vec<_> = qyapi.received().into_iter().map(|it| it.uri).collect();
    assert_eq!(received, [on_the_wire(&url)]);
}

#[tokio::test]
async fn the_token_is_appended_and_the_rest_stays_byte_for_byte() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    for call in [
        "user/get",
        "user/get?",
        "user/get?userid=zhangsan",
        "user/get?userid=zhangsan&",
        "user/get?&&a=b=c&a&=",
        "user/get#fragment",
        "user/get?a=1#fragment?not=query",
        "user/get?a=%e4%BD%a0+%2B%20'|*()~!$,;:@/?%zz%",
        "user/g%65t;v=1/%E4%bd%a0/?a",
        "user/get?name=张三&b=\"<>` {}[]^\\",
        "corpgroup/corp/gettoken?keys=1&token=2&access_tokens=3",
        "serviceable/x",
    ] {
        assert_given_the_token(&qyapi, &client, &qyapi.url(call)).await;
    }
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_token_of_odd_characters_arrives_as_it_is() {
    for suffix in ["&=#+% \n/?é'\"", "%2B%26", "+", "-._~"] {
        let qyapi = Qyapi::start().await;
        qyapi.token_suffix(suffix);
        let client = qyapi.wecom();
        let url = qyapi.url("user/get?userid=zhangsan");
        let answer = client.get(&url).send().await.unwrap();

        assert_eq!(answer.headers()["error-code"], "0");
        assert_eq!(answer.url().as_str(), url);
        let received = qyapi.last("user/get");
        assert_eq!(received.access_token(), qyapi.current_token(SECRET));
        assert_eq!(received.param("userid").unwrap(), "zhangsan");
        assert_eq!(received.query_raw().matches('&').count(), 1);
    }
}

#[tokio::test]
async fn paths_that_take_another_credential_are_left_alone() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    for call in [
        "gettoken?corpid=a&corpsecret=b",
        "service/get_suite_token",
        "service/v2/get_permanent_code?a=1",
        "webhook/send",
        "webhook/upload_media?type=file",
        "wedoc/smartsheet/webhook",
        "license/create_new_order",
        "paytool/open_order",
        "advanced_api/get_chat_info",
        "hardware/get_device_feature",
        "idconvert/upgrade_chatid_for_new_corp",
        "openhw/get_token",
        "aibot/response",
        "aibot/cli/send",
    ] {
        assert_untouched(&qyapi, client.get(qyapi.url(call))).await;
    }
}

#[tokio::test]
async fn a_request_with_a_credential_of_its_own_is_left_alone() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    for query in [
        "access_token=mine",
        "access_token=",
        "access_token",
        "a=1&access%5Ftoken=mine&b=2",
        "suite_access_token=mine",
        "provider_access_token=mine",
        "key=mine",
        "response_code=mine",
    ] {
        let url = qyapi.url(&format!("user/get?{query}"));
        assert_untouched(&qyapi, client.get(url)).await;
    }
}

#[tokio::test]
async fn a_request_can_ask_to_be_left_alone() {
    let qyapi = Qyapi::start().await;
    let request = qyapi.wecom().get(qyapi.url("user/get?userid=a"));
    assert_untouched(&qyapi, request.with_extension(NoAccessToken)).await;
}

#[tokio::test]
async fn other_hosts_and_ports_are_left_alone() {
    let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
    let http = qyapi.client_builder();
    let http = http.resolve("other.example", qyapi.addr()).build().unwrap();
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).credentials(app());
    let client = with_tokens(http, middleware.build());

    assert_untouched(&other, client.get(other.url("user/get?a=1"))).await;
    let other_host = format!(
        "http://other.example:{}/cgi-bin/user/get",
        qyapi.addr().port()
    );
    assert_untouched(&qyapi, client.get(other_host)).await;
    let other_path = format!("{}other/cgi-bin/user/get", qyapi.base_url());
    assert_untouched(&qyapi, client.get(other_path)).await;
}

#[tokio::test]
async fn a_token_for_https_is_never_sent_over_http() {
    let qyapi = Qyapi::start().await;
    let http = qyapi.client_builder();
    let http = http.resolve(HOST, qyapi.addr()).build().unwrap();
    let client = with_tokens(http.clone(), AccessTokenMiddleware::new(http, app()));
    let url = format!("http://{HOST}/cgi-bin/user/get?a=1");
    assert_untouched(&qyapi, client.get(url)).await;
}

#[tokio::test]
async fn a_base_url_with_a_prefix_serves_both_the_api_and_gettoken() {
    let qyapi = Qyapi::builder().prefix("/proxy/qyapi").start().await;
    let with_slash = qyapi.base_url();
    let mut without_slash = with_slash.clone();
    without_slash.set_path("/proxy/qyapi");
    for base_url in [with_slash, without_slash] {
        let source = GetToken::new(qyapi.client()).base_url(base_url);
        let manager = TokenManager::builder(source).build();
        let client = qyapi.wecom_on(&manager);
        qyapi.forget_received();
        assert_given_the_token(&qyapi, &client, &qyapi.url("user/get?a=1")).await;
        assert!(
            qyapi
                .last("gettoken")
                .uri
                .starts_with("/proxy/qyapi/cgi-bin/gettoken?")
        );

        let outside = format!("http://{}/cgi-bin/user/get", qyapi.addr());
        let answer = client.get(outside).send().await.unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(qyapi.received().pop().unwrap().uri, "/cgi-bin/user/get");
    }
}

#[tokio::test]
async fn the_default_serves_the_real_name_over_tls() {
    let qyapi = Qyapi::builder().tls().start().await;
    let http = qyapi.client();
    let client = with_tokens(http.clone(), AccessTokenMiddleware::new(http, app()));
    let base_url = Audience::default().base_url().clone();
    assert_eq!(base_url.as_str(), "https://qyapi.weixin.qq.com/");
    let url = format!("{base_url}cgi-bin/user/get?userid=zhangsan");
    assert_given_the_token(&qyapi, &client, &url).await;
    assert_eq!(qyapi.gettoken_count(), 1);
}

#[tokio::test]
async fn a_request_without_credentials_is_not_sent() {
    let qyapi = Qyapi::start().await;
    let middleware = AccessTokenMiddleware::builder(qyapi.manager()).build();
    let client = with_tokens(qyapi.client(), middleware);

    let error = client.get(qyapi.url("user/get")).send().await.unwrap_err();
    assert!(is_kind(&error, ErrorKind::NoCredentials), "{error:?}");
    assert_eq!(qyapi.received().len(), 0);

    let as_an_app = client.get(qyapi.url("user/get")).with_extension(app());
    assert_eq!(as_an_app.send().await.unwrap().headers()["error-code"], "0");
    assert_untouched(&qyapi, client.get(qyapi.url("webhook/send?key=mine"))).await;
}

#[tokio::test]
async fn the_url_of_the_answer_is_the_callers_after_one_sending_and_after_two() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.wecom();
    for (call, sendings) in [("user/get?a=%e4+'", 1), ("user/get", 2), ("user/get?", 2)] {
        if sendings == 2 {
            qyapi.revoke(SECRET);
        }
        qyapi.forget_received();
        let url: Url = qyapi.url(call).parse().unwrap();
        let answer = client.get(url.clone()).send().await.unwrap();
        assert_eq!(answer.headers()["error-code"], "0");
        assert_eq!(qyapi.count("user/get"), sendings);
        assert_eq!(answer.url(), &url);
    }
}

#[tokio::test]
async fn the_url_of_the_answer_is_without_the_token_after_a_redirect_that_took_it_along() {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let token = qyapi.current_token(SECRET).unwrap();
    let moved = format!("/cgi-bin/agent/get?access_token={token}&a=1");
    qyapi.script("user/get", Answer::status(302).header("location", &moved));
    let answer = client.get(qyapi.url("user/get?a=1")).send().await.unwrap();
    assert_eq!(answer.headers()["error-code"], "0");
    assert_eq!(answer.url().as_str(), qyapi.url("agent/get?a=1"));
}

/// What a caller sees of a call where a redirect wraps the whole URL into a parameter of this one, and the token.
async fn seen_after_redirect(to: &str, wrapped: &str) -> (String, String) {
    let qyapi = Qyapi::start().await;
    let client = qyapi.warm_wecom().await;
    let token = qyapi.current_token(SECRET).unwrap();
    let location = format!("{to}?back={wrapped}{token}");
    qyapi.script(
        "user/get",
        Answer::status(302).header("location", &location),
    );
    let seen = match client.get(qyapi.url("user/get")).send().await {
        Ok(answer) => answer.url().to_string(),
        Err(error) => format!("{error} {error:?}"),
    };
    (seen, token)
}

const WRAPPED: [&str; 2] = [
    "/cgi-bin/user/get?access_token=",
    "%2Fcgi-bin%2Fuser%2Fget%3Faccess_token%3D",
];

#[tokio::test]
async fn the_url_of_the_answer_does_not_show_a_token_that_a_redirect_has_wrapped() {
    let other = Qyapi::start().await;
    for wrapped in WRAPPED {
        let (seen, token) = seen_after_redirect(&other.url("login"), wrapped).await;
        assert!(!seen.contains(&token), "{seen}");
    }
}

#[tokio::test]
async fn an_error_does_not_show_a_token_that_a_redirect_has_wrapped() {
    for wrapped in WRAPPED {
        let (seen, token) = seen_after_redirect("http://127.0.0.1:1/login", wrapped).await;
        assert!(!seen.contains(&token), "{seen}");
    }
}
