use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next, Result};
use reqwest_wecom::async_trait;

/// Does nothing: what it costs to have a middleware at all.
pub struct Idle;

#[async_trait]
impl Middleware for Idle {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        next.run(request, extensions).await
    }
}
