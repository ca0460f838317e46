//! When to stop, and how far it is: what a caller holds while the engine works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A handle that stops work. Its clones are the same handle, on any thread; once cancelled it stays so.
///
/// Reading and decoding look at it before every layer of the network, so far more often than once a segment of
/// [`crate::state::SEGMENT`] tokens; nothing is computed after that.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A handle that nobody has cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops the work that was given this handle: it returns [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// # Errors
    /// [`Error::Cancelled`] once it was cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.0
    }
}

/// What long work asks between its steps: whether to go on, and whom to tell how far it is.
#[derive(Default)]
pub struct Pace<'a> {
    cancel: Option<&'a Cancel>,
    progress: Option<&'a mut (dyn FnMut(u64) + Send)>,
}

impl<'a> Pace<'a> {
    /// Never stops, tells nobody.
    #[must_use]
    pub fn free() -> Self {
        Self::default()
    }

    /// Stops when `cancel` says so.
    #[must_use]
    pub fn until(cancel: &'a Cancel) -> Self {
        Self { cancel: Some(cancel), progress: None }
    }

    /// The same; `progress` gets the number of tokens that were read since it was called last.
    #[must_use]
    pub fn telling(self, progress: &'a mut (dyn FnMut(u64) + Send)) -> Self {
        Self { progress: Some(progress), ..self }
    }

    /// # Errors
    /// [`Error::Cancelled`] when the work is to stop.
    pub fn check(&self) -> Result<()> {
        self.cancel.map_or(Ok(()), Cancel::check)
    }

    /// Tells that `tokens` more were read.
    pub fn read(&mut self, tokens: usize) {
        if let Some(progress) = &mut self.progress {
            progress(tokens as u64);
        }
    }
}
