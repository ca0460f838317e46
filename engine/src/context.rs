//! One long text, read once and kept: ask it, ask on, take turns back, fork it, carry it away.
//!
//! A context is a folder:
//! - `text`, `log`, `spans` and the `seal.json` that proves them: what was read, its ids, and where each id stands (`log.rs`);
//! - `turns.json`: the questions asked since, with the ids they added;
//! - `state`: the state after everything, as a snapshot that proves itself; `turn-N`: the one before turn N;
//! - `lock`: held by the process that reads or asks.
//!
//! Text and log grow on disk with what was read; the state does not, nor does the memory that reading takes. The state is a
//! function of the ids alone, so one that is lost, damaged or of another machine is read again from the log, and the caller is
//! told. With a store beside it, the states at the ends of sections (`sections.rs`) and of the text are kept there too: a text that
//! was edited is read again from its first changed section only.

mod asking;
mod kept;
mod lock;
mod log;
mod pack;
mod sealed;
mod sections;
mod sizes;
mod turns;
mod verify;

use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::cancel::{Cancel, Pace};
use crate::error::{Error, Result};
use crate::model::{Sequence, Want};
use crate::read::Reader;
use crate::snapshot::Chain;
use crate::state::{SEGMENT, State};
use crate::store::Store;
pub use asking::ContextAnswer;
use kept::{Due, write_whole};
use lock::Lock;
use log::{Log, LogSpans, SEAL};
pub use sections::{MOST_SECTIONS, SECTION_TOKENS};
pub use sizes::ContextBytes;
pub use turns::Turn;
pub(crate) use verify::verify;

/// Tokens read between two times that the state is kept: what a kill costs at most.
pub const INTERVAL_TOKENS: usize = 8192;

/// Tokens read at once at most: what is lost of a reading that is cancelled.
pub const STRIDE_TOKENS: usize = 1024;

/// Turns that can be taken back without reading the text again.
pub const KEPT_TURNS: usize = 8;

/// A context, open.
pub struct Context {
    reader: Arc<Reader>,
    store: Option<Arc<Store>>,
    folder: PathBuf,
    log: Arc<Log>,
    lock: Lock,
    state: State,
    /// Of the ids that `state` has read.
    chain: Chain,
    turns: Vec<Turn>,
    notices: Vec<String>,
    /// Opened at the first question.
    spans: Option<LogSpans>,
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
    /// Bytes of the index over the log.
    pub index_bytes: u64,
    /// Hash of title and text: what the document is known by.
    pub content: String,
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
    pub fn begin(reader: &Arc<Reader>, folder: &Path, title: &str, mut source: impl Read) -> Result<Self> {
        refuse_taken(folder)?;
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        Log::write(reader, folder, title, 0, &mut source)?;
        Self::open(reader, folder)
    }

    /// The context of the file `source` in `folder`: begun, taken up, [renewed](Context::renew) where the file holds another text,
    /// made anew with a notice where the context is damaged.
    ///
    /// # Errors
    /// As [`Context::begin`], [`Context::open`] and [`Context::renew`].
    pub fn of_file(reader: &Arc<Reader>, folder: &Path, title: &str, source: &Path) -> Result<Self> {
        let open = || File::open(source).map_err(|e| Error::io(source, e));
        let damage = match Self::open(reader, folder) {
            Err(Error::Input(_)) => return Self::begin(reader, folder, title, open()?),
            Err(Error::Context { reason, .. }) => reason,
            Err(e) => return Err(e),
            Ok(mut context) => {
                let damage = context.log.verify();
                if damage.is_empty() {
                    if !context.holds(title, &mut open()?)? {
                        context.renew(title, open()?)?;
                    }
                    return Ok(context);
                }
                damage.join("; ")
            }
        };
        Lock::take(folder).held(folder)?;
        fs::remove_file(folder.join(SEAL)).map_err(|e| Error::io(folder, e))?;
        let mut context = Self::begin(reader, folder, title, open()?)?;
        context.notices.insert(0, format!("the context in {} was made anew: {damage}", folder.display()));
        Ok(context)
    }

