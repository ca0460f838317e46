//! Which passages answer to a question?

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tantivy::schema::Value as _;
use tantivy::{DocAddress, Searcher, TantivyDocument};

use crate::error::doing;
use crate::filter::{Filter, choose};
use crate::place::{Place, Placed, Turn};
use crate::{Index, IndexError, analyse, bm25};

/// A passage that answers to a question. Its text is the document's text at `range`, byte for byte.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// Id of the document.
    pub document: String,
    /// Its file; `None` for a text that an app handed over.
    pub path: Option<PathBuf>,
    /// Its title.
    pub title: String,
    /// Which of the document's passages, from 0.
    pub passage: u32,
    /// Half-open bytes of the document's text.
    pub range: Range<u64>,
    /// The document's text there.
    pub text: String,
    /// BM25.
    pub score: f32,
    /// Where a person finds it.
    pub place: Option<Place>,
    pub(crate) turns: Vec<Turn>,
}

impl Hit {
    /// Where a person finds byte `at` of [`Hit::text`]: its own page, heading and line, where they are known.
    #[must_use]
    pub fn place_at(&self, at: usize) -> Option<Place> {
        let place = self.place.clone()?;
        Some(Placed { place, turns: self.turns.clone() }.at(&self.text, at))
    }
}

/// BM25's two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// How soon more of the same term counts no more.
    pub k1: f32,
    /// How much a long passage must have more of it, from 0 (not at all) to 1.
    pub b: f32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { k1: 1.2, b: 0.75 }
    }
}

/// How to search.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SearchOptions {
    /// Passages at most.
    pub limit: usize,
    /// Which documents to look at; all without.
    pub filter: Option<Filter>,
    /// BM25's weights; the index's own without.
    pub weights: Option<Weights>,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { limit: 10, filter: None, weights: None }
    }
}

impl Index {
    /// The `limit` passages that answer best to a question in plain words, best first.
    ///
    /// # Errors
    /// Those of the index; no question is an error.
    pub fn search(&self, question: &str, limit: usize) -> Result<Vec<Hit>, IndexError> {
        self.search_with(question, &SearchOptions { limit, ..SearchOptions::default() })
    }

    /// As [`Index::search`], among the documents of a filter or with other weights.
    ///
    /// # Errors
    /// Those of the index; no question is an error.
    pub fn search_with(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        let searcher = self.reader.searcher();
        let terms = analyse::question(&self.settings.language, question);
        let chosen =
            options.filter.as_ref().map(|f| choose(&searcher, self.fields.metadata, f)).transpose().map_err(doing("filter"))?;
        let weights = options.weights.unwrap_or(self.settings.weights());
        let best = bm25::best(&searcher, self.fields.terms, &terms, weights, options.limit, chosen.as_deref())
            .map_err(doing("search"))?;
        best.into_iter().map(|found| self.hit(&searcher, found.address, found.score)).collect()
    }

    pub(crate) fn hit(&self, searcher: &Searcher, address: DocAddress, score: f32) -> Result<Hit, IndexError> {
        let f = &self.fields;
        let passage: TantivyDocument = searcher.doc(address).map_err(doing("read a passage"))?;
        let text = |field| passage.get_first(field).and_then(|v| v.as_str());
        let number = |field| passage.get_first(field).and_then(|v| v.as_u64());
        let parts = (text(f.document), text(f.text), number(f.start), number(f.ordinal));
        let (Some(document), Some(words), Some(start), Some(ordinal)) = parts else {
            let what = format!("passage {} of segment {} lacks a field", address.doc_id, address.segment_ord);
            return Err(IndexError::Damaged { path: self.place(), what });
        };
        let placed = passage.get_first(f.place).and_then(|v| v.as_bytes()).and_then(|b| serde_json::from_slice(b).ok());
        let (place, turns) = placed.map_or((None, Vec::new()), |Placed { place, turns }| (Some(place), turns));
        Ok(Hit {
            document: document.to_string(),
            path: text(f.path).map(PathBuf::from),
            title: text(f.title).unwrap_or_default().to_string(),
            passage: ordinal as u32,
            range: start..start + words.len() as u64,
            text: words.to_string(),
            score,
            place,
            turns,
        })
    }
}
