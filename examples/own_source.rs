//! A source of one's own: a central token server that alone has the secrets. `cargo run --example own_source`
//!
//! The programs that use it need to know only which app they are: here by the agent id.

#![allow(clippy::print_stdout, reason = "it tells its story on the terminal")]

use std::sync::Arc;

use anyhow::Result;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, Audience, Credentials, Error, TokenManager, TokenSource,
    async_trait,
};
use support::{CORP, Qyapi, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// Stands for the connection to the server, which is a manager of its own in this process.
struct TokenServer {
    tokens: TokenManager,
    audience: Audience,
}

#[async_trait]
impl TokenSource for TokenServer {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        if credentials.key().as_str().ends_with(":1000002") {
            self.tokens.token(&app()).await
        } else {
            Err(Error::refused("the token server knows no such app"))
        }
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
    for program in ["one", "another"] {
        let manager = TokenManager::builder(server.clone()).build();
        let credentials = Credentials::without_secret(CORP, "1000002");
        let tokens = AccessTokenMiddleware::builder(manager).credentials(credentials);
        let client = with_tokens(qyapi.client(), tokens.build());

        let answer = client.get(qyapi.url("user/get?userid=a")).send().await?;
        println!(
            "{program} program: {}, calls of gettoken: {}",
            answer.status(),
            qyapi.gettoken_count()
        );
    }
    Ok(())
}
