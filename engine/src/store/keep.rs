//! How does a state get in? Encoded outside the lock, into a slot that others were evicted for.

use std::sync::Arc;

use super::ledger::Entry;
use super::slabs::{self, ENVELOPE_BYTES, Envelope};
use super::{Store, StoreError};
use crate::snapshot::{Fingerprint, Form, Snapshot, SnapshotKey};

/// What a snapshot without a disk costs beside its elements.
const MEMORY_OVERHEAD_BYTES: u64 = 256;

impl Store {
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
}
