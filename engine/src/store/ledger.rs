//! The book in memory: what is kept, what may go first, what lies decoded in memory?
//!
//! The measure of a snapshot is the prefill time it saves per byte (Marconi, arXiv 2411.19379). Recency comes in by the clock
//! of GreedyDual-Size (Cao and Irani, 1997): a use lifts a snapshot to `clock + milliseconds per MiB`, eviction takes the
//! lowest and sets the clock to it. So what was dear to read stays longer, and what is not used sinks, without a weight to
//! tune. Equal ones leave in the order of their last use.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::slabs::Place;
use crate::snapshot::{Fingerprint, SnapshotKey};

/// One snapshot that is kept.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) fingerprint: Fingerprint,
    pub(super) tokens: u64,
    pub(super) cost_ms: f32,
    /// Bytes of the snapshot, or of its elements where there is no disk.
    pub(super) bytes: u64,
    /// Where it lies on disk.
    pub(super) place: Option<Place>,
    pub(super) pinned: bool,
    pub(super) priority: f64,
    /// Number of its last use.
    pub(super) seq: u64,
    /// Number of its insertion, so that two lives of one key are told apart.
    pub(super) born: u64,
    /// Decoded, in memory.
    pub(super) held: Option<Arc<Vec<f32>>>,
}

/// A snapshot that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ghost {
    /// It was read once and not admitted.
    Offered,
    /// It was kept and had to go.
    Evicted,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: BTreeMap<SnapshotKey, Entry>,
    /// What may go, the first to go first. Priorities are never negative, so their bits order as they do.
    order: BTreeSet<(u64, u64, SnapshotKey)>,
    /// What is held in memory, the longest unused first.
    held: BTreeMap<u64, SnapshotKey>,
    held_bytes: u64,
    bytes: u64,
    pinned_bytes: u64,
    /// How many snapshots there are of each length, by the first ids of their text.
    lengths: HashMap<[u8; 4], BTreeMap<u64, u32>>,
    ghosts: HashMap<[u8; 16], Ghost>,
    ghost_order: VecDeque<[u8; 16]>,
    ghosts_at_most: usize,
    pub(super) clock: f64,
    pub(super) seq: u64,
    /// Keys whose row in the catalogue is out of date.
    pub(super) changed: BTreeSet<SnapshotKey>,
}

impl Ledger {
    pub(super) fn new(ghosts_at_most: usize) -> Self {
        Self { ghosts_at_most, ..Self::default() }
    }

    pub(super) fn get(&self, key: &SnapshotKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&SnapshotKey, &Entry)> {
        self.entries.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    fn worth(&self, cost_ms: f32, bytes: u64) -> f64 {
        let per_mib = f64::from(cost_ms.max(0.0)) / (bytes.max(1) as f64 / f64::from(1 << 20));
        // A cost that is no number is worth nothing; the sum stays finite.
        self.clock + if per_mib.is_finite() { per_mib.min(1e12) } else { 0.0 }
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// What a snapshot written now has as priority and sequence number.
    pub(super) fn stamp(&mut self, cost_ms: f32, bytes: u64) -> (f64, u64) {
        (self.worth(cost_ms, bytes), self.next_seq())
    }

    pub(super) fn insert(&mut self, key: SnapshotKey, mut entry: Entry) {
        self.remove(&key);
        self.forget_ghost(&key);
        if !entry.priority.is_finite() || entry.priority < 0.0 {
            entry.priority = 0.0;
        }
        self.seq = self.seq.max(entry.seq);
        self.bytes += entry.bytes;
        if entry.pinned {
            self.pinned_bytes += entry.bytes;
        } else {
            self.order.insert((entry.priority.to_bits(), entry.seq, key));
        }
        *self.lengths.entry(key.root()).or_default().entry(entry.tokens).or_default() += 1;
        let held = entry.held.take();
        self.entries.insert(key, entry);
        self.changed.insert(key);
        if let Some(held) = held {
            self.hold(&key, held);
        }
    }

    pub(super) fn remove(&mut self, key: &SnapshotKey) -> Option<Entry> {
        self.release(key);
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.bytes;
        if entry.pinned {
            self.pinned_bytes -= entry.bytes;
        }
        self.order.remove(&(entry.priority.to_bits(), entry.seq, *key));
        if let Some(lengths) = self.lengths.get_mut(&key.root()) {
            if let Some(count) = lengths.get_mut(&entry.tokens) {
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&entry.tokens);
                }
            }
            if lengths.is_empty() {
                self.lengths.remove(&key.root());
            }
        }
        self.changed.insert(*key);
        Some(entry)
    }

