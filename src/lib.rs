#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod credentials;
mod errcode;
mod error;
mod fetch;
mod fleet;
mod in_hand;
mod key;
mod kind;
mod manager;
mod middleware;
mod redact;
mod rejected;
mod replay;
mod reply;
mod resumed;
mod scope;
mod sent_tokens;
mod source;
mod stats;
mod store;
#[cfg(feature = "test-util")]
pub mod test_util;
mod time_left;
mod token;

/// The target of all events and spans.
const TARGET: &str = "reqwest_wecom";

pub use async_trait::async_trait;
#[cfg(feature = "redis")]
pub use redis;

pub use crate::credentials::Credentials;
pub use crate::error::{BoxError, Error, ErrorKind};
pub use crate::key::TokenKey;
pub use crate::kind::TokenKind;
pub use crate::manager::{RejectionScope, TokenManager, TokenManagerBuilder, TokenStatus};
pub use crate::middleware::{AccessTokenMiddleware, AccessTokenMiddlewareBuilder};
pub use crate::scope::NoAccessToken;
pub use crate::source::{
    Audience, CorpToken, DownstreamToken, FetchRequest, GetToken, JsapiTicket, ProviderToken,
    SpecToken, StoreOnly, SuiteTickets, SuiteToken, TokenSource,
};
pub use crate::stats::Stats;
pub use crate::store::{Kept, MokaStore, SharedDatabase, SharedStore, TokenStore};
#[cfg(feature = "redis")]
pub use crate::store::{RedisConnection, RedisStore, RedisStoreBuilder};
pub use crate::token::{AccessToken, FetchedToken};
