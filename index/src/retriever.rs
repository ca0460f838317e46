//! Who else may find passages? Whatever takes a question and gives hits: the index of this crate, or a cluster elsewhere.

use crate::search::{Hit, SearchOptions};
use crate::{Index, IndexError};

/// Finds the passages that answer to a question.
pub trait Retriever: Send + Sync {
    /// At most `options.limit` passages, best first. Of each hit `text` must be the document's text at `range`.
    ///
    /// # Errors
    /// Those of the retriever; no question is an error.
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError>;
}

impl Retriever for Index {
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        self.search_with(question, options)
    }
}
