//! What the store tells: events at opening, errors, statistics.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::snapshot::{Refusal, SnapshotKey};

/// What happened while opening, for the app to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreEvent {
    /// A part of the store could not be used; it lies at `path` now, and what it said was worked out anew.
    SetAside {
        /// Where it lies now.
        path: PathBuf,
        /// What was wrong with it.
        reason: String,
    },
    /// The store can be read and not written.
    ReadOnly {
        /// Its folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// Slots hold something that is no snapshot: they are free now, and what they held will be read again when needed.
    Damaged {
        /// The file.
        path: PathBuf,
        /// How many slots of it.
        slots: u64,
    },
    /// A file cannot be read and is left out.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}

impl std::fmt::Display for StoreEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StoreEvent::SetAside { path, reason } => {
                write!(f, "a part of the snapshot store was set aside as {} and made anew: {reason}", path.display())
            }
            StoreEvent::ReadOnly { folder, reason } => {
                write!(f, "the snapshot store {} is used for reading only: {reason}", folder.display())
            }
            StoreEvent::Damaged { path, slots } => {
                write!(f, "{slots} damaged snapshots in {} were dropped; they are read again when needed", path.display())
            }
            StoreEvent::Unreadable { path, reason } => write!(f, "the snapshots in {} cannot be read: {reason}", path.display()),
        }
    }
}

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("the snapshot store cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has the store, and the caller wanted it alone.
    #[error("the snapshot store {} is in use by another process{}", folder.display(), holder.map_or(String::new(), |p| format!(" ({p})")))]
    InUse {
        /// Its folder.
        folder: PathBuf,
        /// The other process, if it left its number.
        holder: Option<u32>,
    },
    /// The store was opened for reading.
    #[error("the snapshot store {} is open for reading only", folder.display())]
    ReadOnly {
        /// Its folder.
        folder: PathBuf,
    },
    /// The caller's budget is smaller than this one snapshot.
    #[error("a snapshot of {bytes} bytes does not go into a budget of {budget_bytes} bytes")]
    TooLarge {
        /// Bytes of the snapshot.
        bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The caller has pinned too much.
    #[error("no room for {bytes} bytes: {pinned_bytes} of {budget_bytes} bytes are pinned")]
    AllPinned {
        /// Bytes of the snapshot.
        bytes: u64,
        /// Bytes that are pinned.
        pinned_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// The caller asked to pin what is not kept.
    #[error("there is no snapshot {key} to pin")]
    NothingToPin {
        /// What was asked for.
        key: SnapshotKey,
    },
    /// The snapshots are safe, but their catalogue could not be written: the next opening takes longer.
    #[error("the catalogue {} could not be written: {reason}", path.display())]
    Catalogue {
        /// Its folder.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        StoreError::Io { doing, path: path.to_path_buf(), source }
    }
}

/// Lookups that gave nothing, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Misses {
    /// Never kept.
    pub never_seen: u64,
    /// Kept once, evicted since.
    pub evicted: u64,
    /// Kept, and its bytes were not those that were written.
    pub damaged: u64,
    /// The same text, read by a reader with other weights.
    pub other_reader: u64,
    /// ... with another tokenizer.
    pub other_tokenizer: u64,
    /// ... with another layout of the state, or written by a newer version.
    pub other_format: u64,
    /// ... with other arithmetic.
    pub other_arithmetic: u64,
}

impl Misses {
    pub(super) fn count(&mut self, refusal: &Refusal) {
        *match refusal {
            Refusal::NeverSeen | Refusal::OtherText { .. } => &mut self.never_seen,
            Refusal::Evicted => &mut self.evicted,
            Refusal::Damaged(_) => &mut self.damaged,
            Refusal::OtherReader { .. } => &mut self.other_reader,
            Refusal::OtherTokenizer { .. } => &mut self.other_tokenizer,
            Refusal::OtherFormat { .. } | Refusal::OtherVersion { .. } | Refusal::OtherForm { .. } => &mut self.other_format,
            Refusal::OtherArithmetic { .. } => &mut self.other_arithmetic,
        } += 1;
    }
}

/// What a store holds, and what it has done since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Snapshots kept.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all files of the store, in whole blocks of the disk.
    pub disk_bytes: u64,
    /// What `disk_bytes` is held to; `bytes` where there is no disk.
    pub budget_bytes: u64,
    /// Bytes of the snapshots that eviction passes by.
    pub pinned_bytes: u64,
    /// Bytes of decoded states in memory.
    pub memory_bytes: u64,
    /// Lookups that gave exactly what was asked for.
    pub hits: u64,
    /// Lookups that gave the state of a prefix.
    pub prefix_hits: u64,
    /// Lookups that gave a state near the one asked for, where the store was opened so.
    pub near_hits: u64,
    /// Lookups that gave nothing.
    pub misses: Misses,
    /// Snapshots put.
    pub puts: u64,
    /// Snapshots evicted.
    pub evictions: u64,
    /// Whether it can only be read.
    pub read_only: bool,
}

/// What [`Store::verify`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Snapshots looked at.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Each that is not what was written, with its file and what is wrong.
    pub damaged: Vec<String>,
    /// How many of those were removed.
    pub repaired: u64,
    /// Whether the catalogue is as it was sealed; `None` while it is out of date, or where there is none.
    pub catalogue_whole: Option<bool>,
}
