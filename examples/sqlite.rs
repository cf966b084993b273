//! Tokens that survive a restart, in a SQLite file: `cargo run --example sqlite`
//!
//! It opens the file twice, like two runs of a program. Several processes on one machine can share the file too.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use reqwest_wecom::{
    AccessTokenMiddleware, BoxError, Kept, SharedDatabase, SharedStore, TokenManager, async_trait,
};
use rusqlite::{Connection, OptionalExtension, params};
use support::{Qyapi, app, with_tokens};
use tokio::task::spawn_blocking;

#[path = "../tests/support/mod.rs"]
mod support;

const TABLE: &str = "
    create table if not exists wecom_tokens (
        key text primary key,
        value blob not null,
        expires real not null -- Unix time in seconds
    )";

const LOAD: &str = "
    select value, expires - unixepoch('subsec') from wecom_tokens where key = ?1";

/// Adds a row, or replaces one that has expired.
const ADD: &str = "
    insert into wecom_tokens values (?1, ?2, unixepoch('subsec') + ?3)
    on conflict (key) do update set value = excluded.value, expires = excluded.expires
    where expires <= unixepoch('subsec')";

const REPLACE: &str = "
    update wecom_tokens set value = ?2, expires = unixepoch('subsec') + ?3
    where key = ?1 and value = ?4 and expires > unixepoch('subsec')";

/// Keeps tokens in a SQLite file. The file contains secrets, so only this program's user must be able to read it.
#[derive(Clone, Debug)]
pub struct SqliteDatabase(Arc<Mutex<Connection>>);

impl SqliteDatabase {
    /// Opens the file, or creates it.
    pub(crate) fn open(path: impl AsRef<Path>) -> Result<Self, BoxError> {
        let connection = Connection::open(path)?;
        connection.execute(TABLE, [])?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// SQLite waits for the disk, so calls run on a thread that may block.
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BoxError> {
        let connection = self.0.clone();
        let done = spawn_blocking(move || {
            call(&connection.lock().unwrap_or_else(PoisonError::into_inner))
        });
        Ok(done.await??)
    }
}

#[async_trait]
impl SharedDatabase for SqliteDatabase {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        let key = key.to_owned();
        let row = self.run(move |connection| {
            let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            connection.query_one(LOAD, [key], columns).optional()
        });
        let Some((value, left)): Option<(Vec<u8>, f64)> = row.await? else {
            return Ok(None);
        };
        Ok((left > 0.0).then(|| Kept::new(value, Duration::from_secs_f64(left))))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        let (key, expected, new) = (key.to_owned(), expected.map(<[u8]>::to_vec), new.clone());
        let changed = self.run(move |connection| {
            let (value, left) = (new.expose_secret(), new.left().as_secs_f64());
            match expected {
                None => connection.execute(ADD, params![key, value, left]),
                Some(expected) => connection.execute(REPLACE, params![key, value, left, expected]),
            }
        });
        Ok(changed.await? == 1)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let qyapi = Qyapi::start().await;
    let directory = tempfile::tempdir()?;
    for run in ["first", "second"] {
        let database = SqliteDatabase::open(directory.path().join("tokens.sqlite"));
        let store = SharedStore::new(database.map_err(anyhow::Error::from_boxed)?);
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
