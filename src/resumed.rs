//! A body put together again from what has been read of it and what has not.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use reqwest::Body;

/// What reading a body brings.
pub(crate) type ReadFrame = Result<Frame<Bytes>, reqwest::Error>;

/// The frames that have been read, then the rest.
pub(crate) struct Resumed {
    read: VecDeque<ReadFrame>,
    /// `None` once it has ended: a body need not bear to be asked again then.
    rest: Option<Body>,
    /// The size that the body told before it was read. One may go on telling the same while it is read.
    whole: SizeHint,
    given: u64,
}

impl Resumed {
    pub(crate) fn new(read: VecDeque<ReadFrame>, rest: Option<Body>, whole: SizeHint) -> Self {
        Self {
            read,
            rest,
            whole,
            given: 0,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ReadFrame>> {
        if let Some(frame) = self.read.pop_front() {
            return Poll::Ready(Some(frame));
        }
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(rest).poll_frame(cx));
        if frame.is_none() {
            self.rest = None;
        }
        Poll::Ready(frame)
    }
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ReadFrame>> {
        let frame = ready!(self.poll_next(cx));
        if let Some(Ok(frame)) = &frame {
            self.given += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn size_hint(&self) -> SizeHint {
        let mut left = SizeHint::new();
        left.set_lower(self.whole.lower().saturating_sub(self.given));
        if let Some(upper) = self.whole.upper() {
            left.set_upper(upper.saturating_sub(self.given));
        }
        left
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }
}
