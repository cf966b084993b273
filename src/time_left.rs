//! A request's own time limit.

use std::time::Duration;

use futures_util::future::{Either, FutureExt};
use reqwest::Request;
use tokio::time::{Instant, timeout};

use crate::Error;

/// The time limit of a request. It covers the wait for a token and both times that the request is sent.
pub(crate) struct TimeLeft {
    limit: Option<(Duration, Instant)>,
}

impl TimeLeft {
    /// Starts to count.
    pub(crate) fn of(request: &Request) -> Self {
        let limit = request.timeout().copied();
        Self {
            limit: limit.map(|limit| (limit, Instant::now())),
        }
    }

    /// Ends the work with an error when the time is up.
    pub(crate) fn bounds<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        match self.limit {
            None => Either::Left(work),
            Some((limit, began)) => {
                let work = timeout(limit.saturating_sub(began.elapsed()), work);
                Either::Right(
                    work.map(move |done| {
                        done.unwrap_or_else(|_elapsed| Err(Error::timed_out(limit)))
                    }),
                )
            }
        }
    }

    /// Limits the request itself to what is left.
    pub(crate) fn limit(&self, request: &mut Request) {
        if let Some((limit, began)) = self.limit {
            *request.timeout_mut() = Some(limit.saturating_sub(began.elapsed()));
        }
    }
}
