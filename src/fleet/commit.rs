//! Ending a lease: with a token, or with a failure.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::document::{Document, Timed, Turn};
use super::failure::{Failure, Verdict};
use super::{Failed, Fleet, LEASE, Lease, MOST_SWAPS, POLL, Seen, Task};
use crate::fetch::Hearsay;
use crate::{AccessToken, Error};

impl Fleet {
    /// Puts a fetched token into the database and ends the lease, unless a newer one is there by now. Then returns that one.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        task: Task<'_>,
        token: &AccessToken,
        lease: Box<Lease>,
    ) -> Result<Option<AccessToken>, Failed> {
        let Some(token) = Timed::fetched(token, task.clock.now()) else {
            return Ok(None);
        };
        let committed = self.swap_in(task, &token, Some(*lease.seen)).await;
        if committed.is_err() {
            self.write_back.add(self, task, token);
        }
        committed
    }

    /// Keeps a token that was fetched without the database, as soon as that works.
    pub(crate) fn keep_later(self: &Arc<Self>, task: Task<'_>, token: &AccessToken) {
        if let Some(token) = Timed::fetched(token, task.clock.now()) {
            self.write_back.add(self, task, token);
        }
    }

    /// Swaps a token in, first for what was seen. Returns the newer token that is there instead, if there is one.
    pub(super) async fn swap_in(
        &self,
        task: Task<'_>,
        token: &Timed<AccessToken>,
        mut seen: Option<Seen>,
    ) -> Result<Option<AccessToken>, Failed> {
        let began = Instant::now();
        for _ in 0..MOST_SWAPS * 8 {
            let there = match seen.take() {
                Some(seen) => seen,
                None => {
                    let asked_at = Instant::now();
                    let there = self.load(task, Some(token.part())).await?;
                    if let Some(other) = task.usable(&there.document)
                        && there.document.is_younger(token, asked_at.elapsed())
                    {
                        return Ok((other != *token.part()).then_some(other));
                    }
                    // The holder's token will be newer, unless it fails.
                    if self.is_held(&there.document) && began.elapsed() < LEASE * 2 {
                        sleep(Duration::from_millis(fastrand::u64(POLL))).await;
                        continue;
                    }
                    there
                }
            };
            if token.left().is_zero() {
                return Ok(None);
            }
            let document = Document {
                token: Some(token.clone()),
                turn: None,
            };
            if self.swap(task, &there, document).await?.is_some() {
                return Ok(None);
            }
        }
        Err(Failed)
    }

    fn is_held(&self, document: &Document) -> bool {
        let turn = document.turn.as_ref().map(Timed::part);
        matches!(turn, Some(Turn::Owner(name)) if !self.leases.is_dead(&self.member, name))
    }

    /// Tells the other members of a failed fetch and ends the lease. Returns how long this one is to wait.
    ///
    /// A forced fetch tells nobody of its failure, and leaves an earlier failure as it was.
    pub(crate) async fn fail(
        &self,
        task: Task<'_>,
        error: &Error,
        lease: Box<Lease>,
    ) -> Option<Hearsay> {
        let Lease {
            owner: _live,
            taken_at: _,
            seen,
            failure: before,
        } = *lease;
        let secret = task.calls.request.credentials().expose_secret();
        let has_token = task.has_good(&seen.document);
        let before = before.as_ref();
        let failure = match task.is_forced() {
            true => None,
            false => Failure::new(error, secret, &self.member, before, has_token),
        };
        let heard = failure.as_ref().map(|failure| {
            let left = match Failure::verdict(failure, &self.member, has_token) {
                Verdict::Wait(left) => left,
                Verdict::MayTry => Duration::ZERO,
            };
            failure.part().heard(left)
        });
        let turn = failure
            .as_ref()
            .or(before)
            .map(|it| Timed::new(Turn::Failure(it.part().clone()), it.left()));
        let document = Document {
            turn,
            ..seen.document.clone()
        };
        // If the swap fails, the lease expires anyway.
        let _told = self.swap(task, &seen, document).await;
        heard
    }
}
