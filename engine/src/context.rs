//! One long text, read once and kept: ask it, ask on, take turns back, fork it, carry it away.
//!
//! A context is a folder: `text` (what was read, byte for byte), `log` (12 bytes a token: id and the byte after it in the
//! text), `turns` (questions asked since, with the ids they added), and `state` (the state after everything, as a snapshot
//! that proves itself, with the state before each of the last turns beside it). Text and log grow on disk with what was
//! read; the state does not. The state is a function of the ids alone, so a lost or damaged one is read again from the log.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::answer::{Allowed, Asked, Span, after_one_reading, answer_spans};
use crate::error::{Error, Result};
use crate::model::Sequence;
use crate::prompt::{Origin, PassageTokens};
use crate::read::Reader;
use crate::snapshot::{Chain, Form, Snapshot};
use crate::state::State;

/// Tokens read between two times that the state is kept: what a kill costs at most.
pub const INTERVAL_TOKENS: u64 = 8192;

/// Turns that can be taken back without reading the text again.
pub const KEPT_TURNS: usize = 8;

/// Bytes of a log record: id (u32) and end (u64), little-endian.
const RECORD_BYTES: usize = 12;

/// A context on disk and in memory.
pub struct Context<'r> {
    reader: &'r Reader,
    folder: PathBuf,
    state: State,
    chain: Chain,
    turns: Vec<Turn>,
    notices: Vec<String>,
}

/// A question that was asked of a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: Option<String>,
    /// What the turn added to the state: question, answer mark, answer, end.
    ids: Vec<u32>,
}

/// An answer from a context.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContextAnswer {
    /// A span of the text, or none.
    pub answer: Option<String>,
    /// How much likelier the reader finds it than no answer: log-odds of its first token.
    pub margin: f32,
    /// Where it stands in the text, in bytes.
    pub range: Option<Range<u64>>,
    /// Tokens run through the reader.
    pub tokens_read: u64,
    /// Tokens that the kept state held.
    pub tokens_restored: u64,
}

/// Sizes of a context.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContextStatus {
    /// Its name.
    pub name: String,
    /// Tokens in its state, turns included.
    pub tokens: u64,
    /// Bytes of its state: the same after any number of tokens.
    pub state_bytes: u64,
    /// Bytes of the log of ids.
    pub log_bytes: u64,
    /// Bytes of the text.
    pub text_bytes: u64,
    /// Questions asked and not taken back.
    pub turns: usize,
}

/// Progress of reading a text into a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadProgress {
    /// Tokens read so far.
    pub tokens: u64,
    /// Bytes of text read so far.
    pub bytes: u64,
}

impl<'r> Context<'r> {
    /// Reads `source` into a new context in `folder`, or goes on with one whose reading was cut short: what the log holds
    /// is not tokenised again, and what the kept state holds is not read again. `progress` returns whether to go on.
    ///
    /// # Errors
    /// [`Error::Input`] when the text is no UTF-8 or is not the one that the folder was begun with; [`Error::Cancelled`] when
    /// `progress` says so: what was read until then is kept.
    pub fn read(
        reader: &'r Reader,
        folder: &Path,
        title: &str,
        source: impl Read,
        progress: &mut dyn FnMut(ReadProgress) -> bool,
    ) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let mut context = Self::at(reader, folder, Vec::new());
        let opening = reader.prompt().passage(title, "")?.ids;
        let resumed = context.restore_while_reading()?;
        if resumed == 0 {
            for name in ["log", "text", "turns"] {
                write_whole(&folder.join(name), &[])?;
            }
            context.log(&opening.iter().map(|&id| (id, 0)).collect::<Vec<_>>())?;
            context.append(&opening)?;
        }
        let mut skip_tokens = resumed.saturating_sub(opening.len() as u64);
        let mut text = Appending::open(&folder.join("text"))?;
        let mut bytes = 0;
        let mut since = 0;
        let mut stream = reader.prompt().stream(source);
        while let Some(piece) = stream.next_piece()? {
            let known = skip_tokens.min(piece.ids.len() as u64) as usize;
            skip_tokens -= known as u64;
            text.expect_or_write(piece.text.as_bytes())?;
            let records: Vec<(u32, u64)> = piece.ids.iter().zip(&piece.ends).map(|(&id, &end)| (id, bytes + end as u64)).collect();
            context.expect_log(opening.len() as u64, &records[..known])?;
            context.log(&records[known..])?;
            for ids in piece.ids[known..].chunks(INTERVAL_TOKENS as usize) {
                context.append(ids)?;
                since += ids.len() as u64;
                if since >= INTERVAL_TOKENS {
                    context.keep("state")?;
                    since = 0;
                }
            }
            bytes += piece.text.len() as u64;
            if !progress(ReadProgress { tokens: context.state.tokens(), bytes }) {
                context.keep("state")?;
                return Err(Error::Cancelled);
            }
        }
        context.keep("state")?;
        write_whole(&folder.join("whole"), title.as_bytes())?;
        Ok(context)
    }
