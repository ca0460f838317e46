//! One long text, read once.

use palimpsest_engine as engine;
use palimpsest_engine::context::Turn as EngineTurn;

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
    /// Bytes of the file that holds its tokens.
    pub log_bytes: u64,
    /// Bytes of the index over it.
    pub index_bytes: u64,
    /// Hash of title and text, in hex: the same for the same ones.
    pub content: String,
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
            log_bytes: s.log_bytes,
            index_bytes: s.index_bytes,
            content: s.content,
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
