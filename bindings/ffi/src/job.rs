//! A long call: it runs on a thread of its own, leaves events where the host picks them up, and ends early when told to.

use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender, unbounded};
use palimpsest_engine::cancel::Cancel;

use crate::call::guarded;
use crate::error::PalimpsestError;

type Outcome<R> = Result<R, PalimpsestError>;

/// A call under way, with events `E` and in the end an `R`. Dropped, it is told to end.
pub(crate) struct Job<E, R> {
    events: Receiver<E>,
    /// Closed once there is an outcome.
    ended: Receiver<()>,
    outcome: Arc<OnceLock<Outcome<R>>>,
    cancel: Cancel,
}

impl<E: Send + 'static, R: Clone + Send + Sync + 'static> Job<E, R> {
    /// Starts `work`, which sends its events and looks at `cancel`.
    pub(crate) fn start(cancel: Cancel, work: impl FnOnce(&Sender<E>, &Cancel) -> Outcome<R> + Send + 'static) -> Self {
        let (sender, events) = unbounded();
        let (ending, ended) = unbounded();
        let outcome = Arc::new(OnceLock::new());
        let job = Self { events, ended, outcome: outcome.clone(), cancel: cancel.clone() };
        let run = move || {
            let came = if cancel.is_cancelled() { Err(cancelled()) } else { guarded(|| work(&sender, &cancel)) };
            let _ = outcome.set(came);
            // In this order: whoever sees the end of the events finds the outcome.
            drop((sender, ending));
        };
        blocking::unblock(run).detach();
        job
    }

    /// The next event, `None` after the last.
    pub(crate) async fn next(&self) -> Result<Option<E>, PalimpsestError> {
        match self.events.recv().await {
            Ok(event) => Ok(Some(event)),
            Err(_) => self.result().await.map(|_| None),
        }
    }

    /// What came of it, once it has ended.
    pub(crate) async fn result(&self) -> Outcome<R> {
        // Nothing is ever sent: it is closed at the end.
        let _ = self.ended.recv().await;
        self.outcome.get().cloned().unwrap_or_else(|| Err(PalimpsestError::Internal("a call ended without an outcome".into())))
    }
}

impl<E, R> Job<E, R> {
    /// Tells it to end at the next chance.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }
}

impl<E, R> Drop for Job<E, R> {
    fn drop(&mut self) {
        self.cancel();
    }
}

pub(crate) fn cancelled() -> PalimpsestError {
    palimpsest_engine::Error::Cancelled.into()
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    #[test]
    fn events_come_in_order_and_then_the_outcome_as_often_as_asked_for() {
        let job = Job::start(Cancel::new(), |events, _| {
            for n in 0..3 {
                let _ = events.try_send(n);
            }
            Ok("done")
        });
        let all: Vec<_> = (0..4).map(|_| block_on(job.next())).collect();
        assert_eq!(all, [Ok(Some(0)), Ok(Some(1)), Ok(Some(2)), Ok(None)]);
        assert_eq!(block_on(job.result()), Ok("done"));
        assert_eq!(block_on(job.result()), Ok("done"));
    }

    #[test]
    fn cancelled_or_dropped_it_ends() {
        let (sender, said) = unbounded();
        let endless = move |_: &Sender<()>, cancel: &Cancel| -> Outcome<()> {
            let _ = sender.try_send("began");
            while !cancel.is_cancelled() {
                std::thread::yield_now();
            }
            let _ = sender.try_send("ended");
            Err(cancelled())
        };
        let job = Job::start(Cancel::new(), endless.clone());
        assert_eq!(said.recv_blocking(), Ok("began"));
        job.cancel();
        assert!(matches!(block_on(job.next()), Err(PalimpsestError::Cancelled(_))));
        assert_eq!(said.recv_blocking(), Ok("ended"));
        drop(Job::start(Cancel::new(), endless));
        // It ended, or never began: the last sender is gone either way.
        while said.recv_blocking().is_ok() {}
    }

    #[test]
    fn a_panic_inside_ends_the_events_with_an_error() {
        let job: Job<u32, ()> = Job::start(Cancel::new(), |_, _| panic!("inside"));
        assert!(matches!(block_on(job.next()), Err(PalimpsestError::Internal(said)) if said.contains("inside")));
    }
}