    /// A use: lifts the entry, and gives its elements where memory holds them.
    pub(super) fn touch(&mut self, key: &SnapshotKey) -> Option<Arc<Vec<f32>>> {
        let entry = self.entries.get(key)?;
        let (cost_ms, bytes) = (entry.cost_ms, entry.bytes);
        let (priority, seq) = self.stamp(cost_ms, bytes);
        let entry = self.entries.get_mut(key)?;
        let before = (entry.priority.to_bits(), entry.seq, *key);
        if entry.held.is_some() {
            self.held.remove(&entry.seq);
            self.held.insert(seq, *key);
        }
        (entry.priority, entry.seq) = (priority, seq);
        if !entry.pinned {
            self.order.remove(&before);
            self.order.insert((priority.to_bits(), seq, *key));
        }
        self.changed.insert(*key);
        entry.held.clone()
    }

    pub(super) fn set_pinned(&mut self, key: &SnapshotKey, pinned: bool) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        if entry.pinned != pinned {
            entry.pinned = pinned;
            let place = (entry.priority.to_bits(), entry.seq, *key);
            if pinned {
                self.pinned_bytes += entry.bytes;
                self.order.remove(&place);
            } else {
                self.pinned_bytes -= entry.bytes;
                self.order.insert(place);
            }
            self.changed.insert(*key);
        }
        true
    }

    pub(super) fn set_place(&mut self, key: &SnapshotKey, place: Place) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = Some(place);
            self.changed.insert(*key);
        }
    }

    /// Takes out what may go first. `None` where all is pinned.
    pub(super) fn evict(&mut self) -> Option<(SnapshotKey, Entry)> {
        let (priority, _, key) = *self.order.first()?;
        self.clock = self.clock.max(f64::from_bits(priority));
        let entry = self.remove(&key)?;
        self.note_ghost(&key, Ghost::Evicted);
        Some((key, entry))
    }

    /// Keeps the elements of an entry in memory.
    pub(super) fn hold(&mut self, key: &SnapshotKey, elements: Arc<Vec<f32>>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.held.is_none() {
            self.held_bytes += 4 * elements.len() as u64;
            entry.held = Some(elements);
            self.held.insert(entry.seq, *key);
        }
    }

    fn release(&mut self, key: &SnapshotKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Some(elements) = entry.held.take()
        {
            self.held_bytes -= 4 * elements.len() as u64;
            self.held.remove(&entry.seq);
        }
    }

    /// Lets go of elements in memory, the longest unused first, until so many bytes are left.
    pub(super) fn release_down_to(&mut self, bytes: u64) {
        while self.held_bytes > bytes {
            let Some((_, key)) = self.held.first_key_value().map(|(s, k)| (*s, *k)) else { return };
            self.release(&key);
        }
    }

    /// Lengths, ascending, of what is kept of texts that begin with these 64 ids, and of what is shorter than those.
    pub(super) fn lengths(&self, root: [u8; 4]) -> BTreeSet<u64> {
        [root, [0; 4]].iter().filter_map(|r| self.lengths.get(r)).flat_map(|l| l.keys().copied()).collect()
    }

    /// What any reader kept of the same text.
    pub(super) fn of_text(&self, key: &SnapshotKey) -> impl Iterator<Item = (&SnapshotKey, &Entry)> {
        let text = key.text();
        let mut first = [0; 32];
        first[..16].copy_from_slice(&text);
        self.entries.range(SnapshotKey(first)..).take_while(move |(k, _)| k.text() == text)
    }

    pub(super) fn ghost(&self, key: &SnapshotKey) -> Option<Ghost> {
        self.ghosts.get(&ghost_name(key)).copied()
    }

    pub(super) fn note_ghost(&mut self, key: &SnapshotKey, ghost: Ghost) {
        self.recall_ghost(ghost_name(key), ghost);
    }

    pub(super) fn recall_ghost(&mut self, name: [u8; 16], ghost: Ghost) {
        if self.ghosts.insert(name, ghost).is_none() {
            self.ghost_order.push_back(name);
        }
        // Names that were forgotten meanwhile stay in the queue until their turn comes.
        while self.ghost_order.len() > self.ghosts_at_most {
            let Some(oldest) = self.ghost_order.pop_front() else { return };
            self.ghosts.remove(&oldest);
        }
    }

    fn forget_ghost(&mut self, key: &SnapshotKey) {
        self.ghosts.remove(&ghost_name(key));
    }

    /// Oldest first.
    pub(super) fn ghosts(&self) -> impl Iterator<Item = ([u8; 16], Ghost)> {
        self.ghost_order.iter().filter_map(|name| self.ghosts.get(name).map(|g| (*name, *g)))
    }

    pub(super) fn clear(&mut self) {
        *self = Self { clock: self.clock, seq: self.seq, ..Self::new(self.ghosts_at_most) };
    }
}

fn ghost_name(key: &SnapshotKey) -> [u8; 16] {
    key.0.last_chunk::<16>().copied().unwrap_or_default()
}
