//! The databases of the examples keep every promise, on a real Postgres server and in real SQLite files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::duplicate_mod, reason = "both examples have the fake API")]

#[path = "postgres_support/mod.rs"]
mod postgres_support;
#[path = "../examples/sqlite.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the test uses the database of the example only"
)]
mod sqlite;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use postgres_support::{PostgresDatabase, Server};
use reqwest_wecom::test_util::check_shared_database;
use reqwest_wecom::{BoxError, Kept, SharedDatabase, async_trait};
use sqlite::SqliteDatabase;
use tokio::time::sleep;

const KEY: &str = "access_token:ww_corp:0123";

fn kept(bytes: &str) -> Kept {
    Kept::new(bytes, Duration::from_secs(60))
}

async fn loaded(database: &impl SharedDatabase) -> Option<String> {
    let kept = database.load(KEY).await.unwrap()?;
    Some(String::from_utf8(kept.expose_secret().to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_every_promise() {
    let server = Server::start().await;
    check_shared_database(server.database()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_every_promise_over_two_connections() {
    let server = Server::start().await;
    check_shared_database(InTurn::new([server.database(), server.database()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_needs_no_other_rights_than_select_insert_and_update() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let rights = "create role app login; grant select, insert, update on wecom_tokens to app";
    admin.batch_execute(rights).await.unwrap();
    let url = server.url().replace("postgres@", "app@");
    let database = PostgresDatabase::new(url.parse().unwrap());
    check_shared_database(database).await;
}

#[tokio::test]
async fn a_value_in_postgres_survives_a_restart_of_the_server() {
    let mut server = Server::start().await;
    let database = server.database();
    assert!(
        database
            .compare_and_swap(KEY, None, &kept("before"))
            .await
            .unwrap()
    );
    server.kill();
    assert!(database.load(KEY).await.is_err());
    server.run();
    assert_eq!(loaded(&database).await.as_deref(), Some("before"));
    assert!(
        !database
            .compare_and_swap(KEY, None, &kept("after"))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_lost_connection_to_postgres_fails_the_calls_that_wait_and_no_later_ones() {
    let server = Server::start().await;
    let database = server.database();
    assert!(
        database
            .compare_and_swap(KEY, None, &kept("before"))
            .await
            .unwrap()
    );

    let admin = server.admin().await;
    admin
        .batch_execute("begin; lock table wecom_tokens in access exclusive mode")
        .await
        .unwrap();
    let after = kept("after");
    let waiting = async {
        tokio::join!(
            database.load(KEY),
            database.compare_and_swap(KEY, Some(b"before"), &after)
        )
    };
    let cut = async {
        let terminate = "select count(pg_terminate_backend(pid)) from pg_locks where not granted";
        let other = server.admin().await;
        while other
            .query_one(terminate, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ((load, swap), ()) = tokio::join!(waiting, cut);
    assert!(load.is_err() && swap.is_err(), "{load:?} {swap:?}");

    admin.batch_execute("rollback").await.unwrap();
    assert_eq!(loaded(&database).await.as_deref(), Some("before"));
    let swap = database.compare_and_swap(KEY, Some(b"before"), &after);
    assert!(swap.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_every_promise() {
    let directory = tempfile::tempdir().unwrap();
    let database = SqliteDatabase::open(directory.path().join("tokens")).unwrap();
    check_shared_database(database).await;
}

/// Each call uses one of two connections to the same file, as two processes do.
#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_every_promise_when_processes_share_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SqliteDatabase::open(directory.path().join("tokens")).unwrap();
    check_shared_database(InTurn::new([open(), open()])).await;
}

struct InTurn<T> {
    databases: [T; 2],
    calls: AtomicUsize,
}

impl<T> InTurn<T> {
    fn new(databases: [T; 2]) -> Self {
        let calls = AtomicUsize::new(0);
        Self { databases, calls }
    }

    fn next(&self) -> &T {
        &self.databases[self.calls.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

#[async_trait]
impl<T: SharedDatabase> SharedDatabase for InTurn<T> {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        self.next().load(key).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        self.next().compare_and_swap(key, expected, new).await
    }
}
