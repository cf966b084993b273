//! A store of one's own, here a file for each token: `cargo run --example own_store`
//!
//! The second run of the program, here a second client, finds the token of the first.

#![allow(clippy::print_stdout, reason = "it tells its story on the terminal")]

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Result;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, BoxError, TokenKey, TokenManager, TokenStore, async_trait,
};
use support::{Qyapi, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// Keeps each token in a file of its own. The files hold secrets: the directory must be readable by this program alone.
struct Files(PathBuf);

impl Files {
    fn path(&self, key: &TokenKey) -> PathBuf {
        self.0
            .join(format!("{}.json", key.as_str().replace(':', "-")))
    }
}

#[async_trait]
impl TokenStore for Files {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        match tokio::fs::read(self.path(key)).await {
            Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        Ok(tokio::fs::write(self.path(key), serde_json::to_vec(token)?).await?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let directory = tempfile::tempdir()?;
    for run in ["first", "second"] {
        let store = Files(directory.path().to_owned());
        let manager = TokenManager::builder(qyapi.source()).store(store).build();
        let tokens = AccessTokenMiddleware::builder(manager).credentials(app());
        let client = with_tokens(qyapi.client(), tokens.build());

        client.get(qyapi.url("user/get?userid=a")).send().await?;
        println!(
            "after the {run} run, calls of gettoken: {}",
            qyapi.gettoken_count()
        );
    }
    Ok(())
}
