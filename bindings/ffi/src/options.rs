//! How a host opens, asks and searches.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;

use palimpsest_engine::index;
use palimpsest_engine::kernels::Dtype;
use palimpsest_engine::snapshot::Form;
use palimpsest_engine::{self as engine, ReaderFiles};

use crate::error::PalimpsestError;
use crate::records::{Filter, Value, plain};

/// How an engine is opened.
#[derive(Debug, Clone, uniffi::Record)]
pub struct EngineOptions {
    /// Folder for the index and the snapshots; made when absent. Delete it and nothing but time is lost.
    pub store: String,
    /// Where the reader's files lie. Without, `PALIMPSEST_MODEL` names them, or they lie in `models/reader-small` above the
    /// program or the working folder: that is for development, an app names its reader.
    #[uniffi(default = None)]
    pub reader: Option<ReaderSource>,
    /// What computes; a GPU where one can be used, without.
    #[uniffi(default = None)]
    pub device: Option<Device>,
    /// Threads to read with; all processors without.
    #[uniffi(default = None)]
    pub threads: Option<u32>,
    /// What the reader's matrices are kept as in memory; as they are stored, in int8 or else f32, without.
    #[uniffi(default = None)]
    pub weights: Option<Weights>,
    /// Bytes that snapshots may take on disk; 1 GiB without.
    #[uniffi(default = None)]
    pub snapshot_budget_bytes: Option<u64>,
    /// How snapshots are written down; exactly, without.
    #[uniffi(default = None)]
    pub snapshot_form: Option<SnapshotForm>,
    /// Language of a new store's documents, by its English name or two-letter code; English without. A store that is there
    /// keeps its own.
    #[uniffi(default = None)]
    pub language: Option<String>,
}

/// How the numbers of a snapshot are written down. With a rounded form, answers from what was read before are near those
/// from what was just read, not equal to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum SnapshotForm {
    /// 4 bytes each, bit for bit.
    F32,
    /// 2 bytes each.
    F16,
    /// 1 byte each, and a little.
    Int8,
}

/// Where a reader's files lie: in a folder, or in one uncompressed tar archive of it (`tar -cf reader.tar -C FOLDER .`).
#[derive(Debug, Clone, uniffi::Enum)]
pub enum ReaderSource {
    /// A folder, or an archive.
    Path {
        /// Its path.
        path: String,
    },
    /// An archive within an open file, as Android hands out assets. The descriptor is copied, and may be closed once the
    /// engine is open; the file must not change while the engine is.
    Descriptor {
        /// The open file.
        fd: i32,
        /// First byte of the archive.
        offset: u64,
        /// Its bytes; to the end of the file without.
        length: Option<u64>,
    },
    /// An archive in memory, which is kept as long as the engine.
    Bytes {
        /// All of it.
        bytes: Vec<u8>,
    },
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Device {
    /// An NVIDIA GPU where one can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, or a refusal where none can be used.
    Cuda,
}

/// What a reader's matrices are kept as in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Weights {
    /// 4 bytes a weight.
    F32,
    /// 2 bytes a weight.
    Bf16,
    /// 1 byte a weight.
    Int8,
}

impl EngineOptions {
    pub(crate) fn into_engine(self) -> Result<engine::Options, PalimpsestError> {
        let mut options = engine::Options::new(PathBuf::from(self.store));
        options.reader = self.reader.map(ReaderSource::files).transpose()?;
        options.device = self.device.map_or(options.device, |device| match device {
            Device::Auto => engine::Device::Auto,
            Device::Cpu => engine::Device::Cpu,
            Device::Cuda => engine::Device::Cuda,
        });
        options.threads = self.threads.map(|n| n as usize);
        options.dtype = self.weights.map(|w| match w {
            Weights::F32 => Dtype::F32,
            Weights::Bf16 => Dtype::Bf16,
            Weights::Int8 => Dtype::Int8,
        });
        options.snapshot_budget_bytes = self.snapshot_budget_bytes.unwrap_or(options.snapshot_budget_bytes);
        options.state_form = self.snapshot_form.map_or(options.state_form, |form| match form {
            SnapshotForm::F32 => Form::F32,
            SnapshotForm::F16 => Form::F16,
            SnapshotForm::Int8 => Form::Int8,
        });
        options.language = self.language;
        Ok(options)
    }
}

impl ReaderSource {
    fn files(self) -> Result<ReaderFiles, PalimpsestError> {
        Ok(match self {
            ReaderSource::Path { path } => ReaderFiles::at(PathBuf::from(path))?,
            ReaderSource::Descriptor { fd, offset, length } => ReaderFiles::stretch(copied(fd)?, offset, length)?,
            ReaderSource::Bytes { bytes } => ReaderFiles::bytes(bytes)?,
        })
    }
}

