//! Book and slots together: room for one more within the budget, and the book made anew from what lies on disk.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalogue::{Catalogue, Loaded};
use super::ledger::{Entry, Ghost, Ledger};
use super::slabs::{self, Place, Shrunk, Slabs};
use super::{Misses, StoreError, StoreEvent, StoreOptions};
use crate::snapshot::{Fingerprint, Refusal, SnapshotKey};

/// Lock, seal and the folders themselves.
const SMALL_FILES_BYTES: u64 = 8192;
/// The part of the budget that the catalogue may take.
const CATALOGUE_PART: u64 = 25;

/// What has been counted since the store was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    pub(super) hits: u64,
    pub(super) prefix_hits: u64,
    pub(super) near_hits: u64,
    pub(super) misses: Misses,
    pub(super) puts: u64,
    pub(super) evictions: u64,
}

/// Key, reader, slot, bytes and file of a snapshot.
pub(super) type Listed = (SnapshotKey, Fingerprint, Place, u64, PathBuf);

pub(super) struct Disk {
    pub(super) slabs: Slabs,
    pub(super) catalogue: Catalogue,
    /// Files written since the last flush.
    pub(super) dirty: BTreeSet<PathBuf>,
    pub(super) read_only: bool,
    /// Every writing of a slot reaches the disk at once, so none is left to flush.
    durable: bool,
    /// What earlier openings set aside.
    set_aside_bytes: u64,
}

impl Disk {
    /// Slots or pins are about to differ from what the catalogue says.
    pub(super) fn begin_change(&mut self) -> Result<(), StoreError> {
        if self.catalogue.is_sealed() {
            self.catalogue.unseal().map_err(|e| StoreError::io("take the seal off", self.catalogue.folder(), e))?;
        }
        Ok(())
    }
}

pub(super) struct Shelf {
    pub(super) ledger: Ledger,
    pub(super) disk: Option<Disk>,
    pub(super) budget_bytes: u64,
    pub(super) memory_bytes: u64,
    pub(super) counts: Counts,
    /// Keys that some thread is writing.
    pub(super) writing: HashSet<SnapshotKey>,
}

impl Shelf {
    pub(super) fn new(budget_bytes: u64, memory_bytes: u64) -> Self {
        let ghosts_at_most = (budget_bytes / 4096).clamp(64, 1 << 16) as usize;
        Self {
            ledger: Ledger::new(ghosts_at_most),
            disk: None,
            budget_bytes,
            memory_bytes,
            counts: Counts::default(),
            writing: HashSet::new(),
        }
    }

    /// Bytes on disk that the catalogue may have.
    pub(super) fn catalogue_bytes_at_most(&self) -> u64 {
        self.budget_bytes / CATALOGUE_PART
    }

    /// Bytes on disk that slots may have.
    fn slots_bytes_at_most(&self) -> u64 {
        let aside = self.disk.as_ref().map_or(0, |d| d.set_aside_bytes);
        self.budget_bytes.saturating_sub(self.catalogue_bytes_at_most() + SMALL_FILES_BYTES + aside)
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.disk.as_ref().map_or(0, |d| d.slabs.bytes() + d.catalogue.bytes() + d.set_aside_bytes + SMALL_FILES_BYTES)
    }

    /// Why `key` is not there.
    pub(super) fn missing(&self, key: &SnapshotKey, fingerprint: &Fingerprint) -> Refusal {
        if self.ledger.ghost(key) == Some(Ghost::Evicted) {
            return Refusal::Evicted;
        }
        self.ledger.of_text(key).find_map(|(_, e)| fingerprint.refuses(&e.fingerprint)).unwrap_or(Refusal::NeverSeen)
    }

    /// A slot to write `record_bytes` into, others evicted for it where need be.
    pub(super) fn room(&mut self, record_bytes: u64) -> Result<Place, StoreError> {
        let stride = slabs::stride_of(record_bytes);
        let at_most = self.slots_bytes_at_most();
        if stride > at_most {
            return Err(StoreError::TooLarge { bytes: record_bytes, budget_bytes: self.budget_bytes });
        }
        loop {
            let Some(disk) = &mut self.disk else {
                return Err(StoreError::TooLarge { bytes: record_bytes, budget_bytes: self.budget_bytes });
            };
            if let Some(place) = disk.slabs.reuse(stride) {
                return Ok(place);
            }
            if disk.slabs.bytes().saturating_add(disk.slabs.growth(stride)) <= at_most {
                return Ok(disk.slabs.grow(stride));
            }
            if !self.shrink(Some(stride))? && !self.evict() {
                let (pinned_bytes, budget_bytes) = (self.ledger.pinned_bytes(), self.budget_bytes);
                return Err(StoreError::AllPinned { bytes: record_bytes, pinned_bytes, budget_bytes });
            }
        }
    }

