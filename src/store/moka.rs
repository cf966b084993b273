use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use moka::Expiry;
use moka::sync::Cache;

use super::TokenStore;
use crate::{AccessToken, BoxError, TokenKey};

/// Keeps tokens in the memory of this process, in a [`moka`] cache. This is the default store.
///
/// Tokens are removed when they expire. Clones share their content, so several managers can use one store.
#[derive(Clone, Debug)]
pub struct MokaStore {
    tokens: Cache<TokenKey, AccessToken>,
}

impl MokaStore {
    /// An empty store.
    pub fn new() -> Self {
        Self {
            tokens: Cache::builder().expire_after(UntilItExpires).build(),
        }
    }
}

impl Default for MokaStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl TokenStore for MokaStore {
    async fn get(&self, key: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        Ok(self.tokens.get(key))
    }

    async fn put(&self, key: &TokenKey, token: &AccessToken) -> Result<(), BoxError> {
        self.tokens.insert(key.clone(), token.clone());
        Ok(())
    }
}

struct UntilItExpires;

impl UntilItExpires {
    fn time_left(token: &AccessToken) -> Duration {
        token
            .expires_at()
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}

impl Expiry<TokenKey, AccessToken> for UntilItExpires {
    fn expire_after_create(
        &self,
        _: &TokenKey,
        token: &AccessToken,
        _: Instant,
    ) -> Option<Duration> {
        Some(Self::time_left(token))
    }

    fn expire_after_update(
        &self,
        _: &TokenKey,
        token: &AccessToken,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(Self::time_left(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Audience, Credentials};

    fn key(app: &str) -> TokenKey {
        TokenKey::new(&Audience::default(), &Credentials::new("corp", app))
    }

    fn token(value: &str, lifetime: Duration) -> AccessToken {
        let now = SystemTime::now();
        AccessToken::from_parts(value, now, now + lifetime)
    }

    #[tokio::test]
    async fn keeps_the_newest_token_until_it_expires() {
        let store = MokaStore::new();
        let (app, other) = (key("a"), key("b"));
        let hour = Duration::from_secs(3600);
        assert_eq!(store.get(&app).await.unwrap(), None);

        store.put(&app, &token("first", hour)).await.unwrap();
        let newest = token("second", hour);
        store.put(&app, &newest).await.unwrap();
        assert_eq!(store.clone().get(&app).await.unwrap(), Some(newest));
        assert_eq!(store.get(&other).await.unwrap(), None);

        let expired = token("expired", Duration::ZERO);
        store.put(&app, &expired).await.unwrap();
        assert_eq!(store.get(&app).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_crowd_of_keys_loses_none() {
        let store = MokaStore::new();
        let apps: Vec<_> = (0..10_000).map(|n| key(&n.to_string())).collect();
        let token = token("value", Duration::from_secs(3600));
        for app in &apps {
            store.put(app, &token).await.unwrap();
        }
        for app in &apps {
            assert!(store.get(app).await.unwrap().is_some());
        }
    }
}
