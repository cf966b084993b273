use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretSlice};

use crate::BoxError;

/// A database that several processes share: anything that has an atomic compare-and-swap for small values.
///
/// [`SharedStore::new`](crate::SharedStore::new) makes a store of it. All processes that share the database then make one fetch for each token.
///
/// The manager calls both methods concurrently. A call that fails within 500 ms is made once more. To test an implementation, use
/// `check_shared_database` of the module `test_util` (feature `test-util`), which lists all requirements.
///
/// # Cancel safety
///
/// The manager drops the futures of both methods after 2 s. A swap that still runs then may succeed.
///
/// `Arc` and `Box` of a database are databases too. Methods that are added later always have a default.
#[async_trait]
pub trait SharedDatabase: Send + Sync + 'static {
    /// Returns the value under this key and its remaining time by the database's own clock, or `None` if it is missing or has expired.
    ///
    /// Read both in one atomic step, and not from a replica that may lag.
    ///
    /// # Errors
    ///
    /// Any failure.
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError>;

    /// Stores `new` for [`new.left()`](Kept::left) and returns true if the value under this key equals `expected`, byte for byte.
    ///
    /// Otherwise it changes nothing and returns false. `None` means that there must be no value, or an expired one. Compare and replace in
    /// one atomic step.
    ///
    /// # Errors
    ///
    /// Any failure. The value may or may not have been replaced.
    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError>;
}

macro_rules! forwarded_by {
    ($($pointer:ident),*) => {
        $(
            #[async_trait]
            impl<T: SharedDatabase + ?Sized> SharedDatabase for $pointer<T> {
                async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
                    (**self).load(key).await
                }

                async fn compare_and_swap(
                    &self,
                    key: &str,
                    expected: Option<&[u8]>,
                    new: &Kept,
                ) -> Result<bool, BoxError> {
                    (**self).compare_and_swap(key, expected, new).await
                }
            }
        )*
    };
}

forwarded_by!(Arc, Box);

/// A value in a [`SharedDatabase`], and the time it has left.
///
/// The bytes contain a token. They are wiped from memory when this is dropped, and [`Debug`] does not show them.
///
/// ```
/// use std::time::Duration;
/// use reqwest_wecom::Kept;
///
/// let kept = Kept::new("bytes", Duration::from_secs(60));
/// assert_eq!(kept.expose_secret(), b"bytes");
/// assert_eq!(kept.left(), Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct Kept {
    bytes: SecretSlice<u8>,
    left: Duration,
}

impl Kept {
    /// Creates a value that expires after `left`.
    pub fn new(bytes: impl Into<Vec<u8>>, left: Duration) -> Self {
        Self {
            bytes: bytes.into().into(),
            left,
        }
    }

    /// The bytes. Keep them out of logs.
    pub fn expose_secret(&self) -> &[u8] {
        self.bytes.expose_secret()
    }

    /// The time that the value has left.
    pub fn left(&self) -> Duration {
        self.left
    }
}

impl Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_bytes() {
        let kept = Kept::new("canary", Duration::from_secs(1));
        let shown = format!("{kept:?} {kept:#?}");
        assert!(
            !shown.contains("canary") && !shown.contains("99, 97"),
            "{shown}"
        );
    }
}
