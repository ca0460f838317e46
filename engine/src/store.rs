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
mod ledger;
mod lock;
mod report;
mod shelf;
mod slabs;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::snapshot::{Damage, Fingerprint, Form, Refusal, Restore, Snapshot, SnapshotKey};
use ledger::{Entry, Ghost};
pub use report::{Misses, StoreError, StoreEvent, StoreStats, VerifyReport};
use shelf::Shelf;
use slabs::{ENVELOPE_BYTES, Envelope, Place};

/// What a snapshot without a disk costs beside its elements.
const MEMORY_OVERHEAD_BYTES: u64 = 256;
/// How often a reader looks again for a snapshot that moved while it was being read.
const LOOKS: usize = 4;
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
    /// How elements are written down. With a rounded form a restored state is near the one that was put, not equal to it.
    pub form: Form,
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

    /// The state that `key` names, exactly, or why not.
    ///
    /// # Errors
    /// A [`Refusal`]. One that says the bytes are damaged also takes them out of the store.
    pub fn get(&self, key: &SnapshotKey, fingerprint: &Fingerprint) -> Result<Snapshot, Refusal> {
        let got = self.fetch(key, fingerprint);
        let counts = &mut self.shelf().counts;
        match &got {
            Ok(_) => counts.hits += 1,
            Err(refusal) => counts.misses.count(refusal),
        }
        got
    }

    /// The state of the longest prefix of `ids` that is kept, and which that is. At most one snapshot is read from disk where
    /// none is damaged: the lengths in question are known from the first 64 ids.
    #[must_use]
    pub fn longest(&self, fingerprint: &Fingerprint, ids: &[u32]) -> (Option<Snapshot>, Restore) {
        let (snapshot, restore) = self.find_longest(fingerprint, ids);
        let counts = &mut self.shelf().counts;
        match &restore {
            Restore::Exact { .. } => counts.hits += 1,
            Restore::Prefix { .. } => counts.prefix_hits += 1,
            Restore::Refused(refusal) => counts.misses.count(refusal),
        }
        (snapshot, restore)
    }

    fn fetch(&self, key: &SnapshotKey, fingerprint: &Fingerprint) -> Result<Snapshot, Refusal> {
        for _ in 0..LOOKS {
            let (place, born, bytes, path) = {
                let mut shelf = self.shelf();
                let Some(entry) = shelf.ledger.get(key) else { return Err(shelf.missing(key, fingerprint)) };
                if let Some(refusal) = fingerprint.refuses(&entry.fingerprint) {
                    return Err(refusal);
                }
                let (tokens, place, born, bytes) = (entry.tokens, entry.place, entry.born, entry.bytes);
                if let Some(held) = shelf.ledger.touch(key) {
                    drop(shelf);
                    return Ok(Snapshot { tokens, data: held.to_vec() });
                }
                let path = shelf.disk.as_ref().zip(place).map(|(disk, place)| disk.slabs.path(&place));
                match (place, path) {
                    (Some(place), Some(path)) => (place, born, bytes, path),
                    _ => return Err(Refusal::NeverSeen),
                }
            };
            let read = self.read(key, fingerprint, &path, &place, bytes);
            // For the next time, copied before anyone has to wait for it.
            let held = match &read {
                Ok(s) if 4 * s.data.len() as u64 <= self.options.memory_bytes => Some(Arc::new(s.data.clone())),
                _ => None,
            };
            let mut shelf = self.shelf();
            let same = shelf.ledger.get(key).is_some_and(|e| e.place == Some(place) && e.born == born);
            match read {
                Ok(snapshot) => {
                    if let Some(held) = held.filter(|_| same) {
                        shelf.hold(key, held);
                    }
                    return Ok(snapshot);
                }
                // It moved, or was evicted and written over, while it was being read.
                Err(_) if !same => {}
                Err(refusal) => {
                    // A file that is there and cannot be opened now may open later.
                    if !matches!(refusal, Refusal::Damaged(Damage::Unreadable { .. })) || !path.exists() {
                        shelf.drop_entry(key);
                    }
                    return Err(refusal);
                }
            }
        }
        Err(Refusal::Evicted)
    }

    fn read(
        &self,
        key: &SnapshotKey,
        fingerprint: &Fingerprint,
        path: &Path,
        place: &Place,
        bytes: u64,
    ) -> Result<Snapshot, Refusal> {
        let mut buffer = self.buffer();
        let decoded = match slabs::read_record(path, place, bytes, &mut buffer) {
            Ok(()) => Snapshot::form_of(&buffer).and_then(|form| {
                let wanted = self.options.form;
                if form != wanted && form != Form::F32 {
                    return Err(Refusal::OtherForm { stored: form, wanted });
                }
                Snapshot::decode(&buffer, fingerprint, key)
            }),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                let found_bytes = path.metadata().map_or(0, |m| m.len());
                Err(Damage::Length { expected_bytes: place.offset() + ENVELOPE_BYTES as u64 + bytes, found_bytes }.into())
            }
            Err(e) => Err(Damage::Unreadable { path: path.display().to_string(), reason: e.to_string() }.into()),
        };
        self.give_back(buffer);
        match decoded {
            // Another process, which has the store, gave its slot away; or power was lost before the catalogue knew.
            Err(Refusal::OtherText { .. }) => Err(Refusal::Evicted),
            decoded => decoded,
        }
    }

    /// Keeps a state. What is kept already stays; others go to hold the budget. `cost_ms` is what a later use saves.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::TooLarge`], [`StoreError::AllPinned`], [`StoreError::ReadOnly`]. The store is as
    /// sound after them as before.
    pub fn put(
        &self,
        key: &SnapshotKey,
        fingerprint: &Fingerprint,
        tokens: u64,
        data: &[f32],
        cost_ms: f32,
    ) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else { return self.put_in_memory(key, fingerprint, tokens, data, cost_ms) };
        if self.options.read_only {
            return Err(StoreError::ReadOnly { folder: folder.clone() });
        }
        {
            let mut shelf = self.shelf();
            if shelf.ledger.get(key).is_some() {
                shelf.ledger.touch(key);
                return Ok(());
            }
            // Another thread's bytes are the same: a state is a function of its key.
            if !shelf.writing.insert(*key) {
                return Ok(());
            }
        }
        let mut buffer = self.buffer();
        buffer.clear();
        buffer.resize(ENVELOPE_BYTES, 0);
        Snapshot::encode_into(&mut buffer, tokens, data, fingerprint, key, self.options.form);
        let entry = Entry {
            fingerprint: *fingerprint,
            tokens,
            cost_ms,
            bytes: (buffer.len() - ENVELOPE_BYTES) as u64,
            place: None,
            pinned: false,
            priority: 0.0,
            seq: 0,
            born: 0,
            held: None,
        };
        let done = self.write(key, entry, &mut buffer, data);
        self.give_back(buffer);
        self.shelf().writing.remove(key);
        done
    }

    fn write(&self, key: &SnapshotKey, mut entry: Entry, buffer: &mut [u8], data: &[f32]) -> Result<(), StoreError> {
        let (place, path) = {
            let mut shelf = self.shelf();
            shelf.begin_change()?;
            let place = shelf.room(entry.bytes)?;
            (entry.priority, entry.seq) = shelf.ledger.stamp(entry.cost_ms, entry.bytes);
            (place, shelf.path(&place))
        };
        (entry.born, entry.place) = (entry.seq, Some(place));
        let envelope = Envelope {
            pinned: false,
            record_bytes: entry.bytes,
            cost_ms: entry.cost_ms,
            priority: entry.priority,
            seq: entry.seq,
        };
        if let Some((head, record)) = buffer.split_first_chunk_mut::<ENVELOPE_BYTES>() {
            *head = envelope.encode(record);
        }
        let exact = self.options.form == Form::F32 && 4 * data.len() as u64 <= self.options.memory_bytes;
        entry.held = exact.then(|| Arc::new(data.to_vec()));
        let written = slabs::write_slot(&path, &place, buffer, self.options.durable);
        let mut shelf = self.shelf();
        // A flush may have sealed the catalogue in the meantime.
        let written = written.map_err(|e| StoreError::io("write", &path, e)).and_then(|()| shelf.begin_change());
        if let Err(e) = written {
            shelf.abandon(&place);
            return Err(e);
        }
        shelf.publish(*key, entry, path);
        Ok(())
    }

    fn put_in_memory(
        &self,
        key: &SnapshotKey,
        fingerprint: &Fingerprint,
        tokens: u64,
        data: &[f32],
        cost_ms: f32,
    ) -> Result<(), StoreError> {
        let bytes = 4 * data.len() as u64 + MEMORY_OVERHEAD_BYTES;
        let held = Some(Arc::new(data.to_vec()));
        let mut shelf = self.shelf();
        if shelf.ledger.touch(key).is_some() {
            return Ok(());
        }
        shelf.room_in_memory(bytes)?;
        let (priority, seq) = shelf.ledger.stamp(cost_ms, bytes);
        let (fingerprint, pinned, place, born) = (*fingerprint, false, None, seq);
        shelf.ledger.insert(*key, Entry { fingerprint, tokens, cost_ms, bytes, place, pinned, priority, seq, born, held });
        shelf.counts.puts += 1;
        Ok(())
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
