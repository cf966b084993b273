//! The check of a shared database accepts one that keeps every promise, and finds each of these that do not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use reqwest_wecom::test_util::check_shared_database;
use reqwest_wecom::{BoxError, Kept, SharedDatabase, async_trait};
use tokio::task::yield_now;
use tokio::time::sleep;

/// What is wrong with a database. Each is a mistake that is easy to make with a real one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// `SELECT`, then `UPDATE`, without a transaction.
    SwapsInTwoSteps,
    /// Two swaps against nothing, each of which sees nothing: `SELECT`, then `INSERT … ON CONFLICT DO UPDATE`.
    InsertsInTwoSteps,
    /// `GET`, then `PTTL`.
    ReadsInTwoSteps,
    /// There is no column for the time.
    NeverExpires,
    /// The time is what was asked for, not what is left.
    ReturnsTimeAsStored,
    /// `UPDATE … SET value`, without the time.
    KeepsOldTime,
    /// The number of changed rows, where an equal row does not count.
    EqualBytesAreNoChange,
    /// `SET` without `NX`.
    NoneOverwrites,
    /// `INSERT … ON CONFLICT DO NOTHING`, and a row that has expired is a conflict.
    ExpiredBlocksNone,
    /// `WHERE value = $1`, without a look at the time.
    ExpiredMatches,
    /// `INSERT … ON CONFLICT DO UPDATE … WHERE value = $1`, which inserts what it does not find.
    MissingMatches,
    /// `GETSET`, and a comparison with what was there before.
    ComparesAfterWriting,
    /// A column of type `text`, written with replacements for what is not UTF-8.
    StoresText,
    /// Both sides are made text before they are compared.
    ComparesText,
    /// A collation that ignores spaces at the end.
    ComparesTrimmed,
    /// Nothing and the empty string are the same.
    EmptyIsNothing,
    /// A column for 255 bytes, in a database that cuts off what is longer.
    ShortValues,
    /// The same for keys.
    ShortKeys,
    /// A collation that ignores case.
    KeysIgnoreCase,
    /// A collation that ignores spaces at the end.
    KeysAreTrimmed,
    /// Every answer is an error.
    Fails,
}

#[derive(Default)]
struct Memory {
    values: Mutex<HashMap<String, Row>>,
    /// How long each call takes.
    latency: Duration,
    bug: Option<Bug>,
}

#[derive(Clone)]
struct Row {
    bytes: Vec<u8>,
    left: Duration,
    end: Instant,
}

impl Memory {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn row_key(&self, key: &str) -> String {
        match self.bug {
            Some(Bug::KeysIgnoreCase) => key.to_lowercase(),
            Some(Bug::KeysAreTrimmed) => key.trim_end().to_owned(),
            Some(Bug::ShortKeys) => key.chars().take(255).collect(),
            _ => key.to_owned(),
        }
    }

    /// Whether a swap may replace this row.
    fn matches(&self, row: Option<&Row>, expected: Option<&[u8]>) -> bool {
        let there = row.filter(|row| self.is_live(row) || self.has(Bug::ExpiredMatches));
        let there = there.map(|row| row.bytes.as_slice());
        match (self.bug, there, expected) {
            (Some(Bug::NoneOverwrites), _, None) => true,
            (Some(Bug::ExpiredMatches), _, None) => !row.is_some_and(|row| self.is_live(row)),
            (Some(Bug::ExpiredBlocksNone), _, None) => row.is_none(),
            (Some(Bug::MissingMatches), None, _) => true,
            (Some(Bug::EmptyIsNothing), _, _) => there.unwrap_or(b"") == expected.unwrap_or(b""),
            (Some(Bug::ComparesTrimmed), Some(there), Some(expected)) => {
                there.trim_ascii_end() == expected.trim_ascii_end()
            }
            (Some(Bug::ComparesText), Some(there), Some(expected)) => {
                String::from_utf8_lossy(there) == String::from_utf8_lossy(expected)
            }
            (Some(Bug::StoresText), there, Some(expected)) => {
                there == Some(String::from_utf8_lossy(expected).as_bytes())
            }
            (Some(Bug::ShortValues), there, Some(expected)) => {
                there == Some(&expected[..expected.len().min(255)])
            }
            (_, there, expected) => there == expected,
        }
    }

