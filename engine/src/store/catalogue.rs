//! The catalogue: what was in the book when the store was last flushed? The only file that names sled.
//!
//! It saves the next opening from looking at every slot, and keeps what slots do not say: order of use and what was evicted.
//! Nothing depends on it. sled is open only while rows are read or written; in between its files lie sealed, by a hash of all
//! their bytes, and are opened only if the seal holds (sled panics on some damaged files, and loses the tail of others without
//! a word). The seal is broken before the first slot changes, so a sealed catalogue is never out of date; without a seal the
//! slots are looked at instead.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::ledger::{Entry, Ghost, Ledger};
use super::slabs::{self, Place};
use crate::snapshot::{Fingerprint, SnapshotKey};

const SEAL_HEAD: &str = "palimpsest catalogue 1 ";
const ROW_BYTES: usize = 51;
const KEY_BYTES: usize = 32;
/// Rows that share a value, about: sled takes twice its rows' bytes for values of one row each.
const GROUP_ROWS: usize = 128;
/// A catalogue of more than this is written anew once it is also four times what its rows hold.
const TIDY_BYTES: u64 = 4 << 20;

/// What was found at opening.
pub(super) enum Loaded {
    /// No catalogue, or one that the last writer had no time to seal.
    Absent,
    /// Sealed, and not as it was sealed.
    Damaged(String),
    /// As it was left.
    Whole(Box<Rows>),
}

#[derive(Default)]
pub(super) struct Rows {
    pub(super) entries: Vec<(SnapshotKey, Entry)>,
    pub(super) ghosts: Vec<([u8; 16], Ghost)>,
    pub(super) clock: f64,
    pub(super) seq: u64,
    group_bits: u32,
}

pub(super) struct Catalogue {
    folder: PathBuf,
    seal: PathBuf,
    sealed: bool,
    /// What lies in the folder is of no use: the next writing begins anew.
    stale: bool,
    bytes: u64,
    /// Rows are grouped by so many bits of their keys.
    group_bits: u32,
    /// So many rows were too many for the bytes it may take.
    too_many: usize,
}

impl Catalogue {
    pub(super) fn new(store: &Path) -> Self {
        let (folder, seal) = (store.join("catalogue"), store.join("catalogue.seal"));
        Self { folder, seal, sealed: false, stale: true, bytes: 0, group_bits: 0, too_many: usize::MAX }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Whether the seal on disk holds. `None` without a seal.
    pub(super) fn verify(&self) -> Option<bool> {
        let seal = std::fs::read_to_string(&self.seal).ok()?;
        Some(hash_folder(&self.folder).is_ok_and(|(hash, _)| seal == seal_text(&hash)))
    }

    pub(super) fn load(&mut self) -> Loaded {
        let seal = match std::fs::read(&self.seal) {
            Ok(seal) => seal,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Loaded::Absent,
            Err(e) => return Loaded::Damaged(format!("its seal cannot be read: {e}")),
        };
        match hash_folder(&self.folder) {
            Ok((hash, _)) if seal == seal_text(&hash).as_bytes() => {}
            Ok(_) => return Loaded::Damaged("its bytes are not those that were sealed".into()),
            Err(e) => return Loaded::Damaged(format!("it cannot be read: {e}")),
        }
        // sled may write while it opens.
        if let Err(e) = self.unseal() {
            return Loaded::Damaged(format!("its seal cannot be taken off: {e}"));
        }
        match with_sled(&self.folder, read_rows) {
            Ok(rows) => {
                (self.stale, self.group_bits) = (false, rows.group_bits);
                // Only the next opening would be slower for it.
                let _ = self.put_seal();
                Loaded::Whole(Box::new(rows))
            }
            Err(reason) => Loaded::Damaged(reason),
        }
    }

    /// From now on the slots may differ from what the catalogue says.
    pub(super) fn unseal(&mut self) -> io::Result<()> {
        self.sealed = false;
        match std::fs::remove_file(&self.seal) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Forgets what lies on disk: the next writing begins anew.
    pub(super) fn discard(&mut self) {
        self.stale = true;
        // What cannot be removed now is removed before the next writing.
        let _ = self.unseal();
        let _ = std::fs::remove_dir_all(&self.folder);
        self.bytes = 0;
    }

    /// Brings the rows of all that changed up to date and seals them. A catalogue beyond `at_most_bytes` is dropped.
    pub(super) fn write(&mut self, ledger: &mut Ledger, at_most_bytes: u64) -> Result<(), String> {
        if self.sealed && ledger.changed.is_empty() || ledger.len() > self.too_many / 4 * 3 {
            return Ok(());
        }
        let live = (ledger.len() + 1) * (KEY_BYTES + ROW_BYTES);
        let rows_a_group = ledger.len() >> self.group_bits;
        let uneven = rows_a_group > 2 * GROUP_ROWS || (rows_a_group < GROUP_ROWS / 4 && self.group_bits > 0);
        if uneven || (self.bytes > TIDY_BYTES && self.bytes > 4 * live as u64) {
            self.stale = true;
        }
        self.write_once(ledger)?;
        if self.bytes > at_most_bytes {
            // Without what sled keeps of earlier rows it may fit.
            self.stale = true;
            self.write_once(ledger)?;
        }
        if self.bytes > at_most_bytes {
            self.too_many = ledger.len();
            self.discard();
        }
        Ok(())
    }

    fn write_once(&mut self, ledger: &mut Ledger) -> Result<(), String> {
        self.unseal().map_err(|e| format!("its seal cannot be taken off: {e}"))?;
        let all = self.stale;
        if all {
            match std::fs::remove_dir_all(&self.folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("it cannot be removed: {e}")),
                _ => self.group_bits = (ledger.len() / GROUP_ROWS).checked_ilog2().unwrap_or(0).min(16),
            }
        }
        let changed = std::mem::take(&mut ledger.changed);
        let bits = self.group_bits;
        self.stale = true;
        with_sled(&self.folder, |db| write_rows(db, ledger, &changed, bits, all))?;
        self.put_seal().map_err(|e| format!("it cannot be sealed: {e}"))?;
        self.stale = false;
        Ok(())
    }

    fn put_seal(&mut self) -> io::Result<()> {
        let (hash, bytes) = hash_folder(&self.folder)?;
        self.bytes = bytes;
        let fresh = self.seal.with_extension("seal.new");
        std::fs::write(&fresh, seal_text(&hash))?;
        slabs::sync_file(&fresh)?;
        std::fs::rename(&fresh, &self.seal)?;
        self.sealed = true;
        Ok(())
    }
}

fn seal_text(hash: &blake3::Hash) -> String {
    format!("{SEAL_HEAD}{}\n", hash.to_hex())
}

/// A hash over names, lengths and bytes of all files below `folder`, and how many bytes they are.
fn hash_folder(folder: &Path) -> io::Result<(blake3::Hash, u64)> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    files.sort();
    let mut hash = blake3::Hasher::new();
    let mut bytes = 0u64;
    for path in files {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        let mut file = std::fs::File::open(&path)?;
        let length = file.metadata()?.len();
        hash.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes()).update(&length.to_le_bytes());
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
        }
        bytes += length;
    }
    Ok((hash.finalize(), bytes))
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { list(&entry.path(), files)? } else { files.push(entry.path()) }
    }
    Ok(())
}

