//! Tokens that many processes share, in Postgres: `DATABASE_URL=postgres://… cargo run --example postgres`
//!
//! It creates the table `wecom_tokens` and fetches a token from a fake WeCom API. `psql -c 'table wecom_tokens'` then shows it.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use reqwest_wecom::{BoxError, Kept, SharedDatabase, SharedStore, TokenManager, async_trait};
use support::{Qyapi, app};
use tokio::sync::Mutex;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls};

#[path = "../tests/support/mod.rs"]
mod support;

/// Run this once, for example in a migration. The store only needs to select, insert and update. You may delete expired rows at any time.
pub const TABLE: &str = "
    create table if not exists wecom_tokens (
        key text primary key,
        value bytea not null,
        expires timestamptz not null
    )";

const LOAD: &str = "
    select value, extract(epoch from expires - clock_timestamp())::float8
    from wecom_tokens where key = $1";

/// Adds a row, or replaces one that has expired.
const ADD: &str = "
    insert into wecom_tokens as kept values ($1, $2, clock_timestamp() + $3 * interval '1 second')
    on conflict (key) do update set value = excluded.value, expires = excluded.expires
    where kept.expires <= clock_timestamp()";

const REPLACE: &str = "
    update wecom_tokens set value = $2, expires = clock_timestamp() + $3 * interval '1 second'
    where key = $1 and value = $4 and expires > clock_timestamp()";

/// Keeps tokens in Postgres, over one connection. It has no TLS, so use it within a trusted network only.
#[derive(Clone, Debug)]
pub struct PostgresDatabase {
    config: Config,
    client: Arc<Mutex<Option<Arc<Client>>>>,
}

impl PostgresDatabase {
    /// Connects when it is first used.
    pub fn new(mut config: Config) -> Self {
        // Without these limits, a connection to a dead host is noticed after minutes.
        config.connect_timeout(Duration::from_secs(2));
        config.tcp_user_timeout(Duration::from_secs(5));
        let client = Arc::default();
        Self { config, client }
    }

    /// The client, or a new one if the connection was lost.
    async fn client(&self) -> Result<Arc<Client>, BoxError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(client.clone());
        }
        let (client, connection) = self.config.connect(NoTls).await?;
        // Calls that were waiting return the error of the connection.
        tokio::spawn(connection);
        Ok(kept.insert(Arc::new(client)).clone())
    }
}

#[async_trait]
impl SharedDatabase for PostgresDatabase {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        let client = self.client().await?;
        let row = client.query_typed_opt(LOAD, &[(&key, Type::TEXT)]).await?;
        let Some(row) = row else { return Ok(None) };
        let (value, left): (Vec<u8>, f64) = (row.try_get(0)?, row.try_get(1)?);
        Ok((left > 0.0).then(|| Kept::new(value, Duration::from_secs_f64(left))))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        let (value, left) = (new.expose_secret(), new.left().as_secs_f64());
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![
            (&key, Type::TEXT),
            (&value, Type::BYTEA),
            (&left, Type::FLOAT8),
        ];
        let statement = match &expected {
            None => ADD,
            Some(expected) => {
                parameters.push((expected, Type::BYTEA));
                REPLACE
            }
        };
        let client = self.client().await?;
        Ok(client.execute_typed(statement, &parameters).await? == 1)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let Ok(url) = env::var("DATABASE_URL") else {
        println!("Set DATABASE_URL to try it: postgres://user:password@127.0.0.1/database");
        return Ok(());
    };
    let database = PostgresDatabase::new(url.parse()?);
    let client = database.client().await.map_err(anyhow::Error::from_boxed)?;
    client.batch_execute(TABLE).await?;

    let qyapi = Qyapi::start().await;
    let store = SharedStore::new(database);
    let manager = TokenManager::builder(qyapi.source()).store(store).build();
    let token = manager.token(&app()).await?;
    println!("the token from the fake API: {}", token.expose_secret());
    Ok(())
}
