//! Which passages answer to a question?

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Index, IndexError};

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
}

/// Where a person finds a passage in the document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Place {
    /// Page on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Heading under which it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<String>,
    /// Line on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

impl Index {
    /// The `limit` passages that answer best to a question in plain words, best first.
    ///
    /// # Errors
    /// Those of the index; no question is an error.
    pub fn search(&self, question: &str, limit: usize) -> Result<Vec<Hit>, IndexError> {
        let _ = (question, limit);
        Ok(Vec::new())
    }
}
