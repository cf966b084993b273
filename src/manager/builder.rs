use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use super::slots::Slots;
use super::{Settings, Shared, TokenManager};
use crate::clock::Clock;
use crate::fetch::{Gate, Limits};
use crate::fleet::Fleet;
use crate::{MokaStore, TokenSource, TokenStore};

/// So that sums of times cannot overflow.
const LONGEST_FETCH: Duration = Duration::from_secs(60 * 60);

/// Builds a [`TokenManager`]: see [`TokenManager::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenManagerBuilder {
    pub(super) source: Arc<dyn TokenSource>,
    pub(super) store: Option<Arc<dyn TokenStore>>,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
}

impl TokenManagerBuilder {
    pub(super) fn new(source: impl TokenSource) -> Self {
        Self {
            source: Arc::new(source),
            store: None,
            settings: Settings {
                refresh_ahead: Duration::from_secs(5 * 60),
                local_copy: None,
                limits: Limits::default(),
                refresh_budget: 10,
            },
            clock: Clock::default(),
        }
    }

    /// Where tokens are kept. Default: a new [`MokaStore`].
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How long before a token expires the manager refreshes it in the background. Default: 5 minutes.
    ///
    /// It is never more than a tenth of the token's lifetime. The first request in that time starts the refresh and does
    /// not wait for it. Zero turns this off: the first request after the token expires waits for a new one.
    pub fn refresh_ahead(mut self, before: Duration) -> Self {
        self.settings.refresh_ahead = before;
        self
    }

    /// How long the manager uses a local copy before it asks the store for a newer token. Default: until the token needs a refresh.
    ///
    /// Set it if another process may replace tokens in the store. With zero, each request asks the store, unless it has just failed. A request waits at most 50 ms for the
    /// answer, and then uses the local copy.
    pub fn local_copy(mut self, limit: Duration) -> Self {
        self.settings.local_copy = Some(limit);
        self
    }

    /// How long one fetch may take, retries included. Default: 8 s, at most 1 hour. One try takes at most 5 s of it.
    ///
    /// A whole refresh takes up to 2 s more, because it asks the store first, and another 2 s if the store is still writing the last token. A
    /// waiting caller takes a refresh for lost 1 s after that, and starts another one. Over a [`SharedDatabase`](crate::SharedDatabase), it takes up to 12 s
    /// more than the limit in place of the first 2 s, because processes wait for each other. To limit the whole wait of a request, set its
    /// `timeout`.
    pub fn fetch_limit(mut self, limit: Duration) -> Self {
        self.settings.limits = Limits::of(limit.min(LONGEST_FETCH));
        self
    }

    /// How many futile fetches in a row rejections may cause for one key. Default: 10. One comes back every 72 s.
    ///
    /// A fetch whose token the API accepts, on the request that is sent again, does not count. Each fetch that
    /// [`refresh_rejected`](TokenManager::refresh_rejected) causes counts, because the manager can't see whether the API accepts its token. Half of the budget, at most 5 fetches, is
    /// reserved for paths that have accepted a token in the last hour and have not rejected a new one. The manager notes which paths accept
    /// tokens only after some path has rejected a new one.
    ///
    /// When the budget is used up, requests get the API's own answer, and [`refresh_rejected`](TokenManager::refresh_rejected) fails with
    /// [`HeldBack`](crate::ErrorKind::HeldBack). With zero, rejections never cause a fetch. An operator's [`refresh`](TokenManager::refresh) has a
    /// budget of its own.
    pub fn refresh_budget(mut self, fetches: u32) -> Self {
        self.settings.refresh_budget = fetches;
        self
    }

    /// Builds the manager.
    pub fn build(self) -> TokenManager {
        let database = self.store.as_ref().and_then(|store| store.database());
        TokenManager {
            shared: Arc::new(Shared {
                fleet: database.map(|database| Arc::new(Fleet::new(database))),
                slots: Slots::new(self.source.audience(), self.clock.clone()),
                fetches: self.source.fetches(),
                source: self.source,
                is_shared: self.store.is_some(),
                store: self.store.unwrap_or_else(|| Arc::new(MokaStore::new())),
                settings: self.settings,
                gate: Gate::new(self.clock.clone()),
                clock: self.clock,
                store_health: Arc::default(),
                counters: Arc::default(),
            }),
        }
    }
}

impl Debug for TokenManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManagerBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
