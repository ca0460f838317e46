//! How do documents get in and out?
//!
//! A document is replaced whole: its old passages are deleted and its new ones added before the next commit, which makes
//! both visible at once. One process writes at a time: the first write takes tantivy's lock, the end of an ingest or of the
//! process gives it back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{MutexGuard, PoisonError, RwLockReadGuard};

use sha2::{Digest, Sha256};
use tantivy::directory::error::LockError;
use tantivy::indexer::LogMergePolicy;
use tantivy::{IndexWriter, TantivyDocument, TantivyError, Term};

use crate::card::{Card, FileStamp, card};
use crate::document::hex;
use crate::error::doing;
use crate::filter::term;
use crate::passage::passages;
use crate::place::{Layout, Places};
use crate::records::FieldMap;
use crate::schema::Fields;
use crate::{Document, Index, IndexError};

/// Longest id, in bytes.
pub const ID_BYTES: usize = 4_096;

/// Memory in which tantivy gathers passages before it writes them, for each of its threads.
const BUFFER_BYTES: usize = 64 << 20;

/// Share of deleted passages at which a segment is written anew without them.
const DELETED_RATIO: f32 = 0.15;

/// What adding a document came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Its id was not there.
    Added,
    /// Another text, title or metadata was there under its id, and is replaced.
    Updated,
    /// The same was there.
    Unchanged,
}

impl Index {
    /// Adds a document, or replaces the one of the same id. Found by search after [`Index::commit`].
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes.
    pub fn add(&self, document: Document) -> Result<Change, IndexError> {
        // With the lock in hand, what is here is what the last writer left.
        self.writing(|_| Ok(()))?;
        self.put(&document, None, Layout::Text)
    }

    /// As [`Index::add`], with what is known of its file and of its places.
    pub(crate) fn put(&self, document: &Document, file: Option<FileStamp>, layout: Layout<'_>) -> Result<Change, IndexError> {
        self.put_as(document, Card { file, ..Card::of(document) }, layout)
    }

    /// As [`Index::add`], for a record that became a document by `fields`.
    pub(crate) fn put_record(&self, document: &Document, fields: &FieldMap, layout: Layout<'_>) -> Result<Change, IndexError> {
        self.put_as(document, Card { fields: Some(fields.clone()), ..Card::of(document) }, layout)
    }

    fn put_as(&self, document: &Document, card: Card, layout: Layout<'_>) -> Result<Change, IndexError> {
        if document.id.is_empty() || document.id.len() > ID_BYTES {
            return Err(IndexError::Id { bytes: document.id.len(), limit: ID_BYTES });
        }
        let cuts: Vec<_> = passages(&document.text, self.settings.bounds()).collect();
        let new = Card {
            text_bytes: document.text.len() as u64,
            passages: cuts.len() as u32,
            text_sha256: hex(&Sha256::digest(document.text.as_bytes())),
            line: layout.line(),
            ..card
        };
        let old = self.latest(&document.id)?;
        if old.as_ref().is_some_and(|old| old.same_document(&new)) {
            return Ok(Change::Unchanged);
        }
        self.replace(new, layout, |adding| cuts.into_iter().try_for_each(|cut| adding.passage(&document.text[cut])))?;
        Ok(if old.is_some() { Change::Updated } else { Change::Added })
    }

