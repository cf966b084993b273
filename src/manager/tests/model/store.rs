//! A store that does what it is told.

use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::{AccessToken, BoxError, TokenKey, TokenStore};

/// What a method of the store does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way {
    Works,
    Fails,
    Hangs,
    Panics,
    /// `get` finds nothing, `put` keeps nothing.
    Forgets,
    /// `put` keeps only the first token for each key. `get` works.
    KeepsFirst,
}

/// A store of one row for each app, which remembers what was in it before.
pub(super) struct Table {
    pub(super) get: Mutex<Way>,
    pub(super) put: Mutex<Way>,
    /// In the order in which they were put here. The last one of a key counts.
    rows: Mutex<Vec<Row>>,
}

struct Row {
    key: TokenKey,
    token: AccessToken,
    put_at: Instant,
}

impl Table {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            get: Mutex::new(Way::Works),
            put: Mutex::new(Way::Works),
            rows: Mutex::default(),
        })
    }

    pub(super) fn keep(&self, key: &TokenKey, token: &AccessToken) {
        self.rows.lock().unwrap().push(Row {
            key: key.clone(),
            token: token.clone(),
            put_at: Instant::now(),
        });
    }

    pub(super) fn row(&self, key: &TokenKey) -> Option<AccessToken> {
        self.past(key).pop()
    }

    /// All tokens that it has had for this key, the current one last.
    pub(super) fn past(&self, key: &TokenKey) -> Vec<AccessToken> {
        let rows = self.rows.lock().unwrap();
        let rows = rows.iter().filter(|row| row.key == *key);
        rows.map(|row| row.token.clone()).collect()
    }

    /// Whether a token for this key was put here in this time.
    pub(super) fn was_put_between(&self, key: &TokenKey, from: Instant, to: Instant) -> bool {
        let rows = self.rows.lock().unwrap();
        rows.iter()
            .any(|row| row.key == *key && (from..=to).contains(&row.put_at))
    }

    pub(super) fn works(&self) -> bool {
        let get = *self.get.lock().unwrap();
        matches!(get, Way::Works | Way::KeepsFirst)
    }
}

async fn go(way: Way) -> Result<bool, BoxError> {
    match way {
        Way::Works | Way::KeepsFirst => Ok(true),
        Way::Forgets => Ok(false),
        Way::Fails => Err("a failure".into()),
        Way::Hangs => std::future::pending().await,
        Way::Panics => std::panic::resume_unwind(Box::new("a panic")),
    }
}

#[crate::async_trait]
impl TokenStore for Table {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let way = *self.get.lock().unwrap();
        Ok(if go(way).await? { self.row(key) } else { None })
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        let way = *self.put.lock().unwrap();
        let is_kept = way != Way::KeepsFirst || self.row(key).is_none();
        if go(way).await? && is_kept {
            self.keep(key, token);
        }
        Ok(())
    }
}