    fn is_live(&self, row: &Row) -> bool {
        row.end > Instant::now() || self.has(Bug::NeverExpires)
    }

    fn row(&self, key: &str, new: &Kept, old: Option<&Row>) -> (String, Row) {
        let mut bytes = new.expose_secret().to_vec();
        if self.has(Bug::StoresText) {
            bytes = String::from_utf8_lossy(&bytes).into_owned().into_bytes();
        }
        if self.has(Bug::ShortValues) {
            bytes.truncate(255);
        }
        let left = new.left();
        let end = match old.filter(|row| self.has(Bug::KeepsOldTime) && self.is_live(row)) {
            Some(row) => row.end,
            None => Instant::now() + left,
        };
        (self.row_key(key), Row { bytes, left, end })
    }

    fn live_row(&self, key: &str) -> Option<Row> {
        let values = self.values.lock().unwrap();
        let row = values.get(&self.row_key(key));
        row.filter(|row| self.is_live(row)).cloned()
    }
}

#[async_trait]
impl SharedDatabase for Memory {
    async fn load(&self, key: &str) -> Result<Option<Kept>, BoxError> {
        sleep(self.latency).await;
        if self.has(Bug::Fails) {
            return Err("the disk is full".into());
        }
        let Some(mut row) = self.live_row(key) else {
            return Ok(None);
        };
        if self.has(Bug::ReadsInTwoSteps) {
            yield_now().await;
            row.end = self.live_row(key).map_or(row.end, |row| row.end);
        }
        if self.has(Bug::EmptyIsNothing) && row.bytes.is_empty() {
            return Ok(None);
        }
        let left = match self.bug {
            Some(Bug::NeverExpires | Bug::ReturnsTimeAsStored) => row.left,
            _ => row.end.saturating_duration_since(Instant::now()),
        };
        Ok(Some(Kept::new(row.bytes, left)))
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<&[u8]>,
        new: &Kept,
    ) -> Result<bool, BoxError> {
        sleep(self.latency).await;
        let in_two_steps = match expected {
            Some(_) => self.has(Bug::SwapsInTwoSteps),
            None => self.has(Bug::InsertsInTwoSteps),
        };
        if in_two_steps {
            let row = self.live_row(key);
            if !self.matches(row.as_ref(), expected) {
                return Ok(false);
            }
            yield_now().await;
            let (key, row) = self.row(key, new, row.as_ref());
            self.values.lock().unwrap().insert(key, row);
            return Ok(true);
        }
        let mut values = self.values.lock().unwrap();
        let there = values.get(&self.row_key(key));
        let matches = self.matches(there, expected);
        if !matches && !self.has(Bug::ComparesAfterWriting) {
            return Ok(false);
        }
        let is_equal = there.is_some_and(|row| row.bytes == new.expose_secret());
        let (key, row) = self.row(key, new, there);
        values.insert(key, row);
        Ok(matches && !(is_equal && self.has(Bug::EqualBytesAreNoChange)))
    }
}

/// What the check says of a database with this bug.
async fn message(bug: Bug) -> String {
    let memory = Memory {
        bug: Some(bug),
        ..Memory::default()
    };
    let check = std::panic::AssertUnwindSafe(check_shared_database(memory));
    let panic: Box<dyn Any + Send> = check.catch_unwind().await.unwrap_err();
    *panic.downcast::<String>().unwrap()
}

async fn check_finds(bug: Bug, broken: &[&str]) {
    let message = message(bug).await;
    let named: Vec<_> = message
        .lines()
        .filter_map(|line| line.strip_prefix("- "))
        .collect();
    assert_eq!(named, broken, "{message}");
}

