//! A failed fetch, as it is kept in Redis for other processes.

use std::error::Error as _;
use std::time::Duration;

use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};

use super::scripts::Text;
use crate::fetch::{Fetch, Hearsay};
use crate::redact::{in_one_line, redact};
use crate::{Error, ErrorKind};

/// No cooldown is longer, whatever the text says.
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
    let (kind, message) = match (error.errcode(), error.source()) {
        (Some(errcode), _) => (Kind::Errcode(errcode), error.errmsg().to_owned()),
        (None, cause) => {
            let message = in_one_line(cause.unwrap_or(error));
            match error.kind() {
                ErrorKind::Refused => (Kind::Refused, message),
                _ if error.is_transient() => (Kind::Transient, message),
                _ => return None,
            }
        }
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
                Kind::Errcode(errcode) => Error::api(errcode, failure.message),
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
