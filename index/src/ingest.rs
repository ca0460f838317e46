//! How do files and folders get in, and stay in step?

use std::path::PathBuf;

use crate::{Index, IndexError, Unread};

/// How far an ingest is.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Files looked at so far.
    pub files_done: usize,
    /// Files found; grows while folders are still being listed.
    pub files_total: usize,
    /// Bytes of the files looked at.
    pub bytes_done: u64,
    /// Bytes of the files found.
    pub bytes_total: u64,
    /// Since the ingest began.
    pub seconds: f64,
}

/// What an ingest did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Documents that were not there before.
    pub added: usize,
    /// Documents whose text is another one now.
    pub updated: usize,
    /// Documents that are as they were.
    pub unchanged: usize,
    /// Documents whose file is gone.
    pub removed: usize,
    /// Files that were left out, and why.
    pub failed: Vec<(PathBuf, Unread)>,
}

impl Index {
    /// Brings files and folders in, and what was ingested below them before in step with them. Commits.
    ///
    /// # Errors
    /// Those of the index; a file that cannot be read is in the report instead.
    pub fn ingest(&self, paths: &[PathBuf], progress: &(dyn Fn(&Progress) + Sync)) -> Result<IngestReport, IndexError> {
        let _ = (paths, progress);
        Ok(IngestReport::default())
    }
}
