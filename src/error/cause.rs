//! What caused an error, in a form that can be shown.

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::io;
use std::sync::Arc;

use super::{BoxError, Error};
use crate::redact;

/// What caused an [`Error`].
#[derive(Clone)]
pub(super) struct Cause {
    error: Arc<dyn StdError + Send + Sync>,
    is_timeout: bool,
    is_connect: bool,
}

impl Cause {
    /// Keeps the error itself where nothing in it can give away a secret, and otherwise what it says.
    /// `before`: what the error that it causes says itself.
    pub(super) fn new(error: BoxError, before: &[&str], secrets: &[&str]) -> Self {
        let mut error = match error.downcast::<reqwest_middleware::Error>() {
            Ok(error) => match *error {
                reqwest_middleware::Error::Reqwest(error) => error.into(),
                layered => layered.into(),
            },
            Err(error) => error,
        };
        let (is_timeout, is_connect) = (tells_of_timeout(&*error), tells_of_connecting(&*error));
        if let Some(error) = error.downcast_mut::<reqwest::Error>() {
            redact::take_out_of_request_error(error, secrets);
        }
        let error = if is_harmless(&*error, before, secrets) {
            error
        } else {
            Box::new(Said::by(&*error, before, secrets))
        };
        Self {
            error: error.into(),
            is_timeout,
            is_connect,
        }
    }

    pub(super) fn error(&self) -> &(dyn StdError + 'static) {
        &*self.error
    }

    pub(super) fn is_timeout(&self) -> bool {
        self.is_timeout
    }

    pub(super) fn is_connect(&self) -> bool {
        self.is_connect
    }
}

fn tells_of_timeout(error: &(dyn StdError + 'static)) -> bool {
    any_in(error, |error| {
        let request = error.downcast_ref::<reqwest::Error>();
        let io = error.downcast_ref::<io::Error>();
        let ours = error.downcast_ref::<Error>();
        request.is_some_and(reqwest::Error::is_timeout)
            || error.is::<tokio::time::error::Elapsed>()
            || io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            || ours.is_some_and(Error::is_timeout)
    })
}

fn tells_of_connecting(error: &(dyn StdError + 'static)) -> bool {
    any_in(error, |error| {
        let request = error.downcast_ref::<reqwest::Error>();
        let io = error.downcast_ref::<io::Error>();
        let ours = error.downcast_ref::<Error>();
        request.is_some_and(reqwest::Error::is_connect)
            || io.is_some_and(is_unreachable)
            || ours.is_some_and(Error::is_connect)
    })
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Whether this is so of an error of the chain, or of the request's own error that a layer of a client has wrapped.
fn any_in(
    error: &(dyn StdError + 'static),
    condition: impl Fn(&(dyn StdError + 'static)) -> bool,
) -> bool {
    redact::chain(error).any(|error| {
        let layered = error.downcast_ref::<reqwest_middleware::Error>();
        let request = layered.and_then(redact::request_error);
        condition(error) || request.is_some_and(|request| condition(request))
    })
}

/// Whether the error can be kept as it is: neither its text nor its `Debug` form can give away a secret, and it says nothing twice.
fn is_harmless(error: &(dyn StdError + 'static), before: &[&str], secrets: &[&str]) -> bool {
    let all = redact::all_that_is_said(error);
    !redact::repeats_itself(error, before)
        && !redact::may_show_secret(&all)
        && !secrets.iter().any(|secret| redact::shows(&all, secret))
        && shows_what_it_says(error)
}

/// Whether the `Debug` forms of an error and its sources tell no more than their texts.
fn shows_what_it_says(error: &(dyn StdError + 'static)) -> bool {
    let mut below_request = false;
    redact::chain(error)
        .take_while(|error| !error.is::<Error>())
        .all(|error| {
            below_request |= error.is::<reqwest::Error>();
            shows_its_text(error) || (below_request && is_of_http_stack(error))
        })
        && (!below_request || quotes_what_it_says(error))
}

/// Whether this is an error of `reqwest` or of what it is built on. Any other below it may be the program's own, and is not known.
fn is_of_http_stack(error: &(dyn StdError + 'static)) -> bool {
    let begins = [
        "hyper_util::client::legacy::Error(",
        "hyper::Error(",
        "ConnectError(",
    ];
    let plain = [
        "TooManyRedirects",
        "BadScheme",
        "TimedOut",
        "IncompleteBody",
    ];
    let shown = format!("{error:?}");
    error.is::<reqwest::Error>()
        || begins.iter().any(|begin| shown.starts_with(begin))
        || plain.contains(&shown.as_str())
}

/// Whether all that the `Debug` form of an error quotes is in the text of the error or of its sources.
///
/// The errors of `reqwest` and of what is below it have `Debug` forms of their own, and those of a program may be among them: of a body, a
/// resolver, a policy for redirects.
fn quotes_what_it_says(error: &(dyn StdError + 'static)) -> bool {
    let texts: Vec<_> = redact::chain(error).map(ToString::to_string).collect();
    let said = texts.join("\n");
    let shown = format!("{error:?}");
    let mut quoted = shown.split('"').skip(1).step_by(2);
    // Escapes would make it hard to tell, and lists may be bytes.
    !shown.contains(['\\', '[']) && quoted.all(|text| said.contains(text))
}

/// Whether the `Debug` form of an error, without its sources, tells no more than its text.
fn shows_its_text(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.get_ref() {
            Some(content) => {
                content.is::<Error>() || shows_its_text(content) || is_of_http_stack(content)
            }
            None => true,
        };
    }
    let text = error.to_string();
    let quoted = format!("{text:?}");
    let shows_text = |shown: String| shown == text || shown == quoted;
    shows_text(format!("{error:?}")) && shows_text(format!("{error:#?}"))
}

/// What an error and its sources said, without what could give away a secret.
pub(crate) struct Said {
    text: String,
    source: Option<Box<Self>>,
}

impl Said {
    pub(crate) fn by(error: &(dyn StdError + 'static), before: &[&str], secrets: &[&str]) -> Self {
        let mut texts = redact::said(error, before).into_iter();
        let first = texts
            .next()
            .unwrap_or_else(|| "(nothing more is known)".to_owned());
        let source = texts.rev().fold(None, |source, text| {
            Some(Box::new(Self::new(&text, source, secrets)))
        });
        Self::new(&first, source, secrets)
    }

    fn new(text: &str, source: Option<Box<Self>>, secrets: &[&str]) -> Self {
        Self {
            text: redact::redact(text, secrets.iter().copied()),
            source,
        }
    }
}

impl Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.text, f)
    }
}

impl StdError for Said {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
