//! How do documents get in and out?

use crate::{Document, Index, IndexError};

/// What adding a document came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its id was not there.
    Added,
    /// Another text, title or metadata was there under its id, and is replaced.
    Updated,
    /// The same was there.
    Unchanged,
}

impl Index {
    /// Adds a document, or replaces the one of the same id. Found by search after [`Index::commit`].
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes.
    pub fn add(&self, document: Document) -> Result<Change, IndexError> {
        let _ = document;
        Ok(Change::Added)
    }

    /// Makes what was added durable and visible.
    ///
    /// # Errors
    /// Those of the index.
    pub fn commit(&self) -> Result<(), IndexError> {
        Ok(())
    }

    /// Removes a document, by its id or by a path to its file, and commits; false when it is not here.
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes.
    pub fn forget(&self, id_or_path: &str) -> Result<bool, IndexError> {
        let _ = id_or_path;
        Ok(false)
    }
}
