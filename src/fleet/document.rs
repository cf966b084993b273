//! What a fleet keeps under one key: the token, and who fetches or how the last fetch failed.

use std::time::{Duration, SystemTime};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::LEASE;
use super::failure::Failure;
use crate::token::MAX_LIFETIME;
use crate::{AccessToken, Kept};

/// A document without anything in it.
const EMPTY: &[u8] = b"{}";

/// Times in the document are cut to the millisecond.
const ROUNDING: Duration = Duration::from_millis(2);

/// The document as JSON.
///
/// The database keeps it for as long as its longest-lived part. A part with a shorter life says in `…_ends_at` how many milliseconds of the
/// document are left when that part ends. So one key is enough, and no clocks need to agree.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    token: Option<&'a AccessToken>,
    #[serde(skip_serializing_if = "is_zero")]
    token_ends_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<&'a Turn>,
    #[serde(skip_serializing_if = "is_zero")]
    turn_ends_at: u64,
}

/// What is read of the document, apart from the token.
#[derive(Deserialize)]
struct Read {
    value: Option<IgnoredAny>,
    #[serde(default)]
    token_ends_at: u64,
    /// Other versions may write what this one can't read.
    turn: Option<serde_json::Value>,
    #[serde(default)]
    turn_ends_at: u64,
}

/// Who fetches, or how the last fetch failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Turn {
    Owner(String),
    Failure(Failure),
}

impl Turn {
    /// The time to live of the document may have been extended, and the turn's with it.
    fn capped(turn: Timed<Self>) -> Timed<Self> {
        let longest = match &turn.part {
            Self::Owner(_) => LEASE,
            Self::Failure(failure) => failure.longest(),
        };
        let left = turn.left().min(longest);
        Timed::new(turn.part, left)
    }
}

/// A part of the document, and when it ends.
#[derive(Clone, Debug)]
pub(super) struct Timed<T> {
    part: T,
    ends_at: Instant,
}

impl<T> Timed<T> {
    pub(super) fn new(part: T, left: Duration) -> Self {
        let ends_at = Instant::now() + left;
        Self { part, ends_at }
    }

    pub(super) fn part(&self) -> &T {
        &self.part
    }

    pub(super) fn left(&self) -> Duration {
        self.ends_at.saturating_duration_since(Instant::now())
    }
}

impl Timed<AccessToken> {
    /// A token that was fetched just now, unless it has expired.
    pub(super) fn fetched(token: &AccessToken, now: SystemTime) -> Option<Self> {
        let left = token.expires_at().duration_since(now).ok()?;
        (!left.is_zero()).then(|| Self::new(token.clone(), left))
    }

    /// How long ago it was fetched, whatever the wall clocks show. A document was a while on its way to the database and back, so its token may
    /// be younger or older by that.
    pub(super) fn age(&self) -> Duration {
        self.part.lifetime().saturating_sub(self.left())
    }
}

/// The parts of a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    /// The token as it was written: its times are by the clock of who fetched it.
    pub(super) token: Option<Timed<AccessToken>>,
    pub(super) turn: Option<Timed<Turn>>,
}

/// There is something else than a document.
#[derive(Debug)]
pub(super) struct Unreadable;

impl Document {
    /// Reads what the database returned to a call that began at this time.
    pub(super) fn read(kept: &Kept, asked_at: Instant) -> Result<Self, Unreadable> {
        let bytes = kept.expose_secret();
        let read: Read = serde_json::from_slice(bytes).map_err(|_quotes_it| Unreadable)?;
        if read.value.is_none() && read.turn.is_none() && bytes != EMPTY {
            return Err(Unreadable);
        }
        let token = read.value.map(|_| serde_json::from_slice(bytes));
        let token: Option<AccessToken> = token.transpose().map_err(|_quotes_it| Unreadable)?;
        if kept.left().is_zero() || token.as_ref().is_some_and(|token| !token.is_plausible()) {
            return Err(Unreadable);
        }
        let ends_at = |ends_at| {
            let left = kept.left().checked_sub(Duration::from_millis(ends_at))?;
            let ends_at = asked_at + left.min(MAX_LIFETIME);
            (ends_at > Instant::now()).then_some(ends_at)
        };
        let turn = read.turn.and_then(|turn| Turn::deserialize(turn).ok());
        let (token_ends_at, turn_ends_at) =
            (ends_at(read.token_ends_at), ends_at(read.turn_ends_at));
        Ok(Self {
            token: timed(token, token_ends_at),
            turn: timed(turn, turn_ends_at).map(Turn::capped),
        })
    }

