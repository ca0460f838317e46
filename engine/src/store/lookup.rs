//! What does a lookup give? The right state, whole, or the reason why not.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::Store;
use super::slabs::{self, ENVELOPE_BYTES, Place};
use crate::snapshot::{Chain, Damage, Fingerprint, Form, Refusal, Restore, Snapshot, SnapshotKey};

/// How often a reader looks again for a snapshot that moved while it was being read.
const LOOKS: usize = 4;

/// Appends the ids of a range to a chain, or fails.
pub type HashIds<'a, E> = dyn FnMut(&mut Chain, Range<u64>) -> Result<(), E> + 'a;

impl Store {
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
        let hash = &mut |chain: &mut Chain, range: Range<u64>| {
            chain.extend(&ids[range.start as usize..range.end as usize]);
            Ok(())
        };
        let found: Result<_, Infallible> = self.longest_of(fingerprint, ids.len() as u64, hash);
        found.unwrap_or_else(|never| match never {})
    }

    /// As [`Store::longest`], of `tokens` ids that need not lie in memory: `hash` appends those of a range to a chain, and is
    /// called with ranges in ascending order, the first ids twice at most.
    ///
    /// # Errors
    /// Those of `hash`.
    pub fn longest_of<E>(
        &self,
        fingerprint: &Fingerprint,
        tokens: u64,
        hash: &mut HashIds<'_, E>,
    ) -> Result<(Option<Snapshot>, Restore), E> {
        let (snapshot, restore) = self.find_longest(fingerprint, tokens, hash)?;
        let counts = &mut self.shelf().counts;
        match &restore {
            Restore::Exact { .. } => counts.hits += 1,
            Restore::Prefix { .. } => counts.prefix_hits += 1,
            Restore::Near { .. } => counts.near_hits += 1,
            Restore::Refused(refusal) => counts.misses.count(refusal),
        }
        Ok((snapshot, restore))
    }

    pub(super) fn fetch(&self, key: &SnapshotKey, fingerprint: &Fingerprint) -> Result<Snapshot, Refusal> {
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

    pub(super) fn read(
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
}
