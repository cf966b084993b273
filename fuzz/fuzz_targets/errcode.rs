//! The reader of errcodes against `serde_json::Value`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[path = "../../src/errcode.rs"]
mod errcode;

fuzz_target!(|json: &[u8]| {
    let read = errcode::of_json(json);
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => assert_eq!(read, expected(&value)),
        // The reader takes more: it looks neither into nor at the depth of what it passes over. What it finds must be there.
        Err(_) => {
            if let Some(errcode) = read
                && let Ok(value) = serde_json::from_str::<Value>(&String::from_utf8_lossy(json))
            {
                assert_eq!(Some(errcode), expected(&value));
            }
        }
    }
});

fn expected(json: &Value) -> Option<i64> {
    match json.as_object()?.get("errcode")? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        }
        _ => None,
    }
}
