//! What happens while a question is answered, one thing after another: as calls, as an iterator, as an async stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use palimpsest_index::Hit;

use crate::ask::{Answer, AskOptions};
use crate::cancel::Cancel;
use crate::cite::Citation;
use crate::engine::Engine;
use crate::error::{Error, Result};

/// One thing that happened. They come in the order of this list; `Reading` comes at least once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// These passages are worth reading, best first.
    Retrieved(Vec<Hit>),
    /// How far the reading of passages is.
    Reading {
        /// Run through the reader so far.
        tokens_read: u64,
        /// Not run because a snapshot held them.
        tokens_restored: u64,
        /// Of all passages; with the end of reading `tokens_read + tokens_restored`, unless a budget ran out.
        tokens_total: u64,
    },
    /// A piece of the answer, of whole characters; all of them together are the answer. They come once the answer was chosen
    /// and its quote compared with the source: none is taken back.
    Token(String),
    /// Where the answer stands.
    Citation(Citation),
    /// The answer, with or without text. The last event.
    Done(Answer),
}

/// The events of one question, answered on a thread of its own. An iterator that waits and an async stream that needs no
/// particular runtime; it ends after [`Event::Done`] or the first error. Dropping it cancels the work.
pub struct Events {
    queue: Arc<Queue>,
    cancel: Cancel,
}

#[derive(Default)]
struct Queue {
    inner: Mutex<Inner>,
    arrived: Condvar,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Result<Event>>,
    /// Nothing comes any more.
    ended: bool,
    waker: Option<Waker>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Result<Event>) {
        let mut inner = self.lock();
        // Nobody looked at the last progress: the new one says it all.
        if matches!(event, Ok(Event::Reading { .. })) && matches!(inner.events.back(), Some(Ok(Event::Reading { .. }))) {
            inner.events.pop_back();
        }
        inner.events.push_back(event);
        self.wake(inner);
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner>) {
        let waker = inner.waker.take();
        drop(inner);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Ends the queue when the thread does, however it does.
struct Ending(Arc<Queue>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.ended = true;
        if std::thread::panicking() {
            inner.events.push_back(Err(Error::Internal("answering a question panicked")));
        }
        self.0.wake(inner);
    }
}

impl Events {
    pub(crate) fn begin(engine: Arc<Engine>, question: String, options: AskOptions, cancel: Cancel) -> Self {
        let queue = Arc::new(Queue::default());
        let (ending, held) = (Ending(queue.clone()), cancel.clone());
        let answering = move || {
            let ending = ending;
            if let Err(error) = engine.ask_with(&question, &options, &held, &mut |event| ending.0.push(Ok(event))) {
                ending.0.push(Err(error));
            }
        };
        if let Err(source) = std::thread::Builder::new().name("palimpsest-ask".into()).spawn(answering) {
            // The closure is gone, and with it `ending`: the queue has ended, and says why.
            queue.push(Err(Error::Io { path: "a thread to answer on".into(), source }));
        }
        Self { queue, cancel }
    }

    /// The handle that stops the work; after it comes [`Error::Cancelled`], unless the answer was there before.
    #[must_use]
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }
}

impl Iterator for Events {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut inner = self.queue.lock();
        loop {
            if let Some(event) = inner.events.pop_front() {
                return Some(event);
            }
            if inner.ended {
                return None;
            }
            inner = self.queue.arrived.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Stream for Events {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.queue.lock();
        if let Some(event) = inner.events.pop_front() {
            return Poll::Ready(Some(event));
        }
        if inner.ended {
            return Poll::Ready(None);
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
