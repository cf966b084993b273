//! What operators need: a health check, metrics for Prometheus, and a forced refresh. `cargo run --example operations`

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::fmt::Write as _;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use reqwest_wecom::{AccessTokenMiddleware, Credentials, ErrorKind, TokenManager, TokenStatus};
use serde_json::Value;
use support::{Qyapi, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

#[derive(Clone)]
struct Operations {
    tokens: TokenManager,
    app: Credentials,
}

/// Serve this where only your own machines can reach it.
fn router(operations: Operations) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .route("/refresh", post(refresh))
        .with_state(operations)
}

/// Unhealthy if there is no token and a cooldown or a rate limit stops the fetches. Makes no call, so probes can run as often as you like.
async fn healthz(State(it): State<Operations>) -> (StatusCode, Json<TokenStatus>) {
    let status = it.tokens.status(&it.app);
    let is_healthy = status.has_token || status.throttled_until.is_none();
    let code = match is_healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, Json(status))
}

/// All counters, each as `wecom_token_…_total`.
async fn metrics(State(it): State<Operations>) -> Result<String, StatusCode> {
    let stats = serde_json::to_value(it.tokens.stats());
    let Ok(Value::Object(stats)) = stats else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let mut text = String::new();
    for (name, value) in stats {
        let name = format!("wecom_token_{name}_total");
        let _never_fails = write!(text, "# TYPE {name} counter\n{name} {value}\n");
    }
    Ok(text)
}

/// A new token now: after you have fixed what WeCom refused, for example.
async fn refresh(State(it): State<Operations>) -> (StatusCode, String) {
    let error = match it.tokens.refresh(&it.app).await {
        Ok(_) => return (StatusCode::OK, "there is a new token".to_owned()),
        Err(error) => error,
    };
    let code = match error.kind() {
        ErrorKind::HeldBack => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::BAD_GATEWAY,
    };
    (code, format!("{:#}", anyhow::Error::new(error)))
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let tokens = qyapi.manager();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let operations = Operations {
        tokens: tokens.clone(),
        app: app(),
    };
    tokio::spawn(axum::serve(listener, router(operations)).into_future());

    let middleware = AccessTokenMiddleware::builder(tokens).credentials(app());
    let client = with_tokens(qyapi.client(), middleware.build());
    client.get(qyapi.url("user/get?userid=a")).send().await?;

    let http = qyapi.client();
    for request in [
        http.get(format!("{url}/healthz")),
        http.post(format!("{url}/refresh")),
        http.get(format!("{url}/metrics")),
    ] {
        let answer = request.send().await?.error_for_status()?;
        let path = answer.url().path().to_owned();
        println!("{path}: {}\n", answer.text().await?);
    }
    Ok(())
}
