//! A central token server (中控服务器): one program has the secrets, and all others get their tokens from it. `cargo run --example token_server`
//!
//! A program whose token was rejected says so when it asks for the next one. However many programs do, the server calls `gettoken` once.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use futures_util::future::try_join_all;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, FetchRequest, FetchedToken, TokenManager,
    TokenSource, async_trait,
};
use serde::{Deserialize, Serialize};
use support::{CORP, Qyapi, SECRET, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

#[derive(Serialize, Deserialize)]
struct Question {
    rejected: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    access_token: String,
    expires_in: u64,
}

/// The server. Who can reach it can act as your app, so add TLS and authentication.
async fn answer(
    State(tokens): State<TokenManager>,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, (StatusCode, String)> {
    let token = match question.rejected {
        Some(value) => tokens.refresh_rejected(&app(), value).await,
        None => tokens.token(&app()).await,
    };
    let token = token.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    let left = token.expires_at().duration_since(SystemTime::now());
    Ok(Json(Answer {
        access_token: token.expose_secret().to_owned(),
        expires_in: left.unwrap_or_default().as_secs(),
    }))
}

/// Its client.
struct TokenServer {
    http: reqwest::Client,
    url: String,
    audience: Audience,
}

#[async_trait]
impl TokenSource for TokenServer {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let rejected = request.rejected().map(|it| it.expose_secret().to_owned());
        let asking = self.http.post(&self.url).json(&Question { rejected });
        let answer = asking.send().await.and_then(|it| it.error_for_status());
        let answer: Answer = answer
            .map_err(Error::transient)?
            .json()
            .await
            .map_err(Error::transient)?;
        Ok(FetchedToken::new(
            answer.access_token,
            Duration::from_secs(answer.expires_in),
        ))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let server = Router::new()
        .route("/token", post(answer))
        .with_state(qyapi.manager());
    tokio::spawn(axum::serve(listener, server).into_future());

    let programs = [(); 10].map(|()| {
        let source = TokenServer {
            http: qyapi.client(),
            url: url.clone(),
            audience: Audience::new(qyapi.base_url()),
        };
        let tokens = AccessTokenMiddleware::builder(TokenManager::builder(source).build())
            .credentials(Credentials::without_secret(CORP, "1000002"));
        with_tokens(qyapi.client(), tokens.build())
    });
    for gettokens in [1, 2] {
        try_join_all(programs.iter().map(async |program| {
            let answer = program.get(qyapi.url("user/get?userid=a")).send().await?;
            let answer = answer.text().await?;
            ensure!(
                answer.contains(r#""errcode":0"#),
                "the API answered {answer}"
            );
            Ok(())
        }))
        .await?;
        println!(
            "ten programs have called the API: calls of gettoken: {}",
            qyapi.gettoken_count()
        );
        ensure!(qyapi.gettoken_count() == gettokens, "expected {gettokens}");
        qyapi.revoke(SECRET);
    }
    Ok(())
}
