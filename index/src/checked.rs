//! Are the index's files the ones that were written?
//!
//! tantivy ends its large files with a checksum that it does not look at when it opens them, and its two small ones
//! (meta.json, .managed.json) have none. This directory gives the small ones a last line with one and refuses them without;
//! `validate` goes through the large ones. A byte that changes on the disk is an error that names the file, not an answer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{DirectoryLock, FileHandle, FileSlice, Lock, WatchCallback, WatchHandle, WritePtr};
use tantivy::{Directory, TantivyError};

use crate::error::IndexError;

/// Begins the last line of a small file; the CRC-32 of what lies before follows in 8 hex digits.
const MARK: &[u8] = b"\n#palimpsest crc32 ";

/// Length of that line.
const SEAL_BYTES: usize = MARK.len() + 8 + 1;

/// A tantivy directory whose small files are checked.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    inner: Arc<dyn Directory>,
}

impl Checked {
    pub(crate) fn new(inner: impl Directory) -> Self {
        Self { inner: Arc::new(inner) }
    }
}

pub(crate) fn seal(data: &[u8]) -> Vec<u8> {
    let mut sealed = data.to_vec();
    sealed.extend_from_slice(MARK);
    sealed.extend_from_slice(format!("{:08x}\n", crc32fast::hash(data)).as_bytes());
    sealed
}

pub(crate) fn unseal(sealed: &[u8]) -> Option<&[u8]> {
    let data = &sealed[..sealed.len().checked_sub(SEAL_BYTES)?];
    (seal(data) == sealed).then_some(data)
}

impl Directory for Checked {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.inner.get_file_handle(path)
    }

    fn open_read(&self, path: &Path) -> Result<FileSlice, OpenReadError> {
        self.inner.open_read(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.inner.open_write(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let sealed = self.inner.atomic_read(path)?;
        unseal(&sealed).map(<[u8]>::to_vec).ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::InvalidData, "its checksum does not hold");
            OpenReadError::wrap_io_error(error, path.to_path_buf())
        })
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.inner.atomic_write(path, &seal(data))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.inner.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.inner.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.inner.watch(callback)
    }
}

/// Goes through every byte that a search may read.
///
/// # Errors
/// [`IndexError::Damaged`], with the first file that is not what was written.
pub(crate) fn validate(index: &tantivy::Index, dir: &Path) -> Result<(), IndexError> {
    match index.validate_checksum() {
        Ok(damaged) => match damaged.into_iter().min() {
            None => Ok(()),
            Some(file) => Err(IndexError::Damaged { path: dir.join(file), what: "its checksum does not hold".into() }),
        },
        Err(e) => Err(opening(dir)(e)),
    }
}

/// Sorts what tantivy says when it cannot open its files: damage, or the operating system.
pub(crate) fn opening(dir: &Path) -> impl Fn(TantivyError) -> IndexError + '_ {
    move |e| match e {
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, filepath })
            if !matches!(io_error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            let source = io::Error::new(io_error.kind(), io_error.to_string());
            IndexError::Io { path: dir.join(filepath), source }
        }
        TantivyError::OpenReadError(OpenReadError::IoError { io_error, filepath }) => {
            IndexError::Damaged { path: dir.join(filepath), what: io_error.to_string() }
        }
        TantivyError::OpenReadError(OpenReadError::FileDoesNotExist(file)) => {
            IndexError::Damaged { path: dir.join(file), what: "it is gone".into() }
        }
        TantivyError::DataCorruption(_) | TantivyError::IncompatibleIndex(_) | TantivyError::SchemaError(_) => {
            IndexError::Damaged { path: dir.to_path_buf(), what: e.to_string() }
        }
        e => IndexError::Tantivy { doing: "open its files", source: e },
    }
}

/// The folder's own file of that name, checked; `None` when it is not there.
pub(crate) fn read_sealed(directory: &Checked, dir: &Path, name: &str) -> Result<Option<Vec<u8>>, IndexError> {
    match directory.atomic_read(Path::new(name)) {
        Ok(data) => Ok(Some(data)),
        Err(OpenReadError::FileDoesNotExist(_)) => Ok(None),
        Err(e) => Err(opening(dir)(TantivyError::OpenReadError(e))),
    }
}

/// Writes that file, whole or not at all.
pub(crate) fn write_sealed(directory: &Checked, dir: &Path, name: &str, data: &[u8]) -> Result<(), IndexError> {
    let path: PathBuf = dir.join(name);
    directory.atomic_write(Path::new(name), data).map_err(|source| IndexError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_breaks_with_any_byte() {
        for data in [&b""[..], b"{}", &[0, 255, b'\n']] {
            let sealed = seal(data);
            assert_eq!(unseal(&sealed), Some(data));
            for at in 0..sealed.len() {
                for flip in [1, 0x20, 0x80] {
                    let mut broken = sealed.clone();
                    broken[at] ^= flip;
                    assert_eq!(unseal(&broken), None, "byte {at}");
                }
                assert_eq!(unseal(&sealed[..at]), None);
            }
        }
    }
}
