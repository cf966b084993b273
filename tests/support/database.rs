//! A shared database in memory.

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest_wecom::{BoxError, Kept, SharedDatabase, async_trait};
use tokio::time::Instant;

/// A database of one process: values, and when they end.
#[derive(Default)]
pub struct Memory {
    /// The values and their ends by key.
    pub values: Mutex<HashMap<String, (Vec<u8>, Instant)>>,
    /// Whether each call is an error.
    pub fails: AtomicBool,
    /// Whether each swap is an error that quotes the expected and the new value.
    pub gossips: AtomicBool,
    /// Whether no call is ever answered.
    pub hangs: AtomicBool,
}

impl Memory {
    async fn works(&self) -> Result<(), BoxError> {
        if self.hangs.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        match self.fails.load(Ordering::SeqCst) {
            true => Err("the database says no".into()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl SharedDatabase for Memory {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        self.works().await?;
        let values = self.values.lock().unwrap();
        let left = |end: &Instant| end.saturating_duration_since(Instant::now());
        let live = values.get(key).filter(|(_, end)| !left(end).is_zero());
        Ok(live.map(|(value, end)| Kept::new(value.clone(), left(end))))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        self.works().await?;
        if self.gossips.load(Ordering::SeqCst) {
            let new = String::from_utf8_lossy(new.expose_secret());
            let expected = String::from_utf8_lossy(expected.unwrap_or_default());
            return Err(format!("{new} could not be written in place of {expected}").into());
        }
        let (mut values, now) = (self.values.lock().unwrap(), Instant::now());
        let live = values.get(key).filter(|(_, end)| *end > now);
        let is_expected = live.map(|(value, _)| &value[..]) == expected;
        if is_expected {
            let row = (new.expose_secret().to_vec(), now + new.left());
            values.insert(key.to_owned(), row);
        }
        Ok(is_expected)
    }
}
