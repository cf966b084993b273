//! Checks for what you implement yourself. Needs the feature `test-util`.
//!
//! Enable the feature for your tests only:
//!
//! ```toml
//! [dev-dependencies]
//! reqwest-wecom = { version = "0.1", features = ["test-util"] }
//! ```

mod concurrency;
mod probe;
mod promises;

use std::any::type_name;

use self::probe::Probe;
use crate::SharedDatabase;

/// Checks that your [`SharedDatabase`] keeps every promise of the trait.
///
/// Call it in a test, with a real database behind your implementation. A database that breaks a promise can lose tokens or let two processes
/// fetch at once, often only under load, so a test of your own may not notice.
///
/// ```
/// use reqwest_wecom::test_util::check_shared_database;
/// # use std::collections::HashMap;
/// # use std::sync::{Mutex, PoisonError};
/// # use std::time::Instant;
/// # use reqwest_wecom::{BoxError, Kept, SharedDatabase, async_trait};
/// #
/// # #[derive(Default)]
/// # struct MyDatabase(Mutex<HashMap<String, (Vec<u8>, Instant)>>);
/// #
/// # impl MyDatabase {
/// #     fn connect(_: &str) -> Self {
/// #         Self::default()
/// #     }
/// # }
/// #
/// # #[async_trait]
/// # impl SharedDatabase for MyDatabase {
/// #     async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
/// #         let values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
/// #         let live = values.get(key).map(|(bytes, end)| {
/// #             Kept::new(bytes.clone(), end.saturating_duration_since(Instant::now()))
/// #         });
/// #         Ok(live.filter(|kept| !kept.left().is_zero()))
/// #     }
/// #
/// #     async fn compare_and_swap(&self, key: &str, expected: Option<&[u8]>, new: &Kept) -> Result<bool, BoxError> {
/// #         let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
/// #         let now = Instant::now();
/// #         let live = values.get(key).filter(|(_, end)| *end > now);
/// #         if live.map(|(bytes, _)| bytes.as_slice()) != expected {
/// #             return Ok(false);
/// #         }
/// #         values.insert(key.to_owned(), (new.expose_secret().to_vec(), now + new.left()));
/// #         Ok(true)
/// #     }
/// # }
///
/// # /*
/// #[tokio::test(flavor = "multi_thread")]
/// # */
/// # #[tokio::main]
/// async fn my_database_keeps_its_promises() {
///     let database = MyDatabase::connect("mydb://127.0.0.1/test");
///     check_shared_database(database).await;
/// }
/// # my_database_keeps_its_promises();
/// ```
///
/// To use the database afterwards, pass an [`Arc`](std::sync::Arc) or another clone of it.
///
/// # What it checks
///
/// - 32 concurrent tasks lose no update. When many swap against `None`, one succeeds.
/// - A swap against `None` succeeds if the value is missing or has expired, and only then. An expired value matches no bytes.
/// - A swap compares every byte. A swap that fails changes nothing. A swap that succeeds renews the time left, even if the bytes are equal.
/// - [`load`](SharedDatabase::load) returns what was stored last, with a time that decreases and is never more than was asked for. It never
///   combines the bytes of one value with the time of another.
/// - Values can be empty or binary, and at least 8 KiB long.
/// - Keys can contain any character except NUL, and at least 300 bytes. Upper and lower case are different, and spaces at the end count.
///
/// The time left must be exact to a quarter of a second. A database that counts whole seconds may round it down.
///
/// It cannot check what one process doesn't see: that expiry follows the database's clock, and that reads don't come from a lagging replica.
///
/// # Requirements
///
/// It takes 2 to 3 s, and longer if calls take more than 20 ms. It needs a tokio runtime with a timer that isn't paused. Use a multi-threaded
/// runtime, so that calls run in parallel.
///
/// It can run against a database in use. All its keys start with `check_shared_database:` and a random number, and its values expire within 2
/// hours, most within a minute.
///
/// # Panics
///
/// Panics if the database breaks a promise, if a call fails, or if one takes longer than 10 s. The message lists each broken promise and what
/// was found instead.
#[allow(
    clippy::panic,
    reason = "a check in a test reports failures by panicking"
)]
pub async fn check_shared_database<D: SharedDatabase>(database: D) {
    let broken = promises::broken(&Probe::new(database)).await;
    if !broken.is_empty() {
        let name = type_name::<D>();
        panic!(
            "`{name}` breaks promises of `SharedDatabase`:\n\n{}\n",
            broken.join("\n")
        );
    }
}
