//! What comes of a question.

use palimpsest_engine as engine;

use super::documents::Hit;
use super::path;
use crate::options::Tier;

/// What came of a question.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Answer {
    /// A span of the quote of one of the citations, or none; where `free`, in the reader's own words.
    pub answer: Option<String>,
    /// The answer is in the reader's own words: it stands in no quote, and the citation is the span that speaks for it.
    pub free: bool,
    /// How sure the reader is of the answer, 0 to 1; where there is none to show, of the best one.
    pub confidence: f32,
    /// Where the answer stands, compared with the source byte for byte. Empty without an answer.
    pub citations: Vec<Citation>,
    /// Passages that came near, best first, when there is no answer. They are no citations.
    pub nearest: Vec<Citation>,
    /// Tokens run through the reader in this call.
    pub tokens_read: u64,
    /// Tokens not run because a snapshot held them.
    pub tokens_restored: u64,
    /// How the passages were read.
    pub tier: Tier,
    /// Milliseconds of each stage.
    pub timings_ms: Timings,
    /// What the user should know beside the answer: a source that changed, a cache that was set aside.
    pub notices: Vec<String>,
}

/// A place in a document, quoted.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Citation {
    /// The document's id: its path, for files.
    pub document: String,
    /// Absolute path of the file; none for text that an app handed over.
    pub path: Option<String>,
    /// The document's title.
    pub title: String,
    /// First byte of the quote in the document's text.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// The text there, at most 300 bytes.
    pub quote: String,
    /// SHA-256 of the document's text, in hex: which text `start` and `end` count in.
    pub text_sha256: String,
    /// Page on which it begins, from 1, where the format has pages.
    pub page: Option<u32>,
    /// Heading under which it begins.
    pub heading: Option<String>,
    /// Line on which it begins, from 1.
    pub line: Option<u64>,
}

/// Milliseconds.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Timings {
    /// Finding passages.
    pub retrieve: f64,
    /// Reading or restoring them.
    pub read: f64,
    /// Reading the question and decoding.
    pub answer: f64,
    /// Quoting and comparing with the sources.
    pub cite: f64,
    /// All of it.
    pub total: f64,
}

/// What happens while a question is answered, in this order; reading is told at least once.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum AskEvent {
    /// These passages are worth reading, best first.
    Retrieved {
        /// Which.
        hits: Vec<Hit>,
    },
    /// How far the reading of passages is.
    Reading {
        /// Tokens run through the reader so far.
        tokens_read: u64,
        /// Tokens not run because a snapshot held them.
        tokens_restored: u64,
        /// Tokens of all passages.
        tokens_total: u64,
    },
    /// A piece of the answer, of whole characters; all of them together are the answer, and none is taken back. After the
    /// first, pieces come at most every 50 ms, with all tokens since.
    Token {
        /// The piece.
        text: String,
    },
    /// Where the answer stands.
    Cited {
        /// The place.
        citation: Citation,
    },
    /// It is done.
    Done {
        /// The whole answer.
        answer: Answer,
    },
}

impl From<engine::Answer> for Answer {
    fn from(a: engine::Answer) -> Self {
        let all = |citations: Vec<engine::Citation>| citations.into_iter().map(Citation::from).collect();
        Self {
            answer: a.answer,
            free: a.free,
            confidence: a.confidence,
            citations: all(a.citations),
            nearest: all(a.nearest),
            tokens_read: a.tokens_read,
            tokens_restored: a.tokens_restored,
            tier: a.tier.into(),
            timings_ms: Timings {
                retrieve: a.timings_ms.retrieve,
                read: a.timings_ms.read,
                answer: a.timings_ms.answer,
                cite: a.timings_ms.cite,
                total: a.timings_ms.total,
            },
            notices: a.notices,
        }
    }
}

impl AskEvent {
    /// `None` for an event of a newer engine that hosts do not know.
    pub(crate) fn of(event: engine::Event) -> Option<Self> {
        Some(match event {
            engine::Event::Retrieved(hits) => Self::Retrieved { hits: hits.into_iter().map(Into::into).collect() },
            engine::Event::Reading { tokens_read, tokens_restored, tokens_total } => {
                Self::Reading { tokens_read, tokens_restored, tokens_total }
            }
            engine::Event::Token(text) => Self::Token { text },
            engine::Event::Citation(citation) => Self::Cited { citation: citation.into() },
            engine::Event::Done(answer) => Self::Done { answer: answer.into() },
            _ => return None,
        })
    }
}

impl From<engine::Citation> for Citation {
    fn from(c: engine::Citation) -> Self {
        let place = c.place.unwrap_or_default();
        Self {
            document: c.document,
            path: c.path.as_deref().map(path),
            title: c.title,
            start: c.start,
            end: c.end,
            quote: c.quote,
            text_sha256: c.text_sha256,
            page: place.page,
            heading: place.heading,
            line: place.line,
        }
    }
}
