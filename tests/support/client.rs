//! The parts of the crate, put together for a stand-in.

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wecom::{AccessTokenMiddleware, Credentials, GetToken, TokenManager};

use super::{CORP, OTHER_SECRET, Qyapi, SECRET};

/// The first app of [`CORP`].
pub fn app() -> Credentials {
    Credentials::new(CORP, SECRET)
}

/// The second app of [`CORP`].
pub fn other_app() -> Credentials {
    Credentials::new(CORP, OTHER_SECRET)
}

/// A client with the middleware alone.
pub fn with_tokens(
    http: reqwest::Client,
    middleware: AccessTokenMiddleware,
) -> ClientWithMiddleware {
    ClientBuilder::new(http).with(middleware).build()
}

/// What it takes to use it with tokens.
impl Qyapi {
    /// Its `gettoken`.
    pub fn source(&self) -> GetToken {
        GetToken::new(self.client()).base_url(self.base_url())
    }

    /// A manager of its tokens, with the default settings.
    pub fn manager(&self) -> TokenManager {
        TokenManager::builder(self.source()).build()
    }

    /// A client that sends requests as [`app`], with a manager of its own.
    pub fn wecom(&self) -> ClientWithMiddleware {
        self.wecom_on(&self.manager())
    }

    /// A client that sends requests as [`app`], with the tokens of this manager.
    pub fn wecom_on(&self, manager: &TokenManager) -> ClientWithMiddleware {
        with_tokens(self.client(), self.middleware(manager))
    }

    /// The middleware as [`app`].
    pub fn middleware(&self, manager: &TokenManager) -> AccessTokenMiddleware {
        AccessTokenMiddleware::builder(manager.clone())
            .credentials(app())
            .build()
    }

    /// The same when its token has been fetched: counts start from nought.
    pub async fn warm_wecom(&self) -> ClientWithMiddleware {
        let client = self.wecom();
        self.warm(&client).await;
        client
    }

    /// Gets a client its token, and forgets how.
    pub async fn warm(&self, client: &ClientWithMiddleware) {
        let answer = client.get(self.url("agent/get")).send().await.unwrap();
        assert!(answer.text().await.unwrap().contains(r#""errcode":0"#));
        self.forget_received();
    }
}
