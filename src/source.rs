//! Where new tokens come from.

mod answer;
mod audience;
mod corp_token;
mod downstream_token;
mod gettoken;
mod issuer;
mod jsapi_ticket;
mod provider_token;
mod request;
mod spec_token;
mod store_only;
mod suite_tickets;
mod suite_token;

use std::sync::Arc;

use async_trait::async_trait;

pub use self::audience::Audience;
pub use self::corp_token::CorpToken;
pub use self::downstream_token::DownstreamToken;
pub use self::gettoken::GetToken;
pub use self::jsapi_ticket::JsapiTicket;
pub use self::provider_token::ProviderToken;
pub use self::request::FetchRequest;
pub use self::spec_token::SpecToken;
pub use self::store_only::StoreOnly;
pub use self::suite_tickets::SuiteTickets;
pub use self::suite_token::SuiteToken;
use crate::{Error, FetchedToken};

/// Where new tokens come from.
///
/// [`GetToken`] asks WeCom for the token of an app. Service providers use [`SuiteToken`], [`CorpToken`], [`ProviderToken`], [`DownstreamToken`]
/// and [`SpecToken`]. Implement this trait to get tokens from somewhere else, such as a central token server:
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
///         let failed = |error: reqwest::Error| match error.status() {
///             Some(status) if status.is_client_error() => Error::refused(error),
///             _ => Error::transient(error),
///         };
///         let answer = call.send().await.and_then(|answer| answer.error_for_status()).map_err(failed)?;
///         let value = answer.text().await.map_err(failed)?;
///         Ok(FetchedToken::new(value, Duration::from_secs(60)))
///     }
/// }
/// ```
///
/// A source needs no clock. It returns how long the token is valid, and the [`TokenManager`](crate::TokenManager) works out when it expires.
///
/// `Arc` and `Box` of a source are sources too. Methods that are added later always have a default.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a new token.
    ///
    /// Make one try only. The manager retries a transient failure up to 3 times. It limits one try to 5 s and all tries to the
    /// [fetch limit](crate::TokenManagerBuilder::fetch_limit), and gives the result to all callers who wait for it.
    ///
    /// # Errors
    ///
    /// Return [`Error::transient`], [`Error::refused`], [`Error::not_ready`] or [`Error::api`]. The choice decides whether the manager
    /// retries and how long the cooldown is. The error must not contain a secret.
    ///
    /// # Panics
    ///
    /// A panic is caught. Callers get an error of the kind [`Interrupted`](crate::ErrorKind::Interrupted).
    ///
    /// # Cancel safety
    ///
    /// The manager drops the future when the try takes longer than 5 s or than what is left of the fetch limit, and when the runtime shuts
    /// down.
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error>;

    /// The API and the kind of token that this source is for. Only requests to the API get a token, on the paths that take this kind. Default:
    /// `https://qyapi.weixin.qq.com/` and the access token.
    ///
    /// The manager calls this once, when it is built.
    fn audience(&self) -> Audience {
        Audience::default()
    }

    /// Whether this source ever fetches. Default: true.
    ///
    /// Return false if another program fetches the tokens, as [`StoreOnly`] does. The manager then takes no lease, so it needs only read
    /// access to a shared store. The manager calls this once, when it is built.
    fn fetches(&self) -> bool {
        true
    }
}

macro_rules! forwarded_by {
    ($($pointer:ident),*) => {
        $(
            #[async_trait]
            impl<T: TokenSource + ?Sized> TokenSource for $pointer<T> {
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
        )*
    };
}

forwarded_by!(Arc, Box);