    /// Makes room for `bytes` more in a store without a disk.
    pub(super) fn room_in_memory(&mut self, bytes: u64) -> Result<(), StoreError> {
        let budget_bytes = self.budget_bytes;
        if bytes > budget_bytes {
            return Err(StoreError::TooLarge { bytes, budget_bytes });
        }
        while self.ledger.bytes() + bytes > budget_bytes {
            if !self.evict() {
                return Err(StoreError::AllPinned { bytes, pinned_bytes: self.ledger.pinned_bytes(), budget_bytes });
            }
        }
        Ok(())
    }

    /// Gives the disk back one free slot. `false` where there is none that can be given back.
    fn shrink(&mut self, except: Option<u64>) -> Result<bool, StoreError> {
        let Some(disk) = &mut self.disk else { return Ok(false) };
        for stride in disk.slabs.with_holes(except) {
            match disk.slabs.shrink(stride, disk.durable) {
                Ok(Shrunk::Nothing) => {}
                Ok(Shrunk::Shorter) => return Ok(true),
                Ok(Shrunk::Moved(key, place)) => {
                    if !disk.durable {
                        disk.dirty.insert(disk.slabs.path(&place));
                    }
                    self.ledger.set_place(&key, place);
                    return Ok(true);
                }
                Err(e) => return Err(StoreError::io("shorten a file in", disk.slabs.folder(), e)),
            }
        }
        Ok(false)
    }

    fn evict(&mut self) -> bool {
        let Some((_, entry)) = self.ledger.evict() else { return false };
        self.counts.evictions += 1;
        if let (Some(disk), Some(place)) = (&mut self.disk, entry.place) {
            disk.slabs.release(&place);
        }
        true
    }

    /// Takes out a snapshot that turned out to be none.
    pub(super) fn drop_entry(&mut self, key: &SnapshotKey) {
        let Some(entry) = self.ledger.remove(key) else { return };
        if let (Some(disk), Some(place)) = (&mut self.disk, entry.place)
            && !disk.read_only
        {
            // Where neither can be done, the slot refuses once more after the next opening.
            let _ = disk.begin_change();
            let _ = slabs::rewrite_envelope(&disk.slabs.path(&place), &place, None);
            disk.slabs.release(&place);
        }
    }

    /// As [`Disk::begin_change`].
    pub(super) fn begin_change(&mut self) -> Result<(), StoreError> {
        self.disk.as_mut().map_or(Ok(()), Disk::begin_change)
    }

    pub(super) fn path(&self, place: &Place) -> PathBuf {
        self.disk.as_ref().map(|d| d.slabs.path(place)).unwrap_or_default()
    }

    pub(super) fn dirtied(&mut self, path: PathBuf) {
        if let Some(disk) = &mut self.disk {
            disk.dirty.insert(path);
        }
    }

    /// The files that were written since this was last asked, and their folder.
    pub(super) fn take_dirty(&mut self) -> (BTreeSet<PathBuf>, Option<PathBuf>) {
        self.disk.as_mut().map(|d| (std::mem::take(&mut d.dirty), Some(d.slabs.folder().to_path_buf()))).unwrap_or_default()
    }

    pub(super) fn write_catalogue(&mut self) -> Result<(), StoreError> {
        let at_most_bytes = self.catalogue_bytes_at_most();
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let path = disk.catalogue.folder().to_path_buf();
        disk.catalogue.write(&mut self.ledger, at_most_bytes).map_err(|reason| StoreError::Catalogue { path, reason })
    }

    /// Keeps elements in memory, and lets go of what was not used for longest.
    pub(super) fn hold(&mut self, key: &SnapshotKey, elements: Arc<Vec<f32>>) {
        self.ledger.hold(key, elements);
        self.ledger.release_down_to(self.memory_bytes);
    }

    /// The slot was written.
    pub(super) fn publish(&mut self, key: SnapshotKey, entry: Entry, path: PathBuf) {
        if let (Some(disk), Some(place)) = (&mut self.disk, entry.place) {
            disk.slabs.publish(&place, key);
            if !disk.durable {
                disk.dirty.insert(path);
            }
        }
        self.ledger.insert(key, entry);
        self.ledger.release_down_to(self.memory_bytes);
        self.counts.puts += 1;
    }

    /// The slot could not be written.
    pub(super) fn abandon(&mut self, place: &Place) {
        if let Some(disk) = &mut self.disk {
            disk.slabs.release(place);
        }
    }

    pub(super) fn clear(&mut self) -> Result<(), StoreError> {
        self.begin_change()?;
        self.ledger.clear();
        let Some(disk) = &mut self.disk else { return Ok(()) };
        disk.catalogue.discard();
        disk.slabs.clear().map_err(|e| StoreError::io("clear", disk.slabs.folder(), e))
    }

    /// All that is kept on disk, and whether the catalogue is whole.
    pub(super) fn inventory(&self) -> (Vec<Listed>, Option<bool>) {
        let Some(disk) = &self.disk else { return (Vec::new(), None) };
        let listed = |(key, e): (&SnapshotKey, &Entry)| {
            let place = e.place?;
            Some((*key, e.fingerprint, place, e.bytes, disk.slabs.path(&place)))
        };
        (self.ledger.entries().filter_map(listed).collect(), disk.catalogue.verify())
    }

