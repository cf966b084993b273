//! What a request costs: time and allocations of a chain that ends in a canned answer, without network.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use divan::{AllocProfiler, Bencher};
use http::Extensions;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Response, ResponseBuilderExt, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, Credentials, Error, TokenManager, TokenSource, async_trait,
};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const API: &str = "https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan";
const ELSEWHERE: &str = "https://example.com/cgi-bin/user/get?userid=zhangsan";
const BODY: &str =
    r#"{"touser":"zhangsan","msgtype":"text","agentid":1,"text":{"content":"hello"}}"#;
const TOKEN: &str = "kV1wQ9y8w0d2k3Jm5nB7v4cX1zL6hG9fD2sA8pO0iU3yT5rE7wQ1mN4bV6cX9zL2kJ5hG8fD1sA3pO6iU9yT2rE4wQ7mN0bV";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
});

/// The last layer of a chain: it answers by itself.
struct Canned {
    with_header: bool,
    body: Bytes,
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

struct Fixed;

#[async_trait]
impl TokenSource for Fixed {
    async fn fetch(&self, _: &Credentials) -> Result<AccessToken, Error> {
        Ok(AccessToken::new(TOKEN, Duration::from_secs(7200)))
    }
}

/// What many programs have: a lock on the way of each request, the body parsed whole.
struct Naive(Mutex<Option<(String, Instant)>>);

#[async_trait]
impl Middleware for Naive {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = {
            let mut cached = self.0.lock().await;
            match &*cached {
                Some((token, until)) if Instant::now() < *until => token.clone(),
                _ => {
                    *cached = Some((TOKEN.to_owned(), Instant::now() + Duration::from_secs(7200)));
                    TOKEN.to_owned()
                }
            }
        };
        let again = request.try_clone();
        request
            .url_mut()
            .query_pairs_mut()
            .append_pair("access_token", &token);
        let response = next.clone().run(request, extensions).await?;
        let response = http::Response::<reqwest::Body>::from(response);
        let (parts, body) = response.into_parts();
        let body = http_body_util::BodyExt::collect(body).await?.to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if answer["errcode"] == 40014
            && let Some(again) = again
        {
            return next.run(again, extensions).await;
        }
        Ok(http::Response::from_parts(parts, reqwest::Body::from(body)).into())
    }
}

fn chain(middleware: Option<Arc<dyn Middleware>>, canned: Canned) -> ClientWithMiddleware {
    let mut chain = ClientBuilder::new(reqwest::Client::new());
    if let Some(middleware) = middleware {
        chain = chain.with_arc(middleware);
    }
    chain.with(canned).build()
}

fn ours(canned: Canned) -> ClientWithMiddleware {
    let manager = TokenManager::builder(Fixed).build();
    let middleware = AccessTokenMiddleware::builder(manager)
        .credentials(Credentials::new("corp", "secret"))
        .build();
    chain(Some(Arc::new(middleware)), canned)
}

fn run(
    bencher: Bencher<'_, '_>,
    client: ClientWithMiddleware,
    method: Method,
    url: &str,
    prepare: impl Fn(&mut Request) + Sync,
) {
    let url = Url::parse(url).unwrap();
    let send = |request| RUNTIME.block_on(async { client.execute(request).await.unwrap() });
    let request = || {
        let mut request = Request::new(method.clone(), url.clone());
        request
            .headers_mut()
            .insert("accept", "*/*".parse().unwrap());
        if method == Method::POST {
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
            *request.body_mut() = Some(BODY.into());
        }
        prepare(&mut request);
        request
    };
    drop(send(request()));
    bencher.with_inputs(request).bench_values(send);
}

fn by_hand(request: &mut Request) {
    request
        .url_mut()
        .query_pairs_mut()
        .append_pair("access_token", TOKEN);
}

fn as_it_is(_: &mut Request) {}

fn naive() -> Option<Arc<dyn Middleware>> {
    Some(Arc::new(Naive(Mutex::default())))
}

#[divan::bench_group]
mod get {
    use super::*;

    #[divan::bench]
    fn empty_chain(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(None, Canned::small(true)),
            Method::GET,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn token_by_hand(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(None, Canned::small(true)),
            Method::GET,
            API,
            by_hand,
        );
    }

    #[divan::bench(name = "naive")]
    fn naive_middleware(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(naive(), Canned::small(true)),
            Method::GET,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn ours_with_header(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            ours(Canned::small(true)),
            Method::GET,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn ours_small_json(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            ours(Canned::small(false)),
            Method::GET,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn empty_chain_large_json(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(None, Canned::large()),
            Method::GET,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn ours_large_json(bencher: Bencher<'_, '_>) {
        run(bencher, ours(Canned::large()), Method::GET, API, as_it_is);
    }

    #[divan::bench]
    fn none_of_ours_empty_chain(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(None, Canned::small(true)),
            Method::GET,
            ELSEWHERE,
            as_it_is,
        );
    }

    #[divan::bench]
    fn none_of_ours(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            ours(Canned::small(true)),
            Method::GET,
            ELSEWHERE,
            as_it_is,
        );
    }
}

#[divan::bench_group]
mod post {
    use super::*;

    #[divan::bench]
    fn empty_chain(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(None, Canned::small(true)),
            Method::POST,
            API,
            as_it_is,
        );
    }

    #[divan::bench(name = "naive")]
    fn naive_middleware(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            chain(naive(), Canned::small(true)),
            Method::POST,
            API,
            as_it_is,
        );
    }

    #[divan::bench]
    fn ours_with_header(bencher: Bencher<'_, '_>) {
        run(
            bencher,
            ours(Canned::small(true)),
            Method::POST,
            API,
            as_it_is,
        );
    }
}
