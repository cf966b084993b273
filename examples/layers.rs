//! With other middleware: your retries first, the access token last. `cargo run --example layers`
//!
//! A fake API in the same process revokes the token and then fails twice. The caller notices neither.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use anyhow::Result;
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_wecom::AccessTokenMiddleware;
use support::{Answer, Qyapi, SECRET, app};

#[path = "../tests/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    let tokens = AccessTokenMiddleware::builder(qyapi.manager()).credentials(app());
    let client = ClientBuilder::new(qyapi.client())
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .with(tokens.build())
        .build();

    client.get(qyapi.url("user/get?userid=a")).send().await?;
    qyapi.revoke(SECRET);
    qyapi.script("user/get", Answer::status(503).times(2));
    let answer = client.get(qyapi.url("user/get?userid=a")).send().await?;

    println!("{} from {}", answer.status(), answer.url());
    println!("calls of user/get: {}", qyapi.count("user/get"));
    println!("calls of gettoken: {}", qyapi.gettoken_count());
    Ok(())
}
