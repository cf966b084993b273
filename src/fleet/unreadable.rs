//! Warnings about documents that cannot be read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::{Kept, TokenKey};

/// How many keys are remembered.
const MOST_KEYS: usize = 1024;

/// What was told of already, by digests.
#[derive(Debug, Default)]
pub(super) struct Unreadable(Mutex<HashMap<TokenKey, [u8; 32]>>);

impl Unreadable {
    /// Warns, once for each text under a key.
    pub(super) fn tell(&self, key: &TokenKey, kept: &Kept) {
        let digest = Sha256::digest(kept.expose_secret()).into();
        {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if told.get(key) == Some(&digest) {
                return;
            }
            if told.len() >= MOST_KEYS {
                told.clear();
            }
            told.insert(key.clone(), digest);
        }
        tracing::warn!(target: crate::TARGET, event = "document_unreadable", %key,
            r#"what the database has under this key is ignored and will be replaced: expected {{"value":"…","fetched_at":…,"expires_at":…}} with times in whole milliseconds since the Unix epoch, and a time to live"#);
    }
}
