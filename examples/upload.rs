//! Uploads beside a layer that retries. `cargo run --example upload`
//!
//! A retry layer cannot copy a multipart form, so uploads go through a second client. Both clients share one manager, and so the token.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use anyhow::{Result, ensure};
use reqwest::multipart::{Form, Part};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_wecom::AccessTokenMiddleware;
use support::{Qyapi, SECRET, app};

#[path = "../tests/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let http = qyapi.client();
    let tokens = AccessTokenMiddleware::builder(qyapi.manager())
        .credentials(app())
        .build();
    let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    let calls = ClientBuilder::new(http.clone())
        .with(RetryTransientMiddleware::new_with_policy(policy))
        .with(tokens.clone())
        .build();
    let uploads = ClientBuilder::new(http).with(tokens).build();

    calls.get(qyapi.url("user/get?userid=a")).send().await?;
    qyapi.revoke(SECRET);
    let file = Part::bytes(vec![7; 1024 * 1024]).file_name("report.pdf");
    let url = qyapi.url("media/upload?type=file");
    let form = Form::new().part("media", file);
    let answer = uploads.post(url).multipart(form).send().await?;
    let answer = answer.text().await?;

    println!("{answer}");
    println!("calls of media/upload: {}", qyapi.count("media/upload"));
    println!("calls of gettoken: {}", qyapi.gettoken_count());
    ensure!(answer.contains("media_id"), "the upload failed");
    Ok(())
}
