//! Where new tokens come from.

mod audience;
mod fetch;
mod gate;
mod gettoken;
mod pause;
mod request;
mod store_only;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::audience::Audience;
pub(crate) use self::fetch::{
    Fetch, Hearsay, InHand, Limits, STORE_LIMIT, StoreHealth, Surroundings, Unusable,
};
pub(crate) use self::gate::Gate;
pub use self::gettoken::GetToken;
pub(crate) use self::pause::{failures_behind, pause_after};
pub use self::request::FetchRequest;
pub use self::store_only::StoreOnly;
use crate::{Error, FetchedToken};

/// Where new tokens come from.
///
/// [`GetToken`] asks WeCom. Implement this trait to get tokens from somewhere else, such as a central token server:
///
/// ```
/// use std::time::Duration;
/// use reqwest_wecom::{Error, FetchRequest, FetchedToken, TokenSource, async_trait};
///
/// struct TokenServer {
///     http: reqwest::Client,
/// }
///
/// #[async_trait]
/// impl TokenSource for TokenServer {
///     async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
///         let mut call = self.http.post(format!("https://tokens.internal/{}", request.credentials().app()));
///         // The server must know, or it returns the rejected token again.
///         if let Some(rejected) = request.rejected() {
///             call = call.body(rejected.expose_secret().to_owned());
///         }
///         let answer = call.send().await.map_err(Error::transient)?;
///         let answer = answer.error_for_status().map_err(Error::refused)?;
///         let value = answer.text().await.map_err(Error::transient)?;
///         Ok(FetchedToken::new(value, Duration::from_secs(60)))
///     }
/// }
/// ```
///
/// A source reads no clock: it returns how long the token lives, and the [`TokenManager`](crate::TokenManager) does the rest.
///
/// `Arc` and `Box` of a source are sources too. Methods that are added later always have a default.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a new token.
    ///
    /// This is one try. The manager tries again after a failure, limits the time, and shares the result.
    ///
    /// # Errors
    ///
    /// What happens next depends on the error: see [`Error::transient`], [`Error::refused`], [`Error::not_ready`] and [`Error::api`]. It must
    /// not contain a secret.
    ///
    /// # Panics
    ///
    /// A panic is caught. Callers get an error of the kind [`Interrupted`](crate::ErrorKind::Interrupted).
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future when the fetch takes too long, or when the runtime ends.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error>;

    /// What the tokens of this source are for. Only requests to it get one. Default: `https://qyapi.weixin.qq.com/`.
    ///
    /// The manager asks once, when it is built.
    fn audience(&self) -> Audience {
        Audience::default()
    }

    /// Whether this source ever fetches. Default: true.
    ///
    /// Return false if another program fetches, as [`StoreOnly`] does. The manager then never takes a lease, so a shared store needs no right to
    /// write. It asks once, when it is built.
    fn fetches(&self) -> bool {
        true
    }
}

#[async_trait]
impl<T: TokenSource + ?Sized> TokenSource for Arc<T> {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        (**self).fetch(request).await
    }

    fn audience(&self) -> Audience {
        (**self).audience()
    }

    fn fetches(&self) -> bool {
        (**self).fetches()
    }
}

#[async_trait]
impl<T: TokenSource + ?Sized> TokenSource for Box<T> {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        (**self).fetch(request).await
    }

    fn audience(&self) -> Audience {
        (**self).audience()
    }

    fn fetches(&self) -> bool {
        (**self).fetches()
    }
}