    /// Opens the context in `folder`. A state that is missing, damaged or of another reader is given up, with a notice, and
    /// the text is to be read again: [`Context::advance`]. Where another process has the context it can be looked at and copied,
    /// not read on or asked.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder holds no context, [`Error::Context`] when its log is damaged or another tokenizer's.
    pub fn open(reader: &Arc<Reader>, folder: &Path) -> Result<Self> {
        let log = Log::open(folder)?;
        let tokenizer = reader.fingerprint().tokenizer().to_string();
        if log.seal.tokenizer != tokenizer {
            let was = &log.seal.tokenizer;
            let reason = format!("its ids are of another tokenizer ({was}, here {tokenizer}): read the text into a new context");
            return Err(Error::damaged(folder, reason));
        }
        let mut notices = Vec::new();
        let turns = turns::read_or_set_aside(folder, &mut notices);
        let mut context = Self {
            reader: reader.clone(),
            store: None,
            folder: folder.to_path_buf(),
            log: Arc::new(log),
            lock: Lock::take(folder),
            state: State::empty(reader.config()),
            chain: Chain::new(reader.fingerprint()),
            turns,
            notices,
            spans: None,
        };
        context.restore()?;
        Ok(context)
    }

    /// Keeps states at the ends of sections and of the text in `store`, and takes them from there.
    ///
    /// # Errors
    /// [`Error::Context`] when the log is damaged.
    pub fn beside(mut self, store: &Arc<Store>) -> Result<Self> {
        self.store = Some(store.clone());
        self.restore_from_store()?;
        Ok(self)
    }

    /// Whether it is of this text under this title, and whole so far as that can be told without a look at every byte.
    ///
    /// # Errors
    /// [`Error::Input`] when the text cannot be read.
    pub fn holds(&self, title: &str, source: &mut dyn Read) -> Result<bool> {
        let hash = log::content_hash(title, source).map_err(|e| Error::Input(format!("the text cannot be read: {e}")))?;
        Ok(hash == self.log.seal.content)
    }

