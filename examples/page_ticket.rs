//! Signing a web page for WeCom's JS-SDK, with both types of ticket: `cargo run --example page_ticket`
//!
//! A fake WeCom API runs in the same process.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use reqwest_wecom::{
    AccessTokenMiddleware, Credentials, JsapiTicket, TokenKind, TokenManager, TokenSource,
};
use serde::Serialize;
use sha1::{Digest, Sha1};
use support::{CORP, Qyapi, SECRET, with_tokens};

#[path = "../tests/support/mod.rs"]
mod support;

/// The signed part of `wx.config` and `wx.agentConfig`. The page adds `appId` or `corpid` and `agentid`, and `jsApiList`. Sign URLs of your own site
/// only, and never send the ticket: anyone who has it can sign any page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Signed {
    timestamp: u64,
    nonce_str: String,
    signature: String,
}

/// Signs pages with one type of ticket. One signer serves any number of apps.
struct Signer(TokenManager, TokenKind);

impl Signer {
    fn new(source: JsapiTicket) -> Self {
        let kind = source.audience().kind().clone();
        Self(TokenManager::builder(source).build(), kind)
    }

    /// If the page still shows `invalid signature` although its URL and the app are right, fetch a new ticket with the manager's `refresh`.
    async fn sign(&self, app: &Credentials, url: &str) -> Result<Signed> {
        let ticket = self.0.token(&app.clone().of_kind(&self.1)).await?;
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let nonce_str: String = (0..16).map(|_| fastrand::alphanumeric()).collect();
        let signature = signature(ticket.expose_secret(), &nonce_str, timestamp, url);
        Ok(Signed {
            timestamp,
            nonce_str,
            signature,
        })
    }
}

/// <https://developer.work.weixin.qq.com/document/path/90506>: the names in this order, nothing encoded, and the URL without its fragment.
fn signature(ticket: &str, nonce_str: &str, timestamp: u64, url: &str) -> String {
    let (url, _fragment) = url.split_once('#').unwrap_or((url, ""));
    let digest = Sha1::new()
        .chain_update(format!("jsapi_ticket={ticket}&noncestr={nonce_str}"))
        .chain_update(format!("&timestamp={timestamp}&url={url}"))
        .finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::main]
async fn main() -> Result<()> {
    // The example of WeCom's documentation.
    let ticket =
        "sM4AOVdWfPE4DxkXGEs8VMCPGGVi4C3VM0P37wVUCFvkVAy_90u5h9nbSlYy3-Sl-HhTdfl2fzFy1AOcHKP7qg";
    let page = "http://mp.weixin.qq.com?params=value#part";
    let known = signature(ticket, "Wm3WZYTPz0wzccnW", 1_414_587_457, page);
    ensure!(known == "0f9de62fce790f9a083d5c99e95740ceb90c27ed");

    let qyapi = Qyapi::start().await;
    let app = Credentials::new(CORP, SECRET);
    // A call for a ticket needs an access token. This client adds the one of the app that the ticket is for.
    let tokens = AccessTokenMiddleware::builder(qyapi.manager()).build();
    let client = with_tokens(qyapi.client(), tokens);
    let for_config = JsapiTicket::of_corp(client.clone()).base_url(qyapi.base_url());
    let for_agent_config = JsapiTicket::of_app(client).base_url(qyapi.base_url());
    let (config, agent_config) = (Signer::new(for_config), Signer::new(for_agent_config));

    for page in [
        "https://app.example/?page=1",
        "https://app.example/#/orders",
    ] {
        let signed = config.sign(&app, page).await?;
        println!("for wx.config: {}", serde_json::to_string(&signed)?);
        let signed = agent_config.sign(&app, page).await?;
        println!("for wx.agentConfig: {}", serde_json::to_string(&signed)?);
    }
    for call in ["gettoken", "get_jsapi_ticket", "ticket/get"] {
        println!("calls of {call}: {}", qyapi.count(call));
        ensure!(qyapi.count(call) == 1);
    }
    Ok(())
}
