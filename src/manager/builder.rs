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
                early_renewal: Duration::from_secs(5 * 60),
                local_copy: None,
                limits: Limits::default(),
                renewal_budget: 10,
            },
            clock: Clock::default(),
        }
    }

    /// Where tokens are kept. Default: a [`MokaStore`] of its own.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// How long before it expires a token is renewed in the background; at most a tenth of its lifetime. Default: 5 minutes. Zero: not
    /// before it has expired.
    pub fn early_renewal(mut self, before: Duration) -> Self {
        self.settings.early_renewal = before;
        self
    }

    /// How long a local copy may serve before the store is asked again whether another process has put a newer token there.
    ///
    /// Default: until it needs renewal. Zero: the store is asked for each request.
    pub fn local_copy(mut self, limit: Duration) -> Self {
        self.settings.local_copy = Some(limit);
        self
    }

    /// How long one try of a fetch may take. Default: 5 s.
    pub fn fetch_timeout(mut self, limit: Duration) -> Self {
        self.settings.limits.one_try = limit;
        self
    }

    /// How long all tries of a fetch may take together; at most an hour. Default: 8 s.
    pub fn fetch_limit(mut self, limit: Duration) -> Self {
        self.settings.limits.all_tries = limit.min(LONGEST_FETCH);
        self
    }

    /// How many fetches for one key rejections by the API may cause in a row; one comes back every 10 s. Default: 10.
    pub fn renewal_budget(mut self, fetches: u32) -> Self {
        self.settings.renewal_budget = fetches;
        self
    }

    /// The manager.
    pub fn build(self) -> TokenManager {
        TokenManager {
            shared: Arc::new(Shared {
                source: self.source,
                store: self.store.unwrap_or_else(|| Arc::new(MokaStore::new())),
                settings: self.settings,
                clock: self.clock,
                slots: Slots::default(),
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
