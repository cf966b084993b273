//! A sibling API: Official Accounts and Mini Programs, with a kind and a source of your own. `cargo run --example official_account`
//!
//! A fake API in the same process rejects a token with 40001. The middleware gets another one and sends the request again.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::Url;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, FetchRequest, FetchedToken, TokenKind,
    TokenManager, TokenSource, async_trait,
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Answer, Qyapi, SECRET, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// The paths of the API that take its token. All below `sns/` take another credential.
const PATHS: [&str; 5] = ["card/", "cgi-bin/", "customservice/", "datacube/", "wxa/"];

fn official_account() -> TokenKind {
    TokenKind::new("official_account")
        .takes("access_token", PATHS)
        .except(["cgi-bin/token", "cgi-bin/stable_token"])
        .rejected_by([40001, 40014, 42001])
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answered {
    access_token: Option<String>,
    expires_in: u64,
    errcode: i64,
    errmsg: String,
}

/// Fetches with `stable_token`, which returns the current token unless it is told to make a new one. The API allows 20 forced refreshes a day. A
/// small budget keeps a path that rejects every token from using them up in one burst. It is no limit for a day. The base URL of the real API is `https://api.weixin.qq.com/`.
struct StableToken(reqwest::Client, Url);

#[async_trait]
impl TokenSource for StableToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let app = request.credentials();
        let asked = json!({
            "grant_type": "client_credential",
            "appid": app.id(),
            "secret": app.expose_secret(),
            "force_refresh": request.is_forced() || request.rejected().is_some(),
        });
        let url = format!("{}cgi-bin/stable_token", self.1);
        let call = async { self.0.post(url).json(&asked).send().await?.json().await };
        let answer: Answered = call.await.map_err(Error::transient)?;
        let lifetime = Duration::from_secs(answer.expires_in);
        match answer.access_token {
            Some(value) => Ok(FetchedToken::new(value, lifetime)),
            None => Err(Error::api(answer.errcode, answer.errmsg)),
        }
    }

    fn audience(&self) -> Audience {
        Audience::new(self.1.clone()).with_kind(official_account())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let api = Qyapi::start().await;
    let source = StableToken(api.client(), api.base_url());
    let app = Credentials::new("wx1234", "secret").of_kind(&official_account());
    let manager = TokenManager::builder(source).refresh_budget(2).build();
    let tokens = AccessTokenMiddleware::builder(manager);
    let client = with_tokens(api.client(), tokens.credentials(app).build());

    for is_rejected in [false, true] {
        let fields = json!({ "access_token": api.issue(SECRET), "expires_in": 7200 });
        api.script("stable_token", Answer::ok(fields));
        if is_rejected {
            api.script("user/info", Answer::errcode(40001));
        }
        let answer = client.get(api.url("user/info?openid=o1")).send().await?;
        println!("{}", answer.text().await?);
        let fetch: Value = serde_json::from_slice(&api.last("stable_token").body)?;
        println!("force_refresh: {}", fetch["force_refresh"]);
        ensure!(fetch["force_refresh"] == is_rejected);
    }
    let url = format!("{}sns/jscode2session?js_code=1", api.base_url());
    client.get(url).send().await?;
    println!("sent unchanged: {}", api.last("/sns/jscode2session").uri);
    Ok(())
}
