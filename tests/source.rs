//! Tokens come from where the program wants them, and a source in trouble gives a clear error without any secret.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Extensions;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Request, Response, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, ErrorKind, FetchRequest, FetchedToken,
    GetToken, MokaStore, StoreOnly, TokenManager, TokenSource, TokenStore, async_trait,
};
use serde_json::json;
use support::{Answer, CORP, Qyapi, SECRET, app, chain, is_kind, token};

const TWO_HOURS: Duration = Duration::from_secs(7200);

/// What no error may show, in whatever form: both of these hold it.
const CANARY: &str = "canary";
const CANARY_SECRET: &str = "canary+s/e&c=r e%25té\"";
const CANARY_TOKEN: &str = "canary-token+/=&";

fn canary_app() -> Credentials {
    Credentials::new(CORP, CANARY_SECRET)
}

fn assert_no_canary(error: &(dyn StdError + 'static)) {
    let mut next = Some(error);
    while let Some(error) = next {
        for text in [
            format!("{error}"),
            format!("{error:?}"),
            format!("{error:#?}"),
        ] {
            assert!(!text.contains(CANARY), "{text}");
        }
        next = error.source();
    }
}

/// The kind of an [`Error`], to compare.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Errcode(i64),
    Transient,
    Refused,
}

impl Kind {
    fn of(error: &Error) -> Self {
        match (error.errcode(), error.kind()) {
            (Some(errcode), _) => Self::Errcode(errcode),
            (None, ErrorKind::Transient) => Self::Transient,
            (None, ErrorKind::Refused) => Self::Refused,
            (None, other) => panic!("{other:?}"),
        }
    }

    fn is_transient(self) -> bool {
        matches!(self, Self::Transient | Self::Errcode(-1 | 45033))
    }
}

fn retrying(http: reqwest::Client) -> ClientBuilder {
    let millisecond = Duration::from_millis(1);
    let policy = ExponentialBackoff::builder().retry_bounds(millisecond, millisecond);
    let layer = RetryTransientMiddleware::new_with_policy(policy.build_with_max_retries(1));
    ClientBuilder::new(http).with(layer)
}

/// Sees that a request fails for want of a token, with such an error that says this and no secret; the same behind a layer
/// that retries. A transient failure is tried again three times, any other is not.
async fn assert_fails(qyapi: &Qyapi, source: GetToken, kind: Kind, says: &str) {
    let url = source
        .audience()
        .base_url()
        .join("cgi-bin/user/get")
        .unwrap();
    let manager = TokenManager::builder(source).build();
    let middleware = AccessTokenMiddleware::builder(manager).credentials(canary_app());
    let middleware = middleware.build();
    let http = qyapi.client();
    for client in [ClientBuilder::new(http.clone()), retrying(http)] {
        let client = client.with(middleware.clone()).build();
        let failure = client.get(url.clone()).send().await.unwrap_err();
        assert_no_canary(&failure);
        let error = Error::find(&failure).unwrap();
        assert_no_canary(error);
        assert_eq!(Kind::of(error), kind, "{error}");
        assert_eq!(error.is_transient(), kind.is_transient(), "{error}");
        let chain = chain(&failure);
        assert!(chain.contains(says), "{chain} / {says}");
    }
    assert_eq!(qyapi.api_count(), 0, "{says}");
}

/// The same where `gettoken` gives this answer.
async fn assert_fails_on(answer: Answer, kind: Kind, says: &str) {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", answer.always());
    assert_fails(&qyapi, qyapi.source(), kind, says).await;
    let tries = if kind.is_transient() { 4 } else { 1 };
    assert_eq!(qyapi.gettoken_count(), tries, "{says}");
}

/// The ways in which the secret and the token may be written.
fn canaries() -> Vec<String> {
    let mut forms = Vec::new();
    for canary in [CANARY_SECRET, CANARY_TOKEN] {
        let percent = utf8_percent_encode(canary, NON_ALPHANUMERIC).to_string();
        let form = Url::parse_with_params("http://gateway", [("corpsecret", canary)]);
        let lower = percent.replace("%2B", "%2b").replace("%2F", "%2f");
        forms.extend([canary.to_owned(), percent, lower, form.unwrap().to_string()]);
    }
    forms
}

