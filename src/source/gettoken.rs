use std::fmt::{self, Debug};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use reqwest::{Method, Request, Response, StatusCode, Url};
use reqwest_middleware::ClientWithMiddleware;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Audience, FetchRequest, TokenSource};
use crate::errcode;
use crate::redact::{self, redact};
use crate::token::MAX_LIFETIME;
use crate::{Error, FetchedToken};

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 64 * 1024;

/// How much of an errmsg is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

/// Fetches tokens from WeCom, with `GET {base URL}/cgi-bin/gettoken`
/// (<https://developer.work.weixin.qq.com/document/path/91039>).
///
/// It needs [`Credentials`](crate::Credentials) with a secret.
///
/// You can pass a client with other middleware. The secret travels in the URL, so that middleware sees it and may log it.
///
/// # Errors
///
/// An errcode becomes an [`Error::api`]. A lost connection, a timeout and HTTP 5xx are [transient](Error::transient). Any other HTTP
/// status, and an answer without a usable token, is [refused](Error::refused).
#[derive(Clone)]
pub struct GetToken {
    http: ClientWithMiddleware,
    audience: Audience,
}

impl GetToken {
    /// Calls `gettoken` at `https://qyapi.weixin.qq.com` through this client: a [`reqwest::Client`] or a [`ClientWithMiddleware`].
    ///
    /// Build the client with `.referer(false)`. Otherwise `reqwest` sends the whole URL, secret included, as `Referer` to the target of a
    /// redirect.
    pub fn new(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            http: http.into(),
            audience: Audience::default(),
        }
    }

    /// Sets the base URL of a private deployment or a gateway: everything before `/cgi-bin/`. Default: `https://qyapi.weixin.qq.com/`.
    ///
    /// It decides where `gettoken` is called and which requests get the token.
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

    fn request(&self, id: &str, secret: &str) -> Result<Request, Error> {
        let mut url = self
            .audience
            .base_url()
            .join("cgi-bin/gettoken")
            .map_err(|error| Error::refused(format!("the base URL cannot be used: {error}")))?;
        url.query_pairs_mut()
            .append_pair("corpid", id)
            .append_pair("corpsecret", secret);
        Ok(Request::new(Method::GET, url))
    }
}

#[async_trait]
impl TokenSource for GetToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let credentials = request.credentials();
        let id = credentials.id();
        let secret = credentials
            .expose_secret()
            .ok_or_else(|| Error::no_secret(id))?;
        let request = self.request(id, secret)?;
        let response = self
            .http
            .execute(request)
            .await
            .map_err(|error| not_sent(error, secret))?;
        let status = response.status();
        let body = read(response, secret).await?;
        read_answer(status, &body, secret)
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
    #[error("gettoken returned no expires_in, or one that is not a whole number")]
    NoLifetime,
    #[error("gettoken returned expires_in {0}, which is not a plausible lifetime in seconds")]
    Lifetime(i128),
}

fn read_answer(status: StatusCode, body: &[u8], secret: &str) -> Result<FetchedToken, Error> {
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
            let errmsg: String = errmsg.chars().take(LONGEST_MESSAGE).collect();
            return Err(Error::api(errcode, errmsg));
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
    match u64::try_from(seconds).map(Duration::from_secs) {
        Ok(lifetime) if !lifetime.is_zero() && lifetime <= MAX_LIFETIME => {
            Ok(FetchedToken::from_secret(value, lifetime))
        }
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

async fn read(mut response: Response, secret: &str) -> Result<BytesMut, Error> {
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

fn not_sent(error: reqwest_middleware::Error, secret: &str) -> Error {
    let lasting = |error: &reqwest::Error| error.is_builder() || error.is_redirect();
    if redact::request_error(&error).is_some_and(lasting) {
        Error::refused_without(secret, error)
    } else {
        Error::transient_without(secret, error)
    }
}
