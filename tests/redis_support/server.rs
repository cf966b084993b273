//! Redis servers on free ports, each with a directory of its own.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use redis::aio::MultiplexedConnection;
use reqwest_wecom::redis;

use super::signal;

/// A server lives no longer than this, whatever becomes of the test.
const LONGEST_LIFE: &str = "300";

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A running `redis-server`. It ends when this is dropped.
pub struct Server {
    program: &'static str,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    running: Option<Running>,
}

struct Running {
    /// `timeout`, which passes signals on.
    guard: Child,
    pid: u32,
}

impl Server {
    /// Starts one with the default settings, which keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let mut tries = 0;
        loop {
            let mut server = Self::new("redis-server", free_port(), arguments.clone());
            if server.try_run() {
                return server;
            }
            tries += 1;
            assert!(tries < 5, "redis-server does not start");
        }
    }

    /// One on this port, which is started by [`run`](Self::run).
    pub fn new(program: &'static str, port: u16, arguments: Vec<String>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("wecom-redis-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Self {
            program,
            port,
            directory,
            arguments,
            running: None,
        }
    }

    /// Starts it, again if it was killed.
    pub fn run(&mut self) {
        assert!(self.try_run(), "{} does not start", self.program);
    }

    fn try_run(&mut self) -> bool {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", LONGEST_LIFE, self.program]);
        if self.program == "redis-sentinel" {
            command.arg(self.directory.join("sentinel.conf"));
        } else {
            command.args(["--save", ""]);
        }
        command
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1"])
            .args(["--dir", self.directory.to_str().unwrap()])
            .args(&self.arguments);
        let mut guard = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-server is installed: tests/run does it");
        let mut lines = BufReader::new(guard.stdout.take().unwrap()).lines();
        // "4711:M 22 Nov 2026 15:00:00.000 * Ready to accept connections", or a sentinel's "Sentinel ID is".
        let ready = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let is_ready = ["Ready to accept", "Sentinel ID is", "+monitor master"];
            is_ready
                .iter()
                .any(|ready| line.contains(ready))
                .then(|| line.split(':').next().unwrap().parse().unwrap())
        });
        let Some(pid) = ready else {
            guard.wait().unwrap();
            return false;
        };
        thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        self.running = Some(Running { guard, pid });
        true
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn directory(&self) -> &PathBuf {
        &self.directory
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection for the test itself.
    pub async fn admin(&self) -> MultiplexedConnection {
        self.connect().await.unwrap()
    }

    /// A server that changes its role closes even those connections that are just being made.
    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        client.get_multiplexed_async_connection().await
    }

    /// Runs one command, words separated by blanks.
    pub async fn tell(&self, command: &str) -> redis::Value {
        self.ask(command).await.unwrap()
    }

    /// Runs one command that may be refused, on a server that may be away.
    pub async fn ask(&self, command: &str) -> redis::RedisResult<redis::Value> {
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd.query_async(&mut self.connect().await?).await
    }

    /// How often a command has come, scripts' own included.
    pub async fn calls(&self, command: &str) -> usize {
        let mut info = redis::cmd("INFO");
        let info: String = info
            .arg("commandstats")
            .query_async(&mut self.admin().await)
            .await
            .unwrap();
        let prefix = format!("cmdstat_{command}:calls=");
        info.lines()
            .find_map(|line| line.strip_prefix(&prefix)?.split(',').next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Waits until a command has come so often.
    pub async fn until_called(&self, command: &str, times: usize) {
        while self.calls(command).await < times {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// What is kept under the only key that matches, and the name of the key.
    pub async fn kept(&self, pattern: &str) -> Option<(String, String)> {
        let mut admin = self.admin().await;
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(pattern)
            .query_async(&mut admin)
            .await
            .unwrap();
        let key = keys.first()?.clone();
        assert_eq!(keys.len(), 1, "{keys:?}");
        let text: Option<String> = redis::cmd("GET")
            .arg(&key)
            .query_async(&mut admin)
            .await
            .unwrap();
        Some((key, text?))
    }

    /// The commands that were refused to users. The client's telling of its own name is none that it needs.
    pub async fn refused(&self) -> Vec<String> {
        let mut log = redis::cmd("ACL");
        let entries: Vec<HashMap<String, String>> = log
            .arg("LOG")
            .query_async(&mut self.admin().await)
            .await
            .unwrap();
        let objects = entries
            .into_iter()
            .map(|mut it| it.remove("object").unwrap());
        objects.filter(|it| !it.starts_with("client")).collect()
    }

    /// Makes it stand still.
    pub fn pause(&self) {
        signal("STOP", self.pid());
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        signal("CONT", self.pid());
    }

    /// Ends it without a word.
    pub fn kill(&mut self) {
        let mut running = self.running.take().unwrap();
        signal("KILL", running.pid);
        running.guard.wait().unwrap();
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
