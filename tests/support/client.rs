//! The parts of the crate, put together for a stand-in.

use std::time::{Duration, SystemTime};

use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, CorpToken, Credentials, Error, ErrorKind, GetToken,
    StoreOnly, SuiteTickets, SuiteToken, TokenKey, TokenManager,
};

use super::{CORP, OTHER_SECRET, Qyapi, SECRET, SUITE, suite};

/// The first app of [`CORP`].
pub fn app() -> Credentials {
    Credentials::new(CORP, SECRET)
}

/// The second app of [`CORP`].
pub fn other_app() -> Credentials {
    Credentials::new(CORP, OTHER_SECRET)
}

/// The key under which a store keeps the token of an app of the public API.
pub fn key(credentials: &Credentials) -> TokenKey {
    let manager = TokenManager::builder(StoreOnly::default()).build();
    manager.key(credentials)
}

/// A token that was fetched just now.
pub fn token(value: impl Into<String>, lifetime: Duration) -> AccessToken {
    let now = SystemTime::now();
    AccessToken::from_parts(value, now, now + lifetime)
}

/// The text of an error and of each of its sources.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let sources = std::iter::successors(Some(error), |&error| error.source());
    let texts: Vec<_> = sources.map(ToString::to_string).collect();
    texts.join(": ")
}

/// Whether an error of the crate is of this kind or has one of this kind among its sources.
pub fn is_kind(error: &(dyn std::error::Error + 'static), kind: ErrorKind) -> bool {
    Error::find(error).is_some_and(|error| error.kind() == kind)
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

    /// The key under which a store keeps the token of an app of this stand-in.
    pub fn key(&self, credentials: &Credentials) -> TokenKey {
        self.manager().key(credentials)
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

/// What it takes to use it as a service provider.
impl Qyapi {
    /// The tickets of [`SUITE`] in memory, with the good one.
    pub async fn tickets(&self) -> SuiteTickets {
        let tickets = SuiteTickets::new([SUITE]);
        self.set_ticket("ticket-1");
        tickets.put(SUITE, "ticket-1", 1).await.unwrap();
        tickets
    }

    /// Its `get_suite_token`.
    pub fn suite_source(&self, tickets: &SuiteTickets) -> SuiteToken {
        SuiteToken::new(self.client(), tickets.clone()).base_url(self.base_url())
    }

    /// A client that sends requests as [`suite`], with the tokens of this manager.
    pub fn as_suite(&self, manager: &TokenManager) -> ClientWithMiddleware {
        let middleware = AccessTokenMiddleware::builder(manager.clone()).credentials(suite());
        with_tokens(self.client(), middleware.build())
    }

    /// Its `get_corp_token`, with the suite tokens of this manager.
    pub fn corp_source(&self, suites: &TokenManager) -> CorpToken {
        CorpToken::new(self.as_suite(suites)).base_url(self.base_url())
    }

    /// A manager of suite tokens, and one of customers' tokens.
    pub async fn provider_stack(&self) -> (TokenManager, TokenManager) {
        let suites = TokenManager::builder(self.suite_source(&self.tickets().await)).build();
        let customers = TokenManager::builder(self.corp_source(&suites)).build();
        (suites, customers)
    }
}