#[tokio::test]
async fn refusals_say_why() {
    let (qyapi, errcode) = (Qyapi::start().await, Kind::Errcode);
    for (credentials, kind, says) in [
        (Credentials::new(CORP, "wrong"), errcode(40001), "40001"),
        (Credentials::new("wrong", SECRET), errcode(40013), "corp id"),
    ] {
        let error = qyapi.manager().token(&credentials).await.unwrap_err();
        assert_eq!(Kind::of(&error), kind);
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.is_transient());
    }
    let without = Credentials::without_secret(CORP, "app");
    let error = qyapi.manager().token(&without).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSecret);
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn a_refusal_that_echoes_the_secret_does_not_show_it() {
    for canary in canaries() {
        for errmsg in [
            canary.clone(),
            format!("not {canary}, {canary}! from ip: 100%"),
        ] {
            let fields =
                json!({ "errcode": 40001, "errmsg": errmsg, "access_token": CANARY_TOKEN });
            let answer = Answer::json(fields.to_string());
            assert_fails_on(answer, Kind::Errcode(40001), "40001").await;
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_of_gettoken_is_refused() {
    let all = json!(canaries()).to_string();
    let token = format!(r#""access_token":{}"#, json!(CANARY_TOKEN));
    for (answer, says) in [
        (format!("<html>{all}</html>"), "JSON"),
        (String::new(), "JSON"),
        (
            format!(r#"{{"errcode":0,"errmsg":{all},{token},"expi"#),
            "JSON",
        ),
        (format!(r#"{{{token},"expires_in":7200}} {all}"#), "JSON"),
        (all.clone(), "JSON"),
        (json!(CANARY_TOKEN).to_string(), "JSON"),
        (
            format!(r#"{{"errcode":0,"access_token":{all},"expires_in":7200}}"#),
            "JSON",
        ),
        (
            format!(r#"{{"errcode":0,"errmsg":"{CANARY}","expires_in":7200}}"#),
            "access_token",
        ),
        (
            r#"{"errcode":0,"access_token":null,"expires_in":7200}"#.to_owned(),
            "access_token",
        ),
        (
            r#"{"errcode":0,"access_token":"","expires_in":7200}"#.to_owned(),
            "empty access_token",
        ),
        (
            r#"{"errcode":0,"access_token":" \n\ufeff","expires_in":7200}"#.to_owned(),
            "empty access_token",
        ),
        (
            format!(
                r#"{{"access_token":"{}","expires_in":7200}}"#,
                CANARY.repeat(700)
            ),
            "4200 bytes",
        ),
        (
            format!(r#"{{"errcode":0,"errmsg":"{CANARY}",{token}}}"#),
            "expires_in",
        ),
    ] {
        assert_fails_on(Answer::json(answer), Kind::Refused, says).await;
    }
    for status in [302, 403, 404] {
        let answer = Answer::status(status).body(all.clone());
        assert_fails_on(answer, Kind::Refused, &status.to_string()).await;
    }
}

#[tokio::test]
async fn a_lifetime_that_cannot_be_believed_is_refused() {
    for expires_in in ["null", "true", "7200.5", "[7200]", "\"\"", "\"soon\""] {
        let fields =
            format!(r#"{{"errcode":0,"access_token":"{CANARY}","expires_in":{expires_in}}}"#);
        assert_fails_on(Answer::json(fields), Kind::Refused, "expires_in").await;
    }
}

#[tokio::test]
async fn a_token_with_no_time_left_is_fetched_again() {
    for expires_in in ["0", "-1", "\"0\""] {
        let fields =
            format!(r#"{{"errcode":0,"access_token":"{CANARY}","expires_in":{expires_in}}}"#);
        assert_fails_on(Answer::json(fields), Kind::Transient, "expired already").await;
    }
}

#[tokio::test]
async fn a_lifetime_may_be_written_oddly_or_be_too_long() {
    let month = Duration::from_secs(30 * 24 * 60 * 60);
    for (expires_in, lifetime) in [
        ("7200.0", TWO_HOURS),
        (r#"" 7200 ""#, TWO_HOURS),
        ("2678400", month),
        ("9223372036854775807", month),
        ("1e300", month),
    ] {
        for bom in ["", "\u{feff}"] {
            let qyapi = Qyapi::start().await;
            let fields =
                format!(r#"{bom}{{"errcode":0,"access_token":"odd","expires_in":{expires_in}}}"#);
            qyapi.script("gettoken", Answer::json(fields));
            let token = qyapi.manager().token(&app()).await.unwrap();
            let lives = token.expires_at().duration_since(token.fetched_at());
            assert_eq!(lives.unwrap(), lifetime, "{expires_in}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_asks_to_wait_is_tried_again_after_that_time() {
    for answer in [
        Answer::status(408),
        Answer::status(425),
        Answer::status(429),
        Answer::status(503),
        Answer::errcode(45033),
    ] {
        let qyapi = Qyapi::start().await;
        qyapi.script("gettoken", answer.header("retry-after", "1"));
        let began = Instant::now();
        qyapi.manager().token(&app()).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(1));
        assert_eq!(qyapi.gettoken_count(), 2);
    }
}

#[tokio::test]
async fn an_answer_that_asks_to_wait_too_long_fails_at_once() {
    for answer in [
        Answer::status(429),
        Answer::status(503).body("<html>".repeat(20_000)),
        Answer::stream(futures_util::stream::pending::<std::io::Result<Bytes>>()).with_status(429),
    ] {
        let qyapi = Qyapi::start().await;
        qyapi.script("gettoken", answer.header("retry-after", "30"));
        let (manager, began) = (qyapi.manager(), Instant::now());
        for _ in 0..3 {
            let error = manager.token(&app()).await.unwrap_err();
            assert!(error.is_transient(), "{error}");
            assert_eq!(error.retry_after(), Some(Duration::from_secs(30)));
        }
        assert_eq!(qyapi.gettoken_count(), 1);
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "no body is awaited"
        );
    }
}

#[tokio::test]
async fn an_errcode_is_read_whatever_else_the_answer_has() {
    for odd in [
        r#""access_token":123"#,
        r#""access_token":[]"#,
        r#""errmsg":"a","errmsg":"b""#,
    ] {
        let answer = Answer::json(format!(r#"{{"errcode":40001,{odd}}}"#));
        assert_fails_on(answer, Kind::Errcode(40001), "40001").await;
    }
}

#[tokio::test]
async fn an_answer_that_is_far_too_long_is_refused() {
    let answer = Answer::json(format!("<html>{}</html>", CANARY.repeat(20_000)));
    assert_fails_on(answer, Kind::Refused, "gettoken").await;
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again_three_times() {
    let all = json!(canaries()).to_string();
    let cut = Answer::json(format!(r#"{{"errmsg":{all}"#)).header("content-length", "100000");
    let busy = json!({ "errcode": -1, "errmsg": all });
    let cases = [
        (
            Answer::status(500).body(all.clone()),
            Kind::Transient,
            "500",
        ),
        (Answer::status(502), Kind::Transient, "502"),
        (Answer::status(408), Kind::Transient, "408"),
        (Answer::status(425), Kind::Transient, "425"),
        (Answer::status(429), Kind::Transient, "429"),
        (Answer::errcode(45033), Kind::Errcode(45033), "45033"),
        (Answer::json(busy.to_string()), Kind::Errcode(-1), "busy"),
        (Answer::close(), Kind::Transient, "another try may succeed"),
        (cut, Kind::Transient, "another try may succeed"),
    ];
    join_all(cases.map(|(answer, kind, says)| assert_fails_on(answer, kind, says))).await;
}

#[tokio::test]
async fn a_gettoken_that_cannot_be_reached_is_transient() {
    let qyapi = Qyapi::start().await;
    let nobody = qyapi
        .source()
        .base_url("http://127.0.0.1:1/".parse().unwrap());
    assert_fails(&qyapi, nobody, Kind::Transient, "127.0.0.1:1").await;
}

#[tokio::test]
async fn a_gettoken_that_hangs_is_given_up() {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", Answer::hang().always());
    let limit = Duration::from_millis(50);
    let manager = TokenManager::builder(qyapi.source()).fetch_limit(limit);
    let client = qyapi.wecom_on(&manager.build());
    let failure = client.get(qyapi.url("user/get")).send().await.unwrap_err();
    let error = Error::find(&failure).unwrap();
    assert!(
        error.kind() == ErrorKind::TimedOut && error.is_transient(),
        "{error}"
    );
    assert_eq!((qyapi.gettoken_count(), qyapi.api_count()), (1, 0));
}

#[tokio::test]
async fn a_redirect_that_takes_the_secret_along_does_not_show_it() {
    let loops =
        Url::parse_with_params("http://x/cgi-bin/gettoken", [("corpsecret", CANARY_SECRET)]);
    let loops = loops.unwrap().to_string().split_off("http://x".len());
    let redirect = |to: &str| Answer::status(302).header("location", to);
    for (answer, kind) in [
        (redirect(&loops), Kind::Refused),
        (redirect("ftp://127.0.0.1:1/?canary"), Kind::Refused),
        (
            redirect("http://127.0.0.1:1/login?back=canary#canary"),
            Kind::Transient,
        ),
    ] {
        let qyapi = Qyapi::start().await;
        qyapi.script("gettoken", answer.always());
        assert_fails(&qyapi, qyapi.source(), kind, "for url").await;
    }
}

/// A layer that fails, and tells all.
struct Gossip;

#[async_trait]
impl Middleware for Gossip {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let error = anyhow::anyhow!("the secret is {CANARY_SECRET}").context(request.url().clone());
        Err(reqwest_middleware::Error::Middleware(error))
    }
}

#[tokio::test]
async fn a_client_with_layers_does_not_show_the_secret_either() {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", Answer::close().always());
    let source = |http: ClientWithMiddleware| GetToken::new(http).base_url(qyapi.base_url());
    let retrying = source(retrying(qyapi.client()).build());
    let gossip = source(ClientBuilder::new(qyapi.client()).with(Gossip).build());
    tokio::join!(
        assert_fails(&qyapi, retrying, Kind::Transient, "gettoken"),
        assert_fails(&qyapi, gossip, Kind::Transient, "gettoken"),
    );
    assert_eq!(qyapi.gettoken_count(), 4 * 2);
}

#[tokio::test]
async fn a_busy_gettoken_is_asked_again() {
    let qyapi = Qyapi::start().await;
    qyapi.script("gettoken", Answer::errcode(-1));
    qyapi.warm_wecom().await;
    assert!(qyapi.current_token(SECRET).is_some());

    qyapi.script("gettoken", Answer::errcode(-1));
    qyapi.manager().token(&app()).await.unwrap();
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn a_success_may_come_without_errcode() {
    let qyapi = Qyapi::start().await;
    qyapi.omit_errcode_on_success(true);
    let token = qyapi.manager().token(&app()).await.unwrap();
    assert_eq!(token.expose_secret(), qyapi.current_token(SECRET).unwrap());
}

#[tokio::test]
async fn a_lifetime_is_counted_from_before_the_request() {
    let qyapi = Qyapi::start().await;
    let gate = qyapi.hold_gettoken();
    let manager = qyapi.manager();
    let fetch = tokio::spawn(async move { manager.token(&app()).await.unwrap() });
    gate.arrived(1).await;
    let on_its_way = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(2)).await; // times are kept to the millisecond
    gate.open();
    let token = fetch.await.unwrap();
    assert!(token.fetched_at() <= on_its_way);
    assert_eq!(token.expires_at(), token.fetched_at() + TWO_HOURS);
}

#[tokio::test]
async fn corp_id_and_secret_of_odd_characters_arrive_as_they_are() {
    let qyapi = Qyapi::start().await;
    let (corp_id, secret) = ("ww&corp=é +%2B#/?", CANARY_SECRET);
    qyapi.script(
        "gettoken",
        Answer::ok(json!({ "access_token": "token", "expires_in": 7200 })),
    );
    let token = qyapi
        .manager()
        .token(&Credentials::new(corp_id, secret))
        .await;
    assert_eq!(token.unwrap().expose_secret(), "token");
    let received = qyapi.last("gettoken");
    assert_eq!(received.method, "GET");
    assert_eq!(received.param("corpid").unwrap(), corp_id);
    assert_eq!(received.param("corpsecret").unwrap(), secret);
    assert_eq!(received.query_raw().matches('&').count(), 1);
}

/// A source as a user might write it.
struct TokenServer {
    token: FetchedToken,
    audience: Audience,
}

#[async_trait]
impl TokenSource for TokenServer {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        Ok(self.token.clone())
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

#[tokio::test]
async fn a_source_of_ones_own_serves_its_own_audience_and_no_other() {
    let (qyapi, other) = (Qyapi::start().await, Qyapi::start().await);
    let token = qyapi.issue(SECRET);
    let source: Arc<dyn TokenSource> = Arc::new(TokenServer {
        token: FetchedToken::new(token.as_str(), TWO_HOURS),
        audience: Audience::new(qyapi.base_url()),
    });
    let client = qyapi.wecom_on(&TokenManager::builder(Arc::new(source)).build());

    for (server, tokens) in [(&qyapi, vec![token]), (&other, vec![])] {
        client.get(server.url("user/get")).send().await.unwrap();
        assert_eq!(server.last("user/get").access_tokens(), tokens);
        assert_eq!(server.received().len(), 1);
    }
}

#[tokio::test]
async fn a_program_that_may_not_fetch_lives_on_what_the_store_holds() {
    let qyapi = Qyapi::start().await;
    let store = MokaStore::new();
    let source = StoreOnly::new(Audience::new(qyapi.base_url()));
    let manager = TokenManager::builder(source).store(store.clone()).build();
    let client = qyapi.wecom_on(&manager);
    let call = || client.get(qyapi.url("user/get")).send();

    for _ in 0..2 {
        let failure = call().await.unwrap_err();
        assert!(is_kind(&failure, ErrorKind::NotReady), "{failure}");
        let says = chain(&failure);
        assert!(says.contains(qyapi.key(&app()).as_str()), "{says}");
        assert_eq!(qyapi.received().len(), 0);

        let token = token(qyapi.issue(SECRET), TWO_HOURS);
        store.put(&qyapi.key(&app()), &token).await.unwrap();
        assert_eq!(call().await.unwrap().headers()["error-code"], "0");
        assert_eq!(
            qyapi.last("user/get").access_token().unwrap(),
            token.expose_secret()
        );

        qyapi.revoke(SECRET);
        let failure = call().await.unwrap_err();
        assert!(is_kind(&failure, ErrorKind::NotReady), "{failure}");
        qyapi.forget_received();
    }
}