    /// Takes up the store in `folder`.
    pub(super) fn load(&mut self, folder: &Path, options: &StoreOptions, events: &mut Vec<StoreEvent>) -> Result<(), StoreError> {
        let StoreOptions { read_only, durable, .. } = *options;
        let slots = folder.join("slots");
        let mut catalogue = Catalogue::new(folder);
        let aside = folder.join("catalogue.set-aside");
        if !read_only {
            make_folder(&slots, events)?;
        }
        let slabs = Slabs::open(&slots).map_err(|e| StoreError::io("list", &slots, e))?;
        let loaded = if read_only { Loaded::Absent } else { catalogue.load() };
        let mut disk = Disk { slabs, catalogue, dirty: BTreeSet::new(), read_only, durable, set_aside_bytes: 0 };
        match loaded {
            Loaded::Whole(rows) => {
                // Of no more use: the last opening told of it.
                let _ = std::fs::remove_dir_all(&aside);
                for (key, entry) in rows.entries {
                    if entry.place.is_some_and(|place| disk.slabs.adopt(&place, key)) {
                        self.ledger.insert(key, entry);
                    }
                }
                rows.ghosts.into_iter().for_each(|(name, ghost)| self.ledger.recall_ghost(name, ghost));
                (self.ledger.clock, self.ledger.seq) = (rows.clock.max(0.0), self.ledger.seq.max(rows.seq));
                self.ledger.changed.clear();
            }
            Loaded::Absent => self.rebuild(&mut disk, events),
            Loaded::Damaged(reason) => {
                let _ = disk.catalogue.unseal();
                let _ = std::fs::remove_dir_all(&aside);
                // What cannot be moved is removed when the catalogue is next written.
                let _ = std::fs::rename(disk.catalogue.folder(), &aside);
                events.push(StoreEvent::SetAside { path: aside.clone(), reason });
                self.rebuild(&mut disk, events);
            }
        }
        disk.set_aside_bytes = if read_only { 0 } else { folder_bytes(&aside) };
        self.disk = Some(disk);
        if !read_only {
            self.fit()?;
        }
        Ok(())
    }

    /// Holds a budget that is lower than the last one.
    fn fit(&mut self) -> Result<(), StoreError> {
        while self.disk.as_ref().is_some_and(|d| d.slabs.bytes() > self.slots_bytes_at_most()) {
            if let Some(disk) = &mut self.disk {
                disk.begin_change()?;
            }
            if !self.shrink(None)? && !self.evict() {
                break;
            }
        }
        Ok(())
    }

    fn rebuild(&mut self, disk: &mut Disk, events: &mut Vec<StoreEvent>) {
        let mut scan = disk.slabs.scan();
        // Of two slots with the same snapshot (a writer was killed while moving one) the later one counts.
        scan.found.sort_by_key(|f| std::cmp::Reverse(f.envelope.seq));
        for found in scan.found {
            let key = found.header.key;
            if self.ledger.get(&key).is_some() || !disk.slabs.adopt(&found.place, key) {
                continue;
            }
            let entry = Entry {
                fingerprint: found.header.fingerprint,
                tokens: found.header.tokens,
                cost_ms: found.envelope.cost_ms,
                bytes: found.envelope.record_bytes,
                place: Some(found.place),
                pinned: found.envelope.pinned,
                priority: found.envelope.priority,
                seq: found.envelope.seq,
                born: 0,
                held: None,
            };
            self.ledger.insert(key, entry);
        }
        self.ledger.clock = self.ledger.entries().map(|(_, e)| e.priority).min_by(f64::total_cmp).unwrap_or(0.0);
        events.extend(scan.damaged.into_iter().map(|(path, slots)| StoreEvent::Damaged { path, slots }));
        let sentence = |(path, e): (PathBuf, io::Error)| StoreEvent::Unreadable { path, reason: e.to_string() };
        events.extend(scan.unreadable.into_iter().map(sentence));
    }
}

/// Makes the folder at `path`; what lies there and is no folder is set aside.
pub(super) fn make_folder(path: &Path, events: &mut Vec<StoreEvent>) -> Result<(), StoreError> {
    if path.exists() && !path.is_dir() {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".set-aside");
        let aside = PathBuf::from(aside);
        std::fs::rename(path, &aside).map_err(|e| StoreError::io("set aside", path, e))?;
        events.push(StoreEvent::SetAside { path: aside, reason: "it is a file where a folder belongs".into() });
    }
    std::fs::create_dir_all(path).map_err(|e| StoreError::io("make", path, e))
}

fn folder_bytes(folder: &Path) -> u64 {
    let Ok(listing) = std::fs::read_dir(folder) else { return 0 };
    listing
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&e.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}
