//! Slots on disk: where do the bytes of a state lie?
//!
//! All states of a reader have one size, so a file holds slots of one size (its *stride*) and a slot that was freed takes the
//! next state: nothing is copied to reclaim room, and a file never grows past about 1 MiB unless one state does. A slot is an
//! envelope of 64 bytes and the bytes of `snapshot.rs`. It says all about itself, so that the folder alone is enough to know
//! what is kept: whoever reads a slot checks that it holds what he looks for.
//!
//! The envelope is cleared before and written after the rest, so that a writer killed between leaves a free slot.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `PLMPSLOT` |
//! | 8 | 2 | version, 1 |
//! | 10 | 1 | 1 where pinned |
//! | 11 | 5 | zero |
//! | 16 | 8 | bytes of the snapshot that follows |
//! | 24 | 4 | f32: milliseconds that reading it took |
//! | 28 | 4 | zero |
//! | 32 | 8 | f64: priority when written |
//! | 40 | 8 | sequence number when written |
//! | 48 | 16 | blake3 of the 48 bytes before and the snapshot's header, cut to 16 |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::snapshot::{HEADER_BYTES, Header, SnapshotKey};

pub(super) const ENVELOPE_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"PLMPSLOT";
const VERSION: u16 = 1;
const SUMMED: usize = 48;
/// A file of several slots is not begun beyond this.
const SLAB_BYTES: u64 = 1 << 20;
const STRIDE_GRAIN: u64 = 64;
const DISK_BLOCK: u64 = 4096;

/// What the envelope says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Envelope {
    pub(super) pinned: bool,
    pub(super) record_bytes: u64,
    pub(super) cost_ms: f32,
    pub(super) priority: f64,
    pub(super) seq: u64,
}

impl Envelope {
    pub(super) fn encode(&self, record_header: &[u8]) -> [u8; ENVELOPE_BYTES] {
        let mut out = [0; ENVELOPE_BYTES];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[10] = u8::from(self.pinned);
        out[16..24].copy_from_slice(&self.record_bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.cost_ms.to_le_bytes());
        out[32..40].copy_from_slice(&self.priority.to_le_bytes());
        out[40..48].copy_from_slice(&self.seq.to_le_bytes());
        let sum = Self::sum(&out[..SUMMED], record_header);
        out[SUMMED..].copy_from_slice(&sum);
        out
    }

    fn sum(summed: &[u8], record_header: &[u8]) -> [u8; ENVELOPE_BYTES - SUMMED] {
        let mut hash = blake3::Hasher::new();
        hash.update(summed).update(record_header.get(..HEADER_BYTES).unwrap_or(record_header));
        let mut sum = [0; ENVELOPE_BYTES - SUMMED];
        sum.copy_from_slice(&hash.finalize().as_bytes()[..ENVELOPE_BYTES - SUMMED]);
        sum
    }

    fn decode(bytes: &[u8; ENVELOPE_BYTES], record_header: &[u8]) -> Option<Self> {
        let (summed, sum) = bytes.split_at(SUMMED);
        let field = |at: usize| bytes[at..].first_chunk::<8>().copied().unwrap_or_default();
        let [a, b, c, d, ..] = field(24);
        (bytes.starts_with(&MAGIC) && bytes[8..10] == VERSION.to_le_bytes() && Self::sum(summed, record_header) == sum).then(
            || Self {
                pinned: bytes[10] == 1,
                record_bytes: u64::from_le_bytes(field(16)),
                cost_ms: f32::from_le_bytes([a, b, c, d]),
                priority: f64::from_le_bytes(field(32)),
                seq: u64::from_le_bytes(field(40)),
            },
        )
    }
}

/// Where a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) stride: u64,
    pub(super) slab: u64,
    pub(super) slot: u32,
}

impl Place {
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.slot).saturating_mul(self.stride)
    }
}

/// The stride of slots for snapshots of so many bytes.
pub(super) fn stride_of(record_bytes: u64) -> u64 {
    record_bytes.saturating_add(ENVELOPE_BYTES as u64).checked_next_multiple_of(STRIDE_GRAIN).unwrap_or(u64::MAX)
}

fn blocks(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(DISK_BLOCK).unwrap_or(u64::MAX)
}

fn slots_per_slab(stride: u64) -> u64 {
    (SLAB_BYTES / stride).max(1)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    Free,
    /// Being written.
    Busy,
    Kept(SnapshotKey),
}

