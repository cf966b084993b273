use reqwest::Url;

use super::Said;
use crate::redact;
use crate::scope::Pair;

/// The error of a request to `asked`, without the token that was put on its URL.
pub(crate) fn without_token(
    mut error: reqwest_middleware::Error,
    pair: Pair<'_>,
    asked: &Url,
) -> reqwest_middleware::Error {
    if let Some(url) = error.url_mut() {
        pair.take_off(url, asked);
    }
    // The URL of a layer's own error cannot be reached.
    let value = pair.token.expose_secret();
    if redact::shows(&redact::all_that_is_said(&error), value) {
        let said = Said::by(&error, &[], &[value]);
        return reqwest_middleware::Error::middleware(said);
    }
    error
}
