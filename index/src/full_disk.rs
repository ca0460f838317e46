//! Does a disk that fills up lose anything?

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tantivy::Directory;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    AntiCallToken, DirectoryLock, FileHandle, Lock, RamDirectory, TerminatingWrite, WatchCallback, WatchHandle, WritePtr,
};

use crate::checked::Checked;
use crate::{Document, Index, IndexError, Options};

/// A directory with room for so many bytes.
#[derive(Debug, Clone)]
struct Small {
    inner: RamDirectory,
    room: Arc<AtomicI64>,
}

struct SmallFile {
    inner: WritePtr,
    room: Arc<AtomicI64>,
}

fn take(room: &AtomicI64, bytes: usize) -> io::Result<()> {
    let left = room.fetch_sub(bytes as i64, Ordering::Relaxed);
    if left < bytes as i64 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

impl Write for SmallFile {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        take(&self.room, data.len())?;
        self.inner.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl TerminatingWrite for SmallFile {
    fn terminate_ref(&mut self, token: AntiCallToken) -> io::Result<()> {
        self.inner.terminate_ref(token)
    }
}

impl Directory for Small {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.inner.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.inner.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.inner.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        let inner = self.inner.open_write(path)?;
        Ok(BufWriter::with_capacity(1, Box::new(SmallFile { inner, room: self.room.clone() })))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.inner.atomic_read(path)
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        take(&self.room, data.len())?;
        self.inner.atomic_write(path, data)
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

#[test]
fn a_full_disk_is_said_and_loses_nothing_that_was_acknowledged() {
    let text = |id: usize| format!("orchard number {id} grows many kinds of fruit. ").repeat(40);
    for room in [0, 100, 3_000, 20_000, 40_000] {
        let disk = Small { inner: RamDirectory::create(), room: Arc::new(AtomicI64::new(1 << 40)) };
        let index = Index::over(Checked::new(disk.clone()), None, &Options::default()).expect("an index");
        for id in 0..20 {
            index.add(Document::new(id.to_string(), "", text(id))).expect("added");
        }
        index.commit().expect("committed");
        disk.room.store(room, Ordering::Relaxed);
        let filled = (20..400).try_for_each(|id| index.add(Document::new(id.to_string(), "", text(id))).map(drop));
        let filled = filled.and_then(|()| index.commit());
        assert!(matches!(filled, Err(IndexError::Tantivy { .. })), "{room}: {filled:?}");
        // What was acknowledged is there, here and for who opens it now.
        let again = Index::over(Checked::new(disk.clone()), None, &Options::default()).expect("opened");
        for index in [&index, &again] {
            assert_eq!(index.documents().expect("listed").len(), 20, "{room}");
            assert_eq!(index.document("7").expect("read").expect("there").text, text(7));
        }
        drop(again);
        // With room again it goes on.
        disk.room.store(1 << 40, Ordering::Relaxed);
        for id in 0..400 {
            index.add(Document::new(id.to_string(), "", text(id))).expect("added");
        }
        index.commit().expect("committed");
        index.verify().expect("sound");
        assert_eq!(index.documents().expect("listed").len(), 400, "{room}");
    }
}