#[derive(Debug, Default)]
struct Class {
    slabs: BTreeMap<u64, Vec<Use>>,
    free: BTreeSet<(u64, u32)>,
}

/// A slot found by looking at the files.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) envelope: Envelope,
    pub(super) header: Header,
}

/// What looking at the files gave.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) found: Vec<Found>,
    /// Slots that hold something which is no whole slot, by file.
    pub(super) damaged: BTreeMap<PathBuf, u64>,
    /// Files that cannot be read, and why.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
}

/// What [`Slabs::shrink`] did.
#[derive(Debug, PartialEq)]
pub(super) enum Shrunk {
    /// Nothing: no slot of this stride is free, or the last one is being written.
    Nothing,
    /// The files are one slot shorter.
    Shorter,
    /// And this snapshot lies elsewhere for it.
    Moved(SnapshotKey, Place),
}

/// The files and which of their slots are taken.
#[derive(Debug)]
pub(super) struct Slabs {
    folder: PathBuf,
    classes: BTreeMap<u64, Class>,
    next: u64,
    bytes: u64,
}

impl Slabs {
    /// The files in `folder` as they are; all their slots count as free until [`Slabs::adopt`]ed.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let mut slabs = Self { folder: folder.to_path_buf(), classes: BTreeMap::new(), next: 0, bytes: 0 };
        let listing = match std::fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(slabs),
            listing => listing?,
        };
        for file in listing {
            let file = file?;
            let Some((slab, stride)) = file.file_name().to_str().and_then(parse_name) else { continue };
            let length = file.metadata()?.len();
            slabs.next = slabs.next.max(slab.saturating_add(1));
            slabs.bytes = slabs.bytes.saturating_add(blocks(length));
            let slots = length.div_ceil(stride);
            if slots > slots_per_slab(stride) {
                // None of ours: it is counted and left alone.
                continue;
            }
            let class = slabs.classes.entry(stride).or_default();
            class.slabs.insert(slab, vec![Use::Free; slots as usize]);
            class.free.extend((0..slots as u32).map(|slot| (slab, slot)));
        }
        Ok(slabs)
    }

    /// Bytes on disk, in whole blocks.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn path(&self, place: &Place) -> PathBuf {
        self.folder.join(format!("{:016x}-{}.slab", place.slab, place.stride))
    }

    fn slot(&mut self, place: &Place) -> Option<&mut Use> {
        self.classes.get_mut(&place.stride)?.slabs.get_mut(&place.slab)?.get_mut(place.slot as usize)
    }

    /// Takes the free slot `place` for `key`, as a catalogue says. `false` where there is no such slot, or it is taken.
    pub(super) fn adopt(&mut self, place: &Place, key: SnapshotKey) -> bool {
        match self.slot(place) {
            Some(slot @ Use::Free) => *slot = Use::Kept(key),
            _ => return false,
        }
        if let Some(class) = self.classes.get_mut(&place.stride) {
            class.free.remove(&(place.slab, place.slot));
        }
        true
    }

    /// A free slot, without any growth.
    pub(super) fn reuse(&mut self, stride: u64) -> Option<Place> {
        let class = self.classes.get_mut(&stride)?;
        let (slab, slot) = class.free.pop_first()?;
        let place = Place { stride, slab, slot };
        *self.slot(&place)? = Use::Busy;
        Some(place)
    }

    fn growing(&self, stride: u64) -> Option<(u64, u64)> {
        let (slab, slots) = self.classes.get(&stride)?.slabs.last_key_value()?;
        ((slots.len() as u64) < slots_per_slab(stride)).then_some((*slab, slots.len() as u64))
    }

    /// Bytes by which one more slot grows the files.
    pub(super) fn growth(&self, stride: u64) -> u64 {
        let slots = self.growing(stride).map_or(0, |(_, slots)| slots);
        blocks(stride.saturating_mul(slots + 1)).saturating_sub(blocks(stride.saturating_mul(slots)))
    }

    /// A slot at the end of the files.
    pub(super) fn grow(&mut self, stride: u64) -> Place {
        self.bytes = self.bytes.saturating_add(self.growth(stride));
        let (slab, slots) = self.growing(stride).unwrap_or((self.next, 0));
        self.next = self.next.max(slab.saturating_add(1));
        self.classes.entry(stride).or_default().slabs.entry(slab).or_default().push(Use::Busy);
        Place { stride, slab, slot: slots as u32 }
    }

    /// The slot holds `key` now.
    pub(super) fn publish(&mut self, place: &Place, key: SnapshotKey) {
        if let Some(slot) = self.slot(place) {
            *slot = Use::Kept(key);
        }
    }

    /// The slot is free for the next.
    pub(super) fn release(&mut self, place: &Place) {
        if let Some(slot) = self.slot(place) {
            *slot = Use::Free;
            if let Some(class) = self.classes.get_mut(&place.stride) {
                class.free.insert((place.slab, place.slot));
            }
        }
    }

    /// Strides that have free slots, but for `except`.
    pub(super) fn with_holes(&self, except: Option<u64>) -> Vec<u64> {
        self.classes
            .iter()
            .filter(|(stride, class)| Some(**stride) != except && !class.free.is_empty())
            .map(|(s, _)| *s)
            .collect()
    }

    /// Makes the files of `stride` one slot shorter: the last slot moves into a free one.
    pub(super) fn shrink(&mut self, stride: u64, durable: bool) -> io::Result<Shrunk> {
        let Some((slab, slots)) = self.classes.get(&stride).and_then(|c| c.slabs.last_key_value()) else {
            return Ok(Shrunk::Nothing);
        };
        let last = Place { stride, slab: *slab, slot: (slots.len() as u32).saturating_sub(1) };
        let mut moved = None;
        match slots.last() {
            Some(Use::Busy) => return Ok(Shrunk::Nothing),
            Some(Use::Kept(key)) => {
                let key = *key;
                let Some(hole) = self.reuse(stride) else { return Ok(Shrunk::Nothing) };
                let copied = self.read_slot(&last).and_then(|bytes| write_slot(&self.path(&hole), &hole, &bytes, durable));
                if let Err(e) = copied {
                    self.release(&hole);
                    return Err(e);
                }
                self.publish(&hole, key);
                moved = Some((key, hole));
            }
            Some(Use::Free) | None => {}
        }
        self.cut(&last)?;
        Ok(moved.map_or(Shrunk::Shorter, |(key, place)| Shrunk::Moved(key, place)))
    }

    /// Cuts the last slot off its file; the last slot of a file takes the file with it.
    fn cut(&mut self, last: &Place) -> io::Result<()> {
        let path = self.path(last);
        let done = if last.slot == 0 {
            std::fs::remove_file(&path)
        } else {
            OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(last.offset()))
        };
        match done {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let before = blocks(last.offset().saturating_add(last.stride));
        self.bytes = self.bytes.saturating_sub(before.saturating_sub(blocks(last.offset())));
        if let Some(class) = self.classes.get_mut(&last.stride) {
            class.free.remove(&(last.slab, last.slot));
            if let Some(slots) = class.slabs.get_mut(&last.slab) {
                slots.pop();
            }
            if last.slot == 0 {
                class.slabs.remove(&last.slab);
            }
            if class.slabs.is_empty() {
                self.classes.remove(&last.stride);
            }
        }
        Ok(())
    }

    /// Removes every file in which nothing is being written.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        for (stride, class) in std::mem::take(&mut self.classes) {
            for (slab, mut slots) in class.slabs {
                let length = stride.saturating_mul(slots.len() as u64);
                let path = self.path(&Place { stride, slab, slot: 0 });
                if !slots.contains(&Use::Busy) {
                    match std::fs::remove_file(&path) {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                        _ => self.bytes = self.bytes.saturating_sub(blocks(length)),
                    }
                    continue;
                }
                let class = self.classes.entry(stride).or_default();
                for (slot, used) in (0..).zip(&mut slots) {
                    if let Use::Kept(_) = used {
                        *used = Use::Free;
                    }
                    if *used == Use::Free {
                        rewrite_envelope(&path, &Place { stride, slab, slot }, None)?;
                        class.free.insert((slab, slot));
                    }
                }
                class.slabs.insert(slab, slots);
            }
        }
        Ok(())
    }

    fn read_slot(&self, place: &Place) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.path(place))?;
        file.seek(SeekFrom::Start(place.offset()))?;
        let mut bytes = Vec::new();
        file.take(place.stride).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads every slot's envelope and header.
    pub(super) fn scan(&self) -> Scan {
        let mut scan = Scan::default();
        for (stride, class) in &self.classes {
            for (slab, slots) in &class.slabs {
                let path = self.path(&Place { stride: *stride, slab: *slab, slot: 0 });
                if let Err(e) = scan_file(&path, *stride, *slab, slots.len() as u32, &mut scan) {
                    scan.unreadable.push((path, e));
                }
            }
        }
        scan
    }

    /// Where the files lie.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Writes envelope and snapshot into a slot; with `durable` they have reached the disk on return.
