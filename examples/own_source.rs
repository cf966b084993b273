//! Your own source: a central token server that alone has the secrets. `cargo run --example own_source`
//!
//! Programs that use the server only name their app, here by the agent id. When the API rejects a token, the first program to report that to the server
//! causes one `gettoken`, and the others get the same new token.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Result, ensure};
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, FetchRequest, FetchedToken, TokenManager,
    TokenSource, async_trait,
};
use support::{CORP, Qyapi, SECRET, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// The server, which is a manager in this process. In your program, this is a call over the network.
struct TokenServer {
    tokens: TokenManager,
    audience: Audience,
}

#[async_trait]
impl TokenSource for TokenServer {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        if request.credentials().app() != "1000002" {
            return Err(Error::refused("the token server does not know this app"));
        }
        let token = match request.rejected() {
            // Without this, the server would return the rejected token again.
            Some(rejected) => {
                let value = rejected.expose_secret();
                self.tokens.refresh_rejected(&app(), value).await?
            }
            None => self.tokens.token(&app()).await?,
        };
        let left = token.expires_at().duration_since(SystemTime::now());
        Ok(FetchedToken::new(
            token.expose_secret(),
            left.unwrap_or_default(),
        ))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let server = Arc::new(TokenServer {
        tokens: qyapi.manager(),
        audience: Audience::new(qyapi.base_url()),
    });
    let programs = ["one", "another"].map(|name| (name, client(&qyapi, server.clone())));

    for (name, client) in &programs {
        succeeds(&qyapi, client).await?;
        report(&format!("{name} program"), &qyapi, 1)?;
    }
    qyapi.revoke(SECRET);
    for (name, client) in &programs {
        succeeds(&qyapi, client).await?;
        report(&format!("{name} program, after the revocation"), &qyapi, 2)?;
    }
    Ok(())
}

fn client(qyapi: &Qyapi, server: Arc<TokenServer>) -> ClientWithMiddleware {
    let manager = TokenManager::builder(server).build();
    let credentials = Credentials::without_secret(CORP, "1000002");
    let tokens = AccessTokenMiddleware::builder(manager).credentials(credentials);
    with_tokens(qyapi.client(), tokens.build())
}

async fn succeeds(qyapi: &Qyapi, client: &ClientWithMiddleware) -> Result<()> {
    let answer = client.get(qyapi.url("user/get?userid=a")).send().await?;
    let answer = answer.text().await?;
    ensure!(
        answer.contains(r#""errcode":0"#),
        "the API answered {answer}"
    );
    Ok(())
}

fn report(what: &str, qyapi: &Qyapi, expected: usize) -> Result<()> {
    let gettokens = qyapi.gettoken_count();
    println!("{what}: calls of gettoken: {gettokens}");
    ensure!(gettokens == expected, "expected {expected}");
    Ok(())
}
