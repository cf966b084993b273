//! Keeping secrets out of texts that others have written.

use percent_encoding::percent_decode_str;

/// A text may be wrapped into a URL, and that into another.
const MOST_DECODINGS: usize = 3;

/// The text without the secrets. Where one is there in percent-encoded form, nothing of the text is kept.
pub(crate) fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = text.to_owned();
    for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
        if shows(&text, secret) {
            return "(a text that held a secret)".to_owned();
        }
    }
    text
}

/// Whether the secret can be read in the text, percent-encoded ones included.
pub(crate) fn shows(text: &str, secret: &str) -> bool {
    shows_when_decoded(text, secret, MOST_DECODINGS)
}

fn shows_when_decoded(text: &str, secret: &str, times: usize) -> bool {
    if text.contains(secret) {
        return true;
    }
    if times == 0 || !text.contains(['%', '+']) {
        return false;
    }
    // In a query a plus may stand for itself or for a space.
    let with_spaces = text.replace('+', " ");
    [text, &with_spaces].iter().any(|text| {
        let decoded = percent_decode_str(text).decode_utf8_lossy();
        shows_when_decoded(&decoded, secret, times - 1)
    })
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn no_form_of_a_secret_is_left() {
        assert_eq!(redact("a b=c&d e", ["b=c&d"]), "a *** e");
        assert_eq!(redact("nothing here", ["secret", ""]), "nothing here");
        for encoded in [
            "x?s=b%3Dc%26+d",
            "x?s=b%3dc%26%20d",
            "x?s=b=c&+d",
            "x?s=b%253Dc%2526%2520d",
        ] {
            let left = redact(encoded, ["b=c& d"]);
            assert!(!left.contains("s="), "{left}");
        }
    }
}