pub(super) fn write_slot(path: &Path, place: &Place, bytes: &[u8], durable: bool) -> io::Result<()> {
    let (envelope, record) = bytes.split_at_checked(ENVELOPE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    file.seek(SeekFrom::Start(place.offset()))?;
    file.write_all(&[0; ENVELOPE_BYTES])?;
    file.write_all(record)?;
    file.seek(SeekFrom::Start(place.offset()))?;
    file.write_all(envelope)?;
    if durable {
        file.sync_data()?;
        if place.slot == 0 {
            sync_folder(path.parent().unwrap_or(path))?;
        }
    }
    Ok(())
}

/// Reads the snapshot in a slot into `buffer`.
pub(super) fn read_record(path: &Path, place: &Place, record_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(record_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(place.offset() + ENVELOPE_BYTES as u64))?;
    buffer.resize(length, 0);
    file.read_exact(buffer)
}

/// Writes the envelope of a slot anew: pinned or not, or (with `None`) cleared, so that the slot is free for any scan.
pub(super) fn rewrite_envelope(path: &Path, place: &Place, change: Option<bool>) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut bytes = [0; ENVELOPE_BYTES];
    if let Some(pinned) = change {
        let mut slot = [0; ENVELOPE_BYTES + HEADER_BYTES];
        file.seek(SeekFrom::Start(place.offset()))?;
        file.read_exact(&mut slot)?;
        let (envelope, header) = slot.split_first_chunk::<ENVELOPE_BYTES>().ok_or(io::ErrorKind::InvalidData)?;
        let envelope = Envelope::decode(envelope, header).ok_or(io::ErrorKind::InvalidData)?;
        bytes = Envelope { pinned, ..envelope }.encode(header);
    }
    file.seek(SeekFrom::Start(place.offset()))?;
    file.write_all(&bytes)
}

