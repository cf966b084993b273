use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use super::slots::Slots;
use super::{Settings, Shared, TokenManager};
use crate::clock::Clock;
use crate::source::{Gate, Limits, StoreHealth};
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

    /// How long before it expires a token is refreshed in the background. Default: 5 minutes, at most a tenth of the token's lifetime.
    ///
    /// Zero turns this off: the token is refreshed when it has expired.
    pub fn refresh_ahead(mut self, before: Duration) -> Self {
        self.settings.refresh_ahead = before;
        self
    }

    /// How long a local copy serves before the manager asks the store again, in case another process has put a newer token there.
    ///
    /// Default: until it needs a refresh. With zero, each request asks the store.
    pub fn local_copy(mut self, limit: Duration) -> Self {
        self.settings.local_copy = Some(limit);
        self
    }

    /// How long all tries of one fetch may take together. Default: 8 s, at most an hour. One try may take 5 s of it.
    pub fn fetch_limit(mut self, limit: Duration) -> Self {
        self.settings.limits = Limits::of(limit.min(LONGEST_FETCH));
        self
    }

    /// How many fetches in a row rejections by the API may cause for one key. Default: 10. One is added every 10 s.
    pub fn refresh_budget(mut self, fetches: u32) -> Self {
        self.settings.refresh_budget = fetches;
        self
    }

    /// Builds the manager.
    pub fn build(self) -> TokenManager {
        TokenManager {
            shared: Arc::new(Shared {
                slots: Slots::new(self.source.audience()),
                fetches: self.source.fetches(),
                source: self.source,
                store: self.store.unwrap_or_else(|| Arc::new(MokaStore::new())),
                settings: self.settings,
                clock: self.clock,
                gate: Gate::new(),
                store_health: StoreHealth::default(),
                was_futile: Default::default(),
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
