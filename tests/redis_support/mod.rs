//! Real Redis servers and real processes of ours.

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what cannot do its work fails the test"
)]

mod process;
mod server;
mod slow;

pub use self::{
    process::{Kind, Process, Setup, be_a_process_if_told},
    server::{Server, free_port},
    slow::SlowWay,
};

use std::process::Command;
use std::time::Duration;

/// Servers that do not come to what a test waits for fail it.
pub async fn within_a_minute(test: impl Future<Output = ()>) {
    let ended = tokio::time::timeout(Duration::from_secs(60), test).await;
    assert!(ended.is_ok(), "it takes too long");
}

/// Sends a signal to one process.
pub fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    assert!(sent.unwrap().success(), "SIG{name} to {pid}");
}
