//! Your own store, which keeps each token in a file: `cargo run --example own_store`
//!
//! The second client, like a second run of the program, finds the token of the first.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Result;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, BoxError, TokenKey, TokenManager, TokenStore, async_trait,
};
use support::{Qyapi, app, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// Keeps each token in a file. The files contain secrets, so only this program must be able to read the directory.
struct Files(PathBuf);

impl Files {
    fn path(&self, key: &TokenKey) -> PathBuf {
        // Keys can have slashes and colons. Encoding percent signs as well keeps the names apart.
        let name = key.as_str().replace('%', "%25").replace('/', "%2F");
        self.0.join(name.replace(':', "%3A") + ".json")
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
