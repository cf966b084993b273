//! The errcode of a JSON answer.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// How some servers begin a text in UTF-8.
pub(crate) const BOM: &[u8] = "\u{feff}".as_bytes();

/// The `errcode` at the top level of a JSON object, wherever it stands in it: an integer, or digits in a string. Those of
/// nested objects say nothing of the call. Of several the last one counts.
pub(crate) fn of_json(json: &[u8]) -> Option<i64> {
    let mut json = serde_json::Deserializer::from_slice(without_bom(json));
    let answer = Answer::deserialize(&mut json).ok()?;
    json.end().ok()?;
    answer.errcode
}

/// The JSON without a byte order mark before it.
pub(crate) fn without_bom(json: &[u8]) -> &[u8] {
    json.strip_prefix(BOM).unwrap_or(json)
}

/// The number that these digits stand for, with or without a minus before them.
pub(crate) fn of_digits(text: &str) -> Option<i64> {
    if text.starts_with('+') {
        return None;
    }
    text.parse().ok()
}

struct Answer {
    errcode: Option<i64>,
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopLevel;

        impl<'de> Visitor<'de> for TopLevel {
            type Value = Answer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer, A::Error> {
                let mut errcode = None;
                while let Some(Key(key)) = map.next_key()? {
                    if key == "errcode" {
                        Errcode(errcode) = map.next_value()?;
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Answer { errcode })
            }
        }

        deserializer.deserialize_map(TopLevel)
    }
}

/// A key, borrowed from the JSON unless it is written with escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Errcode(Option<i64>);

impl<'de> Deserialize<'de> for Errcode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyValue;

        impl<'de> Visitor<'de> for AnyValue {
            type Value = Errcode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Errcode, E> {
                Ok(Errcode(Some(number)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Errcode, E> {
                Ok(Errcode(i64::try_from(number).ok()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Errcode, E> {
                Ok(Errcode(of_digits(text)))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Errcode, E> {
                Ok(Errcode(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Errcode, E> {
                Ok(Errcode(None))
            }

            fn visit_unit<E>(self) -> Result<Errcode, E> {
                Ok(Errcode(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Errcode, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Errcode(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Errcode, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Errcode(None))
            }
        }

        deserializer.deserialize_any(AnyValue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_wherever_it_stands() {
        for json in [
            r#"{"errcode":40014,"errmsg":"x"}"#,
            r#"{"ip_list":[],"errcode":40014}"#,
            r#" {"a":{"errcode":1},"errcode":"40014","b":[{"errcode":2}]} "#,
            r#"{"err\u0063ode":40014}"#,
            r#"{"errcode":0,"errcode":40014}"#,
            "\u{feff}{\"errcode\":40014}",
        ] {
            assert_eq!(of_json(json.as_bytes()), Some(40014), "{json}");
        }
        assert_eq!(of_json(br#"{"errcode":-1}"#), Some(-1));
    }

    #[test]
    fn not_mistaken_for_another() {
        for json in [
            r#"{"a":{"errcode":40014}}"#,
            r#"{"a":"\"errcode\":40014"}"#,
            r#"{"errcode":40014.0}"#,
            r#"{"errcode":"+40014"}"#,
            r#"{"errcode":" 40014"}"#,
            r#"{"errcode":40014e0}"#,
            r#"{"errcode":null}"#,
            r#"{"errcode":[40014]}"#,
            r#"{"errcode":{"errcode":40014}}"#,
            r#"{"errcode":99999999999999999999}"#,
            r#"{"errcode":40014,"errcode":null}"#,
            r#"{"Errcode":40014}"#,
            r#"[{"errcode":40014}]"#,
            r#"{"errcode":40014"#,
            r#"{"errcode":40014} x"#,
            "40014",
            "",
        ] {
            assert_eq!(of_json(json.as_bytes()), None, "{json}");
        }
        assert_eq!(of_json(br#"{"errcode":640014}"#), Some(640_014));
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let deep = format!(
            r#"{{"a":{}{},"errcode":40014}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(of_json(deep.as_bytes()), Some(40014));
        let deep = format!(r#"{{"errcode":{}"#, r#"{"errcode":"#.repeat(100_000));
        assert_eq!(of_json(deep.as_bytes()), None);
    }
}
