//! Each path goes out with the token of its kind, and with no other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::io::{self, Write};
use std::time::Duration;

use reqwest::Body;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, ErrorKind, FetchRequest, FetchedToken,
    TokenKind, TokenManager, TokenSource, async_trait,
};
use support::{chain, is_kind, offline_with};

const API: &str = "https://qyapi.weixin.qq.com/cgi-bin/";

/// Kind, parameter, and the paths that are sent with both. Those without a kind are sent unchanged.
const TABLE: [(&str, &str, &[&str]); 5] = [
    (
        "access_token",
        "access_token",
        &[
            "user/get",
            "corpgroup/corp/gettoken",
            "gettoken/x",
            "gettokens",
            "service",
            "serviceable/get_agent",
            "webhook",
            "webhooks/send",
            "user/webhook/send",
            "wedoc/smartsheet/webhooks",
            "wedoc/smartsheet/webhook/x",
            "wedoc/smartsheet/get_records",
            "license",
            "licenses/create_new_order",
            "paytools/open_order",
            "advanced_apis/get_chat_info",
            "hardware/get_device_features",
            "hardware/get_device_feature/x",
            "hardware/x",
            "idconvert/upgrade_chatid_for_new_corps",
            "idconvert/unionid_to_external_userid",
            "openhws/get_token",
            "aibot/responses",
            "aibot/response/x",
            "aibot/cli",
            "aibot/clip/x",
            "agent/set_scope",
            "sync/contact_sync_success",
        ],
    ),
    (
        "suite_access_token",
        "suite_access_token",
        &[
            "service/get_pre_auth_code",
            "service/set_session_info",
            "service/get_permanent_code",
            "service/v2/get_permanent_code",
            "service/get_auth_info",
            "service/v2/get_auth_info",
            "service/get_corp_token",
            "service/get_admin_list",
            "service/get_app_qrcode",
            "service/get_app_permissions",
            "service/get_agent",
            "service/set_agent",
            "service/getuserinfo3rd",
            "service/auth/getuserinfo3rd",
            "service/getuserdetail3rd",
            "service/auth/getuserdetail3rd",
            "service/miniprogram/jscode2session",
            "service/externalcontact/unionid_to_external_userid_3rd",
            "service/get_order",
            "service/get_order_list",
            "service/prolong_try",
            "idconvert/upgrade_chatid_for_new_corp",
        ],
    ),
    (
        "provider_access_token",
        "provider_access_token",
        &[
            "service/get_register_code",
            "service/get_register_info",
            "service/get_customized_auth_url",
            "service/corpid_to_opencorpid",
            "service/contact/search",
            "service/contact/batchsearch",
            "service/contact/sort",
            "service/contact/id_translate",
            "service/media/upload",
            "service/batch/getresult",
            "service/get_login_url",
            "service/get_corp_detail",
            "service/get_account_balance",
            "service/externalcontact/finish_external_userid_migration",
            "service/add_device",
            "service/del_device",
            "service/list_device",
            "service/get_device_auth_info",
            "service/fetch_device_log",
            "service/reset_secret_no",
            "service/set_printer_support_state",
            "license/create_new_order",
            "license/order/x",
            "paytool/open_order",
            "advanced_api/get_chat_info",
            "hardware/get_device_feature",
        ],
    ),
    (
        "provider_access_token",
        "access_token",
        &["service/get_login_info"],
    ),
    (
        "",
        "",
        &[
            "gettoken",
            "%67ettoken",
            "service/",
            "service/get_suite_token",
            "service/get_provider_token",
            "service/unknown",
            "service/v3/get_auth_info",
            "service/get_agent/x",
            "service/get_agents",
            "service/contact/unknown",
            "service/get_login_infos",
            "service%2Fget_agent",
            "webhook/send",
            "webhook/upload_media",
            "wedoc/smartsheet/webhook",
            "openhw/get_token",
            "aibot/response",
            "aibot/cli/send",
            "aibot/cli/a/b",
        ],
    ),
];

fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let row = |(kind, parameter, paths): (_, _, &'static [&'static str])| {
        paths.iter().map(move |path| (kind, parameter, *path))
    };
    TABLE.into_iter().flat_map(row)
}

fn kinds() -> [TokenKind; 3] {
    [
        TokenKind::access_token(),
        TokenKind::suite_access_token(),
        TokenKind::provider_access_token(),
    ]
}

/// Gives tokens that name their kind and the id of the credentials.
struct Named(TokenKind);

#[async_trait]
impl TokenSource for Named {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let value = format!("{}-of-{}", self.0.name(), request.credentials().id());
        Ok(FetchedToken::new(value, Duration::from_secs(7200)))
    }

    fn audience(&self) -> Audience {
        Audience::default().with_kind(self.0.clone())
    }
}

fn credentials(id: &str, kind: &TokenKind) -> Credentials {
    Credentials::new(id, "secret").of_kind(kind)
}

fn middleware(kind: &TokenKind) -> AccessTokenMiddleware {
    AccessTokenMiddleware::builder(TokenManager::builder(Named(kind.clone())).build())
        .credentials(credentials("default", kind))
        .build()
}

/// A client with these layers, whose last one says what was sent.
fn client(layers: impl IntoIterator<Item = AccessTokenMiddleware>) -> ClientWithMiddleware {
    offline_with(layers, |_, request| {
        let sent = request.url().to_string();
        async move { answer(0, sent) }
    })
}

fn answer(errcode: i64, body: impl Into<Body>) -> http::Response<Body> {
    let answer = http::Response::builder().header("error-code", errcode);
    answer.body(body.into()).unwrap()
}