    /// Puts the passages that `add` gives in the place of the document's old ones. The last passage carries `card`, whose
    /// counts must be those of the passages. When `add` fails the document is gone with the next commit.
    pub(crate) fn replace<E: From<IndexError>>(
        &self,
        card: Card,
        layout: Layout<'_>,
        add: impl FnOnce(&mut Adding<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let id = card.id.clone();
        let done = self.writing(|writer| {
            let whole = Term::from_field_text(self.fields.document, &id);
            writer.delete_term(whole.clone());
            let places = Places::new(card.format, layout);
            let mut adding = Adding {
                fields: &self.fields,
                writer,
                broken: &self.broken,
                card: &card,
                ordinal: 0,
                start: 0,
                places,
                held: None,
            };
            let done = add(&mut adding).and_then(|()| adding.finish().map_err(E::from));
            if done.is_err() {
                writer.delete_term(whole);
            }
            Ok(done)
        })?;
        self.pending().insert(id, done.is_ok().then_some(card));
        done
    }

    /// Makes what was added durable and visible.
    ///
    /// # Errors
    /// [`IndexError::Tantivy`], when the disk is full for one.
    pub fn commit(&self) -> Result<(), IndexError> {
        let mut writer = self.writer.write().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = writer.as_mut() else { return Ok(()) };
        if self.pending().is_empty() {
            return Ok(());
        }
        if let Err(e) = open.commit() {
            // A writer that failed may have lost its threads: the next write starts another.
            *writer = None;
            self.broken.store(false, Ordering::Relaxed);
            self.pending().clear();
            return Err(doing("commit")(e));
        }
        self.pending().clear();
        self.reader.reload().map_err(doing("open what was committed"))?;
        // Only now does no search here read the files that the commit replaced. Nobody waits for their end.
        drop(open.garbage_collect_files());
        Ok(())
    }

    /// Removes a document, by its id or by a path to its file, and commits; false when it is not here.
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes.
    pub fn forget(&self, id_or_path: &str) -> Result<bool, IndexError> {
        self.commit()?;
        self.refresh()?;
        let Some(card) = self.known(&self.reader.searcher(), id_or_path)? else { return Ok(false) };
        self.remove(&card.id)?;
        self.commit()?;
        Ok(true)
    }

    /// Removes the document of that id with the next commit.
    pub(crate) fn remove(&self, id: &str) -> Result<(), IndexError> {
        self.writing(|writer| {
            writer.delete_term(Term::from_field_text(self.fields.document, id));
            Ok(())
        })?;
        self.pending().insert(id.to_string(), None);
        Ok(())
    }

    /// The card of a document as the next commit will have it.
    pub(crate) fn latest(&self, id: &str) -> Result<Option<Card>, IndexError> {
        if let Some(pending) = self.pending().get(id) {
            return Ok(pending.clone());
        }
        card(&self.reader.searcher(), &self.fields, id)
    }

    /// Commits, lets tantivy tidy up, and gives the lock back.
    pub(crate) fn finish(&self) -> Result<(), IndexError> {
        self.commit()?;
        let mut slot = self.writer.write().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = slot.take() else { return Ok(()) };
        let before = self.reader.searcher().generation().segments().clone();
        writer.wait_merging_threads().map_err(doing("merge its segments"))?;
        self.reader.reload().map_err(doing("open what was committed"))?;
        if *self.reader.searcher().generation().segments() != before {
            // The files that the merges replaced were still being read when those ended.
            self.open_writer()?.garbage_collect_files().wait().map_err(doing("remove files that were replaced"))?;
        }
        Ok(())
    }

    pub(crate) fn pending(&self) -> MutexGuard<'_, std::collections::HashMap<String, Option<Card>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `write` with the writer, which is opened when there is none.
    fn writing<T>(&self, write: impl FnOnce(&IndexWriter) -> Result<T, IndexError>) -> Result<T, IndexError> {
        if self.broken.swap(false, Ordering::Relaxed) {
            // Whoever was refused was told; nothing since the last commit was acknowledged.
            *self.writer.write().unwrap_or_else(PoisonError::into_inner) = None;
            self.pending().clear();
        }
        let read = || -> RwLockReadGuard<'_, _> { self.writer.read().unwrap_or_else(PoisonError::into_inner) };
        let mut open = read();
        while open.is_none() {
            drop(open);
            let mut slot = self.writer.write().unwrap_or_else(PoisonError::into_inner);
            if slot.is_none() {
                *slot = Some(self.open_writer()?);
            }
            drop(slot);
            open = read();
        }
        match open.as_ref() {
            Some(writer) => write(writer),
            None => Err(IndexError::Locked { path: self.place() }),
        }
    }

    fn open_writer(&self) -> Result<IndexWriter, IndexError> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        let writer: IndexWriter = self.tantivy.writer_with_num_threads(threads, threads * BUFFER_BYTES).map_err(|e| match e {
            TantivyError::LockFailure(LockError::LockBusy, _) => IndexError::Locked { path: self.place() },
            e => doing("start writing")(e),
        })?;
        let mut policy = LogMergePolicy::default();
        policy.set_del_docs_ratio_before_merge(DELETED_RATIO);
        writer.set_merge_policy(Box::new(policy));
        self.refresh()?;
        Ok(writer)
    }
}

impl Drop for Index {
    /// Lets the merges end that the last commits began, so that the space of what was forgotten comes back.
    fn drop(&mut self) {
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // What is not committed is not kept, and a merge that fails is made again by the next writer.
            let _ = writer.wait_merging_threads();
        }
    }
}

/// A document on its way in, passage by passage.
pub(crate) struct Adding<'a> {
    fields: &'a Fields,
    writer: &'a IndexWriter,
    broken: &'a AtomicBool,
    card: &'a Card,
    ordinal: u64,
    start: u64,
    places: Places<'a>,
    /// The last passage is held back until it is known to be the last.
    held: Option<TantivyDocument>,
}

impl Adding<'_> {
    /// Adds the next passage.
    pub(crate) fn passage(&mut self, text: &str) -> Result<(), IndexError> {
        let (f, card) = (self.fields, self.card);
        let mut passage = TantivyDocument::new();
        passage.add_text(f.document, &card.id);
        passage.add_u64(f.ordinal, self.ordinal);
        passage.add_u64(f.start, self.start);
        passage.add_text(f.terms, &card.title);
        passage.add_text(f.terms, text);
        passage.add_text(f.text, text);
        passage.add_text(f.title, &card.title);
        for (name, value) in &card.metadata {
            passage.add_bytes(f.metadata, &term(name, value));
        }
        if let Some(path) = card.path.as_ref().and_then(|p| p.to_str()) {
            passage.add_text(f.path, path);
        }
        let place = self.places.next(self.start as usize, text);
        if !place.is_nowhere() {
            passage.add_bytes(f.place, &serde_json::to_vec(&place).unwrap_or_default());
        }
        self.ordinal += 1;
        self.start += text.len() as u64;
        match self.held.replace(passage) {
            Some(before) => self.add(before),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), IndexError> {
        let Some(mut last) = self.held.take() else { return Ok(()) };
        last.add_text(self.fields.card_of, &self.card.id);
        last.add_bytes(self.fields.card, &serde_json::to_vec(self.card).unwrap_or_default());
        self.add(last)
    }

    fn add(&self, passage: TantivyDocument) -> Result<(), IndexError> {
        self.writer.add_document(passage).map(|_| ()).map_err(|e| {
            self.broken.store(true, Ordering::Relaxed);
            doing("add a passage")(e)
        })
    }
}
