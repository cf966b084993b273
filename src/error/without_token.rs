use reqwest::Url;

use super::Said;
use crate::{AccessToken, redact, scope};

/// The error of a request to `asked`, without the token that was put on its URL.
pub(crate) fn without_token(
    mut error: reqwest_middleware::Error,
    token: &AccessToken,
    asked: &Url,
) -> reqwest_middleware::Error {
    if let Some(url) = error.url_mut() {
        scope::take_off(url, token, asked);
    }
    // The URL of a layer's own error cannot be reached.
    if redact::shows(&redact::all_that_is_said(&error), token.expose_secret()) {
        let said = Said::by(&error, &[], Some(token.expose_secret()));
        return reqwest_middleware::Error::middleware(said);
    }
    error
}
