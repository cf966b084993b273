//! Reading what an issuer answers: a token, or why there is none.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::issuer::Call;
use crate::errcode::{self, without_bom};
use crate::redact::redact;
use crate::token::{MAX_LIFETIME, is_blank};
use crate::{Error, FetchedToken};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How much of an errmsg is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

/// What is wrong with an answer. The body is never quoted, since it may contain a token.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0} returned HTTP {1}")]
    Status(&'static str, StatusCode),
    #[error("{0} returned {1} bytes that are not the expected JSON: check the base URL")]
    NotJson(&'static str, usize),
    #[error("{0} returned more than {LONGEST_ANSWER} bytes: check the base URL")]
    TooLong(&'static str),
    #[error("{0} returned no {1}")]
    NoToken(&'static str, &'static str),
    #[error("{0} returned an empty {1}")]
    EmptyToken(&'static str, &'static str),
    #[error("{0} returned no expires_in, or its value is not a whole number of seconds")]
    NoLifetime(&'static str),
}

/// Reads the answer to this call. No error shows these secrets.
pub(super) async fn read(
    response: Response,
    call: &Call<'_>,
    secrets: &[&str],
) -> Result<FetchedToken, Error> {
    let asked = retry_after(response.headers());
    read_answer(response, call, secrets)
        .await
        .map_err(|error| match asked {
            Some(time) => error.with_retry_after(time),
            None => error,
        })
}

async fn read_answer(
    response: Response,
    call: &Call<'_>,
    secrets: &[&str],
) -> Result<FetchedToken, Error> {
    let status = response.status();
    let unusable = Unusable::Status(call.name(), status);
    if may_pass(status) {
        return Err(Error::transient(unusable));
    }
    if !status.is_success() {
        return Err(Error::refused(unusable));
    }
    let body = read_body(response, call, secrets).await?;
    token_in(&body, call, secrets)
}

async fn read_body(
    mut response: Response,
    call: &Call<'_>,
    secrets: &[&str],
) -> Result<BytesMut, Error> {
    let mut body = BytesMut::new();
    let failed = |error| Error::transient_without(secrets, error);
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(Error::refused(Unusable::TooLong(call.name())));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn token_in(body: &[u8], call: &Call<'_>, secrets: &[&str]) -> Result<FetchedToken, Error> {
    let (name, field) = (call.name(), call.field);
    let answer = Answer::of_json(body, field);
    let errcode = errcode::of_json(body).filter(|errcode| *errcode != 0);
    let answer = match (answer, errcode) {
        (Ok(answer), _) => answer,
        (Err(_quotes_the_body), Some(errcode)) => return Err(Error::api(errcode, "")),
        (Err(_quotes_the_body), None) => {
            return Err(Error::refused(Unusable::NotJson(name, body.len())));
        }
    };
    if let Some(errcode) = errcode {
        return Err(Error::api(errcode, answer.errmsg_without(secrets)));
    }
    let value = match answer.token {
        None => return Err(Error::refused(Unusable::NoToken(name, field))),
        Some(value) if is_blank(value.expose_secret()) => {
            return Err(Error::refused(Unusable::EmptyToken(name, field)));
        }
        Some(value) => value,
    };
    let expires_in = answer.expires_in.as_ref().and_then(lifetime);
    let expires_in = expires_in.ok_or_else(|| Error::refused(Unusable::NoLifetime(name)))?;
    Ok(FetchedToken::from_secret(value, expires_in))
}

#[derive(Default)]
struct Answer {
    errmsg: Option<Value>,
    token: Option<SecretString>,
    expires_in: Option<Value>,
}

impl Answer {
    fn of_json(json: &[u8], field: &str) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_slice(without_bom(json));
        let answer = json.deserialize_map(TokenIn(field))?;
        json.end()?;
        Ok(answer)
    }

    fn errmsg_without(&self, secrets: &[&str]) -> String {
        let token = self.token.as_ref().map(ExposeSecret::expose_secret);
        let errmsg = self.errmsg.as_ref().and_then(Value::as_str);
        let errmsg = redact(
            errmsg.unwrap_or_default(),
            secrets.iter().copied().chain(token),
        );
        errmsg.chars().take(LONGEST_MESSAGE).collect()
    }
}

/// Reads an answer whose token is in the field of this name.
struct TokenIn<'a>(&'a str);

impl<'de> Visitor<'de> for TokenIn<'_> {
    type Value = Answer;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer, A::Error> {
        let mut answer = Answer::default();
        while let Some(name) = map.next_key::<String>()? {
            match &*name {
                "errmsg" => answer.errmsg = map.next_value()?,
                "expires_in" => answer.expires_in = map.next_value()?,
                name if name == self.0 => {
                    // `SecretString` wipes the value when it is dropped.
                    answer.token = map.next_value::<Option<String>>()?.map(SecretString::from);
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(answer)
    }
}

/// Whether the same call may succeed soon.
fn may_pass(status: StatusCode) -> bool {
    let transient = [
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::TOO_EARLY,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    status.is_server_error() || transient.contains(&status)
}

/// A whole number of seconds, in whichever way it is written. Zero if it is negative, and never more than a token may live.
fn lifetime(expires_in: &Value) -> Option<Duration> {
    let seconds = match expires_in {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let is_whole = seconds.is_finite() && seconds.fract() == 0.0;
    let seconds = seconds.clamp(0.0, MAX_LIFETIME.as_secs_f64());
    is_whole.then(|| Duration::from_secs_f64(seconds))
}

/// The time that the header `Retry-After` asks for, which is a number of seconds or a date by the clock of the server.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let date = |text| httpdate::parse_http_date(text).ok();
    let asked = text(RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = text(DATE).and_then(date).unwrap_or_else(SystemTime::now);
    Some(date(asked)?.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lifetime_is_a_whole_number_in_whichever_way_it_is_written() {
        for (expires_in, seconds) in [
            (json!(7200), 7200),
            (json!(7200.0), 7200),
            (json!("7200"), 7200),
            (json!(" 7200 "), 7200),
            (json!("7200.0"), 7200),
            (json!(0), 0),
            (json!(-1), 0),
            (json!(31 * 24 * 60 * 60), MAX_LIFETIME.as_secs()),
            (json!(u64::MAX), MAX_LIFETIME.as_secs()),
            (json!(1e300), MAX_LIFETIME.as_secs()),
        ] {
            assert_eq!(
                lifetime(&expires_in),
                Some(Duration::from_secs(seconds)),
                "{expires_in}"
            );
        }
        for none in [
            json!(7200.5),
            json!("soon"),
            json!(""),
            json!("NaN"),
            json!("inf"),
            json!("1e999"),
            json!([7200]),
            json!(null),
            json!(true),
        ] {
            assert_eq!(lifetime(&none), None, "{none}");
        }
    }

    #[test]
    fn retry_after_is_a_number_or_a_date_by_the_clock_of_the_server() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let asked = |retry_after, date: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(retry_after));
            if let Some(date) = date {
                headers.insert(DATE, HeaderValue::from_static(date));
            }
            super::retry_after(&headers)
        };
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(asked("3", None), secs(3));
        assert_eq!(asked(" 3 ", None), secs(3));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:57 GMT", Some(date)), secs(20));
        assert_eq!(asked("Sun, 06 Nov 1994 08:49:17 GMT", Some(date)), secs(0));
        assert_eq!(asked(date, None), secs(0));
        for unreadable in ["", "-1", "1.5", "soon", "99999999999999999999"] {
            assert_eq!(asked(unreadable, None), None, "{unreadable}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new()), None);
    }
}
