//! Reading what an issuer answers: a token, or why there is none.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::errcode::{self, without_bom};
use crate::redact::redact;
use crate::token::{MAX_LIFETIME, is_blank};
use crate::{Error, FetchedToken};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How much of an errmsg is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

#[derive(Deserialize)]
struct Answer {
    errmsg: Option<Value>,
    #[serde(default, deserialize_with = "wiped_when_dropped")]
    access_token: Option<SecretString>,
    expires_in: Option<Value>,
}

fn wiped_when_dropped<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    let value = Option::<String>::deserialize(deserializer)?;
    Ok(value.map(SecretString::from))
}

/// What is wrong with an answer of `gettoken`. The body is never quoted, since it may contain a token.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("gettoken returned HTTP {0}")]
    Status(StatusCode),
    #[error("gettoken returned {0} bytes that are not the expected JSON: check the base URL")]
    NotJson(usize),
    #[error("gettoken returned more than {LONGEST_ANSWER} bytes: check the base URL")]
    TooLong,
    #[error("gettoken returned no access_token")]
    NoToken,
    #[error("gettoken returned an empty access_token")]
    EmptyToken,
    #[error("gettoken returned no expires_in, or its value is not a whole number of seconds")]
    NoLifetime,
}

/// Reads the answer to a call that was made with this secret.
pub(super) async fn read(response: Response, secret: &str) -> Result<FetchedToken, Error> {
    let asked = retry_after(response.headers());
    read_answer(response, secret)
        .await
        .map_err(|error| match asked {
            Some(time) => error.with_retry_after(time),
            None => error,
        })
}

async fn read_answer(response: Response, secret: &str) -> Result<FetchedToken, Error> {
    let status = response.status();
    if may_pass(status) {
        return Err(Error::transient(Unusable::Status(status)));
    }
    if !status.is_success() {
        return Err(Error::refused(Unusable::Status(status)));
    }
    let body = read_body(response, secret).await?;
    token_in(&body, secret)
}

async fn read_body(mut response: Response, secret: &str) -> Result<BytesMut, Error> {
    let mut body = BytesMut::new();
    let failed = |error| Error::transient_without(secret, error);
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LONGEST_ANSWER {
            return Err(Error::refused(Unusable::TooLong));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn token_in(body: &[u8], secret: &str) -> Result<FetchedToken, Error> {
    let answer = serde_json::from_slice::<Answer>(without_bom(body));
    let errcode = errcode::of_json(body).filter(|errcode| *errcode != 0);
    let answer = match (answer, errcode) {
        (Ok(answer), _) => answer,
        (Err(_quotes_the_body), Some(errcode)) => return Err(Error::api(errcode, "")),
        (Err(_quotes_the_body), None) => {
            return Err(Error::refused(Unusable::NotJson(body.len())));
        }
    };
    match errcode {
        None => {}
        Some(errcode) => {
            let token = answer.access_token.as_ref();
            let secrets = [Some(secret), token.map(ExposeSecret::expose_secret)];
            let errmsg = answer.errmsg.as_ref().and_then(Value::as_str);
            let errmsg = redact(errmsg.unwrap_or_default(), secrets.into_iter().flatten());
            let errmsg: String = errmsg.chars().take(LONGEST_MESSAGE).collect();
            return Err(Error::api(errcode, errmsg));
        }
    }
    let value = match answer.access_token {
        None => return Err(Error::refused(Unusable::NoToken)),
        Some(value) if is_blank(value.expose_secret()) => {
            return Err(Error::refused(Unusable::EmptyToken));
        }
        Some(value) => value,
    };
    let expires_in = answer.expires_in.as_ref().and_then(lifetime);
    let expires_in = expires_in.ok_or_else(|| Error::refused(Unusable::NoLifetime))?;
    Ok(FetchedToken::from_secret(value, expires_in))
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
