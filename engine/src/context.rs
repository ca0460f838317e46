//! One long text, read once and kept: ask it, ask on, take turns back, fork it, carry it away.
//!
//! A context is a folder:
//! - `text`: what was read, byte for byte;
//! - `log`: 12 bytes a token: its id (u32) and the byte of the text after it (u64; 0 for the form around the text);
//! - `turns.json`: the questions asked since, with the ids they added;
//! - `state`: the state after everything, as a snapshot that proves itself; `turn-N`: the one before turn N.
//!
//! Text and log grow on disk with what was read; the state does not. The state is a function of the ids alone, so one that
//! is lost, damaged or of another machine is read again from the log, and the caller is told.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::answer::{Asked, SpanText, after_one_reading, answer_spans_at};
use crate::cancel::{Cancel, Pace};
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::read::Reader;
use crate::snapshot::{Chain, Form, Snapshot};
use crate::state::State;

/// Tokens read between two times that the state is kept: what a kill costs at most.
pub const INTERVAL_TOKENS: usize = 8192;

/// Tokens read at once: what is lost of a reading that is cancelled.
pub const STRIDE_TOKENS: usize = 1024;

/// Turns that can be taken back without reading the text again.
pub const KEPT_TURNS: usize = 8;

const RECORD_BYTES: usize = 12;
const PACK_MAGIC: &[u8; 8] = b"PLMPCTX1";

/// What an exported context carries, in this order.
const PARTS: [&str; 4] = ["text", "log", "turns.json", "state"];

/// A context, open.
pub struct Context {
    reader: Arc<Reader>,
    folder: PathBuf,
    state: State,
    /// Tokens of the log, before any turn.
    log_tokens: u64,
    turns: Vec<Turn>,
    notices: Vec<String>,
    /// Built from the log at the first question.
    spans: Option<(SpanText, Vec<u64>)>,
}

/// A question that was asked of a context.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// What was asked.
    pub question: String,
    /// What was answered.
    pub answer: Option<String>,
    /// What the turn added to the state.
    ids: Vec<u32>,
}

/// An answer from a context.
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ContextStatus {
    /// Tokens in its state, turns included.
    pub tokens: u64,
    /// Tokens of the text that are still to be read.
    pub tokens_left: u64,
    /// Bytes of its state: the same after any number of tokens.
    pub state_bytes: u64,
    /// Bytes of the log of ids.
    pub log_bytes: u64,
    /// Bytes of the text.
    pub text_bytes: u64,
    /// Questions asked and not taken back.
    pub turns: usize,
    /// What happened that the user should know.
    pub notices: Vec<String>,
}

impl Context {
    /// Makes `folder` a context of `source` and tokenises it; nothing is read into the state yet: [`Context::advance`].
    /// A folder left half-made by a kill is made anew.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder already holds a context, or the text is no UTF-8.
    pub fn begin(reader: &Arc<Reader>, folder: &Path, title: &str, source: impl Read) -> Result<Self> {
        if folder.join("log").exists() {
            return Err(Error::Input(format!(
                "{} already holds a context: drop it first, or choose another name",
                folder.display()
            )));
        }
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let (text_file, log_file) = (folder.join("text"), folder.join("log.part"));
        let create = |path: &Path| File::create(path).map(BufWriter::new).map_err(|e| Error::io(path, e));
        let (mut text, mut log) = (create(&text_file)?, create(&log_file)?);
        let passage = reader.prompt().passage(title, "")?;
        let mut record = |id: u32, end: u64| {
            log.write_all(&id.to_le_bytes()).and_then(|()| log.write_all(&end.to_le_bytes())).map_err(|e| Error::io(&log_file, e))
        };
        for &id in &passage.ids {
            record(id, 0)?;
        }
        let mut bytes = 0;
        let mut stream = reader.prompt().stream(source);
        while let Some(piece) = stream.next_piece()? {
            text.write_all(piece.text.as_bytes()).map_err(|e| Error::io(&text_file, e))?;
            for (&id, &end) in piece.ids.iter().zip(&piece.ends) {
                record(id, bytes + end as u64)?;
            }
            bytes += piece.text.len() as u64;
        }
        for (file, path) in [(text, &text_file), (log, &log_file)] {
            let file = file.into_inner().map_err(|e| Error::io(path, e.into_error()))?;
            file.sync_all().map_err(|e| Error::io(path, e))?;
        }
        fs::rename(&log_file, folder.join("log")).map_err(|e| Error::io(&log_file, e))?;
        Self::open(reader, folder)
    }

