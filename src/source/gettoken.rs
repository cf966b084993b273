use std::fmt::{self, Debug};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use reqwest::{Body, Method, Request, StatusCode, Url};
use reqwest_middleware::ClientWithMiddleware;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Audience, TokenSource};
use crate::errcode;
use crate::redact::{self, OfALayer, redact};
use crate::token::MAX_LIFETIME;
use crate::{AccessToken, BoxError, Credentials, Error};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How much of an errmsg is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

/// Asks WeCom itself for tokens, with `GET {base URL}/cgi-bin/gettoken`
/// (<https://developer.work.weixin.qq.com/document/path/91039>).
///
/// It needs [`Credentials`] with a secret. The lifetime of a token is counted from before the request was sent.
///
/// A client with layers of its own can be given, but those are below this crate: what they log shows the secret, which
/// travels in the URL.
#[derive(Clone)]
pub struct GetToken {
    http: ClientWithMiddleware,
    audience: Audience,
}

impl GetToken {
    /// Asks `https://qyapi.weixin.qq.com` through this client: a [`reqwest::Client`], or one with layers.
    ///
    /// Build the client with `.referer(false)`: else a redirect to another host takes the secret along in a header.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            http: http.into(),
            audience: Audience::default(),
        }
    }

    /// Asks a private deployment or a gateway. The base URL holds what stands before `/cgi-bin/`. It decides for both: where
    /// `gettoken` is asked, and which requests are given the token.
    ///
    /// ```
    /// # use reqwest_wecom::GetToken;
    /// # fn f(http: reqwest::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let source = GetToken::new(http).base_url("https://wecom.internal:7443/proxy".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.audience = Audience::new(base_url);
        self
    }

    fn request(&self, corp_id: &str, secret: &str) -> Result<Request, Error> {
        let mut url = self
            .audience
            .base_url()
            .join("cgi-bin/gettoken")
            .map_err(|error| Error::refused(format!("the base URL cannot be used: {error}")))?;
        url.query_pairs_mut()
            .append_pair("corpid", corp_id)
            .append_pair("corpsecret", secret);
        Ok(Request::new(Method::GET, url))
    }
}

#[async_trait]
impl TokenSource for GetToken {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        let corp_id = credentials.corp_id();
        let secret = credentials.expose_secret().ok_or_else(|| Error::NoSecret {
            corp_id: corp_id.to_owned(),
        })?;
        let request = self.request(corp_id, secret)?;
        let fetched_at = SystemTime::now();
        let response = self
            .http
            .execute(request)
            .await
            .map_err(|error| not_sent(error, secret))?;
        let status = response.status();
        let body = Limited::new(Body::from(response), LONGEST_ANSWER)
            .collect()
            .await
            .map_err(not_read)?
            .to_bytes();
        let (value, lifetime) = read_answer(status, &body, secret)?;
        Ok(AccessToken::from_parts(
            value,
            fetched_at,
            fetched_at + lifetime,
        ))
    }

    fn audience(&self) -> Audience {
        self.audience.clone()
    }
}

impl Debug for GetToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetToken")
            .field("base_url", &self.audience.base_url().as_str())
            .finish_non_exhaustive()
    }
}

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

/// What is wrong with an answer of `gettoken`. The body is never quoted, since it may hold a token.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("gettoken answered HTTP {0}")]
    Status(StatusCode),
    #[error("gettoken answered {0} bytes that are not the JSON it should: is the base URL right?")]
    NotJson(usize),
    #[error("gettoken answered more than {LONGEST_ANSWER} bytes: is the base URL right?")]
    TooLong,
    #[error("gettoken answered without an access_token")]
    NoToken,
    #[error("gettoken answered an empty access_token")]
    EmptyToken,
    #[error("gettoken answered without an expires_in, or with one that is no whole number")]
    NoLifetime,
    #[error("gettoken answered expires_in {0}, which is no believable lifetime in seconds")]
    Lifetime(i128),
}

fn read_answer(
    status: StatusCode,
    body: &[u8],
    secret: &str,
) -> Result<(SecretString, Duration), Error> {
    if status.is_server_error() {
        return Err(Error::transient(Unusable::Status(status)));
    }
    if !status.is_success() {
        return Err(Error::refused(Unusable::Status(status)));
    }
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_quotes_the_body| Error::refused(Unusable::NotJson(body.len())))?;
    match errcode::of_json(body) {
        None | Some(0) => {}
        Some(errcode) => {
            let token = answer.access_token.as_ref();
            let secrets = [Some(secret), token.map(ExposeSecret::expose_secret)];
            let errmsg = answer.errmsg.as_ref().and_then(Value::as_str);
            let errmsg = redact(errmsg.unwrap_or_default(), secrets.into_iter().flatten());
            return Err(Error::Errcode {
                errcode,
                errmsg: errmsg.chars().take(LONGEST_MESSAGE).collect(),
            });
        }
    }
    let value = match answer.access_token {
        None => return Err(Error::refused(Unusable::NoToken)),
        Some(value) if value.expose_secret().is_empty() => {
            return Err(Error::refused(Unusable::EmptyToken));
        }
        Some(value) => value,
    };
    let seconds = answer
        .expires_in
        .as_ref()
        .and_then(whole_number)
        .ok_or_else(|| Error::refused(Unusable::NoLifetime))?;
    let lifetime = u64::try_from(seconds).map(Duration::from_secs);
    match lifetime {
        Ok(lifetime) if !lifetime.is_zero() && lifetime <= MAX_LIFETIME => Ok((value, lifetime)),
        _ => Err(Error::refused(Unusable::Lifetime(seconds))),
    }
}

fn whole_number(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i128(),
        Value::String(digits) => digits.parse().ok(),
        _ => None,
    }
}

fn not_read(error: BoxError) -> Error {
    if error.is::<LengthLimitError>() {
        Error::refused(Unusable::TooLong)
    } else {
        Error::transient(error)
    }
}

fn not_sent(error: reqwest_middleware::Error, secret: &str) -> Error {
    let lasting = |error: &reqwest::Error| error.is_builder() || error.is_redirect();
    match error {
        reqwest_middleware::Error::Reqwest(mut error) => {
            // A redirect may have put it where it outlives the query.
            if let Some(url) = error.url_mut() {
                redact::take_out(url, secret);
            }
            if lasting(&error) {
                Error::refused(error)
            } else {
                Error::transient(error)
            }
        }
        layered => {
            let failure = OfALayer::new(&layered, secret);
            match redact::request_error(&layered) {
                Some(error) if lasting(error) => Error::refused(failure),
                _ => Error::transient(failure),
            }
        }
    }
}
