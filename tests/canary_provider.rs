//! Nothing that opens an account of a service provider gets out: not a secret, not a permanent code, not a ticket, not a token, whichever call
//! fails and however.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "canary/search.rs"]
mod search;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wecom::{
    AccessTokenMiddleware, CorpToken, Credentials, DownstreamToken, Error, FetchRequest, GetToken,
    ProviderToken, SpecToken, SuiteTickets, SuiteToken, TokenKind, TokenManager, TokenSource,
    async_trait,
};
use search::{Log, Places};
use serde_json::json;
use support::{Answer, Memory, Qyapi};

const SUITE_SECRET: &str = "QxSui4nWb9kLr";
const TICKET: &str = "QxTic5bTj2gHy+/ &=%25#é";
const SUITE_TOKEN: &str = "QxSto6dRk4xCw+/ &=%25#é";
const CODE: &str = "QxCod8cDf6vNs+/ &=%25#é";
const PROVIDER_SECRET: &str = "QxPro3eGm9zJq";
const PROVIDER_TOKEN: &str = "QxPto2kLp7wXs+/ &=%25#é";
const TOKEN: &str = "QxTok7aVh3mZp+/ &=%25#é";
const UPSTREAM_SECRET: &str = "QxUps9hBn4tFd";
const UPSTREAM_TOKEN: &str = "QxUto5jKr8yGv+/ &=%25#é";
const ZONE_SECRET: &str = "QxZon6mVc3uEw";

/// No time for another try.
const SHORT: Duration = Duration::from_millis(150);

const ALL: [&str; 10] = [
    SUITE_SECRET,
    TICKET,
    SUITE_TOKEN,
    CODE,
    PROVIDER_SECRET,
    PROVIDER_TOKEN,
    TOKEN,
    UPSTREAM_SECRET,
    UPSTREAM_TOKEN,
    ZONE_SECRET,
];

mod world {
    /// The letters and digits of the canaries, as long as they stand together.
    pub(crate) const RUNS: [&str; 10] = [
        "QxSui4nWb9kLr",
        "QxTic5bTj2gHy",
        "QxSto6dRk4xCw",
        "QxCod8cDf6vNs",
        "QxPro3eGm9zJq",
        "QxPto2kLp7wXs",
        "QxTok7aVh3mZp",
        "QxUps9hBn4tFd",
        "QxUto5jKr8yGv",
        "QxZon6mVc3uEw",
    ];
}

/// A call, and what it and the calls before it know.
struct Call {
    path: &'static str,
    field: &'static str,
    token: &'static str,
    /// What its answer may repeat.
    known: &'static [&'static str],
}

const CALLS: [Call; 6] = [
    Call {
        path: "service/get_suite_token",
        field: "suite_access_token",
        token: SUITE_TOKEN,
        known: &[SUITE_SECRET, TICKET],
    },
    Call {
        path: "service/get_corp_token",
        field: "access_token",
        token: TOKEN,
        known: &[CODE, SUITE_TOKEN],
    },
    Call {
        path: "service/get_provider_token",
        field: "provider_access_token",
        token: PROVIDER_TOKEN,
        known: &[PROVIDER_SECRET],
    },
    Call {
        path: "gettoken",
        field: "access_token",
        token: UPSTREAM_TOKEN,
        known: &[UPSTREAM_SECRET],
    },
    Call {
        path: "corpgroup/corp/gettoken",
        field: "access_token",
        token: TOKEN,
        known: &[UPSTREAM_TOKEN],
    },
    Call {
        path: "/spec/gettoken",
        field: "access_token",
        token: TOKEN,
        known: &[ZONE_SECRET],
    },
];

impl Call {
    fn gives(&self) -> Answer {
        Answer::json(json!({ self.field: self.token, "expires_in": 7200 }).to_string())
    }