/// What is sent of a request to this path, after the query of the caller.
async fn sent(client: &ClientWithMiddleware, path: &str) -> String {
    let url = format!("{API}{path}?a=1");
    let answer = client.get(&url).send().await.unwrap();
    assert_eq!(answer.url().as_str(), url);
    let sent = answer.text().await.unwrap();
    sent.strip_prefix(&url).unwrap().to_owned()
}

fn expected(kind: &str, parameter: &str) -> String {
    match kind {
        "" => String::new(),
        kind => format!("&{parameter}={kind}-of-default"),
    }
}

#[tokio::test]
async fn each_path_is_sent_with_the_token_that_it_takes_whatever_the_order() {
    let [a, b, c] = kinds().map(|kind| middleware(&kind));
    for order in [
        [&a, &b, &c],
        [&a, &c, &b],
        [&b, &a, &c],
        [&b, &c, &a],
        [&c, &a, &b],
        [&c, &b, &a],
    ] {
        let client = client(order.map(Clone::clone));
        for (kind, parameter, path) in rows() {
            let sent = sent(&client, path).await;
            assert_eq!(sent, expected(kind, parameter), "{path}");
        }
    }
}

thread_local! {
    static LOG: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this thread has logged.
struct Log;

impl Log {
    fn take() -> String {
        String::from_utf8(LOG.take()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| log.write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_path_of_another_kind_or_of_none_is_sent_unchanged_with_an_event_that_says_why() {
    // For all threads, because a subscriber of one thread can miss an event that another thread was the first to emit.
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(|| Log)
        .init();
    for own in kinds() {
        let client = client([middleware(&own)]);
        for (kind, parameter, path) in rows() {
            let sent = sent(&client, path).await;
            let told = Log::take();
            if kind == own.name() {
                assert_eq!(sent, expected(kind, parameter), "{path}");
                assert!(!told.contains("request_unchanged"), "{told}");
                continue;
            }
            assert_eq!(sent, "", "{path}");
            let reason = match kind {
                "" => format!(
                    "reason=the path is not one that takes the kind of token `{}`",
                    own.name()
                ),
                kind => format!(
                    "reason=the path takes the kind of token `{kind}`, not `{}`",
                    own.name()
                ),
            };
            assert_eq!(told.lines().count(), 1, "{told}");
            for part in [r#"event="request_unchanged""#, &reason, path] {
                assert!(told.contains(part), "no {part}: {told}");
            }
        }
    }
}

#[tokio::test]
async fn each_kind_is_rejected_by_its_own_errcodes() {
    let own = TokenKind::access_token().rejected_by([42009, -7]);
    let [access, suite, provider] = kinds();
    for (kind, path, rejecting) in [
        (access, "user/get", &[40014, 42001][..]),
        (
            suite,
            "service/get_agent",
            &[40014, 42001, 40082, 42009][..],
        ),
        (provider, "license/x", &[40014, 42001, 40082][..]),
        (own, "user/get", &[42009, -7][..]),
    ] {
        for errcode in [0, -7, 40001, 40014, 40082, 42001, 42009] {
            let client = offline_with([middleware(&kind)], move |call, _| async move {
                answer(if call == 0 { errcode } else { 0 }, call.to_string())
            });
            let url = format!("{API}{path}");
            let answer = client.get(url).send().await.unwrap();
            let is_sent_again = answer.text().await.unwrap() == "1";
            assert_eq!(
                is_sent_again,
                rejecting.contains(&errcode),
                "{kind:?}: {errcode}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_is_sent_as_its_own_credentials_if_they_are_of_the_kind_that_the_path_takes() {
    let layers = kinds().map(|kind| middleware(&kind));
    let client = client(layers);
    for kind in kinds() {
        let own = credentials("own", &kind);
        for (taken, path) in [
            ("access_token", "user/get"),
            ("suite_access_token", "service/get_agent"),
            ("provider_access_token", "license/x"),
        ] {
            let url = format!("{API}{path}");
            let request = client.get(&url).with_extension(own.clone());
            let sent = request.send().await.unwrap().text().await.unwrap();
            let id = if taken == kind.name() {
                "own"
            } else {
                "default"
            };
            assert_eq!(sent, format!("{url}?{taken}={taken}-of-{id}"));
        }
    }
}

#[tokio::test]
async fn credentials_of_another_kind_are_an_error_that_names_both() {
    let [access, suite, _] = kinds();
    let manager = TokenManager::builder(Named(suite.clone())).build();
    let (good, wrong) = (credentials("id", &suite), credentials("id", &access));
    assert!(manager.token(&good).await.is_ok());
    assert_ne!(manager.key(&good), manager.key(&wrong));
    let names_both = |error: &Error| {
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::InvalidCredentials, "{text}");
        assert!(text.contains("`access_token`"), "{text}");
        assert!(text.contains("`suite_access_token`"), "{text}");
    };
    names_both(&manager.token(&wrong).await.unwrap_err());
    let rejected = manager.refresh_rejected(&wrong, "value").await;
    names_both(&rejected.unwrap_err());

    let builder = AccessTokenMiddleware::builder(manager);
    let as_default = builder.clone().credentials(wrong.clone());
    let as_chosen = builder.clone().credentials(good.clone()).credentials_for({
        let wrong = wrong.clone();
        move |_, _| Some(wrong.clone())
    });
    let url = format!("{API}service/get_agent");
    for builder in [as_default, as_chosen] {
        let client = client([builder.build()]);
        let error = client.get(&url).send().await.unwrap_err();
        names_both(Error::find(&error).unwrap());
        let request = client.get(&url).with_extension(good.clone());
        assert!(request.send().await.is_ok());
    }
    let client = client([builder.build()]);
    let request = client.get(&url).with_extension(wrong);
    let error = request.send().await.unwrap_err();
    assert!(
        is_kind(&error, ErrorKind::NoCredentials),
        "{}",
        chain(&error)
    );
}
