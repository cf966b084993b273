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
    pub(super) fn new(error: BoxError, secret: Option<&str>) -> Self {
        let mut error = match error.downcast::<reqwest_middleware::Error>() {
            Ok(error) => match *error {
                reqwest_middleware::Error::Reqwest(error) => error.into(),
                layered => layered.into(),
            },
            Err(error) => error,
        };
        let (is_timeout, is_connect) = (tells_of_timeout(&*error), tells_of_connecting(&*error));
        if let Some(error) = error.downcast_mut::<reqwest::Error>() {
            redact::take_out_of_request_error(error, secret);
        }
        let error = if is_harmless(&*error, secret) {
            error
        } else {
            Box::new(Said::by(&*error, secret))
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
            || io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
            || ours.is_some_and(Error::is_timeout)
    })
}

fn tells_of_connecting(error: &(dyn StdError + 'static)) -> bool {
    any_in(error, |error| {
        let request = error.downcast_ref::<reqwest::Error>();
        let ours = error.downcast_ref::<Error>();
        request.is_some_and(reqwest::Error::is_connect) || ours.is_some_and(Error::is_connect)
    })
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
fn is_harmless(error: &(dyn StdError + 'static), secret: Option<&str>) -> bool {
    let all = redact::all_that_is_said(error);
    !redact::repeats_itself(error)
        && !redact::may_show_secret(&all)
        && secret.is_none_or(|secret| !redact::shows(&all, secret))
        && redact::chain(error)
            // What is below these two is known.
            .take_while(|error| !error.is::<Error>() && !error.is::<reqwest::Error>())
            .all(shows_what_it_says)
}

/// Whether the `Debug` form of an error, without its sources, tells no more than its text.
fn shows_what_it_says(error: &(dyn StdError + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.get_ref() {
            Some(content) => content.is::<Error>() || shows_what_it_says(content),
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
    pub(crate) fn by(error: &(dyn StdError + 'static), secret: Option<&str>) -> Self {
        let mut texts = redact::said(error).into_iter();
        let first = texts.next().unwrap_or_default();
        let source = texts.rev().fold(None, |source, text| {
            Some(Box::new(Self::new(&text, source, secret)))
        });
        Self::new(&first, source, secret)
    }

    fn new(text: &str, source: Option<Box<Self>>, secret: Option<&str>) -> Self {
        Self {
            text: redact::redact(text, secret),
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
