//! The catalogue: what was in the book when the store was last flushed? The only file that names sled.
//!
//! It saves the next opening from looking at every slot, and keeps what slots do not say: order of use and what was evicted.
//! Nothing depends on it. sled is open only while rows are read or written; in between its files lie sealed, by a hash of all
//! their bytes, and are opened only if the seal holds (sled panics on some damaged files, and loses the tail of others without
//! a word). The seal is broken before the first slot changes, so a sealed catalogue is never out of date; without a seal the
//! slots are looked at instead.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::ledger::{Entry, Ghost, Ledger};
use super::slabs::{self, Place};
use crate::snapshot::{Fingerprint, SnapshotKey};

const SEAL_HEAD: &str = "palimpsest catalogue 1 ";
const ROW_BYTES: usize = 89;
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
}

pub(super) struct Catalogue {
    folder: PathBuf,
    seal: PathBuf,
    sealed: bool,
    /// What lies in the folder is of no use: the next writing begins anew.
    stale: bool,
    bytes: u64,
}

impl Catalogue {
    pub(super) fn new(store: &Path) -> Self {
        Self { folder: store.join("catalogue"), seal: store.join("catalogue.seal"), sealed: false, stale: true, bytes: 0 }
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
                self.stale = false;
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
        if self.sealed && ledger.changed.is_empty() {
            return Ok(());
        }
        let live = (ledger.len() as u64 + 1) * (ROW_BYTES + 32) as u64;
        if self.bytes > TIDY_BYTES && self.bytes > 4 * live {
            self.discard();
        }
        self.unseal().map_err(|e| format!("its seal cannot be taken off: {e}"))?;
        if self.stale {
            match std::fs::remove_dir_all(&self.folder) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(format!("it cannot be removed: {e}")),
                _ => {}
            }
        }
        let changed = std::mem::take(&mut ledger.changed);
        let all = self.stale;
        self.stale = true;
        with_sled(&self.folder, |db| write_rows(db, ledger, &changed, all))?;
        self.put_seal().map_err(|e| format!("it cannot be sealed: {e}"))?;
        self.stale = false;
        if self.bytes > at_most_bytes {
            self.discard();
        }
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
        let db = config.open()?;
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

fn sentence(e: &sled::Error) -> String {
    format!("sled refused it: {e}")
}

fn read_rows(db: &sled::Db) -> sled::Result<Rows> {
    let mut rows = Rows::default();
    for row in &db.open_tree("entries")? {
        let (key, value) = row?;
        if let (Ok(key), Ok(value)) = (<[u8; 32]>::try_from(&*key), <[u8; ROW_BYTES]>::try_from(&*value)) {
            rows.entries.push((SnapshotKey(key), decode_row(&value)));
        }
    }
    // The position comes first in a key, so that ghosts come back in their order.
    for row in &db.open_tree("ghosts")? {
        let (key, value) = row?;
        if let Some(name) = key.last_chunk::<16>() {
            rows.ghosts.push((*name, if value.first() == Some(&1) { Ghost::Evicted } else { Ghost::Offered }));
        }
    }
    if let Some(clock) = db.get("clock")?.and_then(|v| Some(f64::from_le_bytes(*v.first_chunk()?))) {
        rows.clock = clock;
    }
    if let Some(seq) = db.get("seq")?.and_then(|v| Some(u64::from_le_bytes(*v.first_chunk()?))) {
        rows.seq = seq;
    }
    Ok(rows)
}

fn write_rows(db: &sled::Db, ledger: &Ledger, changed: &BTreeSet<SnapshotKey>, all: bool) -> sled::Result<()> {
    let entries = db.open_tree("entries")?;
    if all {
        for (key, entry) in ledger.entries() {
            if let Some(row) = encode_row(entry) {
                entries.insert(key.0, &row[..])?;
            }
        }
    } else {
        for key in changed {
            match ledger.get(key).and_then(encode_row) {
                Some(row) => entries.insert(key.0, &row[..])?,
                None => entries.remove(key.0)?,
            };
        }
    }
    let ghosts = db.open_tree("ghosts")?;
    ghosts.clear()?;
    for (at, (name, ghost)) in ledger.ghosts().enumerate() {
        let mut key = [0; 24];
        key[..8].copy_from_slice(&(at as u64).to_be_bytes());
        key[8..].copy_from_slice(&name);
        ghosts.insert(key, &[u8::from(ghost == Ghost::Evicted)])?;
    }
    db.insert("clock", &ledger.clock.to_le_bytes())?;
    db.insert("seq", &ledger.seq.to_le_bytes())?;
    Ok(())
}

fn encode_row(entry: &Entry) -> Option<[u8; ROW_BYTES]> {
    let place = entry.place?;
    let mut row = [0; ROW_BYTES];
    row[..32].copy_from_slice(&entry.fingerprint.0);
    row[32..40].copy_from_slice(&entry.tokens.to_le_bytes());
    row[40..44].copy_from_slice(&entry.cost_ms.to_le_bytes());
    row[44..52].copy_from_slice(&entry.bytes.to_le_bytes());
    row[52..60].copy_from_slice(&place.stride.to_le_bytes());
    row[60..68].copy_from_slice(&place.slab.to_le_bytes());
    row[68..72].copy_from_slice(&place.slot.to_le_bytes());
    row[72..80].copy_from_slice(&entry.priority.to_le_bytes());
    row[80..88].copy_from_slice(&entry.seq.to_le_bytes());
    row[88] = u8::from(entry.pinned);
    Some(row)
}

fn decode_row(row: &[u8; ROW_BYTES]) -> Entry {
    let eight = |at: usize| row[at..].first_chunk::<8>().copied().unwrap_or_default();
    let four = |at: usize| row[at..].first_chunk::<4>().copied().unwrap_or_default();
    Entry {
        fingerprint: Fingerprint(row.first_chunk().copied().unwrap_or_default()),
        tokens: u64::from_le_bytes(eight(32)),
        cost_ms: f32::from_le_bytes(four(40)),
        bytes: u64::from_le_bytes(eight(44)),
        place: Some(Place {
            stride: u64::from_le_bytes(eight(52)),
            slab: u64::from_le_bytes(eight(60)),
            slot: u32::from_le_bytes(four(68)),
        }),
        pinned: row[88] == 1,
        priority: f64::from_le_bytes(eight(72)),
        seq: u64::from_le_bytes(eight(80)),
        born: 0,
        held: None,
    }
}
