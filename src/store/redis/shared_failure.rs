//! A failed fetch, as it is kept in Redis for other processes.

use std::time::Duration;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::scripts::Text;
use crate::redact::redact;
use crate::source::Hearsay;
use crate::{Error, Fetch};

/// No cool-down is longer, whatever the text says.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Errcode(i64),
    Refused,
    Transient,
}

#[derive(Serialize, Deserialize)]
struct SharedFailure {
    kind: Kind,
    message: String,
    /// In milliseconds.
    pause: u64,
}

/// The failure as others shall find it, and for how long; `None` for one that is no other's business.
pub(super) fn write(error: &Error, fetch: &Fetch<'_>) -> Option<(String, Duration)> {
    let pause = fetch.pause_after(error)?;
    let (kind, message) = match error {
        Error::Errcode { errcode, errmsg } => (Kind::Errcode(*errcode), errmsg.clone()),
        Error::Refused(cause) => (Kind::Refused, cause.to_string()),
        Error::Transient(cause) => (Kind::Transient, cause.to_string()),
        error if error.is_transient() => (Kind::Transient, error.to_string()),
        _ => return None,
    };
    let failure = SharedFailure {
        kind,
        message: redact(&message, fetch.secret()),
        pause: u64::try_from(pause.as_millis()).ok()?,
    };
    Some((serde_json::to_string(&failure).ok()?, pause))
}

/// What another process has left. A text that cannot be read tells at least that there was a failure.
pub(super) fn read(text: &Text) -> Hearsay {
    let left = text.left.min(LONGEST);
    match serde_json::from_slice::<SharedFailure>(text.text.expose_secret()) {
        Ok(failure) => Hearsay {
            error: match failure.kind {
                Kind::Errcode(errcode) => Error::Errcode {
                    errcode,
                    errmsg: failure.message,
                },
                Kind::Refused => Error::refused(failure.message),
                Kind::Transient => Error::transient(failure.message),
            },
            pause: Duration::from_millis(failure.pause).min(LONGEST),
            left,
        },
        Err(_) => Hearsay {
            error: Error::transient("another process has failed to fetch one"),
            pause: left,
            left,
        },
    }
}
