use std::time::{Duration, Instant};

use http::Extensions;
use http_body_util::BodyExt;
use reqwest::{Body, Request, Response};
use reqwest_middleware::{Middleware, Next, Result};
use reqwest_wecom::async_trait;
use tokio::sync::Mutex;

use super::TOKEN;

/// What many programs have: a lock on the way of each request, the request copied, the answer's body parsed whole.
pub struct Naive {
    cached: Mutex<Option<(String, Instant)>>,
    token: String,
}

impl Naive {
    pub fn new(token: &str) -> Self {
        Self {
            cached: Mutex::default(),
            token: token.to_owned(),
        }
    }

    async fn token(&self) -> String {
        let mut cached = self.cached.lock().await;
        match &*cached {
            Some((token, until)) if Instant::now() < *until => token.clone(),
            _ => {
                let until = Instant::now() + Duration::from_secs(7200);
                *cached = Some((self.token.clone(), until));
                self.token.clone()
            }
        }
    }
}

impl Default for Naive {
    fn default() -> Self {
        Self::new(TOKEN)
    }
}

/// Puts the token on a request by hand.
pub fn append(request: &mut Request, token: &str) {
    let mut query = request.url_mut().query_pairs_mut();
    query.append_pair("access_token", token);
}

#[async_trait]
impl Middleware for Naive {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let token = self.token().await;
        let again = request.try_clone();
        append(&mut request, &token);
        let response = next.clone().run(request, extensions).await?;
        let (parts, body) = http::Response::<Body>::from(response).into_parts();
        let body = body.collect().await?.to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        if answer["errcode"] == 40014
            && let Some(mut again) = again
        {
            *self.cached.lock().await = None;
            let token = self.token().await;
            append(&mut again, &token);
            return next.run(again, extensions).await;
        }
        Ok(http::Response::from_parts(parts, Body::from(body)).into())
    }
}
