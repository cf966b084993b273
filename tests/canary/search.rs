//! Searching for the canaries, in every form that a text may have taken on its way.

use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex};

use percent_encoding::percent_decode_str;
use serde::Serialize;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::world::RUNS;

/// Where the canaries have been looked for, and where they were found.
pub(crate) struct Places {
    scene: String,
    pub(crate) looked_in: Vec<String>,
    pub(crate) leaks: Vec<String>,
}

impl Places {
    pub(crate) fn new(scene: String) -> Self {
        Self {
            scene,
            looked_in: Vec::new(),
            leaks: Vec::new(),
        }
    }

    pub(crate) fn look(&mut self, place: &str, text: &str) {
        self.looked_in.push(place.to_owned());
        if let Some(form) = canary_in(text) {
            let leak = format!("{}: {place} shows a canary ({form}): {text}", self.scene);
            self.leaks.push(leak);
        }
    }

    pub(crate) fn look_at(&mut self, what: &str, value: &dyn Debug) {
        self.look(&format!("{what} {{:?}}"), &format!("{value:?}"));
        self.look(&format!("{what} {{:#?}}"), &format!("{value:#?}"));
    }

    /// Looks at a value and at what it is serialized to.
    pub(crate) fn look_at_serialized(&mut self, what: &str, value: &(impl Debug + Serialize)) {
        self.look_at(what, value);
        let json = serde_json::to_string(value).unwrap();
        self.look(&format!("{what} as JSON"), &json);
    }

    /// Looks at an error, and at all its sources. These count as one place, since how many there are is a matter of luck: a
    /// connection can be lost in more than one way.
    pub(crate) fn look_into(&mut self, what: &str, error: &(dyn StdError + 'static)) {
        self.look(&format!("{what} {{}}"), &error.to_string());
        self.look_at(what, &error);
        let sources = std::iter::successors(error.source(), |&source| source.source());
        let texts: String = sources
            .map(|source| format!("{source}\n{source:?}\n{source:#?}\n"))
            .collect();
        self.look(&format!("sources of {what}"), &texts);
    }
}

/// The form in which a canary is there.
fn canary_in(text: &str) -> Option<String> {
    let mut decoded = text.to_owned();
    for times in 0..4 {
        for run in RUNS {
            for (form, hidden) in forms(run) {
                if decoded.contains(&hidden) {
                    return Some(format!("{run}, {form}, percent-decoded {times} times"));
                }
            }
        }
        decoded = percent_decode_str(&decoded)
            .decode_utf8_lossy()
            .into_owned();
    }
    None
}

/// The forms of a run of letters and digits. Percent- and form-encoding leave it as it is.
fn forms(run: &str) -> Vec<(&'static str, String)> {
    let mut forms = vec![
        ("raw", run.to_owned()),
        ("lower case", run.to_ascii_lowercase()),
        ("reversed", run.chars().rev().collect()),
        (
            "hex",
            run.bytes().fold(String::new(), |mut hex, byte| {
                write!(hex, "{byte:02x}").unwrap();
                hex
            }),
        ),
        (
            "bytes",
            format!("{:?}", run.as_bytes())
                .trim_matches(['[', ']'])
                .to_owned(),
        ),
    ];
    for shift in 0..3 {
        forms.push(("base64", base64_within(run.as_bytes(), shift)));
    }
    forms
}

/// What base64 makes of these bytes wherever they stand in a longer text: after `shift` bytes, modulo three.
fn base64_within(bytes: &[u8], shift: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits: Vec<u8> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    // The first digit that holds no bit of what stands before.
    let start = (6 - shift * 8 % 6) % 6;
    bits[start..]
        .chunks_exact(6)
        .map(|digit| {
            digit
                .iter()
                .fold(0, |number, bit| number << 1 | usize::from(*bit))
        })
        .map(|number| char::from(ALPHABET[number]))
        .collect()
}

/// All that the crate logs, and the layers around it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn listen(&self) -> DefaultGuard {
        let targets = Targets::new()
            .with_target("reqwest_wecom", LevelFilter::TRACE)
            .with_target("reqwest_retry", LevelFilter::TRACE)
            .with_target("reqwest_tracing", LevelFilter::TRACE);
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_span_events(FmtSpan::FULL)
            .with_writer(self.clone());
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(targets));
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[test]
fn the_search_finds_a_canary_in_every_form() {
    for run in RUNS {
        for text in [
            format!("a {run} b"),
            run.bytes().map(|byte| format!("%{byte:02x}")).collect(),
            run.bytes().map(|byte| format!("%25{byte:02X}")).collect(),
            format!("{:?}", format!("x{run}y").as_bytes()),
        ] {
            assert!(canary_in(&text).is_some(), "{text}");
        }
    }
    // Of "QxTok7aVh3mZp" after nothing, one and two bytes, by another tool.
    for encoded in [
        "UXhUb2s3YVZoM21acA==",
        "LlF4VG9rN2FWaDNtWnA=",
        "Li5ReFRvazdhVmgzbVpw",
    ] {
        assert!(canary_in(encoded).is_some(), "{encoded}");
    }
    assert!(canary_in("nothing of the kind").is_none());
}
