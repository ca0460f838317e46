//! What goes over the border: answers, citations, documents, and what is known of store and reader.
//!
//! Ranges are half-open bytes of a document's extracted text.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::Path;

use palimpsest_engine::context::Turn as EngineTurn;
use palimpsest_engine::index;
use palimpsest_engine::state::State;
use palimpsest_engine::{self as engine, Reader};

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
    /// A piece of the answer, of whole characters; all of them together are the answer, and none is taken back.
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

/// A typed value of a document's metadata.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Value {
    /// True or false.
    Bool {
        /// Which.
        value: bool,
    },
    /// A whole number.
    Integer {
        /// Which.
        value: i64,
    },
    /// A number.
    Number {
        /// Which.
        value: f64,
    },
    /// A word or a text, compared whole.
    Text {
        /// Which.
        value: String,
    },
}

/// A condition on a document's metadata. A document without the field meets neither equality nor range.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Filter {
    /// The field has this value.
    Equals {
        /// Its name.
        field: String,
        /// Its value.
        value: Value,
    },
    /// The field has a value of the bounds' type between them, bounds included; without a bound it is open on that side.
    Between {
        /// Its name.
        field: String,
        /// The least.
        from: Option<Value>,
        /// The most.
        to: Option<Value>,
    },
    /// All hold; so do none.
    AllOf {
        /// Which.
        filters: Vec<Filter>,
    },
    /// One holds at least.
    AnyOf {
        /// Which.
        filters: Vec<Filter>,
    },
    /// It does not hold.
    Not {
        /// Which.
        filter: Box<Filter>,
    },
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

/// How far an ingest is.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct IngestProgress {
    /// Files looked at so far.
    pub files_done: u64,
    /// Files found; grows while folders are still being listed.
    pub files_total: u64,
    /// Bytes of the files looked at.
    pub bytes_done: u64,
    /// Bytes of the files found.
    pub bytes_total: u64,
    /// Since the ingest began.
    pub seconds: f64,
}

/// What an ingest did.
#[derive(Debug, Clone, Default, PartialEq, uniffi::Record)]
pub struct IngestReport {
    /// Documents that were not there before.
    pub added: u64,
    /// Documents whose text is another one now.
    pub updated: u64,
    /// Documents that are as they were.
    pub unchanged: u64,
    /// Documents whose file is gone.
    pub removed: u64,
    /// Files in folders that are of no format read here.
    pub ignored: u64,
    /// Files that were left out, and why.
    pub failed: Vec<FailedFile>,
}

/// A file that was left out of an ingest.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct FailedFile {
    /// Which.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// How far the reading of a context is.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ReadProgress {
    /// Tokens read so far.
    pub tokens_done: u64,
    /// All of them.
    pub tokens_total: u64,
}

/// An answer from a context.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ContextAnswer {
    /// A span of the text, or none.
    pub answer: Option<String>,
    /// Log-odds of its first token against none: how sure the reader is.
    pub margin: Option<f32>,
    /// First byte of the answer in the text.
    pub start: Option<u64>,
    /// The byte after its last.
    pub end: Option<u64>,
    /// Tokens run through the reader in this call.
    pub tokens_read: u64,
    /// Tokens that the kept state held.
    pub tokens_restored: u64,
}

/// Sizes of a context.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ContextStatus {
    /// Tokens in its state, turns included.
    pub tokens: u64,
    /// Tokens of the text that are still to be read.
    pub tokens_left: u64,
    /// Bytes of its state: the same after any number of tokens.
    pub state_bytes: u64,
    /// Bytes of the text.
    pub text_bytes: u64,
    /// Questions asked and not taken back.
    pub turns: u32,
    /// What happened that the user should know.
    pub notices: Vec<String>,
}

/// A question that was asked of a context.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: Option<String>,
}

/// What an engine holds.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Status {
    /// Its folder.
    pub store: String,
    /// Documents in the index.
    pub documents: u64,
    /// Passages they were cut into.
    pub passages: u64,
    /// Bytes of their texts.
    pub text_bytes: u64,
    /// Bytes of the index's files.
    pub index_bytes: u64,
    /// Snapshots kept.
    pub snapshots: u64,
    /// Bytes of their files.
    pub snapshot_bytes: u64,
    /// What those are held to.
    pub snapshot_budget_bytes: u64,
    /// Lookups since opening that gave all or a part of what was asked for.
    pub hits: u64,
    /// Lookups since opening that gave nothing.
    pub misses: u64,
    /// What happened while opening, for the user.
    pub notices: Vec<String>,
}

/// What verifying found.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct Verified {
    /// Whether everything is as it was written, or was put right.
    pub whole: bool,
    /// What is wrong with the index; none where it is whole.
    pub index: Option<String>,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Each snapshot that is not what was written.
    pub damaged: Vec<String>,
    /// How many of those were removed; they are read again when needed.
    pub repaired: u64,
}

