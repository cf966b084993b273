//! A shared database in memory, by tokio's clock.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::stores::Way;
use crate::{BoxError, Kept, SharedDatabase};

/// Values, and until when they are kept.
type Rows = HashMap<String, (Vec<u8>, Instant)>;

/// Clones share what is kept. Each can be slow or fail on its own.
#[derive(Clone)]
pub(super) struct Memory {
    kept: Arc<Mutex<Rows>>,
    calls: Arc<Mutex<usize>>,
    /// How long each way takes.
    latency: Arc<Mutex<Duration>>,
    way: Arc<Mutex<Way>>,
    is_read_only: Arc<Mutex<bool>>,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            kept: Arc::default(),
            calls: Arc::default(),
            latency: Arc::default(),
            way: Arc::new(Mutex::new(Way::Works)),
            is_read_only: Arc::default(),
        }
    }

    /// Whether each swap is refused.
    pub(super) fn is_read_only(&self, is_read_only: bool) {
        *self.is_read_only.lock().unwrap() = is_read_only;
    }

    /// Another way to the same database.
    pub(super) fn another_way(&self) -> Self {
        Self {
            latency: Arc::default(),
            way: Arc::new(Mutex::new(Way::Works)),
            ..self.clone()
        }
    }

    pub(super) fn takes(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    pub(super) fn goes(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    /// How often it was called.
    pub(super) fn calls(&self) -> usize {
        *self.calls.lock().unwrap()
    }

    /// What is kept under the key, as text, and how long it has left.
    pub(super) fn text(&self, key: &str) -> Option<(String, Duration)> {
        let kept = self.kept.lock().unwrap();
        let (bytes, until) = kept.get(key)?;
        let left = until.checked_duration_since(Instant::now())?;
        Some((String::from_utf8(bytes.clone()).unwrap(), left))
    }

    pub(super) fn set(&self, key: &str, text: &str, left: Duration) {
        let until = Instant::now() + left;
        let mut kept = self.kept.lock().unwrap();
        kept.insert(key.to_owned(), (text.into(), until));
    }

    pub(super) fn clear(&self) {
        self.kept.lock().unwrap().clear();
    }

    async fn way(&self) -> Result<(), BoxError> {
        let latency = *self.latency.lock().unwrap();
        if !latency.is_zero() {
            sleep(latency).await;
        }
        let way = *self.way.lock().unwrap();
        way.go().await
    }
}

#[crate::async_trait]
impl SharedDatabase for Memory {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        *self.calls.lock().unwrap() += 1;
        self.way().await?;
        let kept = {
            let kept = self.kept.lock().unwrap();
            kept.get(key).and_then(|(bytes, until)| {
                let left = until.saturating_duration_since(Instant::now());
                (!left.is_zero()).then(|| Kept::new(bytes.clone(), left))
            })
        };
        self.way().await?;
        Ok(kept)
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        *self.calls.lock().unwrap() += 1;
        self.way().await?;
        if *self.is_read_only.lock().unwrap() {
            return Err("no permission to write".into());
        }
        let is_as_expected = {
            let (mut kept, now) = (self.kept.lock().unwrap(), Instant::now());
            let there = kept.get(key).filter(|(_, until)| *until > now);
            let is_as_expected = there.map(|(bytes, _)| &**bytes) == expected;
            if is_as_expected {
                let new = (new.expose_secret().to_vec(), now + new.left());
                kept.insert(key.to_owned(), new);
            }
            is_as_expected
        };
        self.way().await?;
        Ok(is_as_expected)
    }
}
