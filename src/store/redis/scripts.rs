//! What is kept in Redis, and the scripts that read and write it, each of them one atomic step.

use std::time::{Duration, SystemTime};

use redis::{Cmd, Value};
use secrecy::{ExposeSecret, SecretSlice};

use crate::{AccessToken, TokenKey};

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("lua/read.lua"), include_str!($name))
    };
}

const GET: &str = script!("lua/get.lua");
const STEP: &str = script!("lua/step.lua");
const COMMIT: &str = script!("lua/commit.lua");
const FAIL: &str = script!("lua/fail.lua");

/// Where the things of one token are kept. The braces keep them on one node of a cluster.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) token: String,
    lease: String,
    failure: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, key: &TokenKey) -> Self {
        let token = format!("{prefix}:{{{key}}}");
        Self {
            lease: format!("{token}:lease"),
            failure: format!("{token}:failure"),
            token,
        }
    }

    pub(super) fn get(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(GET).arg(1).arg(&self.token);
        command
    }

    /// `unusable`: the text that was found to be of no use.
    pub(super) fn step(&self, owner: &str, lease_time: Duration, unusable: &Seen) -> Cmd {
        let mut command = self.eval(STEP, owner);
        command.arg(millis(lease_time)).arg(unusable.expose());
        command
    }

    pub(super) fn commit(&self, owner: &str, token: &Text, seen: &Seen) -> Cmd {
        let mut command = self.eval(COMMIT, owner);
        command
            .arg(token.text.expose_secret())
            .arg(millis(token.left))
            .arg(seen.expose());
        command
    }

    pub(super) fn fail(&self, owner: &str, failure: &str, pause: Duration, seen: &Seen) -> Cmd {
        let mut command = self.eval(FAIL, owner);
        command.arg(failure).arg(millis(pause)).arg(seen.expose());
        command
    }

    pub(super) fn put(&self, token: &Text) -> Cmd {
        let mut command = redis::cmd("SET");
        command
            .arg(&self.token)
            .arg(token.text.expose_secret())
            .arg("PX")
            .arg(millis(token.left));
        command
    }

    fn eval(&self, script: &str, owner: &str) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command
            .arg(script)
            .arg(3)
            .arg(&self.token)
            .arg(&self.lease)
            .arg(&self.failure)
            .arg(owner);
        command
    }
}

/// A text in Redis, which may be any bytes, and how long it will be there.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: SecretSlice<u8>,
    pub(super) left: Duration,
}

impl Text {
    /// A token as it is kept, unless it has expired.
    pub(super) fn of(token: &AccessToken) -> Option<Self> {
        let left = token.expires_at().duration_since(SystemTime::now()).ok()?;
        let text = serde_json::to_vec(token).ok()?;
        (millis(left) > 0).then(|| Self {
            text: text.into(),
            left,
        })
    }

    /// The token, if it is one. Its expiry is counted from the time left, so that the clocks of hosts need not agree; the time
    /// of its fetch, by which it is told apart from others, stays as it was written.
    pub(super) fn token(&self, asked_at: SystemTime) -> Option<AccessToken> {
        let token: AccessToken = serde_json::from_slice(self.text.expose_secret()).ok()?;
        let expires_at = asked_at.checked_add(self.left)?;
        let value = token.expose_secret();
        (!value.is_empty()).then(|| AccessToken::from_parts(value, token.fetched_at(), expires_at))
    }
}

/// The text that was seen under a token's key and is of no use, if there was one.
#[derive(Debug, Default)]
pub(super) struct Seen(Option<SecretSlice<u8>>);

impl Seen {
    pub(super) fn text(text: Text) -> Self {
        Self(Some(text.text))
    }

    fn expose(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], ExposeSecret::expose_secret)
    }
}

/// What a script answers.
#[derive(Debug)]
pub(super) enum Reply {
    Token(Text),
    Failure(Text),
    Lease,
    Wait,
    Done,
    None,
}

impl Reply {
    /// Not by way of `FromRedisValue`, whose errors show what they could not convert.
    pub(super) fn read(value: Value) -> Option<Self> {
        let Value::Array(items) = value else {
            return match value {
                Value::Okay => Some(Self::Done),
                _ => None,
            };
        };
        let mut items = items.into_iter();
        match (bytes(items.next()?)?.as_slice(), items.next(), items.next()) {
            (b"token", Some(text), Some(left)) => text_of(text, left).map(Self::Token),
            (b"failure", Some(text), Some(left)) => text_of(text, left).map(Self::Failure),
            (b"lease", None, None) => Some(Self::Lease),
            (b"wait", None, None) => Some(Self::Wait),
            (b"done", None, None) => Some(Self::Done),
            (b"none", None, None) => Some(Self::None),
            _ => None,
        }
    }
}

fn text_of(text: Value, left: Value) -> Option<Text> {
    let Value::Int(left) = left else { return None };
    Some(Text {
        text: bytes(text)?.into(),
        left: Duration::from_millis(left.try_into().ok()?),
    })
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
