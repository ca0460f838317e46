//! What went wrong, whose fault it is and what to do.

use std::path::{Path, PathBuf};

/// Result of every fallible function of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every way in which the engine refuses. Messages carry the values that a person needs to act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reader's folder is at fault: a file is missing, cut short, of another kind, or does not fit its config.
    #[error("reader {}: {reason}", file.display())]
    Reader {
        /// The file (or folder) that was being read.
        file: PathBuf,
        /// What is wrong with it, naming the tensor or the key.
        reason: String,
    },
    /// The folder of an encoder is at fault: a file is missing or damaged, or it is of a kind that is not run here.
    #[error("encoder {}: {reason}", file.display())]
    Encoder {
        /// The file (or folder) that was being read.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller passed something the engine cannot work with.
    #[error("{0}")]
    Input(String),
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path that was being used.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The document index refused.
    #[error(transparent)]
    Index(#[from] palimpsest_index::IndexError),
    /// The snapshot store refused.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A context is damaged, another tokenizer's, or in use by another process.
    #[error("the context in {} cannot be used: {reason}", folder.display())]
    Context {
        /// Its folder.
        folder: PathBuf,
        /// Why, and what to do.
        reason: String,
        /// Nothing is wrong with it: another process, or another handle of this one, has it.
        in_use: bool,
    },
    /// The arithmetic refused: this processor lacks what was asked for, or shapes do not fit.
    #[error(transparent)]
    Kernel(#[from] palimpsest_kernels::KernelError),
    /// The GPU cannot be used, or no longer.
    #[error(transparent)]
    Cuda(#[from] palimpsest_kernels::cuda::CudaError),
    /// A shape handed to a kernel does not fit: an error of the engine itself, please report it.
    #[error(transparent)]
    Shape(#[from] palimpsest_kernels::ShapeError),
    /// An error of the engine itself: please report it.
    #[error("{0}: an error of the engine itself, please report it")]
    Internal(&'static str),
    /// The caller cancelled.
    #[error("cancelled by the caller")]
    Cancelled,
}

impl Error {
    pub(crate) fn reader(file: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Reader { file: file.as_ref().to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn damaged(folder: &Path, reason: String) -> Self {
        Error::Context { folder: folder.to_path_buf(), reason, in_use: false }
    }

    #[cfg(feature = "dense")]
    pub(crate) fn encoder(file: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Error::Encoder { file: file.as_ref().to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }
}
