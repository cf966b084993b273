//! The store behind Sentinel: the master may move.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "redis_support/mod.rs"]
mod redis_support;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::time::Duration;

use redis_support::{
    Kind, Process, Server, Setup, be_a_process_if_told, free_port, within_a_minute,
};
use reqwest_wecom::redis::sentinel::{
    SentinelClient, SentinelNodeConnectionInfo, SentinelServerType,
};
use reqwest_wecom::redis::{RedisConnectionInfo, Value};
use reqwest_wecom::{RedisStore, TokenManager, TokenStore};
use support::{Qyapi, SECRET, app, key};

#[test]
fn process() {
    be_a_process_if_told();
}

struct Watched {
    master: Server,
    replica: Server,
    sentinel: Server,
}

impl Watched {
    async fn start() -> Self {
        let master = Server::with(&["--repl-diskless-sync-delay", "0"]);
        let port = master.port().to_string();
        let replica = Server::with(&["--replicaof", "127.0.0.1", &port]);
        let mut sentinel = Server::new("redis-sentinel", free_port(), vec![]);
        let conf = format!(
            "sentinel monitor master 127.0.0.1 {port} 1\n\
             sentinel down-after-milliseconds master 500\n\
             sentinel failover-timeout master 5000\n"
        );
        fs::write(sentinel.directory().join("sentinel.conf"), conf).unwrap();
        sentinel.run();
        let watched = Self {
            master,
            replica,
            sentinel,
        };
        while !is_in_sync(&watched.replica).await || watched.replicas_known().await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        watched
    }

    async fn replicas_known(&self) -> usize {
        match self.sentinel.tell("SENTINEL REPLICAS master").await {
            Value::Array(replicas) => replicas.len(),
            other => panic!("{other:?}"),
        }
    }

    /// Moves the master. Sentinel refuses until it has seen that the replica is good for it.
    async fn fail_over(&self) {
        while self.sentinel.ask("SENTINEL FAILOVER master").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn until_the_replica_is_master(&self) {
        while role(&self.replica).await.as_deref() != Some("master")
            || self.known_master().await != self.replica.port()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn known_master(&self) -> u16 {
        let Value::Array(address) = self
            .sentinel
            .tell("SENTINEL GET-MASTER-ADDR-BY-NAME master")
            .await
        else {
            panic!("no address")
        };
        text(&address[1]).parse().unwrap()
    }

    async fn fleet(&self, qyapi: &Qyapi) -> Vec<Process> {
        let setup = Setup {
            kind: Kind::Sentinel,
            ..Setup::new(qyapi.base_url().as_str(), &self.sentinel.url())
        };
        Process::start_many(4, &setup).await
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// What the server says that it is. One that changes its role closes its connections.
async fn role(server: &Server) -> Option<String> {
    match server.ask("ROLE").await {
        Ok(Value::Array(items)) => Some(text(&items[0])),
        _ => None,
    }
}

async fn is_in_sync(replica: &Server) -> bool {
    let Ok(Value::Array(items)) = replica.ask("ROLE").await else {
        return false;
    };
    items.get(3).is_some_and(|state| text(state) == "connected")
}

async fn calls(fleet: &mut [Process], n: usize) {
    for process in &mut *fleet {
        process.begin_calls(n).await;
    }
    for process in fleet {
        assert_eq!(process.ended().await, (n, vec![]));
    }
}

async fn is_kept_by(server: &Server, qyapi: &Qyapi) -> bool {
    let kept = server.kept(&format!("wecom:{}", qyapi.key(&app()))).await;
    let token = qyapi.current_token(SECRET).unwrap();
    kept.is_some_and(|(_, text)| text.contains(&token))
}

#[tokio::test]
async fn a_replica_that_is_promoted_takes_over_without_a_failed_request() {
    within_a_minute(async {
        let (qyapi, mut watched) = (Qyapi::start().await, Watched::start().await);
        let mut fleet = watched.fleet(&qyapi).await;
        calls(&mut fleet, 20).await;
        assert_eq!(qyapi.gettoken_count(), 1);

        let load = Duration::from_secs(3);
        for process in &mut fleet {
            process.begin_traffic(load).await;
        }
        watched.master.kill();
        watched.until_the_replica_is_master().await;
        for process in &mut fleet {
            let (succeeded, errors) = process.ended().await;
            assert!(succeeded > 10 && errors.is_empty(), "{errors:?}");
        }
        assert_eq!(qyapi.gettoken_count(), 1);

        qyapi.revoke(SECRET);
        calls(&mut fleet, 20).await;
        assert_eq!(qyapi.gettoken_count(), 2);
        assert!(is_kept_by(&watched.replica, &qyapi).await);
    })
    .await;
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left() {
    within_a_minute(async {
        let (qyapi, watched) = (Qyapi::start().await, Watched::start().await);
        let mut fleet = watched.fleet(&qyapi).await;
        calls(&mut fleet, 20).await;
        watched.fail_over().await;
        watched.until_the_replica_is_master().await;
        while role(&watched.master).await.as_deref() != Some("slave") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        qyapi.revoke(SECRET);
        calls(&mut fleet, 20).await;
        assert_eq!(qyapi.gettoken_count(), 2);
        assert!(is_kept_by(&watched.replica, &qyapi).await);
    })
    .await;
}

#[tokio::test]
async fn the_documented_rights_are_enough() {
    within_a_minute(async {
        let (qyapi, watched) = (Qyapi::start().await, Watched::start().await);
        watched
            .master
            .tell("ACL SETUSER wecom on >PASSWORD resetkeys ~wecom:* resetchannels -@all +eval +get +set +pttl +role")
            .await;
        let client = || {
            let user = RedisConnectionInfo::default()
                .set_username("wecom")
                .set_password("PASSWORD");
            let node = SentinelNodeConnectionInfo::default().set_redis_connection_info(user);
            let (sentinels, kind) = (vec![watched.sentinel.url()], SentinelServerType::Master);
            SentinelClient::build(sentinels, String::from("master"), Some(node), kind).unwrap()
        };
        for _ in 0..2 {
            let store = RedisStore::new(client());
            let manager = TokenManager::builder(qyapi.source()).store(store).build();
            manager.token(&app()).await.unwrap();
        }
        assert_eq!(qyapi.gettoken_count(), 1);
        assert!(is_kept_by(&watched.master, &qyapi).await);
        assert!(watched.master.refused().await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_sentinel_that_says_nothing_does_not_keep_from_asking_the_next() {
    within_a_minute(async {
        let (qyapi, watched) = (Qyapi::start().await, Watched::start().await);
        let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let silent = format!("redis://{}/", silent.local_addr().unwrap());
        let sentinels = vec![silent, watched.sentinel.url()];
        let (name, kind) = (String::from("master"), SentinelServerType::Master);
        let client = SentinelClient::build(sentinels.clone(), name, None, kind).unwrap();
        let store = RedisStore::new(client);
        assert_eq!(store.get(&key(&app())).await.unwrap(), None);

        let setup = Setup {
            kind: Kind::Sentinel,
            redis: sentinels,
            ..Setup::new(qyapi.base_url().as_str(), "")
        };
        let mut fleet = Process::start_many(2, &setup).await;
        calls(&mut fleet, 5).await;
        assert_eq!(qyapi.gettoken_count(), 1);
        assert!(is_kept_by(&watched.master, &qyapi).await);
    })
    .await;
}
