use http::Extensions;
use reqwest::{Body, Request, Response, ResponseBuilderExt};
use reqwest_middleware::{Middleware, Next, Result};
use reqwest_wecom::async_trait;

use super::{TOKEN, append};

/// The least that keeps a token out of `Response::url`: the token on the request, the caller's URL on the answer. It caches nothing,
/// looks at nothing and sends nothing again.
pub struct Least(pub String);

impl Default for Least {
    fn default() -> Self {
        Self(TOKEN.to_owned())
    }
}

#[async_trait]
impl Middleware for Least {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let url = request.url().clone();
        append(&mut request, &self.0);
        let response = next.run(request, extensions).await?;
        let (mut parts, body) = http::Response::<Body>::from(response).into_parts();
        let carrier = http::Response::builder().url(url).body(()).unwrap();
        parts.extensions.extend(carrier.into_parts().0.extensions);
        Ok(http::Response::from_parts(parts, body).into())
    }
}
