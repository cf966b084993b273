//! Fetching, sharing and replacing a token, step by step: `cargo run --example quickstart`.
//!
//! You don't need to set anything up: a fake WeCom API runs in the same process. If you set `WECOM_CORP_ID` and
//! `WECOM_CORP_SECRET`, it calls the real API instead.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints to the terminal"
)]

use std::env;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, RequestBuilder};
use reqwest_wecom::{AccessTokenMiddleware, Credentials, GetToken, TokenManager};
use support::{CORP, OTHER_SECRET, Qyapi, SECRET};
use tokio::task::JoinSet;

#[path = "../tests/support/mod.rs"]
mod support;

#[tokio::main]
async fn main() -> ExitCode {
    let told = match (env::var("WECOM_CORP_ID"), env::var("WECOM_CORP_SECRET")) {
        (Ok(corp_id), Ok(secret)) => call_the_real_api(Credentials::new(corp_id, secret)).await,
        _ => tell_the_story().await,
    };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn call_the_real_api(credentials: Credentials) -> Result<()> {
    // Without `referer(false)`, a redirect would take the URL, token included, to another host.
    let http = reqwest::Client::builder().referer(false).build()?;
    let client = ClientBuilder::new(http.clone())
        .with(AccessTokenMiddleware::new(http, credentials))
        .build();

    let answer = client
        .get("https://qyapi.weixin.qq.com/cgi-bin/get_api_domain_ip")
        .send()
        .await?;
    println!("{} from {}", answer.status(), answer.url());
    println!("{}", answer.text().await?);
    Ok(())
}

async fn tell_the_story() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let http = qyapi.client();
    let source = GetToken::new(http.clone()).base_url(qyapi.base_url());
    let middleware = AccessTokenMiddleware::builder(TokenManager::builder(source).build())
        .credentials(Credentials::new(CORP, SECRET))
        .build();
    let client = ClientBuilder::new(http).with(middleware).build();
    let story = Story { qyapi, client };
    println!(
        "A stand-in for the WeCom API listens at {}\n",
        story.qyapi.base_url()
    );

    succeeds(story.user()).await?;
    story.tell("the first request fetches a token", 1)?;

    for _ in 0..99 {
        succeeds(story.user()).await?;
    }
    story.tell("99 more requests use it", 1)?;

    story.qyapi.revoke(SECRET);
    succeeds(story.user()).await?;
    story.tell(
        "the token is revoked: answered 40014, refreshed, sent once more",
        2,
    )?;

    story.qyapi.expire(SECRET);
    succeeds(story.user()).await?;
    story.tell(
        "the token expires: answered 42001, refreshed, sent once more",
        3,
    )?;

    story.qyapi.revoke(SECRET);
    let crowd: JoinSet<_> = (0..200).map(|_| succeeds(story.user())).collect();
    crowd.join_all().await.into_iter().collect::<Result<()>>()?;
    story.tell("the token is revoked, and 200 requests come at once", 4)?;

    let other_app = Credentials::new(CORP, OTHER_SECRET);
    succeeds(story.user().with_extension(other_app)).await?;
    let token = story.qyapi.last("user/get").access_token();
    ensure!(
        token == story.qyapi.current_token(OTHER_SECRET),
        "the request went out as another app"
    );
    succeeds(story.user()).await?;
    story.tell("another app over the same client has its own token", 5)?;

    let calls = story.qyapi.api_count();
    println!(
        "\nEvery request succeeded. The API was called {calls} times, the rejected calls included."
    );
    Ok(())
}

struct Story {
    qyapi: Qyapi,
    client: ClientWithMiddleware,
}

impl Story {
    fn user(&self) -> RequestBuilder {
        self.client.get(self.qyapi.url("user/get?userid=zhangsan"))
    }

    fn tell(&self, what: &str, expected: usize) -> Result<()> {
        let fetches = self.qyapi.gettoken_count();
        println!("{what:<62} gettoken calls: {fetches}");
        ensure!(
            fetches == expected,
            "expected {expected} calls of gettoken in all"
        );
        Ok(())
    }
}

async fn succeeds(request: RequestBuilder) -> Result<()> {
    let answer = request.send().await.context("no answer")?;
    let body = answer.text().await?;
    ensure!(body.contains(r#""errcode":0"#), "the API answered {body}");
    Ok(())
}
