//! What a request costs: time and allocations of a chain that ends in a canned answer, without network.
//!
//! `cargo bench --bench request`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

mod comparison;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use comparison::Comparison;
use criterion::Criterion;
use futures_util::FutureExt;
use http::Extensions;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Response, ResponseBuilderExt, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wecom::{AccessTokenMiddleware, Credentials, TokenManager, async_trait};
use support::{Fixed, Least, Naive, TOKEN};
use tokio::runtime::Runtime;

const API: &str = "https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan";
const ELSEWHERE: &str = "https://example.com/cgi-bin/user/get?userid=zhangsan";
const BODY: &str =
    r#"{"touser":"zhangsan","msgtype":"text","agentid":1,"text":{"content":"hello"}}"#;

fn main() {
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let mut criterion = comparison::criterion();
    let tables = [
        get(&mut criterion),
        post(&mut criterion),
        small_json(&mut criterion),
        large_json(&mut criterion),
        none_of_ours(&mut criterion),
        health_check(&mut criterion),
    ];
    criterion.final_summary();
    for table in tables {
        println!("{table}");
    }
}

fn get(criterion: &mut Criterion) -> String {
    let mut comparison = Comparison::new(criterion, "GET, answer with Error-Code");
    let canned = || Canned::small(true);
    let mut way = |name, client| add(&mut comparison, name, client, || get_of(API));
    way("empty chain", chain(None, canned()));
    way("naive middleware", chain(naive(), canned()));
    way("ours", ours(canned()));
    way("least middleware", chain(least(), canned()));
    add(
        &mut comparison,
        "empty chain, token by hand",
        chain(None, canned()),
        || {
            let mut request = get_of(API);
            support::append(&mut request, TOKEN);
            request
        },
    );
    comparison.measured()
}

fn post(criterion: &mut Criterion) -> String {
    let mut comparison = Comparison::new(criterion, "POST of JSON, answer with Error-Code");
    let canned = || Canned::small(true);
    let mut way = |name, client| add(&mut comparison, name, client, post_of_json);
    way("empty chain", chain(None, canned()));
    way("naive middleware", chain(naive(), canned()));
    way("ours", ours(canned()));
    comparison.measured()
}

fn small_json(criterion: &mut Criterion) -> String {
    let mut comparison = Comparison::new(criterion, "GET, answer of small JSON without Error-Code");
    let canned = || Canned::small(false);
    let mut way = |name, client| add(&mut comparison, name, client, || get_of(API));
    way("empty chain", chain(None, canned()));
    way("naive middleware", chain(naive(), canned()));
    way("ours", ours(canned()));
    comparison.measured()
}

fn large_json(criterion: &mut Criterion) -> String {
    let mut comparison = Comparison::new(criterion, "GET, answer of 1 MiB JSON without Error-Code");
    let mut way = |name, client| add(&mut comparison, name, client, || get_of(API));
    way("empty chain", chain(None, Canned::large()));
    way("naive middleware", chain(naive(), Canned::large()));
    way("ours", ours(Canned::large()));
    comparison.measured()
}

fn none_of_ours(criterion: &mut Criterion) -> String {
    let mut comparison = Comparison::new(criterion, "GET, none of ours");
    let canned = || Canned::small(true);
    let mut way = |name, client| add(&mut comparison, name, client, || get_of(ELSEWHERE));
    way("empty chain", chain(None, canned()));
    way("ours", ours(canned()));
    comparison.measured()
}

/// What an operator asks of a manager, beside what a request asks.
fn health_check(criterion: &mut Criterion) -> String {
    let manager = TokenManager::builder(Fixed::default()).build();
    let app = Credentials::new("corp", "secret");
    tokio::runtime::Handle::current().block_on(async { manager.token(&app).await.unwrap() });
    let mut comparison = Comparison::new(criterion, "Health check");
    let token = || manager.token(&app).now_or_never().unwrap();
    comparison.way("token", || (), |()| token());
    comparison.way("status", || (), |()| manager.status(&app));
    comparison.way("stats", || (), |()| manager.stats());
    comparison.measured()
}

/// All answers are at hand, so that no task ever has to wait.
fn add<'a>(
    comparison: &mut Comparison<'a>,
    name: &'static str,
    client: ClientWithMiddleware,
    request: impl Fn() -> Request + 'a,
) {
    tokio::runtime::Handle::current().block_on(async { client.execute(request()).await.unwrap() });
    comparison.way(name, request, move |request| {
        client.execute(request).now_or_never().unwrap().unwrap()
    });
}

fn get_of(url: &str) -> Request {
    let mut request = Request::new(Method::GET, Url::parse(url).unwrap());
    let accept = HeaderValue::from_static("application/json");
    request.headers_mut().insert("accept", accept);
    request
}

fn post_of_json() -> Request {
    let mut request = Request::new(Method::POST, Url::parse(API).unwrap());
    let json = HeaderValue::from_static("application/json");
    request.headers_mut().insert(CONTENT_TYPE, json);
    *request.body_mut() = Some(BODY.to_owned().into());
    request
}

fn least() -> Option<Arc<dyn Middleware>> {
    Some(Arc::new(Least::default()))
}

fn naive() -> Option<Arc<dyn Middleware>> {
    Some(Arc::new(Naive::default()))
}

fn ours(canned: Canned) -> ClientWithMiddleware {
    let manager = TokenManager::builder(Fixed::default()).build();
    let middleware = AccessTokenMiddleware::builder(manager)
        .credentials(Credentials::new("corp", "secret"))
        .build();
    chain(Some(Arc::new(middleware)), canned)
}

fn chain(middleware: Option<Arc<dyn Middleware>>, canned: Canned) -> ClientWithMiddleware {
    let mut chain = ClientBuilder::new(reqwest::Client::new());
    if let Some(middleware) = middleware {
        chain = chain.with_arc(middleware);
    }
    chain.with(canned).build()
}

/// The last layer of a chain: it answers by itself.
struct Canned {
    with_header: bool,
    body: Bytes,
}

impl Canned {
    fn small(with_header: bool) -> Self {
        let body = Bytes::from_static(
            br#"{"errcode":0,"errmsg":"ok","userid":"zhangsan","name":"Zhang San"}"#,
        );
        Self { with_header, body }
    }

    fn large() -> Self {
        let body = format!(r#"{{"list":["{}"],"errcode":0}}"#, "x".repeat(1024 * 1024));
        Self {
            with_header: false,
            body: body.into(),
        }
    }
}

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let mut answer = http::Response::builder()
            .header("content-type", "application/json; charset=UTF-8")
            .url(request.url().clone());
        if self.with_header {
            answer = answer.header("error-code", "0").header("error-msg", "ok");
        }
        Ok(answer.body(self.body.clone()).unwrap().into())
    }
}
