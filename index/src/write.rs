//! How do documents get in and out?
//!
//! A document is replaced whole: its old passages are deleted and its new ones added before the next commit, which makes
//! both visible at once. One process writes at a time: the first write takes tantivy's lock, the end of an ingest or of the
//! process gives it back.

use std::sync::{MutexGuard, PoisonError, RwLockReadGuard};

use sha2::{Digest, Sha256};
use tantivy::directory::error::LockError;
use tantivy::{IndexWriter, TantivyDocument, TantivyError, Term};

use crate::card::{Card, FileStamp, card};
use crate::document::hex;
use crate::error::doing;
use crate::filter::term;
use crate::passage::{heading_level, passages};
use crate::search::Place;
use crate::{Document, Format, Index, IndexError};

/// Longest id, in bytes.
pub const ID_BYTES: usize = 4_096;

/// Memory in which tantivy gathers passages before it writes them, for each of its threads.
const BUFFER_BYTES: usize = 64 << 20;

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
        self.put(&document, None)
    }

    /// As [`Index::add`], with what is known of its file.
    pub(crate) fn put(&self, document: &Document, file: Option<FileStamp>) -> Result<Change, IndexError> {
        if document.id.is_empty() || document.id.len() > ID_BYTES {
            return Err(IndexError::Id { bytes: document.id.len(), limit: ID_BYTES });
        }
        let cuts: Vec<_> = passages(&document.text, self.settings.bounds()).collect();
        let new = Card {
            id: document.id.clone(),
            path: document.path.clone(),
            title: document.title.clone(),
            format: document.format,
            decoded: document.decoded,
            text_bytes: document.text.len() as u64,
            passages: cuts.len() as u32,
            text_sha256: hex(&Sha256::digest(document.text.as_bytes())),
            file,
            metadata: document.metadata.clone(),
        };
        let old = self.latest(&document.id)?;
        if old.as_ref().is_some_and(|old| old.same_document(&new)) {
            return Ok(Change::Unchanged);
        }
        self.writing(|writer| {
            if old.is_some() {
                writer.delete_term(Term::from_field_text(self.fields.document, &document.id));
            }
            let mut places = Places::new(document.format);
            for (ordinal, cut) in cuts.iter().enumerate() {
                let text = &document.text[cut.clone()];
                let mut passage = self.passage(document, ordinal as u64, cut.start as u64, text);
                if let Some(place) = places.next(text) {
                    passage.add_bytes(self.fields.place, &serde_json::to_vec(&place).unwrap_or_default());
                }
                if ordinal + 1 == cuts.len() {
                    passage.add_text(self.fields.card_of, &document.id);
                    passage.add_bytes(self.fields.card, &serde_json::to_vec(&new).unwrap_or_default());
                }
                writer.add_document(passage).map_err(doing("add a passage"))?;
            }
            Ok(())
        })?;
        self.pending().insert(document.id.clone(), Some(new));
        Ok(if old.is_some() { Change::Updated } else { Change::Added })
    }

    fn passage(&self, document: &Document, ordinal: u64, start: u64, text: &str) -> TantivyDocument {
        let f = &self.fields;
        let mut passage = TantivyDocument::new();
        passage.add_text(f.document, &document.id);
        passage.add_u64(f.ordinal, ordinal);
        passage.add_u64(f.start, start);
        passage.add_text(f.terms, &document.title);
        passage.add_text(f.terms, text);
        passage.add_text(f.text, text);
        passage.add_text(f.title, &document.title);
        for (name, value) in &document.metadata {
            passage.add_bytes(f.metadata, &term(name, value));
        }
        if let Some(path) = document.path.as_ref().and_then(|p| p.to_str()) {
            passage.add_text(f.path, path);
        }
        passage
    }

    /// Makes what was added durable and visible.
    ///
    /// # Errors
    /// [`IndexError::Tantivy`], when the disk is full for one.
    pub fn commit(&self) -> Result<(), IndexError> {
        let mut writer = self.writer.write().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = writer.as_mut() else { return Ok(()) };
        if let Err(e) = open.commit() {
            // A writer that failed may have lost its threads: the next write starts another.
            *writer = None;
            self.pending().clear();
            return Err(doing("commit")(e));
        }
        self.pending().clear();
        self.reader.reload().map_err(doing("open what was committed"))
    }

    /// Removes a document, by its id or by a path to its file, and commits; false when it is not here.
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes.
    pub fn forget(&self, id_or_path: &str) -> Result<bool, IndexError> {
        self.commit()?;
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
        let writer = self.writer.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return Ok(()) };
        writer.wait_merging_threads().map_err(doing("merge its segments"))?;
        self.reader.reload().map_err(doing("open what was committed"))
    }

    fn pending(&self) -> MutexGuard<'_, std::collections::HashMap<String, Option<Card>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `write` with the writer, which is opened when there is none.
    fn writing<T>(&self, write: impl FnOnce(&IndexWriter) -> Result<T, IndexError>) -> Result<T, IndexError> {
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
        self.tantivy.writer_with_num_threads(threads, threads * BUFFER_BYTES).map_err(|e| match e {
            TantivyError::LockFailure(LockError::LockBusy, _) => IndexError::Locked { path: self.place() },
            e => doing("start writing")(e),
        })
    }
}

/// Where the passages of a text are found, told from one to the next.
pub(crate) struct Places {
    format: Format,
    line: u64,
    heading: Option<String>,
}

impl Places {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, line: 1, heading: None }
    }

    /// The place of the next passage.
    pub(crate) fn next(&mut self, text: &str) -> Option<Place> {
        let mut place = Place { line: Some(self.line), heading: self.heading.clone(), ..Place::default() };
        self.line += memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64;
        if self.format == Format::Markdown {
            let mut leading = true;
            for line in text.lines() {
                if heading_level(line).is_some() {
                    let heading = line.trim_start_matches('#').trim().to_string();
                    if leading {
                        place.heading = Some(heading.clone());
                    }
                    self.heading = Some(heading);
                } else if !line.trim().is_empty() {
                    leading = false;
                }
            }
        }
        Some(place)
    }
}
