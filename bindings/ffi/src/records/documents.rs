//! Documents and their passages.

use std::collections::HashMap;

use palimpsest_engine::index;

use super::metadata::{Value, described, plain};
use super::path;

/// A text that an app hands over.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct TextDocument {
    /// What the app calls it. The same id replaces what was there.
    pub id: String,
    /// Its title, which the reader sees too.
    pub title: String,
    /// All of it.
    pub text: String,
    /// What `search` can filter by.
    #[uniffi(default)]
    pub metadata: HashMap<String, Value>,
}

/// A document with its text.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Document {
    /// For files the canonical absolute path; for texts of an app what the app calls them.
    pub id: String,
    /// The file it was read from; none for a text that an app handed over.
    pub path: Option<String>,
    /// The first heading, the title that the file carries, or the stem of its name.
    pub title: String,
    /// What it was before it was text: `text`, `markdown`, `html`, `pdf`, `docx`, `epub`, `code`, `csv` or `jsonlines`.
    pub format: String,
    /// The extracted text, whose bytes citations count.
    pub text: String,
    /// SHA-256 of the text, in hex.
    pub text_sha256: String,
    /// What an app or a file says about it.
    pub metadata: HashMap<String, Value>,
}

/// A document without its text.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct DocumentSummary {
    /// As of the document.
    pub id: String,
    /// As of the document.
    pub path: Option<String>,
    /// As of the document.
    pub title: String,
    /// As of the document.
    pub format: String,
    /// Bytes of its text.
    pub text_bytes: u64,
    /// Passages it was cut into.
    pub passages: u32,
    /// As of the document.
    pub text_sha256: String,
    /// As of the document.
    pub metadata: HashMap<String, Value>,
}

/// A passage that matches a query.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Hit {
    /// Id of the document.
    pub document: String,
    /// Its file; none for a text that an app handed over.
    pub path: Option<String>,
    /// Its title.
    pub title: String,
    /// Which of the document's passages, from 0.
    pub passage: u32,
    /// First byte of the passage in the document's text.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// The text there.
    pub text: String,
    /// BM25.
    pub score: f32,
    /// Page on which it begins, from 1, where the format has pages.
    pub page: Option<u32>,
    /// Heading under which it begins.
    pub heading: Option<String>,
    /// Line on which it begins, from 1.
    pub line: Option<u64>,
}

impl From<TextDocument> for index::Document {
    fn from(d: TextDocument) -> Self {
        let mut document = Self::new(d.id, d.title, d.text);
        document.metadata = plain(d.metadata);
        document
    }
}

impl From<index::Document> for Document {
    fn from(d: index::Document) -> Self {
        Self {
            text_sha256: d.text_sha256(),
            id: d.id,
            path: d.path.as_deref().map(path),
            title: d.title,
            format: d.format.to_string(),
            text: d.text,
            metadata: described(d.metadata),
        }
    }
}

impl From<index::DocumentSummary> for DocumentSummary {
    fn from(d: index::DocumentSummary) -> Self {
        Self {
            id: d.id,
            path: d.path.as_deref().map(path),
            title: d.title,
            format: d.format.to_string(),
            text_bytes: d.text_bytes,
            passages: d.passages,
            text_sha256: d.text_sha256,
            metadata: described(d.metadata),
        }
    }
}

impl From<index::Hit> for Hit {
    fn from(h: index::Hit) -> Self {
        let place = h.place.unwrap_or_default();
        Self {
            document: h.document,
            path: h.path.as_deref().map(path),
            title: h.title,
            passage: h.passage,
            start: h.range.start,
            end: h.range.end,
            text: h.text,
            score: h.score,
            page: place.page,
            heading: place.heading,
            line: place.line,
        }
    }
}
