//! Tickets that sign web pages: each app and each type has its own, whatever becomes of the access token that it costs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessTokenMiddleware, Credentials, Error, ErrorKind, JsapiTicket, MokaStore, TokenKind,
    TokenManager,
};
use serde_json::json;
use support::{
    Answer, CORP, OTHER_CORP, OTHER_CORP_SECRET, OTHER_SECRET, PageTicket, Qyapi, SECRET, app,
    chain, customer, other_app, with_tokens,
};

const CALLS: [&str; 2] = ["get_jsapi_ticket", "ticket/get"];

fn of_corp(app: Credentials) -> Credentials {
    app.of_kind(&TokenKind::jsapi_ticket())
}

fn of_app(app: Credentials) -> Credentials {
    app.of_kind(&TokenKind::agent_config_ticket())
}

/// A client that has no app of its own: a ticket's source says which it is.
fn client(qyapi: &Qyapi, tokens: &TokenManager) -> ClientWithMiddleware {
    let middleware = AccessTokenMiddleware::builder(tokens.clone()).build();
    with_tokens(qyapi.client(), middleware)
}

fn sources(qyapi: &Qyapi, http: ClientWithMiddleware) -> [JsapiTicket; 2] {
    [
        JsapiTicket::of_corp(http.clone()),
        JsapiTicket::of_app(http),
    ]
    .map(|source| source.base_url(qyapi.base_url()))
}

/// For `get_jsapi_ticket` and for `ticket/get`.
fn managers(qyapi: &Qyapi) -> [TokenManager; 2] {
    sources(qyapi, client(qyapi, &qyapi.manager())).map(|it| TokenManager::builder(it).build())
}

/// A ticket of either type for the app.
fn credentials(app: &Credentials) -> [Credentials; 2] {
    [of_corp(app.clone()), of_app(app.clone())]
}

async fn value(tickets: &TokenManager, credentials: &Credentials) -> Result<String, Error> {
    let ticket = tickets.token(credentials).await?;
    Ok(ticket.expose_secret().to_owned())
}

#[tokio::test]
async fn each_app_gets_its_own_tickets_with_its_own_access_token() {
    let qyapi = Qyapi::start().await;
    let [corp, agent] = managers(&qyapi);
    let elsewhere = Credentials::new(OTHER_CORP, OTHER_CORP_SECRET);
    for (id, secret, app) in [
        (CORP, SECRET, app()),
        (CORP, OTHER_SECRET, other_app()),
        (OTHER_CORP, OTHER_CORP_SECRET, elsewhere),
    ] {
        let [first, second] = credentials(&app);
        let before = qyapi.received().len();
        assert_eq!(
            value(&corp, &first).await.unwrap(),
            qyapi.page_ticket(PageTicket::OfCorp(id.to_owned()))
        );
        assert_eq!(
            value(&agent, &second).await.unwrap(),
            qyapi.page_ticket(PageTicket::OfApp(secret.to_owned()))
        );
        let calls = qyapi.received().split_off(before);
        let [token, ticket, other] = &calls[..] else {
            unreachable!("{calls:?}");
        };
        assert_eq!(token.path, "gettoken");
        assert_eq!([&*ticket.path, &*other.path], CALLS);
        for call in [ticket, other] {
            assert_eq!(call.method, "GET");
            assert_eq!(call.access_token(), qyapi.current_token(secret));
        }
        assert_eq!(ticket.query_raw().split('&').count(), 1);
        assert!(
            other
                .query_raw()
                .starts_with("type=agent_config&access_token=")
        );
    }
}

#[tokio::test]
async fn a_ticket_is_kept() {
    let qyapi = Qyapi::start().await;
    let managers = managers(&qyapi);
    for _ in 0..5 {
        for (tickets, credentials) in managers.iter().zip(credentials(&app())) {
            value(tickets, &credentials).await.unwrap();
        }
    }
    assert_eq!(CALLS.map(|call| qyapi.count(call)), [1, 1]);
}

#[tokio::test]
async fn a_crowd_costs_one_call_for_each_app_and_type() {
    let qyapi = Qyapi::start().await;
    let managers = managers(&qyapi);
    let apps = [app(), other_app()].map(|app| credentials(&app));
    let crowd = (0..400).map(|n| value(&managers[n % 2], &apps[n / 2 % 2][n % 2]));
    let values: HashSet<_> = join_all(crowd)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    // Both apps have the ticket of their corp.
    assert_eq!(values.len(), 3);
    assert_eq!(CALLS.map(|call| qyapi.count(call)), [2, 2]);
    assert_eq!(qyapi.gettoken_count(), 2);
}