    /// All ways in which it fails. What an issuer says goes into errors, so it tells all there.
    fn failures(&self) -> Vec<Answer> {
        let all = self.known.join(" ");
        let json = |value: serde_json::Value| Answer::json(value.to_string());
        let query = url::form(self.known);
        let redirect = |to: String| Answer::status(302).header("location", &to);
        let mut failures = vec![
            Answer::close(),
            Answer::json(format!("<html>{all} {}</html>", self.token)),
            Answer::json(format!(r#"{{"{}":"{} {all}"#, self.field, self.token)),
            json(json!([all, { self.field: self.token }])),
            json(json!({ "errmsg": all, self.field: "", "expires_in": 7200 })),
            json(json!({ "errmsg": all, self.field: self.token.repeat(500), "expires_in": 7200 })),
            json(json!({ "errmsg": all, self.field: self.token, "expires_in": all })),
            redirect(format!("?{query}")),
            redirect(format!("http://127.0.0.1:1/{query}?{query}#{query}")),
            redirect(format!("ftp://127.0.0.1:1/?{query}")),
        ];
        failures.extend([307, 308].map(|status| {
            let to = format!("http://127.0.0.1:1/?{query}");
            Answer::status(status).header("location", &to)
        }));
        failures.extend([400, 404, 429, 500, 502].map(|it| Answer::status(it).body(all.clone())));
        let errcodes = [
            -1, 40001, 40013, 40014, 40082, 40084, 40085, 42001, 42009, 45009, 60020,
        ];
        failures.extend(errcodes.map(|errcode| {
            json(json!({ "errcode": errcode, "errmsg": all, self.field: self.token }))
        }));
        failures
    }
}

mod url {
    /// These as a query.
    pub(crate) fn form(values: &[&str]) -> String {
        let pairs = values.iter().map(|value| ("back", value));
        let url = reqwest::Url::parse_with_params("http://h/", pairs).unwrap();
        url.query().unwrap().to_owned()
    }
}

/// A layer below all others that fails at this path, and tells what it sees.
struct Gossip(&'static str);

#[async_trait]
impl Middleware for Gossip {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let path = request.url().path();
        if path.strip_prefix("/cgi-bin/").unwrap_or(path) != self.0 {
            return next.run(request, extensions).await;
        }
        let body = request.body().and_then(reqwest::Body::as_bytes);
        let body = String::from_utf8_lossy(body.unwrap_or_default()).into_owned();
        let told = anyhow::anyhow!("sent {body}").context(request.url().clone());
        Err(reqwest_middleware::Error::Middleware(told))
    }
}

struct World {
    qyapi: Qyapi,
    tickets: SuiteTickets,
    sources: Vec<(Arc<dyn TokenSource>, Credentials)>,
    shown: Vec<String>,
}

impl World {
    async fn new(gossips_at: &'static str) -> Self {
        let qyapi = Qyapi::start().await;
        for call in &CALLS {
            qyapi.script(call.path, call.gives().always());
        }
        let tickets = SuiteTickets::new(["ww_suite"]);
        tickets.put("ww_suite", TICKET, 1).await.unwrap();
        let base = qyapi.base_url();
        let plain = || ClientBuilder::new(qyapi.client());
        let lowest = || plain().with(Gossip(gossips_at)).build();
        let with = |manager: TokenManager, credentials: &Credentials| -> ClientWithMiddleware {
            let tokens = AccessTokenMiddleware::builder(manager).credentials(credentials.clone());
            plain()
                .with(tokens.build())
                .with(Gossip(gossips_at))
                .build()
        };

        let manager =
            |source: Arc<dyn TokenSource>| TokenManager::builder(source).fetch_limit(SHORT).build();
        let suite = Credentials::new("ww_suite", SUITE_SECRET);
        let suite = suite.of_kind(&TokenKind::suite_access_token());
        let suites = SuiteToken::new(lowest(), tickets.clone()).base_url(base.clone());
        let as_suite = with(manager(Arc::new(suites.clone())), &suite);
        let customers = CorpToken::new(as_suite).base_url(base.clone());
        let provider = Credentials::new("ww_provider", PROVIDER_SECRET);
        let provider = provider.of_kind(&TokenKind::provider_access_token());
        let providers = ProviderToken::new(lowest()).base_url(base.clone());
        let upstream = Credentials::new("ww_corp", UPSTREAM_SECRET);
        let upstreams = GetToken::new(lowest()).base_url(base.clone());
        let as_upstream = with(manager(Arc::new(upstreams)), &upstream);
        let branches = DownstreamToken::new(as_upstream).base_url(base.clone());
        let zone = SpecToken::new(lowest())
            .issuer_url(base.clone())
            .base_url(base);
        let shown = vec![
            format!("{suites:?} {suites:#?}"),
            format!("{customers:?} {providers:?} {branches:?} {zone:?}"),
            format!("{tickets:?} {tickets:#?} {suite:?} {provider:?}"),
        ];
        let sources: Vec<(Arc<dyn TokenSource>, Credentials)> = vec![
            (Arc::new(suites), suite),
            (Arc::new(customers), Credentials::new("ww_customer", CODE)),
            (Arc::new(providers), provider),
            (
                Arc::new(branches),
                Credentials::without_secret("ww_branch", "1"),
            ),
            (Arc::new(zone), Credentials::new("ww_provider", ZONE_SECRET)),
        ];
        Self {
            qyapi,
            tickets,
            sources,
            shown,
        }
    }

    /// Fetches from each source, and then through a manager.
    async fn play(&self, places: &mut Places) {
        for shown in &self.shown {
            places.look("values", shown);
        }
        for (source, credentials) in &self.sources {
            let request = FetchRequest::new(credentials.clone());
            places.look_at("request to the source", &request);
            match source.fetch(request).await {
                Ok(fetched) => places.look_at("answer of the source", &fetched),
                Err(error) => places.look_into("error of the source", &error),
            }
            let manager = TokenManager::builder(source.clone());
            let manager = manager.fetch_limit(SHORT).build();
            let token = manager.token(credentials).await;
            if let Err(error) = &token {
                places.look_into("error of the manager", error);
            }
            places.look_at("key", &manager.key(credentials));
            places.look_at("manager", &manager);
            places.look_at_serialized("status", &manager.status(credentials));
            places.look_at_serialized("stats", &manager.stats());
            let client = AccessTokenMiddleware::builder(manager).credentials(credentials.clone());
            let client = ClientBuilder::new(self.qyapi.client()).with(client.build());
            let calls = ["user/get", "service/get_agent", "license/list_order"];
            let client = client.build();
            for call in calls {
                self.qyapi.script(call, Answer::ok(json!({})).always());
                let sent = client.get(self.qyapi.url(call)).send().await;
                match sent {
                    Ok(answer) => places.look_at("answer", &answer),
                    Err(error) => {
                        places.look_into("error of the request", &error);
                        places.look_at("our error in it", &Error::find(&error));
                    }
                }
            }
        }
        places.look_at("tickets", &self.tickets);
    }
}

async fn play(scene: String, world: World) -> Vec<String> {
    let mut places = Places::new(scene);
    world.play(&mut places).await;
    assert!(!places.looked_in.is_empty());
    places.leaks
}

fn assert_no_leaks(leaks: &[String]) {
    let count = leaks.len();
    let some = leaks.iter().take(5).cloned().collect::<Vec<_>>();
    assert!(leaks.is_empty(), "{count} leaks:\n{}", some.join("\n\n"));
}

#[tokio::test]
async fn nothing_gets_out_of_a_call_that_fails() {
    let log = Log::default();
    let _listening = log.listen();
    let mut leaks = Vec::new();
    for call in &CALLS {
        for (n, failure) in call.failures().into_iter().enumerate() {
            let world = World::new("").await;
            world.qyapi.clear_script(call.path);
            world.qyapi.script(call.path, failure.always());
            leaks.extend(play(format!("{} {n}", call.path), world).await);
        }
        let world = World::new(call.path).await;
        leaks.extend(play(format!("{} gossip", call.path), world).await);
    }
    let mut places = Places::new("events".to_owned());
    places.look("log", &log.text());
    leaks.extend(places.leaks);
    assert_no_leaks(&leaks);
    assert!(log.text().contains("fetch_failed"));
}

#[tokio::test]
async fn nor_one_that_the_database_had_from_another_process() {
    let database = Arc::new(Memory::default());
    let other = SuiteTickets::shared(["ww_suite"], database.clone());
    other.put("ww_suite", TICKET, 1).await.unwrap();
    database.gossips.store(true, Ordering::SeqCst);
    let tickets = SuiteTickets::shared(["ww_suite"], database);
    let mut places = Places::new("tickets".to_owned());
    let error = tickets.put("ww_suite", "newer", 2).await.unwrap_err();
    places.look_into("error of the tickets", &error);
    assert_no_leaks(&places.leaks);
}

#[tokio::test]
async fn no_ticket_gets_out_of_a_database_that_fails() {
    let database = Arc::new(Memory::default());
    database.gossips.store(true, Ordering::SeqCst);
    let tickets = SuiteTickets::shared(["ww_suite"], database);
    let mut places = Places::new("tickets".to_owned());
    for ticket in ALL {
        let error = tickets.put("ww_suite", ticket, 1).await.unwrap_err();
        places.look_into("error of the tickets", &error);
        let error = tickets.put("ww_other", ticket, 1).await.unwrap_err();
        places.look_into("error of the tickets", &error);
    }
    assert_no_leaks(&places.leaks);
}
