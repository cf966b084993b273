//! Keeping secrets out of what others have written.

use std::error::Error as StdError;
use std::fmt::Write;
use std::iter;

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// A text may be wrapped into a URL, and that into another.
const MOST_DECODINGS: usize = 3;

/// Shorter secrets are not looked for as bytes.
const SHORTEST_AS_BYTES: usize = 4;

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

/// Whether the text shows the secret as bytes, in hexadecimal digits or as a list of numbers, as databases and `{:?}` do.
fn shows_as_bytes(text: &str, secret: &str) -> bool {
    if secret.len() < SHORTEST_AS_BYTES {
        return false; // Any number would do.
    }
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
    text.to_ascii_lowercase().contains(&hex) || text.contains(&list.join(", "))
}

/// Whether the secret can be read in the text, also percent-encoded or as bytes.
pub(crate) fn shows(text: &str, secret: &str) -> bool {
    !secret.is_empty()
        && (shows_when_decoded(text, secret, MOST_DECODINGS) || shows_as_bytes(text, secret))
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
        take_out_credentials(url);
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

/// Takes all that may be secret out of the URL of a request's error: the query, the fragment, the user name and the password, and the secrets
/// wherever else a redirect has put them.
pub(crate) fn take_out_of_request_error(error: &mut reqwest::Error, secrets: &[&str]) {
    if let Some(url) = error.url_mut() {
        url.set_query(None);
        take_out_credentials(url);
        for secret in secrets {
            take_out(url, secret);
        }
    }
}

fn take_out_credentials(url: &mut Url) {
    url.set_fragment(None);
    // Neither can fail where there is one to be taken off.
    let _ = url.set_username("");
    let _ = url.set_password(None);
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

/// The text of an error and of each of its sources, without what may be secret. None is part of another, or one of those that were said
/// `before`.
pub(crate) fn said(error: &(dyn StdError + 'static), before: &[&str]) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    for error in chain(error) {
        let mut text = error.to_string();
        if !error.is::<crate::Error>() {
            text = without_secrets(&text).unwrap_or(text);
        }
        for before in before.iter().filter(|before| !before.is_empty()) {
            if text.contains(before) {
                text = text.replace(before, "").trim_matches([':', ' ']).to_owned();
            }
        }
        if text.is_empty() || said.iter().any(|before| before.contains(&text)) {
            continue;
        }
        said.retain(|before| !text.contains(before.as_str()));
        said.push(text);
    }
    said
}

/// Whether an error says what one of its sources says too, or what was said `before`.
pub(crate) fn repeats_itself(error: &(dyn StdError + 'static), before: &[&str]) -> bool {
    let all: Vec<_> = chain(error).map(ToString::to_string).collect();
    let is_in = |text: &str, others: &[String]| others.iter().any(|other| other.contains(text));
    all.iter().enumerate().any(|(n, text)| {
        is_in(text, &all[..n])
            || is_in(text, &all[n + 1..])
            || before.iter().any(|before| text.contains(before))
    })
}

/// What an error and its sources say, in one line.
pub(crate) fn in_one_line(error: &(dyn StdError + 'static)) -> String {
    said(error, &[]).join(": ")
}

/// Whether the text may show a secret that nobody knows of: the query or the password of a URL, or what serde has read.
pub(crate) fn may_show_secret(text: &str) -> bool {
    let in_debug_of_url = ["query: Some(", "password: Some(", "fragment: Some("];
    in_debug_of_url.iter().any(|part| text.contains(part)) || without_secrets(text).is_some()
}

/// The text without what may be secret in it; `None` if there is nothing.
fn without_secrets(text: &str) -> Option<String> {
    let no_quotes = without_quotes(text);
    let no_queries = without_queries(no_quotes.as_deref().unwrap_or(text));
    no_queries.or(no_quotes)
}

/// The text without what serde and its formats quote of what they have read; `None` if they quote nothing.
fn without_quotes(text: &str) -> Option<String> {
    // An excerpt of the input, as some formats show it.
    let is_excerpt = |line: &&str| {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit() || c.is_whitespace());
        line.starts_with('|')
    };
    let has_excerpt = text.lines().any(|line| is_excerpt(&line));
    let lines = text.lines().filter(|line| !is_excerpt(line));
    let shorter = has_excerpt.then(|| lines.collect::<Vec<_>>().join("\n"));
    let text = shorter.as_deref().unwrap_or(text);

    let begins = |marker: &str| Some(text.find(marker)? + marker.len());
    let value = ["invalid type: ", "invalid value: "];
    let name = ["unknown field ", "unknown variant "];
    let value = value.into_iter().filter_map(begins).min();
    let name = name.into_iter().filter_map(begins).min();
    let Some(from) = value.into_iter().chain(name).min() else {
        return shorter;
    };
    let (before, quoted) = text.split_at(from);
    // After a name comes what is expected in its place, which the name itself could imitate.
    let after = match value {
        Some(value) if value == from => quoted.rfind(", expected ").map_or("", |at| &quoted[at..]),
        _ => "",
    };
    Some(format!("{before}***{after}"))
}

/// The text without the queries, fragments and passwords of URLs; `None` if there are none.
fn without_queries(text: &str) -> Option<String> {
    let mut left = String::new();
    let mut has_any = false;
    for word in text.split_inclusive(char::is_whitespace) {
        let (word, blank) = word.split_at(word.trim_end().len());
        match without_query(word) {
            Some(word) => {
                has_any = true;
                left.push_str(&word);
            }
            None => left.push_str(word),
        }
        left.push_str(blank);
    }
    has_any.then_some(left)
}

fn without_query(word: &str) -> Option<String> {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        // A path alone has a query if that has a value.
        None if word
            .split_once('?')
            .is_some_and(|(_, query)| query.contains('=')) =>
        {
            (String::new(), word)
        }
        None => return None,
    };
    let end = rest.find(['?', '#']).filter(|end| end + 1 < rest.len());
    let (url, is_cut) = (&rest[..end.unwrap_or(rest.len())], end.is_some());
    let authority = url.split('/').next().unwrap_or_default();
    let (user, url) = match authority.rfind('@') {
        Some(at) if !scheme.is_empty() => ("***@", &url[at + 1..]),
        _ => ("", url),
    };
    let cut = if is_cut { "?***" } else { "" };
    (is_cut || !user.is_empty()).then(|| format!("{scheme}{user}{url}{cut}"))
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
        for bytes in [r"(\x7b22623D6326)", "[123, 98, 61, 99, 38, 7]"] {
            let left = redact(bytes, ["b=c&"]);
            assert_eq!(left, "(a text that held a secret)");
        }
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
                "a row: unknown variant ***",
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
            ("https://h/p#a=b c", "https://h/p?*** c"),
            ("https://u:s@h/p c", "https://***@h/p c"),
            ("GET /p?a=b#c d", "GET /p?*** d"),
            ("h/p?a=b", "h/p?***"),
        ] {
            assert_eq!(without_queries(text).as_deref(), Some(left));
        }
        for text in [
            "",
            "why?",
            "://",
            "https://h/p why?",
            "a://b c://d",
            "a?b",
            "a@b",
            "https://h/@a",
            "https://h?",
        ] {
            assert_eq!(without_queries(text), None, "{text}");
        }
    }
}