/// A copy of the host's descriptor that is ours to close.
#[cfg(unix)]
fn copied(fd: i32) -> Result<File, PalimpsestError> {
    use std::os::fd::BorrowedFd;
    let refused = |why: String| PalimpsestError::Input(format!("descriptor {fd} is no open file: {why}"));
    if fd < 0 {
        return Err(refused("it is negative".into()));
    }
    #[expect(unsafe_code, reason = "descriptors come as numbers")]
    // SAFETY: the number is not -1, and the borrow ends within this function: it is only copied, which the system refuses
    // for a number that is no open file. The host keeps it open until the call returns, as the documentation asks.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map(File::from).map_err(|e| refused(e.to_string()))
}

#[cfg(not(unix))]
fn copied(_: i32) -> Result<File, PalimpsestError> {
    Err(PalimpsestError::Input("this system has no file descriptors: name a path".into()))
}

/// How a question is to be answered. Without a value, as the engine thinks best.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct AskOptions {
    /// Passages to read at most.
    #[uniffi(default = None)]
    pub passages: Option<u32>,
    /// Below this confidence, 0 to 1, no answer is given.
    #[uniffi(default = None)]
    pub min_confidence: Option<f32>,
    /// How they are read; B where the reader was taught to point, else A.
    #[uniffi(default = None)]
    pub tier: Option<Tier>,
    /// Tokens that the question may run through the reader. Where they do not reach for all passages worth reading, the best
    /// are read and a notice says so.
    #[uniffi(default = None)]
    pub budget_tokens: Option<u64>,
    /// Milliseconds after which no further passage is begun; a notice says so.
    #[uniffi(default = None)]
    pub budget_ms: Option<u64>,
    /// Which documents to look at; all without.
    #[uniffi(default = None)]
    pub filter: Option<Filter>,
    /// Passages that the reader puts in order before the best are asked; 0 for the index's order. All of them are read.
    #[uniffi(default = None)]
    pub rerank: Option<u32>,
    /// Answer in the reader's own words, for larger readers: marked as such in the answer, and cited still.
    #[uniffi(default = false)]
    pub free: bool,
}

/// How passages are read for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Tier {
    /// Each passage once: what was read serves any later question.
    A,
    /// Tier A, then the best passages a second time, now that the reader knows what is asked: slower, and much
    /// better where the reader was taught to point.
    B,
}

impl From<Tier> for engine::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::A => Self::A,
            Tier::B => Self::B,
        }
    }
}

impl From<engine::Tier> for Tier {
    fn from(tier: engine::Tier) -> Self {
        match tier {
            engine::Tier::A => Self::A,
            engine::Tier::B => Self::B,
        }
    }
}

impl From<AskOptions> for engine::AskOptions {
    fn from(o: AskOptions) -> Self {
        let best = Self::default();
        Self {
            passages: o.passages.map_or(best.passages, |n| n as usize),
            min_confidence: o.min_confidence.unwrap_or(best.min_confidence),
            tier: o.tier.map(Into::into),
            budget_tokens: o.budget_tokens.or(best.budget_tokens),
            budget_ms: o.budget_ms.or(best.budget_ms),
            filter: o.filter.map(Into::into),
            rerank: o.rerank.map_or(best.rerank, |n| n as usize),
            free: o.free,
        }
    }
}

/// How to search.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct SearchOptions {
    /// Passages at most; 10 without.
    #[uniffi(default = None)]
    pub limit: Option<u32>,
    /// Which documents to look at; all without.
    #[uniffi(default = None)]
    pub filter: Option<Filter>,
}

/// What a caller says of files that are brought in.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct IngestOptions {
    /// Kept with every document that is brought in, beside what was kept with it before.
    #[uniffi(default)]
    pub metadata: HashMap<String, Value>,
    /// By which tables (CSV, TSV, JSON lines) become a document a record; it is kept with them for the next time. A table that
    /// never had one is taken as the text that it is.
    #[uniffi(default = None)]
    pub fields: Option<FieldMap>,
}

/// Which fields of a table's record are what.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct FieldMap {
    /// The document's text: these fields, one below the other. One at least.
    pub text: Vec<String>,
    /// The record's id, unique in its file; its line without.
    #[uniffi(default = None)]
    pub id: Option<String>,
    /// The document's title; empty without.
    #[uniffi(default = None)]
    pub title: Option<String>,
    /// Kept as metadata, under the same names.
    #[uniffi(default)]
    pub metadata: Vec<String>,
}

impl TryFrom<IngestOptions> for index::IngestOptions {
    type Error = PalimpsestError;

    fn try_from(options: IngestOptions) -> Result<Self, PalimpsestError> {
        let mut how = Self::default();
        how.metadata = plain(options.metadata);
        if let Some(FieldMap { text, id, title, metadata }) = options.fields {
            if text.is_empty() {
                return Err(PalimpsestError::Input("the map of fields names no field of text".into()));
            }
            how.fields = Some(index::FieldMap { id, title, text, metadata });
        }
        Ok(how)
    }
}
