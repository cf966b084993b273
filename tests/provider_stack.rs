//! A provider's tokens depend on each other: each is fetched once, and one that dies is replaced with one call.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest_middleware::{ClientBuilder, RequestBuilder};
use reqwest_wecom::{
    AccessTokenMiddleware, CorpToken, Credentials, DownstreamToken, ErrorKind, FetchRequest,
    SharedStore, SuiteTickets, TokenKind, TokenManager, TokenSource,
};
use support::{
    Answer, Memory, Qyapi, Repeat, SECRET, SUITE, SUITE_SECRET, branch, chain, code_of, customer,
    suite, with_tokens,
};

const SUITE_CALL: &str = "service/get_suite_token";
const CORP_CALL: &str = "service/get_corp_token";

fn calls(qyapi: &Qyapi) -> Vec<String> {
    qyapi.received().into_iter().map(|it| it.path).collect()
}

#[tokio::test]
async fn a_crowd_causes_one_fetch_for_the_suite_and_one_for_each_customer() {
    let qyapi = Qyapi::start().await;
    let (_, customers) = qyapi.provider_stack().await;
    let crowd = (0..200).map(|n| {
        let (customers, credentials) = (customers.clone(), customer(n % 10));
        async move { customers.token(&credentials).await.map(drop) }
    });
    for token in join_all(crowd).await {
        token.unwrap();
    }
    assert_eq!((qyapi.count(SUITE_CALL), qyapi.count(CORP_CALL)), (1, 10));
    assert!((0..10).all(|n| qyapi.corp_token_count_of(n) == 1));
}