/// Runs `work` on sled in `folder` and closes it. Whatever sled does, the caller gets a sentence at worst.
fn with_sled<T>(folder: &Path, work: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, String> {
    let all = || {
        let config = sled::Config::new().path(folder).mode(sled::Mode::LowSpace).cache_capacity(1 << 20).flush_every_ms(None);
        let db = open_unlocked(&config)?;
        let out = work(&db)?;
        db.flush()?;
        Ok(out)
    };
    match catch_unwind(AssertUnwindSafe(all)) {
        Ok(Ok(out)) => Ok(out),
        Ok(Err(e)) => Err(sentence(&e)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Err(format!("sled gave up on it: {}", said.unwrap_or_default()))
        }
    }
}

/// Opens sled, waiting up to ten seconds for its file's lock. The store's own lock is held here, so nobody else uses the catalogue:
/// only a child process that is just being started can hold a copy of the lock of the last opening, for a moment.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    let mut tries = 500;
    loop {
        match config.open() {
            Err(sled::Error::Io(e)) if tries > 0 && e.to_string().contains("could not acquire lock") => {
                tries -= 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

fn sentence(e: &sled::Error) -> String {
    format!("sled refused it: {e}")
}

fn read_rows(db: &sled::Db) -> sled::Result<Rows> {
    let mut rows = Rows::default();
    let mut readers = Vec::new();
    for row in &db.open_tree("readers")? {
        readers.push(Fingerprint(row?.1.first_chunk().copied().unwrap_or_default()));
    }
    for row in &db.open_tree("entries")? {
        for row in row?.1.chunks_exact(KEY_BYTES + ROW_BYTES) {
            let Some((key, row)) = row.split_first_chunk::<KEY_BYTES>() else { continue };
            rows.entries.extend(decode_row(row, &readers).map(|entry| (SnapshotKey(*key), entry)));
        }
    }
    // The position comes first in a key, so that ghosts come back in their order.
    for row in &db.open_tree("ghosts")? {
        let (key, value) = row?;
        if let Some(name) = key.last_chunk::<16>() {
            rows.ghosts.push((*name, if value.first() == Some(&1) { Ghost::Evicted } else { Ghost::Offered }));
        }
    }
    if let Some(bits) = db.get("group bits")?.and_then(|v| Some(u32::from_le_bytes(*v.first_chunk()?))) {
        rows.group_bits = bits.min(16);
    }
    if let Some(clock) = db.get("clock")?.and_then(|v| Some(f64::from_le_bytes(*v.first_chunk()?))) {
        rows.clock = clock;
    }
    if let Some(seq) = db.get("seq")?.and_then(|v| Some(u64::from_le_bytes(*v.first_chunk()?))) {
        rows.seq = seq;
    }
    Ok(rows)
}

fn write_rows(db: &sled::Db, ledger: &Ledger, changed: &BTreeSet<SnapshotKey>, bits: u32, all: bool) -> sled::Result<()> {
    // Readers by the order in which they came. There are few: each is another reader or another machine.
    let tree = db.open_tree("readers")?;
    let mut readers = BTreeMap::new();
    for row in &tree {
        let number = readers.len() as u16;
        readers.insert(Fingerprint(row?.1.first_chunk().copied().unwrap_or_default()), number);
    }
    let mut row_of = |entry: &Entry| -> sled::Result<Option<[u8; ROW_BYTES]>> {
        let next = readers.len() as u16;
        let number = *readers.entry(entry.fingerprint).or_insert(next);
        if number == next {
            tree.insert(number.to_be_bytes(), &entry.fingerprint.0)?;
        }
        Ok(encode_row(entry, number))
    };
    let mut groups: BTreeMap<u16, Vec<u8>> = BTreeMap::new();
    if !all {
        groups.extend(changed.iter().map(|key| (group_of(key, bits), Vec::new())));
    }
    for (key, entry) in ledger.entries() {
        let group = group_of(key, bits);
        let group = if all { Some(groups.entry(group).or_default()) } else { groups.get_mut(&group) };
        if let Some(group) = group
            && let Some(row) = row_of(entry)?
        {
            group.extend_from_slice(&key.0);
            group.extend_from_slice(&row);
        }
    }
    let entries = db.open_tree("entries")?;
    for (group, rows) in groups {
        entries.insert(group.to_be_bytes(), rows)?;
    }
    let ghosts = db.open_tree("ghosts")?;
    ghosts.clear()?;
    for (at, (name, ghost)) in ledger.ghosts().enumerate() {
        let mut key = [0; 24];
        key[..8].copy_from_slice(&(at as u64).to_be_bytes());
        key[8..].copy_from_slice(&name);
        ghosts.insert(key, &[u8::from(ghost == Ghost::Evicted)])?;
    }
    db.insert("group bits", &bits.to_le_bytes())?;
    db.insert("clock", &ledger.clock.to_le_bytes())?;
    db.insert("seq", &ledger.seq.to_le_bytes())?;
    Ok(())
}

/// Rows are grouped by the end of their keys: the beginnings are alike where the texts are.
fn group_of(key: &SnapshotKey, bits: u32) -> u16 {
    let end = key.0.last_chunk::<2>().copied().map_or(0, u16::from_le_bytes);
    (u32::from(end) & ((1 << bits) - 1)) as u16
}

fn encode_row(entry: &Entry, reader: u16) -> Option<[u8; ROW_BYTES]> {
    let place = entry.place?;
    let mut row = [0; ROW_BYTES];
    row[..8].copy_from_slice(&entry.tokens.to_le_bytes());
    row[8..16].copy_from_slice(&entry.bytes.to_le_bytes());
    row[16..24].copy_from_slice(&place.slab.to_le_bytes());
    row[24..28].copy_from_slice(&place.slot.to_le_bytes());
    row[28..32].copy_from_slice(&entry.cost_ms.to_le_bytes());
    row[32..40].copy_from_slice(&entry.priority.to_le_bytes());
    row[40..48].copy_from_slice(&entry.seq.to_le_bytes());
    row[48..50].copy_from_slice(&reader.to_le_bytes());
    row[50] = u8::from(entry.pinned);
    Some(row)
}

fn decode_row(row: &[u8], readers: &[Fingerprint]) -> Option<Entry> {
    let row = row.first_chunk::<ROW_BYTES>()?;
    let eight = |at: usize| row[at..].first_chunk::<8>().copied().unwrap_or_default();
    let four = |at: usize| row[at..].first_chunk::<4>().copied().unwrap_or_default();
    let bytes = u64::from_le_bytes(eight(8));
    let stride = slabs::stride_of(bytes);
    Some(Entry {
        fingerprint: *readers.get(usize::from(u16::from_le_bytes([row[48], row[49]])))?,
        tokens: u64::from_le_bytes(eight(0)),
        cost_ms: f32::from_le_bytes(four(28)),
        bytes,
        place: Some(Place { stride, slab: u64::from_le_bytes(eight(16)), slot: u32::from_le_bytes(four(24)) }),
        pinned: row[50] == 1,
        priority: f64::from_le_bytes(eight(32)),
        seq: u64::from_le_bytes(eight(40)),
        born: 0,
        held: None,
    })
}
