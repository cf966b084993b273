//! Each source of a service provider asks for a token as the API wants it, and reads what the API answers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::sync::Arc;

use reqwest::Method;
use reqwest_wecom::{
    Credentials, DownstreamToken, Error, ErrorKind, FetchRequest, GetToken, ProviderToken,
    SpecToken, TokenKey, TokenManager, TokenSource,
};
use serde_json::{Value, json};
use support::{
    Answer, CORP, PROVIDER, PROVIDER_SECRET, Qyapi, Repeat, SECRET, SUITE, SUITE_SECRET,
    ZONE_SECRET, branch, chain, code_of, customer, provider, suite,
};

/// A source, credentials for it, and the call that it makes.
struct Case {
    path: &'static str,
    field: &'static str,
    source: Arc<dyn TokenSource>,
    credentials: Credentials,
    sends: Value,
    /// The token that the call carries, and in which parameter.
    carries: Option<(&'static str, String)>,
    secrets: Vec<String>,
}

/// All sources that send a body. The tokens that they need are there already.
async fn cases(qyapi: &Qyapi) -> [Case; 5] {
    qyapi.on_repeat(Repeat::SameToken);
    let tickets = qyapi.tickets().await;
    let base = qyapi.base_url();
    let suites = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    let suite_token = suites.token(&suite()).await.unwrap();
    let upstream = qyapi.wecom();
    qyapi.warm(&upstream).await;
    [
        Case {
            path: "service/get_suite_token",
            field: "suite_access_token",
            source: Arc::new(qyapi.suite_source(&tickets)),
            credentials: suite(),
            sends: json!({ "suite_id": SUITE, "suite_secret": SUITE_SECRET, "suite_ticket": "ticket-1" }),
            carries: None,
            secrets: vec![SUITE_SECRET.to_owned(), "ticket-1".to_owned()],
        },
        Case {
            path: "service/get_provider_token",
            field: "provider_access_token",
            source: Arc::new(ProviderToken::new(qyapi.client()).base_url(base.clone())),
            credentials: provider(),
            sends: json!({ "corpid": PROVIDER, "provider_secret": PROVIDER_SECRET }),
            carries: None,
            secrets: vec![PROVIDER_SECRET.to_owned()],
        },
        Case {
            path: "service/get_corp_token",
            field: "access_token",
            source: Arc::new(qyapi.corp_source(&suites)),
            credentials: customer(1),
            sends: json!({ "auth_corpid": "ww_customer_1", "permanent_code": code_of(1) }),
            carries: Some(("suite_access_token", suite_token.expose_secret().to_owned())),
            secrets: vec![code_of(1), suite_token.expose_secret().to_owned()],
        },
        Case {
            path: "corpgroup/corp/gettoken",
            field: "access_token",
            source: Arc::new(
                DownstreamToken::new(upstream)
                    .business_type(1)
                    .base_url(base.clone()),
            ),
            credentials: branch(1),
            sends: json!({ "corpid": "ww_branch_1", "agentid": 1_000_002, "business_type": 1 }),
            carries: Some(("access_token", qyapi.current_token(SECRET).unwrap())),
            secrets: vec![qyapi.current_token(SECRET).unwrap()],
        },
        Case {
            path: "/spec/gettoken",
            field: "access_token",
            source: Arc::new(SpecToken::new(qyapi.client()).issuer_url(base)),
            credentials: Credentials::new(PROVIDER, ZONE_SECRET),
            sends: json!({ "corpid": PROVIDER, "secret": ZONE_SECRET }),
            carries: None,
            secrets: vec![ZONE_SECRET.to_owned()],
        },
    ]
}

#[tokio::test]
async fn each_source_makes_its_call_whether_or_not_there_is_an_errcode_on_success() {
    for omit in [false, true] {
        let qyapi = Qyapi::start().await;
        qyapi.omit_errcode_on_success(omit);
        for case in cases(&qyapi).await {
            qyapi.forget_received();
            let manager = TokenManager::builder(case.source).build();
            let token = manager.token(&case.credentials).await.unwrap();
            assert_eq!(token.expose_secret().len(), 214);
            let lives = token.expires_at().duration_since(token.fetched_at());
            assert_eq!(lives.unwrap().as_secs(), 7200);

            let received = qyapi.received();
            let [call] = &received[..] else {
                panic!("{received:?}")
            };
            assert_eq!(
                (&call.method, call.path.as_str()),
                (&Method::POST, case.path)
            );
            assert_eq!(call.headers["content-type"], "application/json");
            assert_eq!(
                serde_json::from_slice::<Value>(&call.body).unwrap(),
                case.sends
            );
            let query = case.carries.map(|(name, token)| format!("{name}={token}"));
            assert_eq!(call.query_raw(), query.unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn a_permanent_code_is_a_secret_of_gettoken() {
    let qyapi = Qyapi::start().await;
    let source = GetToken::new(qyapi.client()).base_url(qyapi.base_url());
    let developed = Credentials::new(CORP, SECRET);
    let fetched = source.fetch(FetchRequest::new(developed)).await;
    assert!(fetched.is_ok());
}

/// What each source makes of this answer.
async fn errors(answer: impl Fn(&Case) -> Answer) -> Vec<(Case, Error, usize)> {
    let qyapi = Qyapi::start().await;
    let mut errors = Vec::new();
    for case in cases(&qyapi).await {
        qyapi.forget_received();
        qyapi.script(case.path, answer(&case).always());
        let request = FetchRequest::new(case.credentials.clone());
        let error = case.source.fetch(request).await.unwrap_err();
        let calls = qyapi.count(case.path);
        for secret in &case.secrets {
            let shown = format!("{} {error:?} {error:#?}", chain(&error));
            assert!(!shown.contains(secret), "{shown}");
            assert!(!format!("{:?}", case.credentials).contains(secret));
        }
        errors.push((case, error, calls));
    }
    errors
}

#[tokio::test]
async fn an_errcode_is_told_without_the_secrets_that_the_answer_repeats() {
    for errcode in [-1, 40001, 40013, 40084, 45009, 48002, 50003, 60020] {
        let says = |case: &Case| {
            let errmsg = case.secrets.join(" and ");
            let answer = json!({ "errcode": errcode, "errmsg": errmsg, case.field: "canary" });
            Answer::json(answer.to_string())
        };
        for (case, error, calls) in errors(says).await {
            assert_eq!(error.errcode(), Some(errcode), "{}", case.path);
            assert_eq!(calls, 1, "{}", case.path);
            assert_eq!(error.is_transient(), errcode == -1);
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_token_is_refused_by_a_text_that_names_the_call_and_the_field() {
    let others = |case: &Case| {
        let fields = [
            "access_token",
            "suite_access_token",
            "provider_access_token",
        ];
        let others = fields.into_iter().filter(|field| *field != case.field);
        let mut answer = json!({ "expires_in": 7200 });
        others.for_each(|field| answer[field] = json!("canary"));
        Answer::json(answer.to_string())
    };
    for (case, error, _) in errors(others).await {
        assert_eq!(error.kind(), ErrorKind::Refused);
        let path = case.path.trim_start_matches('/');
        let says = format!("{path} returned no {}", case.field);
        assert!(chain(&error).contains(&says), "{}", chain(&error));
    }
}

#[tokio::test]
async fn http_errors_and_lost_connections_are_told_apart() {
    for (answer, kind) in [
        (Answer::status(502), ErrorKind::Transient),
        (Answer::status(429), ErrorKind::Transient),
        (Answer::close(), ErrorKind::Transient),
        (Answer::status(404), ErrorKind::Refused),
        (Answer::json("<html>"), ErrorKind::Refused),
    ] {
        for (case, error, _) in errors(|_| answer.clone()).await {
            assert_eq!(error.kind(), kind, "{}: {}", case.path, chain(&error));
        }
    }
}

#[tokio::test]
async fn credentials_that_lack_what_the_call_needs_are_an_error_without_a_call() {
    let qyapi = Qyapi::start().await;
    let cases = cases(&qyapi).await;
    qyapi.forget_received();
    for case in cases {
        let name = Credentials::without_secret(case.credentials.id(), "not a number");
        let error = case
            .source
            .fetch(FetchRequest::new(name))
            .await
            .unwrap_err();
        let expected = match case.path {
            "corpgroup/corp/gettoken" => ErrorKind::Refused,
            _ => ErrorKind::NoSecret,
        };
        assert_eq!(error.kind(), expected, "{}", case.path);
    }
    assert_eq!(qyapi.received().len(), 0);
}

#[tokio::test]
async fn the_keys_of_all_sources_are_different() {
    let qyapi = Qyapi::start().await;
    let same = |secret: bool| match secret {
        true => Credentials::new("ww_same", "same"),
        false => Credentials::without_secret("ww_same", "1"),
    };
    let mut keys = HashSet::<TokenKey>::new();
    let cases = cases(&qyapi).await;
    for case in &cases[..4] {
        let manager = TokenManager::builder(case.source.clone()).build();
        let credentials = same(case.path != "corpgroup/corp/gettoken");
        let credentials = credentials.of_kind(case.source.audience().kind());
        assert!(keys.insert(manager.key(&credentials)), "{}", case.path);
        assert!(keys.insert(manager.key(&case.credentials)), "{}", case.path);
    }
}

#[tokio::test]
async fn the_issuer_of_the_zone_is_another_host_than_the_api() {
    let (issuer, api) = (Qyapi::start().await, Qyapi::start().await);
    let source = SpecToken::new(issuer.client())
        .issuer_url(issuer.base_url())
        .base_url(api.base_url());
    assert_eq!(source.audience().base_url(), &api.base_url());
    let program = Credentials::new(PROVIDER, ZONE_SECRET);
    source.fetch(FetchRequest::new(program)).await.unwrap();
    assert_eq!(
        (issuer.count("/spec/gettoken"), api.received().len()),
        (1, 0)
    );
}