/// What the reader is.
#[derive(Debug, Clone, PartialEq, uniffi::Record)]
pub struct ModelInfo {
    /// Where it was loaded from.
    pub source: String,
    /// Whose names its tensors have: `nvidia` or `flash-linear-attention`.
    pub dialect: String,
    /// Its weights, counted.
    pub parameters: u64,
    /// Blocks.
    pub layers: u32,
    /// Width of its residual stream.
    pub width: u32,
    /// Tokens it knows.
    pub vocabulary: u32,
    /// Bytes of the memory that a text is read into, however long the text.
    pub state_bytes: u64,
    /// Bytes of its weights in memory.
    pub weight_bytes: u64,
    /// What its matrices are kept as in memory: `f32`, `bf16` or `int8`.
    pub weights: String,
    /// What computes.
    pub device: String,
    /// Threads it reads with.
    pub threads: u32,
    /// Weights, tokenizer and arithmetic, in hex: snapshots belong to it.
    pub fingerprint: String,
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
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
            tier: match a.tier {
                engine::Tier::A => Tier::A,
                engine::Tier::B => Tier::B,
            },
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

impl From<TextDocument> for index::Document {
    fn from(d: TextDocument) -> Self {
        let mut document = Self::new(d.id, d.title, d.text);
        document.metadata = d.metadata.into_iter().map(|(name, value)| (name, value.into())).collect();
        document
    }
}

impl From<Value> for index::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool { value } => Self::Bool(value),
            Value::Integer { value } => Self::Integer(value),
            Value::Number { value } => Self::Number(value),
            Value::Text { value } => Self::Text(value),
        }
    }
}

impl From<index::Value> for Value {
    fn from(value: index::Value) -> Self {
        match value {
            index::Value::Bool(value) => Self::Bool { value },
            index::Value::Integer(value) => Self::Integer { value },
            index::Value::Number(value) => Self::Number { value },
            index::Value::Text(value) => Self::Text { value },
        }
    }
}

impl From<Filter> for index::Filter {
    fn from(filter: Filter) -> Self {
        let bound = |value: Option<Value>| value.map_or(Bound::Unbounded, |v| Bound::Included(v.into()));
        let all = |filters: Vec<Filter>| filters.into_iter().map(Self::from).collect();
        match filter {
            Filter::Equals { field, value } => Self::Is(field, value.into()),
            Filter::Between { field, from, to } => Self::Between(field, bound(from), bound(to)),
            Filter::AllOf { filters } => Self::And(all(filters)),
            Filter::AnyOf { filters } => Self::Or(all(filters)),
            Filter::Not { filter } => Self::Not(Box::new((*filter).into())),
        }
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
            metadata: d.metadata.into_iter().map(|(name, value)| (name, value.into())).collect(),
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
            metadata: d.metadata.into_iter().map(|(name, value)| (name, value.into())).collect(),
        }
    }
}

impl From<&index::Progress> for IngestProgress {
    fn from(p: &index::Progress) -> Self {
        Self {
            files_done: p.files_done as u64,
            files_total: p.files_total as u64,
            bytes_done: p.bytes_done,
            bytes_total: p.bytes_total,
            seconds: p.seconds,
        }
    }
}

impl From<index::IngestReport> for IngestReport {
    fn from(r: index::IngestReport) -> Self {
        let failed = r.failed.into_iter().map(|(file, reason)| FailedFile { path: path(&file), reason: reason.to_string() });
        Self {
            added: r.added as u64,
            updated: r.updated as u64,
            unchanged: r.unchanged as u64,
            removed: r.removed as u64,
            ignored: r.ignored as u64,
            failed: failed.collect(),
        }
    }
}

impl From<engine::ContextAnswer> for ContextAnswer {
    fn from(a: engine::ContextAnswer) -> Self {
        Self {
            answer: a.answer,
            margin: a.margin,
            start: a.start,
            end: a.end,
            tokens_read: a.tokens_read,
            tokens_restored: a.tokens_restored,
        }
    }
}

impl From<engine::ContextStatus> for ContextStatus {
    fn from(s: engine::ContextStatus) -> Self {
        Self {
            tokens: s.tokens,
            tokens_left: s.tokens_left,
            state_bytes: s.state_bytes,
            text_bytes: s.text_bytes,
            turns: u32::try_from(s.turns).unwrap_or(u32::MAX),
            notices: s.notices,
        }
    }
}

impl From<&EngineTurn> for Turn {
    fn from(turn: &EngineTurn) -> Self {
        Self { question: turn.question.clone(), answer: turn.answer.clone() }
    }
}

impl From<engine::Status> for Status {
    fn from(s: engine::Status) -> Self {
        let m = s.snapshots.misses;
        let refused = m.damaged + m.other_reader + m.other_tokenizer + m.other_format + m.other_arithmetic;
        Self {
            store: path(&s.store),
            documents: s.index.documents,
            passages: s.index.passages,
            text_bytes: s.index.text_bytes,
            index_bytes: s.index.disk_bytes,
            snapshots: s.snapshots.entries,
            snapshot_bytes: s.snapshots.disk_bytes,
            snapshot_budget_bytes: s.snapshots.budget_bytes,
            hits: s.snapshots.hits + s.snapshots.prefix_hits,
            misses: m.never_seen + m.evicted + refused,
            notices: s.notices,
        }
    }
}

impl From<engine::Verified> for Verified {
    fn from(v: engine::Verified) -> Self {
        Self {
            whole: v.is_whole(),
            index: v.index,
            snapshots: v.snapshots.entries,
            damaged: v.snapshots.damaged,
            repaired: v.snapshots.repaired,
        }
    }
}

impl From<&Reader> for ModelInfo {
    fn from(reader: &Reader) -> Self {
        let config = reader.config();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            source: path(reader.folder()),
            dialect: reader.dialect().name().into(),
            parameters: config.parameters() as u64,
            layers: small(config.layers),
            width: small(config.width),
            vocabulary: small(config.vocabulary),
            state_bytes: State::bytes(config) as u64,
            weight_bytes: reader.weight_bytes() as u64,
            weights: format!("{:?}", reader.dtype()).to_lowercase(),
            device: reader.device(),
            threads: small(reader.threads()),
            fingerprint: reader.fingerprint().to_string(),
        }
    }
}
