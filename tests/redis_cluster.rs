//! The store in a cluster of three: each token on one node.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use redis_support::{Kind, Process, Server, Setup, be_a_process_if_told, free_port};
use reqwest_wecom::{
    AccessToken, Credentials, RedisStore, TokenKey, TokenStore,
    redis::{Value, cluster::ClusterClient},
};
use support::{Qyapi, SECRET, app, key, token};

#[test]
fn process() {
    be_a_process_if_told();
}

/// Three nodes, each with a third of the slots.
async fn cluster() -> Vec<Server> {
    let thirds = ["0 5460", "5461 10922", "10923 16383"];
    let mut nodes = Vec::new();
    for slots in thirds {
        let (node, bus) = node();
        node.tell(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
        nodes.push((node, bus));
    }
    for (node, bus) in &nodes[1..] {
        meet(&nodes[0].0, node, bus).await;
    }
    let nodes: Vec<_> = nodes.into_iter().map(|(node, _)| node).collect();
    all_are_in(&nodes).await;
    nodes
}

/// A node that knows of no other, and the port on which others speak to it.
fn node() -> (Server, String) {
    let bus = free_port().to_string();
    let node = Server::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        &bus,
        "--cluster-node-timeout",
        "2000",
        "--cluster-require-full-coverage",
        "no",
        "--repl-diskless-sync-delay",
        "0",
    ]);
    (node, bus)
}

async fn meet(node: &Server, other: &Server, bus: &str) {
    let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", other.port());
    node.tell(&meet).await;
}

/// A node that takes over when the first falls silent.
async fn replica_of_the_first(nodes: &[Server]) -> Server {
    let (replica, bus) = node();
    meet(&nodes[0], &replica, &bus).await;
    for node in nodes.iter().chain([&replica]) {
        until(node, "CLUSTER INFO", "cluster_known_nodes:4").await;
    }
    let first = text(nodes[0].tell("CLUSTER MYID").await);
    replica.tell(&format!("CLUSTER REPLICATE {first}")).await;
    until(&replica, "INFO replication", "master_link_status:up").await;
    for node in nodes {
        until(node, "CLUSTER NODES", &format!("slave {first}")).await;
    }
    replica
}

/// Waits until every node is ready and knows who serves each slot: one that has yet to hear of the others may be ready too.
async fn all_are_in(nodes: &[Server]) {
    for node in nodes {
        until(node, "CLUSTER INFO", "cluster_slots_ok:16384").await;
        until(node, "CLUSTER INFO", "cluster_state:ok").await;
    }
}