    /// Puts a new version of the text in the place of the old one; what is the same at its beginning is not read again, so far
    /// as the store has the state at the end of a section in it. A kill leaves the old text or the new one.
    ///
    /// # Errors
    /// [`Error::Input`] when questions were asked of the old text (take them back first) or the text is no UTF-8,
    /// [`Error::Context`] when another process has it.
    pub fn renew(&mut self, title: &str, mut source: impl Read) -> Result<()> {
        self.lock.held(&self.folder)?;
        if !self.turns.is_empty() {
            return Err(Error::Input(format!(
                "{} questions were asked of the old text of {}: take them back first, or read the new one into another context",
                self.turns.len(),
                self.folder.display()
            )));
        }
        let old = self.log.seal.clone();
        Log::write(&self.reader, &self.folder, title, old.version + 1, &mut source)?;
        self.spans = None;
        self.log = Arc::new(Log::open(&self.folder)?);
        // Of no more use; what cannot be removed lies there until the folder goes.
        let parts = ["text", "log", "spans"].map(|part| old.path(&self.folder, part));
        parts.iter().chain([&self.folder.join("state")]).for_each(|path| drop(fs::remove_file(path)));
        self.state = State::empty(self.reader.config());
        self.chain = Chain::new(self.reader.fingerprint());
        self.restore_from_store()
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
    /// [`Error::Cancelled`]: what was read until then is kept, but for the last [`STRIDE_TOKENS`]. [`Error::Context`] when another
    /// process has it, or the log is damaged.
    pub fn advance(&mut self, cancel: &Cancel, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<()> {
        let (all, text) = (self.all_tokens(), self.log.tokens());
        if self.state.tokens() >= all {
            return Ok(());
        }
        self.lock.held(&self.folder)?;
        let (begun, from) = (Instant::now(), self.state.tokens());
        let mut kept = from;
        // Reading that is cancelled leaves its state between two tokens: the one before it is gone back to.
        let mut before = self.state.clone();
        // A state on a GPU is written while the GPU reads on from it.
        let mut due: Option<Due> = None;
        while self.state.tokens() < all {
            let at = self.state.tokens();
            let section = self.log.seal.sections.iter().copied().find(|end| *end > at);
            let stride = (at / STRIDE_TOKENS as u64 + 1) * STRIDE_TOKENS as u64;
            let to = stride.min(section.unwrap_or(all)).min(if at < text { text } else { all });
            let ids = self.ids(at..to)?;
            before.clone_from(&self.state);
            let mut next = [Sequence { ids: &ids, state: &mut self.state }];
            let read = self.reader.forward_at(&mut next, Want::Nothing, &mut Pace::until(cancel), &mut |_, _, _| {});
            let written = due.take().map_or(Ok(()), |due| self.write(&before, due));
            if let Err(error) = read {
                self.state = before;
                self.keep("state")?;
                return Err(error);
            }
            written?;
            self.chain.extend(&ids);
            let ms_a_token = begun.elapsed().as_secs_f64() * 1e3 / (to - from) as f64;
            let offer = (section == Some(to) || to == text).then_some((ms_a_token * to as f64) as f32);
            let keep = to == all || to >= kept + INTERVAL_TOKENS as u64;
            if keep {
                kept = to;
            }
            let key = self.chain.key();
            let offer = offer.filter(|_| self.store.as_ref().is_some_and(|store| store.admits(&key)));
            if offer.is_some() || keep {
                let now = Due { key, offer, keep };
                if to < all && self.state.on_gpu() {
                    self.state.fetch();
                    due = Some(now);
                } else {
                    self.write(&self.state, now)?;
                }
            }
            progress(to, all);
        }
        Ok(())
    }

    /// Copies the context to `folder`: both go on from here on their own.
    ///
    /// # Errors
    /// [`Error::Input`] when `folder` already holds a context.
    pub fn fork(&self, folder: &Path) -> Result<Self> {
        refuse_taken(folder)?;
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let turns = (0..self.turns.len()).map(|turn| format!("turn-{turn}"));
        let state = ["turns.json".to_string(), "state".to_string()].into_iter().chain(turns);
        let parts = ["text", "log", "spans"].map(|part| self.log.seal.path(Path::new(""), part).display().to_string());
        // The seal last: with it the folder is a context.
        for name in state.chain(parts).chain([SEAL.to_string()]) {
            match fs::copy(self.folder.join(&name), folder.join(&name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(folder.join(&name), e)),
                _ => {}
            }
        }
        Self::open(&self.reader, folder)
    }

    /// The whole context as one blob: seal, text, ids, turns and state, each with its length, the whole with a checksum.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Context`] when text or log are damaged.
    pub fn export(&self) -> Result<Vec<u8>> {
        pack::pack(&self.folder, &self.log)
    }

    /// Makes `folder` the context that [`Context::export`] packed. On another machine, or with another reader of the same
    /// tokenizer, the state is read again from the ids: [`Context::advance`].
    ///
    /// # Errors
    /// [`Error::Input`] when the blob is damaged or `folder` already holds a context.
    pub fn import(reader: &Arc<Reader>, folder: &Path, blob: &mut dyn Read) -> Result<Self> {
        pack::unpack(blob, folder, reader.config().vocabulary)?;
        Self::open(reader, folder)
    }

    /// Sizes and turns.
    #[must_use]
    pub fn status(&self) -> ContextStatus {
        let seal = &self.log.seal;
        ContextStatus {
            tokens: self.state.tokens(),
            tokens_left: self.all_tokens().saturating_sub(self.state.tokens()),
            state_bytes: State::bytes(self.reader.config()) as u64,
            log_bytes: seal.log.bytes,
            text_bytes: seal.text.bytes,
            index_bytes: seal.spans.bytes,
            content: seal.content.clone(),
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

    fn all_tokens(&self) -> u64 {
        self.log.tokens() + self.turns.iter().map(|t| t.ids.len() as u64).sum::<u64>()
    }

    /// Ids of the log and of the turns after it, `range` of them.
    fn ids(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let text = self.log.tokens();
        let mut ids = self.log.ids(range.start.min(text)..range.end.min(text))?;
        let (skipped, wanted) = (range.start.saturating_sub(text), range.end.max(text) - range.start.max(text));
        ids.extend(self.turns.iter().flat_map(|t| &t.ids).skip(skipped as usize).take(wanted as usize));
        Ok(ids)
    }

    /// The ids between the last boundary of a segment and `tokens`.
    fn since_boundary(&self, tokens: u64) -> Result<Vec<u32>> {
        self.ids(tokens / SEGMENT as u64 * SEGMENT as u64..tokens)
    }

    /// The chain of the first `tokens` ids.
    fn chain_of(&self, tokens: u64) -> Result<Chain> {
        let mut chain = Chain::new(self.reader.fingerprint());
        let text = self.log.tokens().min(tokens);
        self.log.hash(&mut chain, 0..text)?;
        chain.extend(&self.ids(text..tokens)?);
        Ok(chain)
    }
}

fn refuse_taken(folder: &Path) -> Result<()> {
    if folder.join(SEAL).exists() {
        return Err(Error::Input(format!("{} already holds a context: drop it first, or choose another name", folder.display())));
    }
    Ok(())
}

/// A text that ends in an error once `cancel` says so.
pub(crate) struct Stoppable<'a, R> {
    pub(crate) source: R,
    pub(crate) cancel: &'a Cancel,
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.cancel.check().map_err(std::io::Error::other)?;
        self.source.read(buffer)
    }
}
