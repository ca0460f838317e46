//! What a host can do about a failure: few cases to branch on, each with Rust's own message.

use palimpsest_engine::Error;
use palimpsest_engine::index::IndexError;
use palimpsest_engine::store::StoreError;

/// Why a call failed, by what the host should do about it. The message is for people, and names values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, uniffi::Error)]
#[uniffi(flat_error)]
pub enum PalimpsestError {
    /// An argument cannot be worked with: correct it and call again.
    #[error("{0}")]
    Input(String),
    /// The reader's files are missing, damaged or of another kind: bring other files.
    #[error("{0}")]
    Reader(String),
    /// This machine lacks the device or the instructions that were asked for: ask for another device.
    #[error("{0}")]
    Device(String),
    /// The store's folder cannot be used: look at its permissions and at the space on its disk; what is damaged is built
    /// again from the documents.
    #[error("{0}")]
    Store(String),
    /// Another process, or another engine of this one, has the store or the context: wait, and call again.
    #[error("{0}")]
    Busy(String),
    /// The call was cancelled. Nothing is to be done.
    #[error("{0}")]
    Cancelled(String),
    /// The engine or context was closed before this call: open it again.
    #[error("{0}")]
    Closed(String),
    /// An error of Palimpsest itself: please report it, with its message.
    #[error("{0}")]
    Internal(String),
}

impl PalimpsestError {
    pub(crate) fn engine_closed() -> Self {
        Self::Closed("this engine was closed: open it again".into())
    }
}

impl From<Error> for PalimpsestError {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Input(_) | Error::Index(IndexError::Id { .. }) => Self::Input(message),
            Error::Reader { .. } => Self::Reader(message),
            Error::Kernel(_) | Error::Cuda(_) => Self::Device(message),
            Error::Index(IndexError::Locked { .. })
            | Error::Store(StoreError::InUse { .. })
            | Error::Context { in_use: true, .. } => Self::Busy(message),
            Error::Cancelled | Error::Index(IndexError::Stopped) => Self::Cancelled(message),
            Error::Io { .. } | Error::Index(_) | Error::Store(_) | Error::Context { .. } => Self::Store(message),
            _ => Self::Internal(message),
        }
    }
}

impl From<IndexError> for PalimpsestError {
    fn from(error: IndexError) -> Self {
        Error::from(error).into()
    }
}