    /// How the database is to keep it.
    pub(super) fn kept(&self) -> Kept {
        let token_left = self.token.as_ref().map(Timed::left).unwrap_or_default();
        let turn_left = self.turn.as_ref().map(Timed::left).unwrap_or_default();
        let left = token_left.max(turn_left).max(Duration::from_millis(1));
        let ends_at = |part_left| millis(left.saturating_sub(part_left));
        let (token, turn) = (self.token.as_ref(), self.turn.as_ref());
        let written = Written {
            token: token.map(Timed::part),
            token_ends_at: token.map_or(0, |_| ends_at(token_left)),
            turn: turn.map(Timed::part),
            turn_ends_at: turn.map_or(0, |_| ends_at(turn_left)),
        };
        let bytes = serde_json::to_vec(&written);
        Kept::new(bytes.unwrap_or_else(|_cannot_fail| EMPTY.into()), left)
    }

    /// The token as it is written.
    pub(super) fn written_token(&self) -> Option<&AccessToken> {
        self.token.as_ref().map(Timed::part)
    }

    /// Whether the token was fetched after this one, or may have been: reading the document took so long.
    pub(super) fn is_younger(&self, other: &Timed<AccessToken>, took: Duration) -> bool {
        let age = self.token.as_ref().map(Timed::age);
        age.is_some_and(|age| age <= other.age() + took + ROUNDING)
    }

    /// The token by the clock of this machine.
    pub(super) fn token(&self, now: SystemTime) -> Option<AccessToken> {
        let token = self.token.as_ref()?;
        Some(
            token
                .part
                .expiring_at(now.checked_add(token.left().min(MAX_LIFETIME))?),
        )
    }
}

fn timed<T>(part: Option<T>, ends_at: Option<Instant>) -> Option<Timed<T>> {
    let (part, ends_at) = (part?, ends_at?);
    Some(Timed { part, ends_at })
}

fn is_zero(millis: &u64) -> bool {
    *millis == 0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The token in these bytes, for who reads the database directly.
pub(crate) fn token(kept: &Kept, asked_at: Instant, now: SystemTime) -> Option<AccessToken> {
    Document::read(kept, asked_at).ok()?.token(now)
}

/// A document with this token alone.
pub(crate) fn of_token(token: &AccessToken, now: SystemTime) -> Option<Kept> {
    let left = token.expires_at().duration_since(now).ok()?;
    let token = Some(Timed::new(token.clone(), left));
    (left >= Duration::from_millis(1)).then(|| Document { token, turn: None }.kept())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const FETCHED_AT: Duration = Duration::from_millis(1_700_000_000_000);

    fn issued() -> AccessToken {
        let fetched_at = UNIX_EPOCH + FETCHED_AT;
        AccessToken::from_parts("value", fetched_at, fetched_at + 7200 * SECOND)
    }

    fn read(json: &str, left: Duration) -> Result<Document, Unreadable> {
        Document::read(&Kept::new(json, left), Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_alone_is_what_other_programs_read_and_write() {
        let document = Document {
            token: Some(Timed::new(issued(), 7200 * SECOND)),
            turn: None,
        };
        let kept = document.kept();
        let json = r#"{"value":"value","fetched_at":1700000000000,"expires_at":1700007200000}"#;
        assert_eq!(kept.expose_secret(), json.as_bytes());
        assert_eq!(kept.left(), 7200 * SECOND);
        let document = read(json, 60 * SECOND).unwrap();
        let now = UNIX_EPOCH + FETCHED_AT + 60 * SECOND;
        let token = document.token(now).unwrap();
        assert_eq!(token, issued());
        let left = token.expires_at().duration_since(now).unwrap();
        assert_eq!(left, 60 * SECOND, "the time left is what the database says");
    }

    #[tokio::test(start_paused = true)]
    async fn each_part_ends_when_its_own_time_is_over() {
        for (token_left, turn_left) in [(7200, 2), (2, 300)] {
            let document = Document {
                token: Some(Timed::new(issued(), token_left * SECOND)),
                turn: Some(Timed::new(Turn::Owner("me".into()), turn_left * SECOND)),
            };
            let kept = document.kept();
            for passed in [0, 1, 2, 3, 299, 300, 7199] {
                let passed = Duration::from_secs(passed);
                let Some(left) = kept
                    .left()
                    .checked_sub(passed)
                    .filter(|left| !left.is_zero())
                else {
                    continue;
                };
                let kept = Kept::new(kept.expose_secret(), left);
                let read = Document::read(&kept, Instant::now()).unwrap();
                assert_eq!(read.token.is_some(), passed < token_left * SECOND);
                assert_eq!(read.turn.is_some(), passed < turn_left * SECOND);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_document_is_told_apart_from_an_empty_one() {
        assert!(read("{}", SECOND).unwrap().token.is_none());
        for unreadable in [
            "",
            "canary",
            "[]",
            "7",
            r#"{"value":"v"}"#,
            r#"{"value":"v","fetched_at":1700000000000}"#,
            r#"{"value":"v","fetched_at":1700000000.5,"expires_at":1700007200.5}"#,
            r#"{"value":" ","fetched_at":1700000000000,"expires_at":1700007200000}"#,
            r#"{"fetched_at":1700000000000,"expires_at":1700007200000}"#,
            r#"{"access_token":"v","expires_in":7200}"#,
        ] {
            assert!(read(unreadable, SECOND).is_err(), "{unreadable}");
        }
    }
}
