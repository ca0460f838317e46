//! Where a reader's files lie: in a folder, or in one uncompressed tar archive of it.
//!
//! An archive (`tar -cf reader.tar -C FOLDER .`) travels as one asset of an app: a file, a stretch of an open file, or bytes
//! in memory. It is listed when opened; its files are read when they are asked for, straight from where they lie. Compressed
//! archives are refused: a stretch of the archive must be the file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};

/// The files of one reader. Cheap to copy.
#[derive(Debug, Clone)]
pub struct ReaderFiles {
    /// The folder, or what to call the archive in messages.
    name: PathBuf,
    /// `None` for a folder.
    archive: Option<Arc<Archive>>,
}

#[derive(Debug)]
struct Archive {
    blob: Blob,
    /// Offset and length in the blob, by name.
    files: BTreeMap<String, (u64, u64)>,
}

#[derive(Debug)]
enum Blob {
    Bytes(Vec<u8>),
    Stretch { file: File, offset: u64, length: u64 },
}

impl ReaderFiles {
    /// The files in `folder`.
    #[must_use]
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self { name: folder.into(), archive: None }
    }

    /// The files at `path`: a folder's, or those of an archive.
    ///
    /// # Errors
    /// [`Error::Reader`] when `path` is neither.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_file() {
            return Ok(Self::folder(path));
        }
        let file = File::open(&path).map_err(|e| Error::reader(&path, format!("cannot be opened: {e}")))?;
        Self::list(path, |length| Blob::Stretch { length, offset: 0, file }, None)
    }

    /// The files of the archive that fills `length` bytes of `file` from `offset` on, all the rest where `None`. Where `file`
    /// stands at the moment is neither used nor changed.
    ///
    /// # Errors
    /// [`Error::Reader`] when no archive lies there.
    pub fn stretch(file: File, offset: u64, length: Option<u64>) -> Result<Self> {
        Self::list("(open file)".into(), |length| Blob::Stretch { file, offset, length }, length)
    }

    /// The files of the archive in `bytes`, which are kept as long as this is.
    ///
    /// # Errors
    /// [`Error::Reader`] when they are none.
    pub fn bytes(bytes: Vec<u8>) -> Result<Self> {
        Self::list("(bytes)".into(), |_| Blob::Bytes(bytes), None)
    }

    fn list(name: PathBuf, blob: impl FnOnce(u64) -> Blob, length: Option<u64>) -> Result<Self> {
        let mut blob = blob(length.unwrap_or(u64::MAX));
        blob.bound().map_err(|e| Error::reader(&name, format!("cannot be read: {e}")))?;
        let refuse = |e: io::Error| {
            Error::reader(&name, format!("is no whole, uncompressed tar archive of a reader's folder ({e}): `tar -cf` makes one"))
        };
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(Cursor { blob: &blob, at: 0 });
        for entry in archive.entries_with_seek().map_err(refuse)? {
            let entry = entry.map_err(refuse)?;
            let (start, size) = (entry.raw_file_position(), entry.size());
            if !entry.header().entry_type().is_file() {
                continue;
            }
            if start.checked_add(size).is_none_or(|end| end > blob.len()) {
                return Err(refuse(io::ErrorKind::UnexpectedEof.into()));
            }
            let path = entry.path().map_err(refuse)?;
            // However the archive was made, a reader's files lie side by side.
            if let Some(file) = path.file_name().and_then(|n| n.to_str()) {
                files.insert(file.to_string(), (start, size));
            }
        }
        if files.is_empty() {
            return Err(refuse(io::Error::other("it holds no file")));
        }
        Ok(Self { name, archive: Some(Arc::new(Archive { blob, files })) })
    }

    /// The folder, or what to call the archive.
    #[must_use]
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// What to call `file` in messages; in a folder, its path.
    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.name.join(file)
    }

    /// Whether it is a folder, whose files have paths.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.archive.is_none()
    }

    /// Whether there is a file of that name.
    #[must_use]
    pub fn holds(&self, file: &str) -> bool {
        match &self.archive {
            Some(archive) => archive.files.contains_key(file),
            None => self.path(file).is_file(),
        }
    }

    /// Their names, in no order.
    ///
    /// # Errors
    /// The system's, when a folder cannot be listed.
    pub fn names(&self) -> io::Result<Vec<String>> {
        match &self.archive {
            Some(archive) => Ok(archive.files.keys().cloned().collect()),
            None => Ok(std::fs::read_dir(&self.name)?.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()),
        }
    }

    /// The bytes of `file`.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when there is none of that name.
    pub fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        let Some(archive) = &self.archive else { return std::fs::read(self.path(file)) };
        let &(offset, length) = archive.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        archive.blob.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

impl From<PathBuf> for ReaderFiles {
    fn from(folder: PathBuf) -> Self {
        Self::folder(folder)
    }
}

impl Blob {
    /// Gives a stretch the end of its file where it reaches beyond.
    fn bound(&mut self) -> io::Result<()> {
        if let Blob::Stretch { file, offset, length } = self {
            let there = file.metadata()?.len().saturating_sub(*offset);
            *length = there.min(*length);
        }
        Ok(())
    }

    fn len(&self) -> u64 {
        match self {
            Blob::Bytes(bytes) => bytes.len() as u64,
            Blob::Stretch { length, .. } => *length,
        }
    }

    /// Bytes at `at`, as many as are there and fit.
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len().saturating_sub(at)).unwrap_or(usize::MAX);
        let wanted = out.len().min(left);
        let out = &mut out[..wanted];
        match self {
            Blob::Bytes(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                out.copy_from_slice(&bytes[from..from + wanted]);
                Ok(wanted)
            }
            Blob::Stretch { file, offset, .. } => read_file_at(file, out, offset + at),
        }
    }

    fn read_exact_at(&self, mut out: &mut [u8], mut at: u64) -> io::Result<()> {
        while !out.is_empty() {
            let read = self.read_at(out, at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            (out, at) = (&mut out[read..], at + read as u64);
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_file_at(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, at)
}

#[cfg(windows)]
fn read_file_at(file: &File, out: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, at)
}

/// Where the listing of an archive stands.
struct Cursor<'a> {
    blob: &'a Blob,
    at: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.blob.read_at(out, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.blob.len().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