    /// Opens the context in `folder`. A state that is missing, damaged or of another reader is given up, with a notice, and
    /// the text is to be read again: [`Context::advance`].
    ///
    /// # Errors
    /// [`Error::Input`] when the folder holds no context, or its log is damaged.
    pub fn open(reader: &Arc<Reader>, folder: &Path) -> Result<Self> {
        let log = folder.join("log");
        let log_bytes = fs::metadata(&log).map_err(|_| Error::Input(format!("{} holds no context", folder.display())))?.len();
        let turns_file = folder.join("turns.json");
        let turns: Vec<Turn> = match fs::read(&turns_file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| Error::Input(format!("{} is damaged: {e}", turns_file.display())))?
            }
            Err(_) => Vec::new(),
        };
        let mut context = Self {
            reader: reader.clone(),
            folder: folder.to_path_buf(),
            state: State::empty(reader.config()),
            log_tokens: log_bytes / RECORD_BYTES as u64,
            turns,
            notices: Vec::new(),
            spans: None,
        };
        context.restore()?;
        Ok(context)
    }

    /// Makes `folder` a context of `source` and reads it: [`Context::begin`] and [`Context::advance`].
    ///
    /// # Errors
    /// Those of both. After [`Error::Cancelled`] the context is there once its text was tokenised, and can be read on.
    pub fn read(
        reader: &Arc<Reader>,
        folder: &Path,
        title: &str,
        source: impl Read,
        cancel: &Cancel,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Self> {
        let begun = Self::begin(reader, folder, title, Stoppable { source, cancel });
        let mut context = cancel.check().and(begun)?;
        context.advance(cancel, progress)?;
        Ok(context)
    }

    /// Reads what is still to be read, keeping the state every [`INTERVAL_TOKENS`]. `progress` gets the tokens read so far
    /// and all of them.
    ///
    /// # Errors
    /// [`Error::Cancelled`]: what was read until then is kept, but for the last [`STRIDE_TOKENS`].
    pub fn advance(&mut self, cancel: &Cancel, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<()> {
        let all = self.all_ids_len();
        if self.state.tokens() >= all {
            return Ok(());
        }
        let ids = self.ids()?;
        let mut from = self.state.tokens() as usize;
        let mut kept = from;
        // Reading that is cancelled leaves its state between two tokens: the one before it is gone back to.
        let mut before = self.state.clone();
        while from < ids.len() {
            let to = ids.len().min((from / STRIDE_TOKENS + 1) * STRIDE_TOKENS);
            before.clone_from(&self.state);
            let mut next = [Sequence { ids: &ids[from..to], state: &mut self.state }];
            let read = self.reader.forward_at(&mut next, Want::Nothing, &mut Pace::until(cancel), &mut |_, _, _| {});
            if let Err(error) = read {
                self.state = before;
                self.keep("state", &ids[..from])?;
                return Err(error);
            }
            from = to;
            if from - kept >= INTERVAL_TOKENS || from == ids.len() {
                self.keep("state", &ids[..from])?;
                kept = from;
            }
            progress(from as u64, all);
        }
        Ok(())
    }

    /// Asks the text; question and answer become part of what the next question is asked after.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty question or a text not wholly read; as [`crate::model::Model::forward`].
    pub fn ask(&mut self, question: &str) -> Result<ContextAnswer> {
        self.ask_with(question, &Cancel::new())
    }

    /// As [`Context::ask`], until `cancel`.
    ///
    /// # Errors
    /// As [`Context::ask`]; [`Error::Cancelled`]: then nothing was asked.
    pub fn ask_with(&mut self, question: &str, cancel: &Cancel) -> Result<ContextAnswer> {
        if self.state.tokens() < self.all_ids_len() {
            return Err(Error::Input(format!("{} is not wholly read yet: read it on first", self.folder.display())));
        }
        let asked = after_one_reading(&self.reader, question)?;
        let restored = self.state.tokens();
        if self.spans.is_none() {
            self.spans = Some(self.span_text()?);
        }
        let Some((text, ends)) = &self.spans else { return Err(Error::Cancelled) };
        let mut fork = self.state.clone();
        let mut pace = Pace::until(cancel);
        let spans = answer_spans_at(&self.reader, &mut [Asked { state: &mut fork, ids: &asked, text }], &mut pace)?;
        let span = spans.into_iter().next();
        let place = span.as_ref().and_then(|s| s.place.clone());
        let range = place.map(|p| (p.start.checked_sub(1).map_or(0, |i| ends[i]), ends[p.end - 1]));
        let (answer, range) = match range {
            Some((start, end)) => self.quote(start..end)?,
            None => (None, None),
        };
        let decoded = span.as_ref().map(|s| s.ids.clone()).unwrap_or_default();
        let end = self.reader.prompt().end();
        let ids: Vec<u32> = asked.iter().chain(&decoded).copied().chain(end).collect();
        let mut after = self.state.clone();
        let mut turn = [Sequence { ids: &ids, state: &mut after }];
        self.reader.forward_at(&mut turn, Want::Nothing, &mut pace, &mut |_, _, _| {})?;
        let before = self.ids()?;
        self.keep(&format!("turn-{}", self.turns.len()), &before)?;
        if let Some(old) = self.turns.len().checked_sub(KEPT_TURNS) {
            let _ = fs::remove_file(self.folder.join(format!("turn-{old}")));
        }
        self.state = after;
        let tokens_read = asked.len() as u64 + span.as_ref().map_or(0, |s| s.tokens_read) + ids.len() as u64;
        self.turns.push(Turn { question: question.trim().to_string(), answer: answer.clone(), ids });
        self.keep_turns()?;
        let all = self.ids()?;
        self.keep("state", &all)?;
        Ok(ContextAnswer {
            answer,
            margin: span.map(|s| s.margin()).filter(|m| m.is_finite()),
            start: range.as_ref().map(|r| r.start),
            end: range.map(|r| r.end),
            tokens_read,
            tokens_restored: restored,
        })
    }

    /// Takes back the last `turns` questions.
    ///
    /// # Errors
    /// [`Error::Input`] when there are not as many; as [`Context::advance`] when the state from before was not kept any more.
    pub fn undo(&mut self, turns: usize) -> Result<()> {
        let Some(left) = self.turns.len().checked_sub(turns) else {
            return Err(Error::Input(format!("{turns} turns cannot be taken back: there are {}", self.turns.len())));
        };
        if turns == 0 {
            return Ok(());
        }
        self.turns.truncate(left);
        self.keep_turns()?;
        let ids = self.ids()?;
        let before = self.folder.join(format!("turn-{left}"));
        if let Ok(state) = self.load(&before, &ids) {
            self.state = state;
            self.keep("state", &ids)?;
        } else {
            self.state = State::empty(self.reader.config());
            self.advance(&Cancel::new(), &mut |_, _| {})?;
        }
        for turn in left..left + turns {
            let _ = fs::remove_file(self.folder.join(format!("turn-{turn}")));
        }
        Ok(())
    }

    /// Copies the context to `folder`: both go on from here on their own.
    ///
    /// # Errors
    /// [`Error::Input`] when `folder` already holds a context.
    pub fn fork(&self, folder: &Path) -> Result<Self> {
        unpack(&mut self.export()?.as_slice(), folder)?;
        Self::open(&self.reader, folder)
    }

    /// The whole context as one blob: text, ids, turns and state, each with its length, the whole with a checksum.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn export(&self) -> Result<Vec<u8>> {
        let mut out = PACK_MAGIC.to_vec();
        for name in PARTS {
            let path = self.folder.join(name);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                Err(e) => return Err(Error::io(&path, e)),
            };
            out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            out.extend_from_slice(&bytes);
        }
        let sum = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&sum);
        Ok(out)
    }

    /// Makes `folder` the context that [`Context::export`] packed. On another machine, or with another reader of the same
    /// tokenizer, the state is read again from the ids.
    ///
    /// # Errors
    /// [`Error::Input`] when the blob is damaged or `folder` already holds a context.
    pub fn import(reader: &Arc<Reader>, folder: &Path, blob: &mut dyn Read) -> Result<Self> {
        unpack(blob, folder)?;
        Self::open(reader, folder)
    }

    /// Sizes and turns.
    #[must_use]
    pub fn status(&self) -> ContextStatus {
        let bytes = |name: &str| fs::metadata(self.folder.join(name)).map_or(0, |m| m.len());
        ContextStatus {
            tokens: self.state.tokens(),
            tokens_left: self.all_ids_len().saturating_sub(self.state.tokens()),
            state_bytes: State::bytes(self.reader.config()) as u64,
            log_bytes: bytes("log"),
            text_bytes: bytes("text"),
            turns: self.turns.len(),
            notices: self.notices.clone(),
        }
    }

    /// The questions asked so far and not taken back.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The state after everything read and asked.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    fn all_ids_len(&self) -> u64 {
        self.log_tokens + self.turns.iter().map(|t| t.ids.len() as u64).sum::<u64>()
    }

    fn records(&self) -> Result<Vec<(u32, u64)>> {
        let path = self.folder.join("log");
        let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
        Ok(bytes
            .chunks_exact(RECORD_BYTES)
            .map(|r| {
                let mut end = [0; 8];
                end.copy_from_slice(&r[4..]);
                (u32::from_le_bytes([r[0], r[1], r[2], r[3]]), u64::from_le_bytes(end))
            })
            .collect())
    }

    /// Ids of the log and of all turns.
    fn ids(&self) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.records()?.into_iter().map(|(id, _)| id).collect();
        ids.extend(self.turns.iter().flat_map(|t| &t.ids));
        Ok(ids)
    }

    fn span_text(&self) -> Result<(SpanText, Vec<u64>)> {
        let records = self.records()?;
        let ids = records.iter().map(|&(id, end)| if end == 0 { u32::MAX } else { id }).collect();
        Ok((SpanText::new(ids), records.into_iter().map(|(_, end)| end).collect()))
    }

    /// The text at `range`, white space around it left out, read from the file.
    fn quote(&self, range: Range<u64>) -> Result<(Option<String>, Option<Range<u64>>)> {
        use std::io::{Seek, SeekFrom};
        let path = self.folder.join("text");
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut file = File::open(&path).map_err(|e| Error::io(&path, e))?;
        file.seek(SeekFrom::Start(range.start)).and_then(|_| file.read_exact(&mut bytes)).map_err(|e| Error::io(&path, e))?;
        let Ok(text) = String::from_utf8(bytes) else { return Ok((None, None)) };
        let start = range.start + (text.len() - text.trim_start().len()) as u64;
        let text = text.trim();
        let end = start + text.len() as u64;
        Ok(if text.is_empty() { (None, None) } else { (Some(text.to_string()), Some(start..end)) })
    }

    fn key(&self, ids: &[u32]) -> Chain {
        let mut chain = Chain::new(self.reader.fingerprint());
        chain.extend(ids);
        chain
    }

    fn keep(&self, name: &str, ids: &[u32]) -> Result<()> {
        let key = self.key(ids).key();
        let tokens = self.state.tokens();
        let bytes = Snapshot::encode(tokens, self.state.data(), self.reader.fingerprint(), &key, Form::F32);
        write_whole(&self.folder.join(name), &bytes)
    }

    fn keep_turns(&self) -> Result<()> {
        let json = serde_json::to_vec(&self.turns).map_err(|e| Error::Input(format!("turns: {e}")))?;
        write_whole(&self.folder.join("turns.json"), &json)
    }

    /// The state in `file`, proven to be the one after a prefix of `ids`.
    fn load(&self, file: &Path, ids: &[u32]) -> Result<State, String> {
        let bytes = fs::read(file).map_err(|e| e.to_string())?;
        let tokens = Snapshot::tokens_of(&bytes).map_err(|e| e.to_string())?;
        let prefix = usize::try_from(tokens).ok().and_then(|n| ids.get(..n)).ok_or("it is of another text")?;
        let snapshot = Snapshot::decode(&bytes, self.reader.fingerprint(), &self.key(prefix).key()).map_err(|e| e.to_string())?;
        State::from_parts(self.reader.config(), snapshot.tokens, snapshot.data).ok_or_else(|| "it is of another size".into())
    }

    fn restore(&mut self) -> Result<()> {
        let file = self.folder.join("state");
        if !file.exists() {
            return Ok(());
        }
        let ids = self.ids()?;
        match self.load(&file, &ids) {
            Ok(state) => self.state = state,
            Err(reason) => self
                .notices
                .push(format!("the kept state of {} was refused and the text is read again: {reason}", self.folder.display())),
        }
        Ok(())
    }
}

