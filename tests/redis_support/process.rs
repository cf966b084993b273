//! Processes of ours: the test's own program, run again in another role.
//!
//! They are told what to do on standard input and answer on standard output. They end when the input does.

use std::{
    env,
    io::{self, BufRead},
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use reqwest_middleware::ClientWithMiddleware;
use reqwest_wecom::{
    AccessTokenMiddleware, Audience, Credentials, Error, FetchRequest, FetchedToken, GetToken,
    RedisStore, TokenManager, TokenSource, async_trait,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    runtime::Handle,
    signal::unix::{self, SignalKind},
    task::block_in_place,
    time::timeout,
};

use super::signal;

const ROLE: &str = "WECOM_TEST_PROCESS";
/// No answer takes longer, a minute of traffic included.
const LONGEST_ANSWER: Duration = Duration::from_secs(100);
/// Marks the lines that are not the test harness's.
const MARK: &str = "@ ";

/// What a process is to be.
#[derive(Clone, Serialize, Deserialize)]
pub struct Setup {
    pub api: String,
    pub corp: String,
    pub secret: String,
    /// One server, or the nodes of a cluster, or the sentinels.
    pub redis: Vec<String>,
    pub kind: Kind,
    pub fetch_limit: Duration,
    /// Whether it stops itself when it has fetched a token, before the store learns of it.
    pub stops_after_fetch: bool,
    /// What `faketime` is to make of the clock: `+3h`.
    pub clock: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Kind {
    Single,
    Cluster,
    Sentinel,
}

impl Setup {
    pub fn new(api: &str, redis: &str) -> Self {
        Self {
            api: api.to_owned(),
            corp: "ww_corp".to_owned(),
            secret: "secret-of-the-first-app".to_owned(),
            redis: vec![redis.to_owned()],
            kind: Kind::Single,
            fetch_limit: Duration::from_secs(8),
            stops_after_fetch: false,
            clock: None,
        }
    }

    fn store(&self) -> RedisStore {
        let builder = match self.kind {
            Kind::Single => {
                let client = reqwest_wecom::redis::Client::open(self.redis[0].as_str());
                RedisStore::builder(client.unwrap())
            }
            #[cfg(feature = "redis-cluster")]
            Kind::Cluster => {
                let nodes = self.redis.iter().map(String::as_str);
                let client = reqwest_wecom::redis::cluster::ClusterClient::new(nodes);
                RedisStore::builder(client.unwrap())
            }
            #[cfg(feature = "redis-sentinel")]
            Kind::Sentinel => {
                use reqwest_wecom::redis::sentinel::{SentinelClient, SentinelServerType};
                let master = String::from("master");
                let client = SentinelClient::build(
                    self.redis.clone(),
                    master,
                    None,
                    SentinelServerType::Master,
                );
                RedisStore::builder(client.unwrap())
            }
            #[allow(unreachable_patterns, reason = "with all features none is left")]
            _ => panic!("the feature is not enabled"),
        };
        builder.build()
    }

    fn manager(&self) -> TokenManager {
        let http = reqwest::Client::builder().no_proxy().referer(false);
        let source = GetToken::new(http.build().unwrap()).base_url(self.api.parse().unwrap());
        let builder = if self.stops_after_fetch {
            TokenManager::builder(StopsAfterFetch(source))
        } else {
            TokenManager::builder(source)
        };
        builder
            .fetch_limit(self.fetch_limit)
            .store(self.store())
            .build()
    }
}

struct StopsAfterFetch(GetToken);

/// Its number on Linux.
const SIGCONT: i32 = 18;

#[async_trait]
impl TokenSource for StopsAfterFetch {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let fetched = self.0.fetch(request).await;
        let mut continued = unix::signal(SignalKind::from_raw(SIGCONT)).unwrap();
        signal("STOP", std::process::id());
        // The thread might run on for a while until another has taken the signal. And it is blocked, so that no time limit notices.
        block_in_place(|| Handle::current().block_on(continued.recv()));
        fetched
    }

    fn audience(&self) -> Audience {
        self.0.audience()
    }
}

/// Told to one process, to wait for its answer.
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one. The test program must have a test of the name `process` that calls [`be_a_process_if_told`].
    pub async fn start(setup: &Setup) -> Self {
        let program = env::current_exe().unwrap();
        let mut command = match &setup.clock {
            None => Command::new(&program),
            Some(clock) => {
                let mut command = Command::new("faketime");
                command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
                command.args(["-f", clock]).arg(&program);
                command
            }
        };
        let mut child = command
            .args(["--exact", "process", "--nocapture"])
            .env(ROLE, serde_json::to_string(setup).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut process = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        };
        assert_eq!(process.answer().await, "ready");
        process
    }

    /// Starts so many of a kind.
    pub async fn start_many(n: usize, setup: &Setup) -> Vec<Self> {
        join_all((0..n).map(|_| Self::start(setup))).await
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// Sends so many requests at once.
    pub async fn begin_calls(&mut self, n: usize) {
        self.tell(&format!("call {n}")).await;
    }

    /// Sends a request every 50 ms for so long.
    pub async fn begin_traffic(&mut self, time: Duration) {
        self.tell(&format!("traffic {}", time.as_millis())).await;
    }

    /// How many requests have succeeded, and the errors of the others.
    pub async fn ended(&mut self) -> (usize, Vec<String>) {
        serde_json::from_str(&self.answer().await).unwrap()
    }

    /// Lets so many operators force a refresh at once.
    pub async fn begin_refreshes(&mut self, n: usize) {
        self.tell(&format!("refresh {n}")).await;
    }

    /// Asks so many times at once for a token with so many seconds left.
    pub async fn begin_valid_for(&mut self, n: usize, secs: u64) {
        self.tell(&format!("valid_for {n} {secs}")).await;
    }

    /// All at once, and all succeed.
    pub async fn calls(&mut self, n: usize) {
        self.begin_calls(n).await;
        assert_eq!(self.ended().await, (n, vec![]));
    }

    /// When this process has got a token.
    pub async fn token_at(&mut self) -> SystemTime {
        let millis = self.answer().await.parse().unwrap();
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    pub async fn tell(&mut self, what: &str) {
        self.input.write_all(what.as_bytes()).await.unwrap();
        self.input.write_all(b"\n").await.unwrap();
    }

    async fn answer(&mut self) -> String {
        loop {
            let line = timeout(LONGEST_ANSWER, self.output.next_line()).await;
            let line = line.expect("the process answers").unwrap();
            let line = line.expect("the process lives");
            // The harness's own output may stand before it, on the same line.
            if let Some((_, answer)) = line.split_once(MARK) {
                return answer.to_owned();
            }
        }
    }
}

/// In a process that was started by a test: does as it is told, until the input ends. Else nothing.
pub fn be_a_process_if_told() {
    let Ok(setup) = env::var(ROLE) else { return };
    let setup: Setup = serde_json::from_str(&setup).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let manager = setup.manager();
    let credentials = Credentials::new(setup.corp.as_str(), setup.secret.as_str());
    let http = reqwest::Client::builder().no_proxy().referer(false);
    let http = http.build().unwrap();
    let middleware = AccessTokenMiddleware::builder(manager.clone())
        .credentials(credentials.clone())
        .build();
    let client = reqwest_middleware::ClientBuilder::new(http)
        .with(middleware)
        .build();
    let url = format!("{}cgi-bin/user/get", setup.api);
    println!("\n{MARK}ready");
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let what = words.next().unwrap();
        let mut number = || {
            words
                .next()
                .map_or(0, |number| number.parse::<u64>().unwrap())
        };
        let (number, secs) = (number(), number());
        let answer = match what {
            "call" => told(runtime.block_on(join_all((0..number).map(|_| call(&client, &url))))),
            "traffic" => {
                let time = Duration::from_millis(number);
                told(runtime.block_on(traffic(&client, &url, time)))
            }
            "refresh" | "valid_for" => {
                told(runtime.block_on(join_all((0..number).map(async |_| {
                    let token = match what {
                        "refresh" => manager.refresh(&credentials).await,
                        _ => {
                            let min = Duration::from_secs(secs);
                            manager.token_valid_for(&credentials, min).await
                        }
                    };
                    token.map(drop).map_err(|error| format!("{error:?}"))
                }))))
            }
            "token" => {
                runtime.block_on(manager.token(&credentials)).unwrap();
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                now.as_millis().to_string()
            }
            _ => panic!("{what}?"),
        };
        println!("\n{MARK}{answer}");
    }
    // Whoever has read the output is gone, so that the harness has nobody to report to.
    std::process::exit(0);
}

fn told(results: Vec<Result<(), String>>) -> String {
    let n = results.iter().filter(|result| result.is_ok()).count();
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    serde_json::to_string(&(n, errors)).unwrap()
}

async fn traffic(
    client: &ClientWithMiddleware,
    url: &str,
    time: Duration,
) -> Vec<Result<(), String>> {
    let began = tokio::time::Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let mut calls = Vec::new();
    while began.elapsed() < time {
        ticks.tick().await;
        let (client, url) = (client.clone(), url.to_owned());
        calls.push(tokio::spawn(async move { call(&client, &url).await }));
    }
    let results = join_all(calls).await;
    results.into_iter().map(Result::unwrap).collect()
}

async fn call(client: &ClientWithMiddleware, url: &str) -> Result<(), String> {
    let answer = client.get(url).send().await.map_err(|e| format!("{e:?}"))?;
    let body = answer.text().await.map_err(|e| format!("{e:?}"))?;
    if body.contains(r#""errcode":0"#) {
        Ok(())
    } else {
        Err(body)
    }
}
