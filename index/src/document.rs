//! What is a document? Its id, its text, and what it is known by.
//!
//! The text is extracted once and does not change after: another text under the same id is a new version, which
//! replaces the old one whole. Every byte range in this crate counts bytes of this text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A document: what was read, and where from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// For files the canonical absolute path; for texts of an app what the app calls them.
    pub id: String,
    /// The file it was read from; `None` for a text that an app handed over.
    pub path: Option<PathBuf>,
    /// The first heading, the title that the file carries, or the stem of its name.
    pub title: String,
    /// What it was before it was text.
    pub format: Format,
    /// The extracted text; for Markdown and plain text in UTF-8 the file, byte for byte.
    pub text: String,
    /// The file was in another encoding than UTF-8, so its bytes are not those of `text`.
    pub decoded: bool,
    /// What an app or a file says about the document; `search` can filter by it.
    pub metadata: BTreeMap<String, Value>,
}

impl Document {
    /// A text that an app hands over, under a name of its choice.
    #[must_use]
    pub fn new(id: impl Into<String>, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            path: None,
            title: title.into(),
            format: Format::Text,
            text: text.into(),
            decoded: false,
            metadata: BTreeMap::new(),
        }
    }

    /// SHA-256 of the extracted text, in hex.
    #[must_use]
    pub fn text_sha256(&self) -> String {
        hex(&Sha256::digest(self.text.as_bytes()))
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a document was before it was text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Plain text.
    Text,
    /// Markdown: its marks are part of the text.
    Markdown,
    /// HTML, of which the readable text is kept.
    Html,
    /// PDF, of which the text is kept, page after page.
    Pdf,
    /// Word's DOCX, of which the paragraphs are kept.
    Docx,
    /// EPUB, of which the chapters are kept.
    Epub,
    /// Source code and configuration.
    Code,
    /// A table, a record a line.
    Csv,
    /// JSON values, one a line.
    JsonLines,
}

impl Format {
    /// Whether the text is the file byte for byte, when that is UTF-8.
    #[must_use]
    pub fn is_the_file(self) -> bool {
        matches!(self, Self::Text | Self::Markdown | Self::Code | Self::Csv | Self::JsonLines)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Markdown => "markdown",
            Self::Html => "html",
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Epub => "epub",
            Self::Code => "code",
            Self::Csv => "csv",
            Self::JsonLines => "jsonlines",
        })
    }
}

/// A typed value of a document's metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Number(f64),
    /// A word or a text, compared whole.
    Text(String),
}

impl Value {
    /// A value of the type that it is written as: a whole number, a number, a truth, or else a text.
    #[must_use]
    pub fn written(text: &str) -> Self {
        let bare = text.trim();
        if let Ok(whole) = bare.parse() {
            return Self::Integer(whole);
        }
        match (bare, bare.parse::<f64>()) {
            ("true", _) => Self::Bool(true),
            ("false", _) => Self::Bool(false),
            (_, Ok(number)) if number.is_finite() => Self::Number(number),
            _ => Self::Text(text.to_string()),
        }
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_string())
    }
}

/// A document without its text.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DocumentSummary {
    /// As [`Document::id`].
    pub id: String,
    /// As [`Document::path`].
    pub path: Option<PathBuf>,
    /// As [`Document::title`].
    pub title: String,
    /// As [`Document::format`].
    pub format: Format,
    /// As [`Document::decoded`].
    pub decoded: bool,
    /// Bytes of its text.
    pub text_bytes: u64,
    /// Passages it was cut into.
    pub passages: u32,
    /// As [`Document::text_sha256`].
    pub text_sha256: String,
    /// As [`Document::metadata`].
    pub metadata: BTreeMap<String, Value>,
}
