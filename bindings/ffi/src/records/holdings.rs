//! What store and reader are.

use palimpsest_engine::state::State;
use palimpsest_engine::{self as engine, Reader};

use super::path;

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
    /// Contexts.
    pub contexts: u64,
    /// Bytes of their files: states, texts, and what is kept to cite them.
    pub context_bytes: u64,
    /// Snapshots kept.
    pub snapshots: u64,
    /// Bytes of their files.
    pub snapshot_bytes: u64,
    /// What those are held to.
    pub snapshot_budget_bytes: u64,
    /// Bytes of snapshots in memory.
    pub memory_bytes: u64,
    /// Whether another process has the snapshots: they are read, and none is kept.
    pub read_only: bool,
    /// Snapshots that made room for others since opening.
    pub evictions: u64,
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
    /// What is wrong with contexts, and was not put right: read those texts again.
    pub contexts: Vec<String>,
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
    /// Whether it was taught to point at answers: tier B is then what a question is read in unless told otherwise.
    pub points: bool,
    /// What its confidences were fitted on; empty where they were not.
    pub calibrated_on: String,
    /// What computes.
    pub device: String,
    /// Threads it reads with.
    pub threads: u32,
    /// Weights, tokenizer and arithmetic, in hex: snapshots belong to it.
    pub fingerprint: String,
}

impl From<engine::Status> for Status {
    fn from(s: engine::Status) -> Self {
        let m = s.snapshots.misses;
        let contexts = s.contexts;
        let refused = m.damaged + m.other_reader + m.other_tokenizer + m.other_format + m.other_arithmetic;
        Self {
            store: path(&s.store),
            documents: s.index.documents,
            passages: s.index.passages,
            text_bytes: s.index.text_bytes,
            index_bytes: s.index.disk_bytes,
            contexts: contexts.contexts,
            context_bytes: contexts.state_bytes + contexts.log_bytes + contexts.index_bytes + contexts.text_bytes,
            snapshots: s.snapshots.entries,
            snapshot_bytes: s.snapshots.disk_bytes,
            snapshot_budget_bytes: s.snapshots.budget_bytes,
            memory_bytes: s.snapshots.memory_bytes,
            read_only: s.snapshots.read_only,
            evictions: s.snapshots.evictions,
            hits: s.snapshots.hits + s.snapshots.prefix_hits + s.snapshots.near_hits,
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
            contexts: v.contexts,
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
            points: reader.prompt().start().is_some(),
            calibrated_on: reader.calibration().fitted_on.clone(),
            device: reader.device(),
            threads: small(reader.threads()),
            fingerprint: reader.fingerprint().to_string(),
        }
    }
}
