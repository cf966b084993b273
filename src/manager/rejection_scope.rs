use std::borrow::Cow;
use std::sync::Arc;

use http::Extensions;

/// Request extension that limits the effect of rejections to one part of a path, such as one customer or one agent.
///
/// The API may reject calls to one path for one customer only. Without a scope, these rejections also hold back the refreshes that other
/// customers need on that path. With a scope, the manager holds back refreshes for that path and scope only. The scope appears in events as
/// part of `path`, so it must not be a secret.
///
/// ```
/// # use reqwest_wecom::RejectionScope;
/// # fn f(client: reqwest_middleware::ClientWithMiddleware) {
/// client
///     .get("https://qyapi.weixin.qq.com/cgi-bin/kf/customer/batchget")
///     .with_extension(RejectionScope::new("customer 7"))
/// # ;}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RejectionScope(Arc<str>);

impl RejectionScope {
    /// The scope of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into().into())
    }

    /// The path of a request, with its scope if it has one.
    pub(crate) fn joined<'a>(path: &'a str, extensions: &Extensions) -> Cow<'a, str> {
        match extensions.get::<Self>() {
            // A path has no spaces, so this never equals another path.
            Some(Self(name)) => format!("{path} {name}").into(),
            None => path.into(),
        }
    }
}