/// Waits until the answer to this command contains a text.
async fn until(node: &Server, command: &str, wanted: &str) {
    while !text(node.tell(command).await).contains(wanted) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn text(value: Value) -> String {
    match value {
        Value::BulkString(text) => String::from_utf8(text).unwrap(),
        Value::VerbatimString { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

/// A store that has time for a command on a starved machine too.
fn patient(client: ClusterClient) -> RedisStore {
    RedisStore::builder(client)
        .operation_limit(Duration::from_secs(2))
        .build()
}

fn urls(nodes: &[Server]) -> Vec<String> {
    nodes.iter().map(Server::url).collect()
}

#[tokio::test]
async fn tokens_are_kept_on_each_node() {
    let nodes = cluster().await;
    let [one, other] = [(); 2].map(|()| RedisStore::new(ClusterClient::new(urls(&nodes)).unwrap()));
    for n in 0..30 {
        let credentials = Credentials::new("ww1234", n.to_string());
        let token = token(n.to_string(), Duration::from_secs(7200));
        one.put(&key(&credentials), &token).await.unwrap();
        let found = other.get(&key(&credentials)).await.unwrap();
        assert_eq!(found, Some(token));
    }
    let mut total = 0;
    for node in &nodes {
        let Value::Int(kept) = node.tell("DBSIZE").await else {
            panic!("no number")
        };
        assert!(kept > 0);
        total += kept;
    }
    assert_eq!(total, 30, "one key for each token");
}

#[tokio::test]
async fn a_fleet_on_a_cluster_makes_one_gettoken_and_survives_the_loss_of_a_node() {
    let (qyapi, mut nodes) = (Qyapi::start().await, cluster().await);
    let setup = Setup {
        redis: urls(&nodes),
        kind: Kind::Cluster,
        ..Setup::new(qyapi.base_url().as_str(), "")
    };
    let mut fleet = Process::start_many(4, &setup).await;
    for round in 1..=2 {
        for process in &mut fleet {
            process.begin_calls(20).await;
        }
        for process in &mut fleet {
            assert_eq!(process.ended().await, (20, vec![]));
        }
        assert_eq!(qyapi.gettoken_count(), round);
        qyapi.revoke(SECRET);
    }
    fleet[0].calls(1).await;
    assert_eq!(qyapi.gettoken_count(), 3);

    // The node with the token goes; all have to fetch by themselves, once, and have good tokens all the while.
    qyapi.on_repeat(support::Repeat::NewTokenOldValid);
    let holder = holder_of(&nodes, &qyapi.key(&app())).await;
    nodes[holder].kill();
    for process in &mut fleet {
        process.calls(5).await;
    }
    let during = qyapi.gettoken_count() - 3;
    assert!(during <= fleet.len(), "{during} fetches");

    nodes[holder].run();
    all_are_in(&nodes).await;
    // One of the tokens of the outage is written, and new processes share it.
    while nodes[holder].kept("wecom:*").await.is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut fleet = Process::start_many(4, &setup).await;
    for process in &mut fleet {
        process.calls(1).await;
    }
    assert_eq!(qyapi.gettoken_count(), 3 + during);
    qyapi.revoke(SECRET);
    for process in &mut fleet {
        process.begin_calls(20).await;
    }
    for process in &mut fleet {
        assert_eq!(process.ended().await, (20, vec![]));
    }
    let after = qyapi.gettoken_count() - 3 - during;
    assert_eq!(after, 1, "fetches after the outage");
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    let nodes = cluster().await;
    for node in &nodes {
        node.tell(
            "ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +pttl +cluster|slots +ping",
        )
        .await;
    }
    let urls = urls(&nodes).into_iter();
    let urls = urls.map(|url| url.replace("://", "://wecom:PASSWORD@"));
    let store = patient(ClusterClient::new(urls).unwrap());
    for n in 0..10 {
        let credentials = Credentials::new("ww1234", n.to_string());
        let token = token(n.to_string(), Duration::from_secs(7200));
        store.put(&key(&credentials), &token).await.unwrap();
        assert_eq!(store.get(&key(&credentials)).await.unwrap(), Some(token));
    }
    for node in &nodes {
        assert!(node.refused().await.is_empty());
    }
}

/// Credentials whose token is kept by this node.
async fn kept_by(nodes: &[Server], holder: usize) -> Credentials {
    for n in 0.. {
        let credentials = Credentials::new("ww1234", n.to_string());
        if holder_of(nodes, &key(&credentials)).await == holder {
            return credentials;
        }
    }
    unreachable!()
}

async fn holder_of(nodes: &[Server], key: &TokenKey) -> usize {
    let slot = slot_of(&nodes[0], key).await;
    usize::try_from(slot / 5461).unwrap().min(2)
}

async fn slot_of(node: &Server, key: &TokenKey) -> i64 {
    let key = format!("wecom:{key}");
    match node.tell(&format!("CLUSTER KEYSLOT {key}")).await {
        Value::Int(slot) => slot,
        other => panic!("{other:?}"),
    }
}

/// What the store has, which may need so many tries.
async fn found(store: &RedisStore, credentials: &Credentials, tries: usize) -> Option<AccessToken> {
    for _ in 0..tries {
        if let Ok(found) = store.get(&key(credentials)).await {
            return found;
        }
    }
    panic!("no answer in {tries} tries")
}

/// How many connections have been made to this node, this one included.
async fn connections(node: &Server) -> usize {
    let stats = text(node.tell("INFO stats").await);
    let mut lines = stats.lines();
    let received = lines.find_map(|line| line.strip_prefix("total_connections_received:"));
    received.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn a_node_that_hangs_takes_no_token_away_that_others_keep() {
    let nodes = cluster().await;
    let replica = replica_of_the_first(&nodes).await;
    let store = || patient(ClusterClient::new(urls(&nodes)).unwrap());
    let (hung, healthy) = (kept_by(&nodes, 0).await, kept_by(&nodes, 1).await);
    let token = token("value", Duration::from_secs(7200));
    for credentials in [&hung, &healthy] {
        store().put(&key(credentials), &token).await.unwrap();
    }
    // Clients are told of it as long as it answers.
    let port = format!("int({})", replica.port());
    for node in &nodes {
        while !format!("{:?}", node.tell("CLUSTER SLOTS").await).contains(&port) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let old = store();
    assert_eq!(old.get(&key(&hung)).await.unwrap(), Some(token.clone()));
    replica.pause();
    nodes[0].pause();
    // Nobody takes over, so that no other connection would do better.
    let before = connections(&nodes[1]).await;
    let keys = [&hung, &healthy].map(key);
    for _ in 0..3 {
        let (hung, healthy) = tokio::join!(old.get(&keys[0]), old.get(&keys[1]));
        assert!(hung.is_err());
        assert_eq!(healthy.unwrap(), Some(token.clone()));
    }
    assert_eq!(connections(&nodes[1]).await, before + 1, "the test's own");
    // One that has yet to connect does so in the time of a few commands.
    assert_eq!(found(&store(), &healthy, 5).await, Some(token));
    nodes[0].go_on();
    replica.go_on();
}

#[tokio::test]
async fn a_node_that_takes_over_from_one_that_hangs_is_found() {
    let nodes = cluster().await;
    let replica = replica_of_the_first(&nodes).await;
    let store = patient(ClusterClient::new(urls(&nodes)).unwrap());
    let (moved, healthy) = (kept_by(&nodes, 0).await, kept_by(&nodes, 1).await);
    let token = token("value", Duration::from_secs(7200));
    for credentials in [&moved, &healthy] {
        store.put(&key(credentials), &token).await.unwrap();
    }
    while replica.tell("DBSIZE").await != Value::Int(1) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    nodes[0].pause();
    assert!(store.get(&key(&moved)).await.is_err());
    until(&replica, "INFO replication", "role:master").await;
    assert_eq!(found(&store, &moved, 10).await, Some(token.clone()));
    assert_eq!(store.get(&key(&healthy)).await.unwrap(), Some(token));
    nodes[0].go_on();
}

#[tokio::test]
async fn slots_that_move_while_a_node_hangs_are_followed() {
    let nodes = cluster().await;
    let store = patient(ClusterClient::new(urls(&nodes)).unwrap());
    let moved = kept_by(&nodes, 1).await;
    assert_eq!(store.get(&key(&moved)).await.unwrap(), None);
    nodes[0].pause();
    let slot = slot_of(&nodes[1], &key(&moved)).await;
    let second = text(nodes[1].tell("CLUSTER MYID").await);
    let third = text(nodes[2].tell("CLUSTER MYID").await);
    // Which makes its word count for more than the one before's.
    let import = format!("CLUSTER SETSLOT {slot} IMPORTING {second}");
    nodes[2].tell(&import).await;
    for node in [&nodes[2], &nodes[1]] {
        node.tell(&format!("CLUSTER SETSLOT {slot} NODE {third}"))
            .await;
    }
    assert_eq!(found(&store, &moved, 10).await, None);
    nodes[0].go_on();
}
