//! Question -> the passages that may hold its answer.

use palimpsest_index::{Hit, Index};

use crate::error::Result;

/// Passages BM25 hands on to be reranked.
pub const RETRIEVED: usize = 50;

/// The [`RETRIEVED`] passages that BM25 ranks highest, best first.
///
/// # Errors
/// Those of the index.
pub fn retrieve(index: &Index, question: &str) -> Result<Vec<Hit>> {
    Ok(index.search(question, RETRIEVED)?)
}
