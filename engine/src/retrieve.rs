//! Question -> the passages that may hold its answer.

use palimpsest_index::{Filter, Hit, Index, Retriever, SearchOptions};

use crate::error::Result;

/// Passages BM25 hands on to be reranked.
pub const RETRIEVED: usize = 50;

/// The [`RETRIEVED`] passages that BM25 ranks highest, best first, of the documents that `filter` lets through.
///
/// # Errors
/// Those of the index.
pub fn retrieve(index: &Index, question: &str, filter: Option<&Filter>) -> Result<Vec<Hit>> {
    let mut options = SearchOptions::default();
    options.limit = RETRIEVED;
    options.filter = filter.cloned();
    Ok(index.retrieve(question, &options)?)
}
