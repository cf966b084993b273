//! Real Postgres servers on free ports, each with its own data directory.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what cannot do its work fails the test"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

#[path = "../../examples/postgres.rs"]
mod example;

pub use self::example::PostgresDatabase;

/// A server is ended after this many seconds, even if the test hangs.
const LONGEST_LIFE: &str = "300";

/// A running `postgres` with an empty table for tokens. It ends when this is dropped.
pub struct Server {
    directory: TempDir,
    port: u16,
    /// `timeout`, which runs the server.
    guard: Option<Child>,
}

impl Server {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(directory.path()));
        }
        let mut server = Self {
            directory,
            port: 0,
            guard: None,
        };
        let mut initdb = server.command("initdb", &[]);
        run(initdb
            .args(["--username=postgres", "--auth=trust", "--no-sync"])
            .args(["--encoding=UTF8", "--no-locale", "--pgdata"])
            .arg(server.data())
            .stdout(Stdio::null()));
        let mut tries = 0;
        loop {
            server.port = free_port();
            if server.try_run() {
                break;
            }
            tries += 1;
            assert!(tries < 5, "postgres does not start");
        }
        let admin = server.admin().await;
        admin.batch_execute(example::TABLE).await.unwrap();
        server
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn run(&mut self) {
        assert!(self.try_run(), "postgres does not start");
    }

    fn try_run(&mut self) -> bool {
        let mut postgres = self.command("postgres", &["timeout", "-k", "1", LONGEST_LIFE]);
        postgres.arg("-D").arg(self.data());
        postgres.args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=16MB",
        ] {
            postgres.args(["-c", setting]);
        }
        let mut guard = postgres.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(guard.stderr.take().unwrap()).lines();
        let is_ready = lines
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("ready to accept connections"));
        if !is_ready {
            guard.wait().unwrap();
            return false;
        }
        // The server must not wait for a reader of its log.
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.guard = Some(guard);
        true
    }

    /// Ends it at once. What was committed survives.
    pub fn kill(&mut self) {
        let mut guard = self.guard.take().unwrap();
        let file = fs::read_to_string(self.data().join("postmaster.pid")).unwrap();
        let pid = file.lines().next().unwrap();
        run(Command::new("kill").args(["-QUIT", pid]));
        guard.wait().unwrap();
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    pub fn database(&self) -> PostgresDatabase {
        PostgresDatabase::new(self.url().parse().unwrap())
    }

    /// A connection for the test itself.
    pub async fn admin(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A command that runs a program of Postgres, which refuses to run as root.
    fn command(&self, program: &str, runner: &[&str]) -> Command {
        let drop_root: &[&str] = if is_root() {
            &[
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
            ]
        } else {
            &[]
        };
        let program = programs().join(program).into_os_string();
        let words = [runner, drop_root].concat();
        let mut words = words.into_iter().map(Into::into).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.directory.path());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.guard.is_some() {
            self.kill();
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status();
    let status = status.expect("Postgres is installed: tests/run does it");
    assert!(status.success(), "{command:?}");
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

/// Debian and Ubuntu keep the programs of each version in a directory outside of `PATH`.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let programs = versions.map(|version| version.unwrap().path().join("bin"));
    let installed = programs.filter(|programs| programs.join("initdb").exists());
    installed.max().unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}
