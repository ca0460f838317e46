//! How files come in.

use palimpsest_engine::index;

use super::path;

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
