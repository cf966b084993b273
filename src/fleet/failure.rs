//! A failed fetch, as the members of a fleet tell each other of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::Timed;
use crate::fetch::{Hearsay, Pauses};
use crate::redact::{in_one_line, redact};
use crate::{Error, ErrorKind};

/// How many members that have not failed yet may try for themselves within one pause.
const MOST_TRIES: u32 = 3;

/// How many members that have tried are remembered.
const MOST_LISTED: usize = 128;

/// How much of a message is told, in characters.
const LONGEST_MESSAGE: usize = 300;

/// After a pause, members that have not failed yet may try so much earlier than the others.
const HEAD_START: Duration = Duration::from_millis(500);

/// A pause that began while there was a token is over so soon once there is none.
const WITHOUT_TOKEN: Duration = Duration::from_secs(1);

/// How long a failure is remembered after its pause.
const MEMORY: Duration = Duration::from_secs(30);

/// A failed fetch.
///
/// A failure about the credentials counts for all members. Any other may be one member's own, so a few others try for themselves within each
/// pause, and those that have failed come last. So a broken host starves nobody, and an outage causes no flood.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    kind: Kind,
    message: String,
    /// The members that have tried, the latest last. Empty if it counts for all.
    by: Vec<String>,
    /// How many of them have tried in this pause for the first time.
    tries: u32,
    /// The whole pause, in milliseconds.
    pause: u64,
    /// Whether there was a token to go on with.
    #[serde(default)]
    with_token: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Errcode(i64),
    Refused,
    Transient,
}

/// Whether a member may try after a failure.
#[derive(Debug)]
pub(super) enum Verdict {
    MayTry,
    /// Not for so long.
    Wait(Duration),
}

impl Failure {
    /// The longest time for which it can be kept.
    pub(super) fn longest(&self) -> Duration {
        self.whole_pause().saturating_add(MEMORY)
    }

    /// The failure of this member; `None` if it is no other's business. `before` is the failure that it has found.
    pub(super) fn new(
        error: &Error,
        secret: Option<&str>,
        member: &str,
        before: Option<&Timed<Self>>,
        with_token: bool,
    ) -> Option<Timed<Self>> {
        let kind = Kind::of(error)?;
        let message = match kind {
            Kind::Errcode(_) => error.errmsg().to_owned(),
            _ => in_one_line(std::error::Error::source(error).unwrap_or(error)),
        };
        let mut failure = Self {
            kind,
            message: redact(&message, secret)
                .chars()
                .take(LONGEST_MESSAGE)
                .collect(),
            by: Vec::new(),
            tries: 0,
            pause: 0,
            with_token,
        };
        let pauses = if kind.is_of_all() {
            Pauses::after(error)?
        } else {
            Pauses::of_other_members(error)?
        };
        // A pause that a token made up for, or one of another kind, says nothing of how long to wait now.
        let before = before.filter(|before| {
            let is_same = before.part().kind.is_of_all() == kind.is_of_all();
            is_same && (with_token || !before.part().with_token)
        });
        let (mut pause, mut left) = (pauses.first(error), None);
        if let Some(before) = before {
            let left_before = pause_left(before);
            pause = pauses.next(error, before.part().whole_pause());
            failure.by.clone_from(&before.part().by);
            if !left_before.is_zero() {
                pause = before.part().whole_pause();
                left = Some(left_before);
                failure.tries = before.part().tries;
            }
        }
        if !kind.is_of_all() {
            let is_new = u32::from(!failure.has_tried(member));
            failure.tries = failure.tries.saturating_add(is_new);
            failure.by.retain(|other| other != member);
            failure.by.push(member.to_owned());
            let surplus = failure.by.len().saturating_sub(MOST_LISTED);
            failure.by.drain(..surplus);
        }
        failure.pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Some(Timed::new(failure, left.unwrap_or(pause) + MEMORY))
    }

    /// `has_token`: there is still a token to go on with.
    pub(super) fn verdict(this: &Timed<Self>, member: &str, has_token: bool) -> Verdict {
        let (failure, left) = (this.part(), pause_left(this));
        let passed = failure.whole_pause().saturating_sub(left);
        if failure.with_token && !has_token && passed >= WITHOUT_TOKEN {
            return Verdict::MayTry;
        }
        let in_pause = !left.is_zero();
        if failure.kind.is_of_all() {
            return if in_pause {
                Verdict::Wait(left)
            } else {
                Verdict::MayTry
            };
        }
        if !failure.has_tried(member) {
            let has_room = !in_pause || failure.tries < MOST_TRIES;
            return if has_room {
                Verdict::MayTry
            } else {
                Verdict::Wait(left)
            };
        }
        // By now everyone else has had the chance to try.
        let left = (this.left() + HEAD_START).saturating_sub(MEMORY);
        if left.is_zero() {
            Verdict::MayTry
        } else {
            Verdict::Wait(left)
        }
    }

    /// What the manager is told, which is to wait for so long.
    pub(super) fn heard(&self, left: Duration) -> Hearsay {
        let message = self.message.clone();
        Hearsay {
            error: match self.kind {
                Kind::Errcode(errcode) => Error::api(errcode, message),
                Kind::Refused => Error::refused(message),
                Kind::Transient => Error::transient(message),
            },
            left,
        }
    }

    fn has_tried(&self, member: &str) -> bool {
        self.by.iter().any(|other| other == member)
    }

    fn whole_pause(&self) -> Duration {
        Duration::from_millis(self.pause)
    }
}

/// How much of the pause is left.
fn pause_left(failure: &Timed<Failure>) -> Duration {
    failure.left().saturating_sub(MEMORY)
}

impl Kind {
    fn of(error: &Error) -> Option<Self> {
        match (error.errcode(), error.kind()) {
            (Some(errcode), _) => Some(Self::Errcode(errcode)),
            (None, ErrorKind::Refused) => Some(Self::Refused),
            (None, ErrorKind::Interrupted) => Some(Self::Transient),
            (None, _) => error.is_transient().then_some(Self::Transient),
        }
    }

    /// Whether it is about the credentials, and so the same for each member. Busy, rate limited and an untrusted IP address are not.
    fn is_of_all(self) -> bool {
        match self {
            Self::Errcode(errcode) => !matches!(errcode, -1 | 45009 | 45033 | 60020),
            Self::Refused | Self::Transient => false,
        }
    }
}
