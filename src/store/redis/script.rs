//! The scripts that read and replace a value, each in one atomic step, and what they return.

use std::time::Duration;

use redis::{Cmd, Value, cmd};

use crate::Kept;

/// The value under a key and its remaining time in ms: -2 if there is no value, -1 if it is not a string or never expires.
macro_rules! script {
    ($body:literal) => {
        concat!(
            "local function read(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then
    if string.find(value.err, 'WRONGTYPE', 1, true) then return false, -1 end
    redis.call('GET', key) -- It fails again, with a code that the client knows.
  end
  if not value then return false, -2 end
  return value, redis.call('PTTL', key)
end
local value, left = read(KEYS[1])
",
            $body
        )
    };
}

const LOAD: &str = script!("return {value, left}");

/// ARGV: the new value, its time in ms, the expected value if there is to be one.
const SWAP: &str = script!(
    "if left <= 0 then value = false end
if value ~= (ARGV[3] or false) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1"
);

/// Redis rejects a time that overflows when it adds the current time. This is 35,000 years.
const LONGEST: u128 = 1 << 50;

pub(super) fn load(key: &str) -> Cmd {
    eval(LOAD, key)
}

pub(super) fn swap(key: &str, expected: Option<&[u8]>, new: &Kept) -> Cmd {
    // Redis takes no time of 0.
    let left = new.left().as_millis().clamp(1, LONGEST) as u64;
    let mut command = eval(SWAP, key);
    command.arg(new.expose_secret()).arg(left).arg(expected);
    command
}

fn eval(script: &str, key: &str) -> Cmd {
    let mut command = cmd("EVAL");
    command.arg(script).arg(1).arg(key);
    command
}

/// What is under a key.
pub(super) enum Loaded {
    Value(Kept),
    Nothing,
    /// Something that no program puts there that follows the documentation.
    Unusable,
}

/// Reads what `LOAD` returns.
///
/// Workaround for `redis` 1.8: the errors of `FromRedisValue` show the value that they could not convert. To report there: keep values out of
/// errors.
pub(super) fn loaded(value: Value) -> Option<Loaded> {
    let Value::Array(items) = value else {
        return None;
    };
    let [value, Value::Int(left)] = <[Value; 2]>::try_from(items).ok()? else {
        return None;
    };
    Some(match (value, u64::try_from(left)) {
        (Value::BulkString(bytes), Ok(left @ 1..)) => {
            Loaded::Value(Kept::new(bytes, Duration::from_millis(left)))
        }
        (_, Err(_)) if left == -1 => Loaded::Unusable,
        _ => Loaded::Nothing,
    })
}
