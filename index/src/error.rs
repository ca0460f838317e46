//! What went wrong, whose fault it is, and what to do about it.

use std::io;
use std::path::PathBuf;

/// The index refused, or could not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// What was asked for.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another process, or another handle of this one, is writing.
    #[error("{path} is being written by another process: wait for it to end, or only search meanwhile")]
    Locked {
        /// The index folder.
        path: PathBuf,
    },
    /// Files of the index were changed by something else, or the disk failed.
    #[error("{path} is damaged ({what}): remove the folder and ingest the documents again")]
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// What does not hold.
        what: String,
    },
    /// The folder holds an index of another version.
    #[error("{path} holds an index of format {found}, this version reads {expected}: remove the folder and ingest again")]
    Version {
        /// The index folder.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The format this version writes.
        expected: u32,
    },
    /// A document that the caller handed over cannot be kept.
    #[error("document id of {bytes} bytes: ids have 1 to {limit} bytes")]
    Id {
        /// Its length.
        bytes: usize,
        /// The longest that is taken.
        limit: usize,
    },
    /// A file of a retrieval measurement is not as it should be.
    #[error("{path}, line {line}: {what}")]
    Judgements {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was expected.
        what: &'static str,
    },
    /// A search cluster refused, or did not answer.
    #[error("{url}: {what}")]
    Cluster {
        /// Where it was asked.
        url: String,
        /// Its words.
        what: String,
    },
    /// An encoder refused.
    #[error("{what}")]
    Encoder {
        /// Its words.
        what: String,
    },
    /// The library that keeps vectors refused.
    #[error("the vectors could not {doing}: {what}")]
    Vectors {
        /// What was being done.
        doing: &'static str,
        /// Its words.
        what: String,
    },
    /// The caller stopped an ingest; what went in before is kept.
    #[error("stopped by the caller")]
    Stopped,
    /// The search library refused.
    #[error("the index could not {doing}: {source}")]
    Tantivy {
        /// What was being done.
        doing: &'static str,
        /// Its answer.
        source: tantivy::TantivyError,
    },
}

/// Names what was being done when tantivy refused, and sorts its refusals into ours.
pub(crate) fn doing(doing: &'static str) -> impl FnOnce(tantivy::TantivyError) -> IndexError {
    move |source| match source {
        tantivy::TantivyError::DataCorruption(damage) => {
            IndexError::Damaged { path: PathBuf::from("index"), what: format!("{damage:?}") }
        }
        source => IndexError::Tantivy { doing, source },
    }
}

/// Why a file was left out of an ingest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unread {
    /// The operating system refused.
    #[error("{message}")]
    Io {
        /// Its kind of refusal.
        kind: io::ErrorKind,
        /// Its words.
        message: String,
    },
    /// No format that is read here.
    #[error("not a format that is read here")]
    Format,
    /// It is named like text and is none.
    #[error("not text: byte {at} is no character of UTF-8, nor of another encoding")]
    NotText {
        /// Where it stops being text.
        at: u64,
    },
    /// Longer than can be read in bounded memory.
    #[error("{bytes} bytes: files of its format are read up to {limit}")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The longest that is read.
        limit: u64,
    },
    /// It was written to while it was read.
    #[error("it changed while it was read: ingest it again")]
    Changed,
    /// A record lacks a field that its map names.
    #[error("it has no field {name:?}, which the field map names")]
    Field {
        /// The field.
        name: String,
    },
    /// A path without a name in Unicode.
    #[error("its path is not Unicode")]
    Path,
    /// A file that its own format's reader refuses.
    #[error("damaged: {what}")]
    Damaged {
        /// What the reader says.
        what: String,
    },
}

impl From<io::Error> for Unread {
    fn from(e: io::Error) -> Self {
        Self::Io { kind: e.kind(), message: e.to_string() }
    }
}
