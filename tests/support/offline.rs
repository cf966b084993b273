//! Clients without a network: their last layer answers.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Extensions;
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wecom::{
    AccessTokenMiddleware, Error, FetchRequest, FetchedToken, TokenManager, TokenSource,
    async_trait,
};

use super::app;

/// A call of the API.
pub const URL: &str = "https://qyapi.weixin.qq.com/cgi-bin/user/get?userid=zhangsan";

/// What a client is made of; nothing is sent through it.
static NETWORK: LazyLock<reqwest::Client> = LazyLock::new(reqwest::Client::new);

/// A client with the middleware. `answer` is given the number of the call, from nought, and the request.
pub fn offline<A>(
    answer: impl Fn(usize, Request) -> A + Send + Sync + 'static,
) -> ClientWithMiddleware
where
    A: Future<Output = http::Response<Body>> + Send + 'static,
{
    let manager = TokenManager::builder(Numbered(AtomicUsize::new(0))).build();
    let middleware = AccessTokenMiddleware::builder(manager).credentials(app());
    offline_with([middleware.build()], answer)
}

/// The same without a middleware.
pub fn offline_plain<A>(
    answer: impl Fn(usize, Request) -> A + Send + Sync + 'static,
) -> ClientWithMiddleware
where
    A: Future<Output = http::Response<Body>> + Send + 'static,
{
    offline_with([], answer)
}

/// The same with these middlewares.
pub fn offline_with<A>(
    middlewares: impl IntoIterator<Item = AccessTokenMiddleware>,
    answer: impl Fn(usize, Request) -> A + Send + Sync + 'static,
) -> ClientWithMiddleware
where
    A: Future<Output = http::Response<Body>> + Send + 'static,
{
    let client = ClientBuilder::new(NETWORK.clone());
    let client = middlewares.into_iter().fold(client, ClientBuilder::with);
    client.with(LastLayer::new(answer)).build()
}

/// A source of numbered tokens.
struct Numbered(AtomicUsize);

#[async_trait]
impl TokenSource for Numbered {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let lifetime = Duration::from_secs(7200);
        Ok(FetchedToken::new(format!("token-{number}"), lifetime))
    }
}

struct LastLayer<F> {
    answer: F,
    calls: AtomicUsize,
}

impl<F> LastLayer<F> {
    fn new(answer: F) -> Self {
        let calls = AtomicUsize::new(0);
        Self { answer, calls }
    }
}

#[async_trait]
impl<F, A> Middleware for LastLayer<F>
where
    F: Fn(usize, Request) -> A + Send + Sync + 'static,
    A: Future<Output = http::Response<Body>> + Send + 'static,
{
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = request.url().clone();
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut answer = (self.answer)(number, request).await;
        let carrier = http::Response::builder().url(url).body(()).unwrap();
        let carried = carrier.into_parts().0.extensions;
        answer.extensions_mut().extend(carried);
        Ok(answer.into())
    }
}
