//! A call to an issuer of tokens: how it is sent, and what its failures mean.

use std::fmt::{self, Debug};

use http::Extensions;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Request, Url};
use reqwest_middleware::ClientWithMiddleware;
use serde_json::Value;

use super::{Audience, answer};
use crate::sent_tokens::SentTokens;
use crate::{
    AccessToken, Credentials, Error, ErrorKind, FetchedToken, RejectionScope, TokenKind, redact,
};

/// An API that issues one kind of token, and the client that calls it.
#[derive(Clone)]
pub(super) struct Issuer {
    http: ClientWithMiddleware,
    audience: Audience,
}

/// One call of an issuer, apart from what it sends.
pub(super) struct Call<'a> {
    /// The path below the base URL.
    pub(super) path: &'static str,
    /// The field of the answer that has the token.
    pub(super) field: &'static str,
    /// What no error may show, beside a token that the client adds.
    pub(super) secrets: &'a [&'a str],
    /// If the client adds another token to the call: what a rejection of that token is about.
    pub(super) scope: Option<RejectionScope>,
}

impl Call<'_> {
    /// What errors call it.
    pub(super) fn name(&self) -> &'static str {
        self.path.strip_prefix("cgi-bin/").unwrap_or(self.path)
    }
}

impl Issuer {
    /// The public API of WeCom.
    pub(super) fn new(http: impl Into<ClientWithMiddleware>, kind: TokenKind) -> Self {
        Self {
            http: http.into(),
            audience: Audience::default().with_kind(kind),
        }
    }

    pub(super) fn set_base_url(&mut self, base_url: Url) {
        let kind = self.audience.kind().clone();
        self.audience = Audience::new(base_url).with_kind(kind);
    }

    pub(super) fn audience(&self) -> &Audience {
        &self.audience
    }

    /// Asks for a token with GET and these parameters.
    pub(super) async fn get(
        &self,
        call: &Call<'_>,
        query: &[(&str, &str)],
    ) -> Result<FetchedToken, Error> {
        self.get_with(Extensions::new(), call, query).await
    }

    /// The same with the access token of this app, which the client adds.
    pub(super) async fn get_as(
        &self,
        app: Credentials,
        call: &Call<'_>,
        query: &[(&str, &str)],
    ) -> Result<FetchedToken, Error> {
        let mut extensions = Extensions::new();
        extensions.insert(app);
        self.get_with(extensions, call, query).await
    }

    async fn get_with(
        &self,
        extensions: Extensions,
        call: &Call<'_>,
        query: &[(&str, &str)],
    ) -> Result<FetchedToken, Error> {
        let mut url = self.url(call)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = Request::new(Method::GET, url);
        self.send(call, request, extensions).await
    }

    /// Asks for a token with POST and this JSON.
    pub(super) async fn post(&self, call: &Call<'_>, body: &Value) -> Result<FetchedToken, Error> {
        let mut request = Request::new(Method::POST, self.url(call)?);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        *request.body_mut() = Some(body.to_string().into());
        self.send(call, request, Extensions::new()).await
    }

    fn url(&self, call: &Call<'_>) -> Result<Url, Error> {
        let url = self.audience.base_url().join(call.path);
        url.map_err(|error| Error::refused(format!("the base URL cannot be used: {error}")))
    }

    async fn send(
        &self,
        call: &Call<'_>,
        request: Request,
        mut extensions: Extensions,
    ) -> Result<FetchedToken, Error> {
        let sent_tokens = SentTokens::default();
        extensions.insert(sent_tokens.clone());
        if let Some(scope) = &call.scope {
            extensions.insert(scope.clone());
        }
        let sent = self
            .http
            .execute_with_extensions(request, &mut extensions)
            .await;
        let tokens = sent_tokens.take();
        let tokens = tokens.iter().map(AccessToken::expose_secret);
        let secrets: Vec<_> = call.secrets.iter().copied().chain(tokens).collect();
        let response = sent.map_err(|error| not_sent(error, call, &secrets))?;
        answer::read(response, call, &secrets).await
    }
}

fn not_sent(error: reqwest_middleware::Error, call: &Call<'_>, secrets: &[&str]) -> Error {
    // A middleware of this crate has no token for the call, so it can't be made until there is one.
    if let Some(error) = Error::find(&error) {
        return match error.kind() {
            // It is about the credentials of that middleware, and not about those of this source.
            ErrorKind::NoSecret if call.scope.is_some() => Error::refused(error.clone()),
            _ => error.clone(),
        };
    }
    let lasting = |error: &reqwest::Error| error.is_builder() || error.is_redirect();
    if redact::request_error(&error).is_some_and(lasting) {
        Error::refused_without(secrets, error)
    } else {
        Error::transient_without(secrets, error)
    }
}

impl Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(self.audience.base_url().as_str(), f)
    }
}
