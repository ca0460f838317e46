//! Which states are kept, and where?
//!
//! A cache of the bytes of `snapshot.rs`, held to a budget in bytes. What comes out is what went in or a [`Refusal`] that
//! says why not; a store that does not open is set aside and made anew, and the caller is told by a [`StoreEvent`].
//!
//! In its folder: `slots/` with the snapshots (`slabs.rs` below), `catalogue/` with a sled tree that saves looking at each of
//! them (`catalogue.rs`) and its seal, and `lock`. Snapshots lie in files and not in sled by measurement: on the same
//! machine, 500 states of 1.2 MB took 2.35 times their bytes in sled 0.34.7 (7.2 times with 300 of them removed again) and
//! their put took over 100 ms at the 99th percentile. `STORE.md` beside this crate's manifest has the figures and the way to them.
//!
//! One process writes. A second one reads, and is told so, or is refused if it asked for that.

mod ancestor;
mod catalogue;
mod keep;
mod ledger;
mod lock;
mod lookup;
mod report;
mod shelf;
mod slabs;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::snapshot::{Form, Refusal, SnapshotKey};
use ledger::Ghost;
pub use lookup::HashIds;
pub use report::{Misses, StoreError, StoreEvent, StoreStats, VerifyReport};
use shelf::Shelf;

/// Buffers kept for the next reading or writing.
const BUFFERS: usize = 4;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes on disk, all overhead counted.
    pub budget_bytes: u64,
    /// Bytes of decoded states that are kept in memory beside it.
    pub memory_bytes: u64,
    /// Only look things up, and leave every file as it is.
    pub read_only: bool,
    /// Refuse with [`StoreError::InUse`], where another process has the store, instead of reading beside it.
    pub exclusive: bool,
    /// A put has reached the disk when it returns. Otherwise [`Store::flush`] sees to that.
    pub durable: bool,
    /// How elements are written down. With a rounded form a restored state is near the one that was put, not equal to it:
    /// [`Restore::Near`](crate::Restore::Near).
    pub form: Form,
    /// Where there is no state of this reader's own arithmetic, take one of the same weights and another back end,
    /// instruction set or element type: [`Restore::Near`](crate::Restore::Near).
    pub other_arithmetic: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            budget_bytes: 1 << 30,
            memory_bytes: 64 << 20,
            read_only: false,
            exclusive: false,
            durable: false,
            form: Form::F32,
            other_arithmetic: false,
        }
    }
}

/// A cache of states, shared between threads by reference.
pub struct Store {
    shelf: Mutex<Shelf>,
    buffers: Mutex<Vec<Vec<u8>>>,
    /// Held by a flush until all is on disk: a second one must not return before.
    flushing: Mutex<()>,
    folder: Option<PathBuf>,
    options: StoreOptions,
    /// Held while the store is open for writing.
    lock: Option<File>,
}

