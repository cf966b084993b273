//! What a source must keep out of its errors beside its own secrets.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use http::Extensions;

use crate::AccessToken;

/// Request extension of a source's call: collects the tokens that middlewares add to it, which the answer may repeat.
#[derive(Clone, Default)]
pub(crate) struct SentTokens(Arc<Mutex<Vec<AccessToken>>>);

impl SentTokens {
    /// Adds a token, if these extensions collect them.
    pub(crate) fn add(extensions: &Extensions, token: &AccessToken) {
        if let Some(Self(tokens)) = extensions.get() {
            let tokens = tokens.lock();
            tokens
                .unwrap_or_else(PoisonError::into_inner)
                .push(token.clone());
        }
    }

    pub(crate) fn take(&self) -> Vec<AccessToken> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
