//! Keeping secrets out of what others have written.

use std::error::Error as StdError;
use std::fmt::Write;
use std::iter;

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// A text may be wrapped into a URL, and that into another.
const MOST_DECODINGS: usize = 3;

/// The text without the secrets. Where one is there in percent-encoded form, or as `{:?}` shows it, nothing of the text is kept.
pub(crate) fn redact<'a>(text: &str, secrets: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = text.to_owned();
    for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, "***");
        let quoted = format!("{secret:?}");
        if shows(&text, secret) || text.contains(quoted.trim_matches('"')) {
            return "(a text that held a secret)".to_owned();
        }
    }
    text
}

/// Whether the secret can be read in the text, percent-encoded ones included.
pub(crate) fn shows(text: &str, secret: &str) -> bool {
    !secret.is_empty() && shows_when_decoded(text, secret, MOST_DECODINGS)
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

/// Takes the secret out of a URL, wherever a redirect has put it: each part of the URL that shows it goes as a whole.
pub(crate) fn take_out(url: &mut Url, secret: &str) {
    if !shows(url.as_str(), secret) {
        return;
    }
    let parts = url.query().unwrap_or_default().split('&');
    let kept: Vec<_> = parts.filter(|part| !shows(part, secret)).collect();
    let kept = kept.join("&");
    url.set_query((!kept.is_empty()).then_some(&kept));
    if shows(url.as_str(), secret) {
        url.set_fragment(None);
        // Neither can fail where there is one to be taken off.
        let _ = url.set_username("");
        let _ = url.set_password(None);
    }
    if shows(url.as_str(), secret) {
        url.set_path("");
    }
}

/// The error of the request itself that a layer has wrapped, as far as it can be reached.
pub(crate) fn request_error(error: &reqwest_middleware::Error) -> Option<&reqwest::Error> {
    match error {
        reqwest_middleware::Error::Reqwest(error) => Some(error),
        reqwest_middleware::Error::Middleware(content) => {
            content
                .chain()
                .find_map(|cause| match cause.downcast_ref() {
                    Some(reqwest_middleware::Error::Reqwest(error)) => Some(error),
                    _ => cause.downcast_ref(),
                })
        }
    }
}

/// Takes the query and the fragment out of the URL of a request's error, and the secret wherever else a redirect has put it.
pub(crate) fn take_out_of_request_error(error: &mut reqwest::Error, secret: Option<&str>) {
    if let Some(url) = error.url_mut() {
        url.set_query(None);
        url.set_fragment(None);
        if let Some(secret) = secret {
            take_out(url, secret);
        }
    }
}

/// An error and its sources.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// All that an error and its sources say, in every form in which they can be formatted.
pub(crate) fn all_that_is_said(error: &(dyn StdError + 'static)) -> String {
    let mut said = String::new();
    for error in chain(error) {
        let _ = writeln!(said, "{error}\n{error:?}\n{error:#?}");
    }
    said
}

/// The text of an error and of each of its sources, but none that the one before has in it already. Without the queries of URLs and what
/// serde quotes.
pub(crate) fn said(error: &(dyn StdError + 'static)) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for error in chain(error) {
        let text = error.to_string();
        let text = without_quotes(&text).unwrap_or(text);
        let text = without_queries(&text).unwrap_or(text);
        if said.iter().all(|before| !before.contains(&text)) {
            said.push(text);
        }
    }
    said
}

/// Whether an error says what one of its sources says too.
pub(crate) fn repeats_itself(error: &(dyn StdError + 'static)) -> bool {
    said(error).len() < chain(error).count()
}

/// What an error and its sources say, in one line.
pub(crate) fn in_one_line(error: &(dyn StdError + 'static)) -> String {
    said(error).join(": ")
}

/// Whether the text may show a secret that nobody knows of: the query or the password of a URL, or what serde has read.
pub(crate) fn may_show_secret(text: &str) -> bool {
    let in_debug_of_url = ["query: Some(", "password: Some("];
    in_debug_of_url.iter().any(|part| text.contains(part))
        || without_queries(text).is_some()
        || without_quotes(text).is_some()
}

/// The text without what serde quotes in its errors of what it has read; `None` if it quotes nothing.
fn without_quotes(text: &str) -> Option<String> {
    let quoting = [
        "invalid type: ",
        "invalid value: ",
        "unknown variant ",
        "unknown field ",
    ];
    let begins = |marker: &&str| Some(text.find(marker)? + marker.len());
    let from = quoting.iter().filter_map(begins).min()?;
    let (before, quoted) = text.split_at(from);
    let after = quoted.rfind(", expected ").map_or("", |at| &quoted[at..]);
    Some(format!("{before}***{after}"))
}

/// The text with the queries of its URLs cut off; `None` if it has no URL with a query.
pub(crate) fn without_queries(text: &str) -> Option<String> {
    let mut left = String::new();
    let mut rest = text;
    let mut has_query = false;
    while let Some((before, url)) = rest.split_once("://") {
        let (url, after) = url.split_at(url.find(char::is_whitespace).unwrap_or(url.len()));
        left.extend([before, "://"]);
        match url.split_once('?') {
            Some((url, _query)) => {
                has_query = true;
                left.extend([url, "?***"]);
            }
            None => left.push_str(url),
        }
        rest = after;
    }
    left.push_str(rest);
    has_query.then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_form_of_a_secret_is_left() {
        assert_eq!(redact("a b=c&d e", ["b=c&d"]), "a *** e");
        assert_eq!(redact("nothing here", ["secret", ""]), "nothing here");
        let quoted = redact("s=\"a\\nb\\\"c\"", ["a\nb\"c"]);
        assert!(!quoted.contains("s="), "{quoted}");
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

    #[test]
    fn a_secret_is_taken_out_of_a_url_wherever_it_is() {
        for (with, without) in [
            ("https://h/p?a=1&b=2#f", "https://h/p?a=1&b=2#f"),
            ("https://h/p?s=SECRET", "https://h/p"),
            ("https://h/p?s=SECRET&a=1#f", "https://h/p?a=1#f"),
            ("https://h/p?SECRET=1", "https://h/p"),
            ("https://h/p?a=1&back=/x?s=SECRET", "https://h/p?a=1"),
            (
                "https://h/p?a=1&back=%252Fx%253Fs%253DSECRET",
                "https://h/p?a=1",
            ),
            ("https://h/p?a=1#s=SECRET", "https://h/p?a=1"),
            ("https://h/SECRET/p?a=1", "https://h/?a=1"),
            ("https://SECRET:x@h/p?a=1", "https://h/p?a=1"),
            ("https://x:SECRET@h/p?a=1", "https://h/p?a=1"),
        ] {
            let mut url: Url = with.parse().unwrap();
            take_out(&mut url, "SECRET");
            assert_eq!(url.as_str(), without);
            take_out(&mut url, "");
            assert_eq!(url.as_str(), without, "an empty secret is in no URL");
        }
    }

    #[test]
    fn what_serde_quotes_is_cut_out() {
        for (text, left) in [
            (
                "invalid type: string \"a, expected b\", expected u64 at line 1 column 8",
                "invalid type: ***, expected u64 at line 1 column 8",
            ),
            (
                "a row: unknown variant `x`, expected `a` or `b`",
                "a row: unknown variant ***, expected `a` or `b`",
            ),
            (
                "unknown field `x`, there are no fields",
                "unknown field ***",
            ),
            (
                "invalid value: integer `7`, expected x; invalid type: map, expected y",
                "invalid value: ***, expected y",
            ),
        ] {
            assert_eq!(without_quotes(text).as_deref(), Some(left));
        }
        assert_eq!(without_quotes("missing field `value` at line 1"), None);
    }

    #[test]
    fn queries_are_cut_off_to_the_next_blank() {
        for (text, left) in [
            (
                "for url (https://h/p?s=a)b) and",
                "for url (https://h/p?*** and",
            ),
            (
                "https://h/p?a=1\nhttps://h/q?b",
                "https://h/p?***\nhttps://h/q?***",
            ),
            (
                "\"https://h/p\", https://h?x",
                "\"https://h/p\", https://h?***",
            ),
        ] {
            assert_eq!(without_queries(text).as_deref(), Some(left));
        }
        for text in ["", "why?", "://", "https://h/p why?", "a://b c://d"] {
            assert_eq!(without_queries(text), None, "{text}");
        }
    }
}
