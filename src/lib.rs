#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod clock;
mod errcode;
mod error;
mod manager;
mod middleware;
mod redact;
mod replay;
mod reply;
mod resumed;
mod scope;
mod source;
mod store;
mod token;

pub use async_trait::async_trait;
#[cfg(feature = "redis")]
pub use redis;

pub use crate::error::{BoxError, Error};
pub use crate::manager::{TokenManager, TokenManagerBuilder};
pub use crate::middleware::{AccessTokenMiddleware, AccessTokenMiddlewareBuilder};
pub use crate::scope::NoAccessToken;
pub use crate::source::{Audience, Fetch, GetToken, StoreOnly, TokenSource};
pub use crate::store::{MokaStore, TokenStore};
#[cfg(feature = "redis")]
pub use crate::store::{RedisConnection, RedisStore, RedisStoreBuilder};
pub use crate::token::{AccessToken, Credentials, TokenKey};
