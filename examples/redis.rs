//! Several processes share one token: `cargo run --features redis --example redis`.
//!
//! It starts a Redis server, so you need `redis-server` in your `PATH`. If you set `REDIS_URL`, it uses that server instead. The first
//! process runs a fake WeCom API and starts the others.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it prints to the terminal"
)]

use std::env;
use std::net::TcpListener;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest_middleware::ClientBuilder;
use reqwest_wecom::{AccessTokenMiddleware, Credentials, GetToken, RedisStore, TokenManager};
use support::{CORP, Qyapi, SECRET};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

#[path = "../tests/support/mod.rs"]
mod support;

const PROCESSES: usize = 4;
const REQUESTS: usize = 50;

#[tokio::main]
async fn main() -> ExitCode {
    let done = match (env::var("EXAMPLE_API"), env::var("REDIS_URL")) {
        (Ok(api), Ok(redis)) => send_requests(&api, &redis).await,
        (Err(_), redis) => tell_the_story(redis.ok()).await,
        (Ok(_), Err(_)) => Err(anyhow::anyhow!("REDIS_URL is not set")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One process of the fleet: all that is special about it is its store.
async fn send_requests(api: &str, redis: &str) -> Result<()> {
    let http = reqwest::Client::builder()
        .no_proxy()
        .referer(false)
        .build()?;
    let source = GetToken::new(http.clone()).base_url(api.parse()?);
    let store = RedisStore::connect(redis)?;
    let manager = TokenManager::builder(source).store(store).build();
    let middleware = AccessTokenMiddleware::builder(manager)
        .credentials(Credentials::new(CORP, SECRET))
        .build();
    let client = ClientBuilder::new(http).with(middleware).build();

    let url = format!("{api}cgi-bin/user/get?userid=zhangsan");
    let requests = (0..REQUESTS).map(|_| async {
        let answer = client.get(&url).send().await?.text().await?;
        ensure!(
            answer.contains(r#""errcode":0"#),
            "the API answered {answer}"
        );
        Ok(())
    });
    try_join_all(requests).await?;
    Ok(())
}

async fn tell_the_story(redis: Option<String>) -> Result<()> {
    let qyapi = Qyapi::start().await;
    let (_server, redis) = match redis {
        Some(url) => (None, url),
        None => {
            let (server, url) = start_redis().await?;
            (Some(server), url)
        }
    };

    fleet(&qyapi, &redis).await?;
    tell(
        &qyapi,
        "4 processes start, and each sends 50 requests at once",
        1,
    )?;
    fleet(&qyapi, &redis).await?;
    tell(&qyapi, "4 new processes find the token in Redis", 1)?;
    qyapi.revoke(SECRET);
    fleet(&qyapi, &redis).await?;
    tell(
        &qyapi,
        "the token is revoked, and 4 more find it rejected",
        2,
    )?;
    println!("\nEvery request succeeded.");
    Ok(())
}

fn tell(qyapi: &Qyapi, what: &str, expected: usize) -> Result<()> {
    let fetches = qyapi.gettoken_count();
    println!("{what:<62} gettoken calls: {fetches}");
    ensure!(
        fetches == expected,
        "expected {expected} calls of gettoken in all"
    );
    Ok(())
}

/// Runs this program several times at once, and waits for all.
async fn fleet(qyapi: &Qyapi, redis: &str) -> Result<()> {
    let program = env::current_exe()?;
    let processes = (0..PROCESSES).map(|_| {
        Command::new(&program)
            .env("EXAMPLE_API", qyapi.base_url().as_str())
            .env("REDIS_URL", redis)
            .status()
    });
    for status in try_join_all(processes).await? {
        ensure!(status.success(), "a process failed");
    }
    Ok(())
}

/// A server on a free port, which ends with this program.
async fn start_redis() -> Result<(Child, String)> {
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let server = Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
        ])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("redis-server cannot be started: is it installed?")?;
    let answers = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_err()
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), answers).await?;
    Ok((server, format!("redis://127.0.0.1:{port}/")))
}