#[tokio::test]
async fn a_dead_access_token_is_replaced_on_the_way_and_ends_no_ticket() {
    for end in [Qyapi::revoke, Qyapi::expire] {
        let qyapi = Qyapi::start().await;
        let [corp, agent] = managers(&qyapi);
        let [of_corp, of_app] = credentials(&app());
        let ticket = value(&corp, &of_corp).await.unwrap();
        end(&qyapi, SECRET);
        qyapi.forget_received();
        value(&agent, &of_app).await.unwrap();
        assert_eq!(value(&corp, &of_corp).await.unwrap(), ticket);
        assert_eq!(qyapi.gettoken_count(), 1);
        assert_eq!(CALLS.map(|call| qyapi.count(call)), [0, 2]);
    }
}

#[tokio::test]
async fn tickets_of_a_suites_customers_cost_the_customers_access_tokens() {
    let qyapi = Qyapi::start().await;
    let (_suites, customers) = qyapi.provider_stack().await;
    let managers = sources(&qyapi, client(&qyapi, &customers));
    let managers = managers.map(|it| TokenManager::builder(it).build());
    let all: Vec<_> = (0..5).map(|n| credentials(&customer(n))).collect();
    let crowd = (0..200).map(|n| value(&managers[n % 2], &all[n / 2 % 5][n % 2]));
    let values: HashSet<_> = join_all(crowd)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(values.len(), 10);
    assert_eq!(CALLS.map(|call| qyapi.count(call)), [5, 5]);
    assert_eq!(qyapi.count("service/get_suite_token"), 1);
    assert_eq!(qyapi.count("service/get_corp_token"), 5);
}

/// What the call is answered, and how callers learn of it: errcode, kind, and a part of the text.
fn failures() -> [(Answer, Option<i64>, ErrorKind, &'static str); 12] {
    use ErrorKind::{Api, Refused, Transient};
    let ok = Answer::ok;
    [
        (Answer::errcode(40014), Some(40014), Api, "40014"),
        (Answer::errcode(48002), Some(48002), Api, "48002"),
        (Answer::errcode(45009), None, Refused, "rate limit"),
        (Answer::errcode(-1), Some(-1), Api, "busy"),
        (
            Answer::status(503),
            None,
            Transient,
            "CALL returned HTTP 503",
        ),
        (Answer::status(404), None, Refused, "CALL returned HTTP 404"),
        (Answer::json("{}"), None, Refused, "CALL returned no ticket"),
        (
            Answer::json("canary"),
            None,
            Refused,
            "CALL returned 6 bytes",
        ),
        (
            ok(json!({ "ticket": " ", "expires_in": 7200 })),
            None,
            Refused,
            "CALL returned an empty ticket",
        ),
        (
            ok(json!({ "ticket": "canary" })),
            None,
            Refused,
            "CALL returned no expires_in",
        ),
        (
            ok(json!({ "access_token": "canary", "expires_in": 7200 })),
            None,
            Refused,
            "CALL returned no ticket",
        ),
        (Answer::close(), None, Transient, "error sending"),
    ]
}

#[tokio::test]
async fn errcodes_and_other_failures_are_told_by_their_kind_and_name_the_call() {
    let rows = CALLS.into_iter().enumerate().flat_map(|(n, call)| {
        failures().map(|(answer, errcode, kind, text)| async move {
            let qyapi = Qyapi::start().await;
            qyapi.script(call, answer.always());
            let credentials = &credentials(&app())[n];
            let error = value(&managers(&qyapi)[n], credentials).await.unwrap_err();
            assert_eq!((error.errcode(), error.kind()), (errcode, kind));
            let told = chain(&error);
            assert!(told.contains(&text.replace("CALL", call)), "{text}: {told}");
            assert!(!format!("{told} {error:?}").contains("canary"), "{told}");
        })
    });
    join_all(rows).await;
}

#[tokio::test]
async fn an_app_over_its_limit_holds_back_no_other() {
    let qyapi = Qyapi::start().await;
    for (n, call) in CALLS.into_iter().enumerate() {
        let tickets = &managers(&qyapi)[n];
        qyapi.script(call, Answer::errcode(45009));
        let over = value(tickets, &credentials(&app())[n]).await.unwrap_err();
        assert!(chain(&over).contains("rate limit"), "{}", chain(&over));
        value(tickets, &credentials(&other_app())[n]).await.unwrap();
        let again = value(tickets, &credentials(&app())[n]).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Refused, "it has a cooldown");
        assert_eq!(qyapi.count(call), 2);
    }
}