#[tokio::test]
async fn a_suite_without_a_secret_is_an_error_that_names_the_suite() {
    let qyapi = Qyapi::start().await;
    let suites = TokenManager::builder(qyapi.suite_source(&qyapi.tickets().await)).build();
    let no_secret =
        Credentials::without_secret(SUITE, "1").of_kind(&TokenKind::suite_access_token());
    let middleware = AccessTokenMiddleware::builder(suites).credentials(no_secret);
    let client = with_tokens(qyapi.client(), middleware.build());
    let source = CorpToken::new(client).base_url(qyapi.base_url());
    let customers = TokenManager::builder(source).build();
    let error = customers.token(&customer(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(chain(&error).contains(SUITE), "{}", chain(&error));
    assert_eq!(customers.stats().fetches, 1);
}

#[tokio::test]
async fn a_fleet_causes_one_fetch_for_the_suite_and_one_for_each_customer() {
    let qyapi = Qyapi::start().await;
    let database = Arc::new(Memory::default());
    qyapi.set_ticket("ticket");
    let member = || {
        let tickets = SuiteTickets::shared([SUITE], database.clone());
        let store = || SharedStore::new(database.clone());
        let suites = TokenManager::builder(qyapi.suite_source(&tickets)).store(store());
        let suites = suites.build();
        let customers = TokenManager::builder(qyapi.corp_source(&suites)).store(store());
        let middleware = AccessTokenMiddleware::builder(customers.build()).build();
        (tickets, with_tokens(qyapi.client(), middleware))
    };
    let fleet: Vec<_> = (0..5).map(|_| member()).collect();
    fleet[0].0.put(SUITE, "ticket", 1).await.unwrap();
    for round in 0..3 {
        if round > 0 {
            qyapi.reject(SUITE_SECRET, 42009);
            (0..4).for_each(|n| qyapi.revoke(&code_of(n)));
        }
        qyapi.forget_received();
        let crowd = fleet.iter().flat_map(|(_, client)| {
            let request = |n| {
                client
                    .get(qyapi.url("user/get"))
                    .with_extension(customer(n))
            };
            let call =
                |request: RequestBuilder| async { request.send().await.unwrap().text().await };
            (0..8).map(move |n| call(request(n % 4)))
        });
        for answer in join_all(crowd).await {
            assert!(answer.unwrap().contains(r#""errcode":0"#));
        }
        assert_eq!(qyapi.count(SUITE_CALL), 1, "{round}");
        let rejected = if round == 0 { 0 } else { 4 };
        let corp_calls = qyapi.count(CORP_CALL);
        assert!((4..=4 + rejected).contains(&corp_calls), "{corp_calls}");
    }
}

#[tokio::test]
async fn a_thousand_cold_customers_are_fetched_a_few_at_a_time() {
    let qyapi = Qyapi::start().await;
    let (_, customers) = qyapi.provider_stack().await;
    let gate = qyapi.hold_api();
    let all = (0..1000).map(|n| {
        let customers = customers.clone();
        tokio::spawn(async move { customers.token(&customer(n)).await.map(drop) })
    });
    let all: Vec<_> = all.collect();
    gate.arrived(1).await;
    gate.let_through(1);
    gate.arrived(9).await;
    assert_eq!((qyapi.count(SUITE_CALL), qyapi.count(CORP_CALL)), (1, 8));
    gate.open();
    for token in all {
        token.await.unwrap().unwrap();
    }
    assert_eq!((qyapi.count(SUITE_CALL), qyapi.count(CORP_CALL)), (1, 1000));
    let mut by_corp = HashMap::<_, usize>::new();
    for call in qyapi.received() {
        *by_corp.entry(call.json("auth_corpid")).or_default() += 1;
    }
    assert_eq!((by_corp.len(), by_corp.values().max()), (1001, Some(&1)));
}

#[tokio::test]
async fn a_suite_token_that_dies_while_a_customers_is_fetched_is_replaced_with_one_call() {
    let qyapi = Qyapi::start().await;
    let (_, customers) = qyapi.provider_stack().await;
    customers.token(&customer(0)).await.unwrap();
    for (n, errcode) in [(1, 42009), (2, 40082), (3, 40014), (4, 42001)] {
        qyapi.reject(SUITE_SECRET, errcode);
        qyapi.forget_received();
        customers.token(&customer(n)).await.unwrap();
        assert_eq!(calls(&qyapi), [CORP_CALL, SUITE_CALL, CORP_CALL]);
    }
}

#[tokio::test]
async fn the_tokens_of_the_suite_and_of_its_customers_may_die_at_the_same_time() {
    let qyapi = Qyapi::start().await;
    let (_, customers) = qyapi.provider_stack().await;
    let middleware = AccessTokenMiddleware::builder(customers).build();
    let client = with_tokens(qyapi.client(), middleware);
    let crowd = || {
        join_all((0..60).map(|n| {
            let request = client.get(qyapi.url("user/get?userid=zhangsan"));
            let request = request.with_extension(customer(n % 6));
            async move { request.send().await.unwrap().text().await.unwrap() }
        }))
    };
    for round in 0..3 {
        if round > 0 {
            qyapi.reject(SUITE_SECRET, 42009);
            (0..6).for_each(|n| qyapi.revoke(&code_of(n)));
        }
        qyapi.forget_received();
        for answer in crowd().await {
            assert!(answer.contains(r#""errcode":0"#), "{answer}");
        }
        assert_eq!(qyapi.count(SUITE_CALL), 1, "{round}");
        let twice = qyapi.count(CORP_CALL) - 6;
        assert!(twice <= 6, "each is rejected once at most");
    }
}

#[tokio::test]
async fn a_customer_who_has_not_authorized_the_suite_holds_nobody_else_back() {
    let qyapi = Qyapi::start().await;
    qyapi.on_repeat(Repeat::SameToken);
    let (suites, customers) = qyapi.provider_stack().await;
    qyapi.unauthorize(0);
    let source = qyapi.corp_source(&suites);
    for _ in 0..30 {
        let request = FetchRequest::new(customer(0));
        let error = source.fetch(request).await.unwrap_err();
        assert_eq!(error.errcode(), Some(40082));
    }
    assert_eq!(qyapi.count(SUITE_CALL), 2, "held back after the first");

    for n in 1..6 {
        qyapi.reject(SUITE_SECRET, if n % 2 == 0 { 40082 } else { 42009 });
        customers.token(&customer(n)).await.unwrap();
        assert_eq!(qyapi.count(SUITE_CALL), 2 + n);
    }
    qyapi.authorize(0);
    customers.token(&customer(0)).await.unwrap();
}

#[tokio::test]
async fn what_keeps_the_suite_from_its_token_is_what_the_customer_is_told() {
    let qyapi = Qyapi::start().await;
    let tickets = SuiteTickets::new([SUITE]);
    let suites = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    let customers = TokenManager::builder(qyapi.corp_source(&suites)).build();
    for _ in 0..2 {
        let error = customers.token(&customer(0)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
    }
    assert_eq!(qyapi.received().len(), 0);
    qyapi.set_ticket("ticket");
    tickets.put(SUITE, "ticket", 1).await.unwrap();
    customers.token(&customer(0)).await.unwrap();

    for (answer, kind, errcode) in [
        (Answer::errcode(40001), ErrorKind::Api, Some(40001)),
        (Answer::errcode(40013), ErrorKind::Api, Some(40013)),
        (Answer::status(404), ErrorKind::Refused, None),
        (Answer::status(502), ErrorKind::Transient, None),
        (Answer::errcode(-1), ErrorKind::Api, Some(-1)),
    ] {
        qyapi.script(SUITE_CALL, answer.always());
        let suites = TokenManager::builder(qyapi.suite_source(&tickets)).build();
        let source = qyapi.corp_source(&suites);
        let error = source.fetch(FetchRequest::new(customer(0))).await;
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.errcode()), (kind, errcode));
        qyapi.clear_script(SUITE_CALL);
    }

    let nobody = AccessTokenMiddleware::builder(suites.clone()).build();
    let source = CorpToken::new(with_tokens(qyapi.client(), nobody)).base_url(qyapi.base_url());
    let error = source.fetch(FetchRequest::new(customer(0))).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NoCredentials);
}

#[tokio::test]
async fn an_upstream_token_that_dies_is_replaced_with_one_call() {
    let qyapi = Qyapi::start().await;
    let upstream = qyapi.wecom();
    let source = DownstreamToken::new(upstream).base_url(qyapi.base_url());
    let branches = TokenManager::builder(source).build();
    branches.token(&branch(0)).await.unwrap();
    for (n, errcode) in [(1, 40014), (2, 42001)] {
        qyapi.reject(SECRET, errcode);
        qyapi.forget_received();
        branches.token(&branch(n)).await.unwrap();
        let corp = "corpgroup/corp/gettoken";
        assert_eq!(calls(&qyapi), [corp, "gettoken", corp]);
    }
}

#[tokio::test]
async fn one_client_serves_suite_provider_and_customers() {
    let qyapi = Qyapi::start().await;
    let (suites, customers) = qyapi.provider_stack().await;
    let providers = reqwest_wecom::ProviderToken::new(qyapi.client()).base_url(qyapi.base_url());
    let providers = TokenManager::builder(providers).build();
    let layer = |manager: &TokenManager, credentials: Credentials| {
        AccessTokenMiddleware::builder(manager.clone())
            .credentials(credentials)
            .build()
    };
    let client = ClientBuilder::new(qyapi.client())
        .with(layer(&suites, suite()))
        .with(layer(&providers, support::provider()))
        .with(layer(&customers, customer(0)))
        .build();
    for _ in 0..2 {
        for path in [
            "service/get_admin_list",
            "service/get_login_info",
            "license/list_order",
            "user/get",
        ] {
            let answer = client.get(qyapi.url(path)).send().await.unwrap();
            let answer = answer.text().await.unwrap();
            assert!(answer.contains(r#""errcode":0"#), "{path}: {answer}");
        }
    }
    for fetched in [SUITE_CALL, CORP_CALL, "service/get_provider_token"] {
        assert_eq!(qyapi.count(fetched), 1, "{fetched}");
    }
}

#[tokio::test]
async fn a_provider_token_is_replaced_after_each_of_its_errcodes() {
    let qyapi = Qyapi::start().await;
    let source = reqwest_wecom::ProviderToken::new(qyapi.client()).base_url(qyapi.base_url());
    let middleware = AccessTokenMiddleware::builder(TokenManager::builder(source).build());
    let middleware = middleware.credentials(support::provider()).build();
    let client = with_tokens(qyapi.client(), middleware);
    for (n, errcode) in [0, 42001, 40014, 40082].into_iter().enumerate() {
        if errcode != 0 {
            qyapi.reject(support::PROVIDER_SECRET, errcode);
        }
        let url = qyapi.url("service/get_login_info");
        let request = client.get(url).timeout(Duration::from_secs(5));
        let answer = request.send().await.unwrap().text().await.unwrap();
        assert!(answer.contains(r#""errcode":0"#), "{answer}");
        assert_eq!(qyapi.count("service/get_provider_token"), n + 1);
    }
}
