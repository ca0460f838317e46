//! Who else may find passages? Whatever takes a question and gives hits: the index of this crate, or a cluster elsewhere.

use std::ops::Range;
use std::sync::atomic::AtomicBool;

use crate::search::{Hit, SearchOptions};
use crate::{DocumentSummary, Index, IndexError, Progress};

/// Finds the passages that answer to a question, and keeps the texts that they are quoted from.
pub trait Retriever: Send + Sync {
    /// At most `options.limit` passages, best first. Of each hit `text` must be the document's text at `range`.
    ///
    /// # Errors
    /// Those of the retriever; no question is an error.
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError>;

    /// What a quote of `document` at bytes `range` is held against; `None` when the document is not there (any more).
    ///
    /// # Errors
    /// Those of the retriever.
    fn source(&self, document: &str, range: Range<u64>) -> Result<Option<Source>, IndexError>;

    /// Brings what it keeps beside the store's index in step with it, after documents came in or went.
    ///
    /// # Errors
    /// Those of the retriever; [`IndexError::Stopped`] where `stop` was set.
    fn sync(&self, _stop: &AtomicBool, _progress: &(dyn Fn(&Progress) + Sync)) -> Result<(), IndexError> {
        Ok(())
    }
}

/// What is kept of a document where it is quoted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Source {
    /// Its text at the range asked for; `None` when there is no such range.
    pub text: Option<String>,
    /// What is known about it.
    pub summary: DocumentSummary,
}

impl Retriever for Index {
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        self.search_with(question, options)
    }

    fn source(&self, document: &str, range: Range<u64>) -> Result<Option<Source>, IndexError> {
        let Some(card) = self.known(&self.reader.searcher(), document)? else { return Ok(None) };
        Ok(Some(Source { text: self.text(&card.id, range)?, summary: card.summary() }))
    }
}