/// What was written to this file, or to this folder's list of files, has reached the disk on return.
pub(super) fn sync_file(path: &Path) -> io::Result<()> {
    match File::open(path).and_then(|f| f.sync_data()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// As [`sync_file`]. Where folders cannot be opened as files (Windows), their entries are the file system's own concern.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (slab, stride) = name.strip_suffix(".slab")?.split_once('-')?;
    let stride = stride.parse().ok()?;
    let whole = stride >= (ENVELOPE_BYTES + HEADER_BYTES) as u64 && stride % STRIDE_GRAIN == 0 && slab.len() == 16;
    Some((u64::from_str_radix(slab, 16).ok().filter(|_| whole)?, stride))
}

fn scan_file(path: &Path, stride: u64, slab: u64, slots: u32, scan: &mut Scan) -> io::Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = [0; ENVELOPE_BYTES + HEADER_BYTES];
    for slot in 0..slots {
        let place = Place { stride, slab, slot };
        let rest = length.saturating_sub(place.offset());
        // A writer killed at the end of the file leaves as little as a cleared envelope.
        let there = rest.min(head.len() as u64) as usize;
        file.seek(SeekFrom::Start(place.offset()))?;
        file.read_exact(&mut head[..there])?;
        let cleared = head[..there.min(ENVELOPE_BYTES)].iter().all(|b| *b == 0);
        let found = if there == head.len() {
            head.split_first_chunk::<ENVELOPE_BYTES>().and_then(|(envelope, header)| {
                let envelope = Envelope::decode(envelope, header)?;
                let header = Header::decode(header).ok()?;
                let fits = envelope.record_bytes == header.payload_bytes + HEADER_BYTES as u64
                    && envelope.record_bytes <= rest.min(stride) - ENVELOPE_BYTES as u64
                    && envelope.priority.is_finite();
                fits.then_some(Found { place, envelope, header })
            })
        } else {
            None
        };
        match found {
            Some(found) => scan.found.push(found),
            None if cleared => {}
            None => *scan.damaged.entry(path.to_path_buf()).or_default() += 1,
        }
    }
    Ok(())
}