#[tokio::test]
async fn errcode_may_be_absent_on_success() {
    let qyapi = Qyapi::start().await;
    for (n, call) in CALLS.into_iter().enumerate() {
        let json = json!({ "ticket": "a ticket", "expires_in": "7200" });
        qyapi.script(call, Answer::json(json.to_string()));
        let ticket = value(&managers(&qyapi)[n], &credentials(&app())[n]).await;
        assert_eq!(ticket.unwrap(), "a ticket");
    }
}

#[tokio::test]
async fn without_an_access_token_the_error_is_the_one_that_says_why() {
    let qyapi = Qyapi::start().await;
    let [corp, agent] = managers(&qyapi);
    let wrong = Credentials::new(CORP, "wrong");
    for (tickets, credentials) in [(&corp, of_corp(wrong.clone())), (&agent, of_app(wrong))] {
        let error = value(tickets, &credentials).await.unwrap_err();
        assert_eq!(error.errcode(), Some(40001));
    }
    let unknown = Credentials::without_secret(CORP, "1000002");
    let error = value(&corp, &of_corp(unknown)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSecret);
    assert_eq!(CALLS.map(|call| qyapi.count(call)), [0, 0]);
}

#[tokio::test]
async fn a_client_that_adds_no_access_token_is_told_so_by_the_api() {
    let qyapi = Qyapi::start().await;
    let plain = ClientWithMiddleware::from(qyapi.client());
    for (source, credentials) in sources(&qyapi, plain).into_iter().zip(credentials(&app())) {
        let tickets = TokenManager::builder(source).build();
        let error = value(&tickets, &credentials).await.unwrap_err();
        assert_eq!(error.errcode(), Some(41001));
    }
}

#[tokio::test]
async fn tickets_and_access_tokens_never_meet_under_one_key() {
    let qyapi = Qyapi::start().await;
    let store = Arc::new(MokaStore::new());
    let tokens = TokenManager::builder(qyapi.source())
        .store(store.clone())
        .build();
    let [corp, agent] = sources(&qyapi, client(&qyapi, &tokens))
        .map(|source| TokenManager::builder(source).store(store.clone()).build());
    let app = app();
    let [of_corp, of_app] = credentials(&app);
    let mut values = HashSet::new();
    for (manager, credentials) in [(&tokens, &app), (&corp, &of_corp), (&agent, &of_app)] {
        values.insert(value(manager, credentials).await.unwrap());
        values.insert(value(manager, credentials).await.unwrap());
    }
    assert_eq!(values.len(), 3);
    let keys = [tokens.key(&app), corp.key(&of_corp), agent.key(&of_app)];
    let kinds = ["access_token", "jsapi_ticket", "agent_config_ticket"];
    for (key, kind) in keys.iter().zip(kinds) {
        let start = format!("{kind}@127.0.0.1:");
        assert!(key.as_str().starts_with(&start), "{key}");
    }
    // Credentials of another kind are an error, not another ticket.
    for (manager, credentials) in [(&corp, &app), (&corp, &of_app), (&agent, &of_corp)] {
        let error = value(manager, credentials).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCredentials);
    }
}

#[tokio::test]
async fn a_ticket_goes_into_no_query() {
    let qyapi = Qyapi::start().await;
    for (tickets, credentials) in managers(&qyapi).into_iter().zip(credentials(&app())) {
        let middleware = AccessTokenMiddleware::builder(tickets).credentials(credentials);
        let client = with_tokens(qyapi.client(), middleware.build());
        for path in CALLS {
            client.get(qyapi.url(path)).send().await.unwrap();
            assert_eq!(qyapi.last(path).query_raw(), "");
        }
    }
    assert_eq!(qyapi.gettoken_count(), 0);
}