impl Store {
    /// Opens the store in `folder`, or begins one. Whatever of it cannot be used is set aside or dropped, which the events
    /// tell; where another process has it, it is read beside that one.
    ///
    /// # Errors
    /// [`StoreError::Io`] where the folder cannot be used at all, [`StoreError::InUse`] where it was to be exclusive.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<(Self, Vec<StoreEvent>), StoreError> {
        let mut events = Vec::new();
        let lock = if options.read_only { None } else { lock::take(folder, &options, &mut events)? };
        let read_only = lock.is_none();
        let mut shelf = Shelf::new(options.budget_bytes, options.memory_bytes);
        let options = StoreOptions { read_only, ..options };
        shelf.load(folder, &options, &mut events)?;
        let store = Self {
            shelf: Mutex::new(shelf),
            buffers: Mutex::default(),
            flushing: Mutex::default(),
            folder: Some(folder.to_path_buf()),
            options,
            lock,
        };
        Ok((store, events))
    }

    /// A store that ends with the process.
    #[must_use]
    pub fn in_memory(budget_bytes: u64) -> Self {
        Self {
            shelf: Mutex::new(Shelf::new(budget_bytes, budget_bytes)),
            buffers: Mutex::default(),
            flushing: Mutex::default(),
            folder: None,
            options: StoreOptions { budget_bytes, ..StoreOptions::default() },
            lock: None,
        }
    }

    /// Whether a state just read is worth keeping: at the first reading while the store is under half full, at the second use
    /// after that. Asking counts as a use.
    #[must_use]
    pub fn admits(&self, key: &SnapshotKey) -> bool {
        let mut shelf = self.shelf();
        let half_full = shelf.ledger.bytes() >= shelf.budget_bytes / 2;
        let admitted = !half_full || shelf.ledger.get(key).is_some() || shelf.ledger.ghost(key).is_some();
        if !admitted {
            shelf.ledger.note_ghost(key, Ghost::Offered);
        }
        admitted && !self.options.read_only
    }

    /// Whether the store has met `key`: it is kept, was evicted, or was offered and not admitted.
    #[must_use]
    pub fn seen(&self, key: &SnapshotKey) -> bool {
        let shelf = self.shelf();
        shelf.ledger.get(key).is_some() || shelf.ledger.ghost(key).is_some()
    }

    /// Whether it is kept. Its bytes are not looked at.
    #[must_use]
    pub fn contains(&self, key: &SnapshotKey) -> bool {
        self.shelf().ledger.get(key).is_some()
    }

    /// Keeps eviction away from `key`, also after the store was closed or its process killed.
    ///
    /// # Errors
    /// [`StoreError::NothingToPin`], [`StoreError::ReadOnly`], [`StoreError::Io`].
    pub fn pin(&self, key: &SnapshotKey) -> Result<(), StoreError> {
        self.set_pinned(key, true)
    }

    /// Lets eviction have `key` again.
    ///
    /// # Errors
    /// As [`Store::pin`].
    pub fn unpin(&self, key: &SnapshotKey) -> Result<(), StoreError> {
        self.set_pinned(key, false)
    }

    fn set_pinned(&self, key: &SnapshotKey, pinned: bool) -> Result<(), StoreError> {
        self.writable()?;
        let mut shelf = self.shelf();
        let Some(entry) = shelf.ledger.get(key) else { return Err(StoreError::NothingToPin { key: *key }) };
        if let Some(place) = entry.place.filter(|_| entry.pinned != pinned) {
            shelf.begin_change()?;
            let path = shelf.path(&place);
            slabs::rewrite_envelope(&path, &place, Some(pinned)).map_err(|e| StoreError::io("pin in", &path, e))?;
            shelf.dirtied(path);
        }
        shelf.ledger.set_pinned(key, pinned);
        Ok(())
    }

    /// What was put before has reached the disk on return.
    ///
    /// # Errors
    /// [`StoreError::Io`]: then it may not have. [`StoreError::Catalogue`]: it has, and the next opening takes longer.
    pub fn flush(&self) -> Result<(), StoreError> {
        if self.folder.is_none() || self.options.read_only {
            return Ok(());
        }
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, folder) = self.shelf().take_dirty();
        let synced = files.iter().try_for_each(|path| slabs::sync_file(path).map_err(|e| StoreError::io("flush", path, e)));
        let synced = synced.and_then(|()| match &folder {
            Some(folder) => slabs::sync_folder(folder).map_err(|e| StoreError::io("flush", folder, e)),
            None => Ok(()),
        });
        let mut shelf = self.shelf();
        if let Err(e) = synced {
            files.into_iter().for_each(|path| shelf.dirtied(path));
            return Err(e);
        }
        shelf.write_catalogue()
    }

    /// What the store holds and has done.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let shelf = self.shelf();
        StoreStats {
            entries: shelf.ledger.len() as u64,
            bytes: shelf.ledger.bytes(),
            disk_bytes: shelf.disk_bytes(),
            budget_bytes: shelf.budget_bytes,
            pinned_bytes: shelf.ledger.pinned_bytes(),
            memory_bytes: shelf.ledger.held_bytes(),
            hits: shelf.counts.hits,
            prefix_hits: shelf.counts.prefix_hits,
            near_hits: shelf.counts.near_hits,
            misses: shelf.counts.misses.clone(),
            puts: shelf.counts.puts,
            evictions: shelf.counts.evictions,
            read_only: self.options.read_only,
        }
    }

    /// Forgets everything, also what is pinned.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], [`StoreError::Io`].
    pub fn clear(&self) -> Result<(), StoreError> {
        self.writable()?;
        self.shelf().clear()
    }

    /// Reads every snapshot and compares it with its checksum. With `repair`, what is damaged is taken out.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] where it is to repair and cannot.
    pub fn verify(&self, repair: bool) -> Result<VerifyReport, StoreError> {
        if repair {
            self.writable()?;
        }
        let (entries, catalogue_whole) = self.shelf().inventory();
        let mut report = VerifyReport { catalogue_whole, ..VerifyReport::default() };
        for (key, fingerprint, place, bytes, path) in entries {
            let read = self.read(&key, &fingerprint, &path, &place, bytes);
            report.entries += 1;
            report.bytes += bytes;
            let mut shelf = self.shelf();
            let same = shelf.ledger.get(&key).is_some_and(|e| e.place == Some(place));
            // Another form is nobody's damage.
            if let Err(refusal @ Refusal::Damaged(_)) = read
                && same
            {
                report.damaged.push(format!("{}, snapshot {key}: {refusal}", path.display()));
                if repair {
                    shelf.drop_entry(&key);
                    report.repaired += 1;
                }
            }
        }
        Ok(report)
    }

    fn writable(&self) -> Result<(), StoreError> {
        match &self.folder {
            Some(folder) if self.options.read_only => Err(StoreError::ReadOnly { folder: folder.clone() }),
            _ => Ok(()),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buffer(&self) -> Vec<u8> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        if buffers.len() < BUFFERS {
            buffers.push(buffer);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.folder.is_some() && !self.options.read_only {
            // Without a catalogue the next opening looks at the slots.
            let _ = self.shelf().write_catalogue();
        }
        if let Some(lock) = &self.lock {
            // A child that is being started holds a copy of the open file for a moment: closing ours would not do.
            let _ = lock.unlock();
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder).field("options", &self.options).finish_non_exhaustive()
    }
}