const STORED: &str = "A stored value can be loaded, with its time left.";
const AGAINST_NONE: &str = "A swap against `None` fails if there is a value.";
const OTHER_BYTES: &str = "A swap fails and changes nothing unless every byte is equal.";
const AGAINST_BYTES: &str = "A swap against bytes fails if there is no value.";
const RENEWAL: &str = "A swap renews the time left, even if the bytes are equal.";
const VALUES: &str = "A value can be empty, binary, or 8 KiB long.";
const KEYS: &str = "A key can contain any text, and different keys have different values.";
const EXPIRY: &str = "The time left decreases, and an expired value is missing.";
const EXPIRED_BYTES: &str = "A swap against the bytes of an expired value fails.";
const NONE_AGAINST_EXPIRED: &str = "A swap against `None` succeeds if the value has expired.";
const LOST_UPDATES: &str = "Concurrent swaps lose no update.";
const ONE_WINNER: &str = "When many swap against `None` at once, one succeeds.";
const READ_TOGETHER: &str = "`load` reads the bytes and the time left in one atomic step.";

macro_rules! bugs {
    ($($name:ident: $bug:ident breaks $($broken:ident),+;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                check_finds(Bug::$bug, &[$($broken),+]).await;
            }
        )*
    };
}

bugs! {
    swaps_in_two_steps: SwapsInTwoSteps breaks LOST_UPDATES;
    inserts_in_two_steps: InsertsInTwoSteps breaks ONE_WINNER;
    reads_in_two_steps: ReadsInTwoSteps breaks READ_TOGETHER;
    never_expires: NeverExpires breaks EXPIRY, EXPIRED_BYTES, NONE_AGAINST_EXPIRED, ONE_WINNER;
    returns_time_as_stored: ReturnsTimeAsStored breaks EXPIRY;
    keeps_old_time: KeepsOldTime breaks STORED, RENEWAL, READ_TOGETHER;
    equal_bytes_are_no_change: EqualBytesAreNoChange breaks RENEWAL;
    none_overwrites: NoneOverwrites breaks AGAINST_NONE, ONE_WINNER;
    expired_blocks_none: ExpiredBlocksNone breaks NONE_AGAINST_EXPIRED, ONE_WINNER;
    expired_matches: ExpiredMatches breaks EXPIRED_BYTES;
    missing_matches: MissingMatches breaks AGAINST_BYTES, EXPIRED_BYTES;
    compares_after_writing: ComparesAfterWriting breaks AGAINST_NONE, OTHER_BYTES, AGAINST_BYTES, EXPIRED_BYTES, LOST_UPDATES, ONE_WINNER;
    stores_text: StoresText breaks OTHER_BYTES, VALUES;
    compares_text: ComparesText breaks OTHER_BYTES;
    compares_trimmed: ComparesTrimmed breaks OTHER_BYTES;
    empty_is_nothing: EmptyIsNothing breaks AGAINST_NONE, OTHER_BYTES, AGAINST_BYTES, VALUES, EXPIRED_BYTES;
    short_values: ShortValues breaks OTHER_BYTES, VALUES;
    short_keys: ShortKeys breaks KEYS;
    keys_ignore_case: KeysIgnoreCase breaks KEYS;
    keys_are_trimmed: KeysAreTrimmed breaks KEYS;
}

#[tokio::test]
async fn the_message_has_the_error_of_a_call_that_fails() {
    let message = message(Bug::Fails).await;
    assert!(message.contains("`load` failed for the key \"check_shared_database:"));
    assert!(message.contains(": the disk is full."));
}

#[tokio::test]
async fn the_message_has_the_name_of_the_database_and_what_was_found() {
    let message = message(Bug::NoneOverwrites).await;
    assert!(message.starts_with("`shared_database::Memory` breaks promises of `SharedDatabase`:"));
    let found =
        "  Found: `compare_and_swap` returned true, expecting `None`, although there is a value.";
    assert!(message.contains(found));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_keeps_every_promise_passes() {
    check_shared_database(Memory::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_database_passes() {
    let latency = Duration::from_millis(20);
    check_shared_database(Memory {
        latency,
        ..Memory::default()
    })
    .await;
}

#[tokio::test]
async fn a_single_thread_and_a_pointer_will_do() {
    let memory = Arc::new(Memory::default());
    check_shared_database(memory.clone()).await;
    check_shared_database(memory as Arc<dyn SharedDatabase>).await;
}
