//! How good is each way of finding passages, on judged questions?

use std::path::Path;

use palimpsest_index::measure::{RetrievalScores, corpus, evaluate_by};
use palimpsest_index::{Options, Progress, Weights};
use serde::Serialize;

use crate::error::Result;

/// Scores of one folder of judged questions.
#[derive(Debug, Clone, Serialize)]
pub struct Retrieval {
    /// By words.
    pub bm25: RetrievalScores,
    /// By vectors; where there is an encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dense: Option<RetrievalScores>,
    /// By both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fused: Option<RetrievalScores>,
}

/// Scores BM25 with `weights` on a folder in BEIR's form, and with an encoder its vectors and both together.
///
/// # Errors
/// Those of the folder; [`crate::Error::Encoder`]; [`crate::Error::Input`] for an encoder in a build without the feature
/// `dense`.
pub fn evaluate(
    folder: &Path,
    weights: Weights,
    encoder: Option<&Path>,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Retrieval> {
    let mut options = Options::default();
    options.weights = weights;
    let index = corpus(folder, &options)?;
    let bm25 = evaluate_by(folder, &index)?;
    match encoder {
        None => Ok(Retrieval { bm25, dense: None, fused: None }),
        Some(encoder) => with_encoder(folder, index, bm25, encoder, progress),
    }
}

#[cfg(feature = "dense")]
fn with_encoder(
    folder: &Path,
    index: palimpsest_index::Index,
    bm25: RetrievalScores,
    encoder: &Path,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Retrieval> {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use palimpsest_index::{Fused, Ranking, Retriever};

    let encoder = Arc::new(crate::encoder::SentenceTransformer::open(encoder)?);
    let both = Fused::new(Arc::new(index), None, encoder)?;
    both.sync(&AtomicBool::new(false), progress)?;
    let fused = Some(evaluate_by(folder, &both)?);
    let dense = Some(evaluate_by(folder, &both.ranked_by(Ranking::Dense))?);
    Ok(Retrieval { bm25, dense, fused })
}

#[cfg(not(feature = "dense"))]
fn with_encoder(
    _: &Path,
    _: palimpsest_index::Index,
    _: RetrievalScores,
    _: &Path,
    _: &(dyn Fn(&Progress) + Sync),
) -> Result<Retrieval> {
    Err(crate::engine::without_dense())
}