/// A text that ends in an error once `cancel` says so.
struct Stoppable<'a, R> {
    source: R,
    cancel: &'a Cancel,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        self.source.read(buffer)
    }
}

/// Written beside and renamed: a reader sees the old bytes or the new ones.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|e| Error::io(path, e))
}

fn unpack(blob: &mut dyn Read, folder: &Path) -> Result<()> {
    let damaged = |what: &str| Error::Input(format!("this is no whole exported context: {what}"));
    if folder.join("log").exists() {
        return Err(Error::Input(format!("{} already holds a context: drop it first, or choose another name", folder.display())));
    }
    let mut bytes = Vec::new();
    BufReader::new(blob).read_to_end(&mut bytes).map_err(|e| damaged(&e.to_string()))?;
    let body_len = bytes.len().checked_sub(32).ok_or_else(|| damaged("it is too short"))?;
    let (body, sum) = bytes.split_at(body_len);
    if !body.starts_with(PACK_MAGIC) {
        return Err(damaged("it does not begin as one"));
    }
    if blake3::hash(body).as_bytes() != sum {
        return Err(damaged("its checksum does not hold"));
    }
    let mut rest = &body[PACK_MAGIC.len()..];
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let mut parts = Vec::new();
    for name in PARTS {
        let (len, after) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("a length is missing"))?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| damaged("a length is too large"))?;
        let (part, after) = after.split_at_checked(len).ok_or_else(|| damaged("a part is cut short"))?;
        parts.push((name, part));
        rest = after;
    }
    // The log last: with it the folder is a context.
    parts.sort_by_key(|(name, _)| *name == "log");
    for (name, part) in parts {
        if !(part.is_empty() && (name == "turns.json" || name == "state")) {
            write_whole(&folder.join(name), part)?;
        }
    }
    Ok(())
}
