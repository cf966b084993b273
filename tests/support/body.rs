//! Bodies: bytes to send, and what becomes of them.

use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::{sync::watch, time::timeout};

use super::Qyapi;

/// A mebibyte.
pub const MIB: usize = 1024 * 1024;

/// Bytes that look like nothing, the same ones each time.
pub fn noise(length: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let words: Vec<_> = words.take(length.div_ceil(8)).collect();
    Bytes::from(words.as_flattened()[..length].to_vec())
}

/// The same bytes as equal pieces; the last one may be shorter.
pub fn pieces(whole: &Bytes, length: usize) -> impl Iterator<Item = Bytes> + Send + 'static {
    let whole = whole.clone();
    let starts = (0..whole.len()).step_by(length);
    starts.map(move |start| whole.slice(start..whole.len().min(start + length)))
}

/// A fingerprint, for comparing what is too long to be shown.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(bytes)))
}

/// Waits for what must come by itself. The limit is for a broken promise alone.
pub async fn soon<T>(event: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(30);
    timeout(limit, event).await.expect("it comes to pass")
}

/// Makes bytes, and knows how many of them are still held somewhere.
#[derive(Clone, Default)]
pub struct Ledger(watch::Sender<Held>);

#[derive(Default)]
struct Held {
    now: usize,
    most: usize,
}

impl Ledger {
    /// A piece of this length, in memory of its own.
    pub fn piece(&self, length: usize) -> Bytes {
        self.0.send_modify(|held| {
            held.now += length;
            held.most = held.most.max(held.now);
        });
        Bytes::from_owner(Piece(vec![b'x'; length], self.clone()))
    }

    /// The most that were ever held at one time.
    pub fn most_held(&self) -> usize {
        self.0.borrow().most
    }

    /// Waits until all that it made has been let go.
    pub async fn until_none_held(&self) {
        let mut held = self.0.subscribe();
        let none = held.wait_for(|held| held.now == 0).await;
        none.expect("the ledger is here");
    }
}

struct Piece(Vec<u8>, Ledger);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.1.0.send_modify(|held| held.now -= self.0.len());
    }
}

impl Qyapi {
    /// A client for HTTP/1.1 and one for HTTP/2.
    pub fn both_clients(&self) -> [reqwest::Client; 2] {
        let http2 = self.client_builder().http2_prior_knowledge();
        [self.client(), http2.build().unwrap()]
    }
}
