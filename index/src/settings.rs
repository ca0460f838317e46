//! How was an index made, and with what is it read again?
//!
//! What cannot change without ingesting again (language, bounds of passages) is kept in the index folder, in a file with a
//! version and a checksum.

use serde::{Deserialize, Serialize};

use crate::analyse::Language;
use crate::passage::Bounds;
use crate::search::Weights;

/// Format of the index folder; one more with each change that older versions cannot read.
pub(crate) const FORMAT: u32 = 1;

/// Name of the file of settings.
pub(crate) const FILE: &str = "palimpsest.json";

/// How a new index is made. An index that is there keeps the settings it was made with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// Language whose endings are taken off words, by its English name or two-letter code. A language that is not known
    /// here is indexed by whole words, with a [`crate::Notice`].
    pub language: String,
    /// How long passages are.
    pub bounds: Bounds,
    /// BM25's weights, where a search names no others.
    pub weights: Weights,
    /// Check every byte of the index's files against its checksum when opening it (0.3 s for 0.9 GB that the
    /// system holds in memory). Without,
    /// a file that the disk changed may give wrong passages.
    pub validate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { language: "english".to_string(), bounds: Bounds::default(), weights: Weights::default(), validate: true }
    }
}

/// What is kept of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) format: u32,
    pub(crate) language: String,
    pub(crate) min_bytes: usize,
    pub(crate) max_bytes: usize,
    pub(crate) k1: f32,
    pub(crate) b: f32,
}

impl Settings {
    pub(crate) fn new(options: &Options) -> Self {
        let known = Language::named(&options.language).map(|l| l.name().to_string());
        Self {
            format: FORMAT,
            language: known.unwrap_or_else(|| options.language.trim().to_lowercase()),
            min_bytes: options.bounds.min_bytes,
            max_bytes: options.bounds.max_bytes,
            k1: options.weights.k1,
            b: options.weights.b,
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { min_bytes: self.min_bytes, max_bytes: self.max_bytes }
    }

    pub(crate) fn weights(&self) -> Weights {
        Weights { k1: self.k1, b: self.b }
    }
}
