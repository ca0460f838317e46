//! Question -> the passages that may hold its answer.

use palimpsest_index::{Filter, Hit, Retriever, SearchOptions};

use crate::error::Result;

/// Passages that retrieval hands on to be reranked.
pub const RETRIEVED: usize = 50;

/// The [`RETRIEVED`] passages that rank highest, best first, of the documents that `filter` lets through.
///
/// # Errors
/// Those of the retriever.
pub fn retrieve(retriever: &dyn Retriever, question: &str, filter: Option<&Filter>) -> Result<Vec<Hit>> {
    let mut options = SearchOptions::default();
    options.limit = RETRIEVED;
    options.filter = filter.cloned();
    Ok(retriever.retrieve(question, &options)?)
}
