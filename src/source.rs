//! Where new tokens come from.

mod audience;
mod fetch;
mod gate;
mod gettoken;
mod pause;
mod store_only;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::audience::Audience;
pub use self::fetch::Fetch;
pub(crate) use self::fetch::{Hearsay, InHand, Limits, STORE_LIMIT, StoreHealth};
pub(crate) use self::gate::Gate;
pub use self::gettoken::GetToken;
pub(crate) use self::pause::{failures_behind, pause_after};
pub use self::store_only::StoreOnly;
use crate::{AccessToken, Credentials, Error};

/// Where new tokens come from: [`GetToken`] asks WeCom itself; a central token server can be one too.
///
/// ```
/// use std::time::Duration;
/// use reqwest_wecom::{AccessToken, Credentials, Error, TokenSource, async_trait};
///
/// struct TokenServer {
///     http: reqwest::Client,
/// }
///
/// #[async_trait]
/// impl TokenSource for TokenServer {
///     async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
///         let url = format!("https://tokens.internal/{}", credentials.key());
///         let answer = self.http.get(url).send().await.map_err(Error::transient)?;
///         let answer = answer.error_for_status().map_err(Error::refused)?;
///         let value = answer.text().await.map_err(Error::transient)?;
///         Ok(AccessToken::new(value, Duration::from_secs(60)))
///     }
/// }
/// ```
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a new token. One try: trying again, time limits and sharing the result are the caller's part.
    ///
    /// # Errors
    ///
    /// The kind of failure decides what happens next: see [`Error::transient`], [`Error::refused`] and
    /// [`Error::not_ready`]. The error must hold no secret.
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error>;

    /// What the tokens of this source are for. Only requests to it are given one.
    fn audience(&self) -> Audience {
        Audience::default()
    }
}

#[async_trait]
impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    async fn fetch(&self, credentials: &Credentials) -> Result<AccessToken, Error> {
        (**self).fetch(credentials).await
    }

    fn audience(&self) -> Audience {
        (**self).audience()
    }
}
