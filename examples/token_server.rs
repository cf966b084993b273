//! A central token server (中控服务器): one program has the secrets, and all others get their tokens from it. `cargo run --example token_server`
//! A program whose token was rejected says so when it asks for the next one. However many programs do, the server calls `gettoken` once.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use futures_util::future::try_join_all;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, FetchRequest, FetchedToken, TokenManager,
    TokenSource, async_trait,
};
use support::{CORP, Qyapi, SECRET, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// The server is asked with the rejected value, if there is one, and told whether an operator forces a new token. Who can reach it can act as your app: add TLS and authentication.
async fn answer(
    State(tokens): State<TokenManager>,
    Json((is_forced, rejected)): Json<(bool, Option<String>)>,
) -> Result<Json<(String, Duration)>, (StatusCode, String)> {
    let token = match rejected {
        _ if is_forced => tokens.refresh(&app()).await,
        Some(value) => tokens.refresh_rejected(&app(), value).await,
        None => tokens.token(&app()).await,
    };
    let token = token.map_err(|error| {
        let why = format!("{:#}", anyhow::Error::new(error));
        (StatusCode::SERVICE_UNAVAILABLE, why)
    })?;
    let left = token.expires_at().duration_since(SystemTime::now());
    let left = left.unwrap_or_default();
    Ok(Json((token.expose_secret().into(), left)))
}

struct AskTokenServer(reqwest::Client, String, Audience);

#[async_trait]
impl TokenSource for AskTokenServer {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let rejected = request.rejected().map(|token| token.expose_secret());
        let asking = self.0.post(&self.1).json(&(request.is_forced(), rejected));
        let answer = asking.send().await.map_err(Error::transient)?;
        if answer.status().is_client_error() {
            return Err(Error::refused(answer.status().to_string()));
        }
        let json = answer.error_for_status().map_err(Error::transient)?.json();
        let (value, left): (String, Duration) = json.await.map_err(Error::transient)?;
        Ok(FetchedToken::new(value, left))
    }

    fn audience(&self) -> Audience {
        self.2.clone()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let server = Router::new().route("/", post(answer));
    let tokens = TokenManager::builder(qyapi.source()).refresh_budget(100);
    let server = server.with_state(tokens.build());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(axum::serve(listener, server).into_future());
    let programs = [(); 10].map(|()| {
        let audience = Audience::new(qyapi.base_url());
        let source = AskTokenServer(qyapi.client(), url.clone(), audience);
        let app = Credentials::without_secret(CORP, "1000002");
        let manager = TokenManager::builder(source).build();
        let tokens = AccessTokenMiddleware::builder(manager).credentials(app);
        with_tokens(qyapi.client(), tokens.build())
    });
    for gettokens in [1, 2] {
        let call = |it: &ClientWithMiddleware| it.get(qyapi.url("user/get?userid=a")).send();
        for answer in try_join_all(programs.iter().map(call)).await? {
            ensure!(answer.text().await?.contains(r#""errcode":0"#));
        }
        println!("calls of gettoken so far: {}", qyapi.gettoken_count());
        ensure!(qyapi.gettoken_count() == gettokens);
        qyapi.revoke(SECRET);
    }
    Ok(())
}
