//! What a request costs over loopback: requests per second and CPU, with 64 requests at a time on connections that are kept.
//!
//! `cargo bench --bench wire`; with `-- --plot FILE` it draws the CPU per request as an SVG.
//!
//! All ways run in turn in each round, and are compared within it, so that a machine that is busy with something else for a while
//! slows all of them.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

#[path = "support/mod.rs"]
mod bench;
mod comparison;
mod plot;
#[path = "../tests/support/mod.rs"]
mod support;

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{Idle, Least, Naive};
use comparison::{is_test, median};
use cpu_time::ProcessTime;
use futures_util::{StreamExt, stream};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wecom::{AccessTokenMiddleware, GetToken, TokenManager};
use support::{Qyapi, app};
use tokio::runtime::Runtime;

const AT_A_TIME: usize = 64;
const REQUESTS: usize = 1_000;
const ROUNDS: usize = 300;

/// A process that is told this is the stand-in, so that the time of the other is the client's alone.
const SERVE: &str = "WECOM_BENCH_SERVES";

/// One way to send requests.
struct Way {
    name: &'static str,
    client: Client,
    url: String,
}

enum Client {
    Bare(reqwest::Client),
    Chain(ClientWithMiddleware),
}

/// What one round of one way has taken.
struct Taken {
    time: Duration,
    cpu: Duration,
}

fn main() {
    let runtime = Runtime::new().unwrap();
    if env::var_os(SERVE).is_some() {
        return runtime.block_on(serve());
    }
    let (_server, base_url) = start_server();
    let ways = ways(&base_url, &runtime);
    let (rounds, requests) = if is_test() {
        (1, AT_A_TIME)
    } else {
        (ROUNDS, REQUESTS)
    };
    let mut taken: Vec<Vec<Taken>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        let mut order: Vec<_> = (0..ways.len()).collect();
        order.rotate_left(round % ways.len());
        // None always comes after the same one.
        if round / ways.len() % 2 == 1 {
            order.reverse();
        }
        for nth in order {
            let one = run(&runtime, &ways[nth], requests);
            if round > 0 {
                taken[nth].push(one); // The first warms up.
            }
        }
    }
    let names: Vec<_> = ways.iter().map(|way| way.name).collect();
    tell(&names, &taken, requests);
}

/// Ends with its input.
async fn serve() {
    let qyapi = Qyapi::start().await;
    println!("{}", qyapi.base_url());
    let forget = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            qyapi.forget_received();
        }
    };
    tokio::select! {
        () = forget => {}
        _ = tokio::task::spawn_blocking(|| std::io::stdin().lines().count()) => {}
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn start_server() -> (Server, String) {
    let mut server = Command::new(env::current_exe().unwrap())
        .env(SERVE, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut base_url = String::new();
    let mut output = BufReader::new(server.stdout.take().unwrap());
    output.read_line(&mut base_url).unwrap();
    (Server(server), base_url.trim().to_owned())
}

fn ways(base_url: &str, runtime: &Runtime) -> Vec<Arc<Way>> {
    // All use the same connections and the same token.
    let http = reqwest::Client::builder().no_proxy().referer(false);
    let http = http.build().unwrap();
    let source = GetToken::new(http.clone()).base_url(base_url.parse().unwrap());
    let manager = TokenManager::builder(source).build();
    let token = runtime.block_on(manager.token(&app())).unwrap();
    let middleware = AccessTokenMiddleware::builder(manager).credentials(app());
    let chain = || ClientBuilder::new(http.clone());
    let url = format!("{base_url}cgi-bin/user/get?userid=zhangsan");
    let by_hand = format!("{url}&access_token={}", token.expose_secret());
    let least = Least(token.expose_secret().to_owned());
    let naive = Naive::new(token.expose_secret());
    let way = |name, client, url: &String| {
        let url = url.clone();
        Arc::new(Way { name, client, url })
    };
    vec![
        way("bare client", Client::Bare(http.clone()), &by_hand),
        way("empty chain", Client::Chain(chain().build()), &by_hand),
        way(
            "idle middleware",
            Client::Chain(chain().with(Idle).build()),
            &by_hand,
        ),
        way(
            "ours",
            Client::Chain(chain().with(middleware.build()).build()),
            &url,
        ),
        way(
            "least middleware",
            Client::Chain(chain().with(least).build()),
            &url,
        ),
        way(
            "naive middleware",
            Client::Chain(chain().with(naive).build()),
            &url,
        ),
    ]
}

fn run(runtime: &Runtime, way: &Arc<Way>, requests: usize) -> Taken {
    let (time, cpu) = (Instant::now(), ProcessTime::now());
    runtime.block_on(async {
        stream::iter(0..requests)
            .map(|_| tokio::spawn(send(way.clone())))
            .buffer_unordered(AT_A_TIME)
            .for_each(async |length| assert!(length.unwrap() > 0))
            .await;
    });
    Taken {
        time: time.elapsed(),
        cpu: cpu.elapsed(),
    }
}

async fn send(way: Arc<Way>) -> usize {
    let answer = match &way.client {
        Client::Bare(client) => client.get(&way.url).send().await.unwrap(),
        Client::Chain(client) => client.get(&way.url).send().await.unwrap(),
    };
    assert_eq!(answer.headers()["error-code"], "0");
    answer.bytes().await.unwrap().len()
}

fn tell(names: &[&str], taken: &[Vec<Taken>], requests: usize) {
    let seconds = |duration: &Duration| duration.as_secs_f64();
    let ratio = |way: usize, to: usize, of: fn(&Taken) -> &Duration| {
        let rounds = taken[way].iter().zip(&taken[to]);
        median(rounds.map(|(one, other)| seconds(of(one)) / seconds(of(other))))
    };
    println!(
        "\n{:<20}{:>12}{:>12}{:>16}{:>16}{:>16}",
        "over loopback",
        "requests/s",
        "CPU/request",
        "rps : chain's",
        "CPU : chain's",
        "CPU : bare's"
    );
    let mut cpus = Vec::new();
    for (way, name) in names.iter().enumerate() {
        let time = median(taken[way].iter().map(|it| seconds(&it.time)));
        let cpu = median(taken[way].iter().map(|it| seconds(&it.cpu))) / requests as f64;
        let to_bare = ratio(way, 0, |it| &it.cpu);
        println!(
            "{name:<20}{:>12.0}{:>9.2} µs{:>16.3}{:>16.3}{to_bare:>16.3}",
            requests as f64 / time,
            cpu * 1e6,
            1.0 / ratio(way, 1, |it| &it.time),
            ratio(way, 1, |it| &it.cpu),
        );
        cpus.push((*name, cpu * 1e6, to_bare));
    }
    println!();
    plot::draw_if_told(&cpus);
}
