//! What is an index, and what is in it?

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, RwLock};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tantivy::directory::{MmapDirectory, RamDirectory};
use tantivy::schema::Value as _;
use tantivy::{IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, Term};

use crate::analyse;
use crate::card::{Card, alive, card, cards, read_card};
use crate::document::hex;
use crate::error::doing;
use crate::schema::{Fields, schema};
use crate::{Document, DocumentSummary, IndexError};

/// Documents, cut into passages and searchable. Shared between threads by reference.
pub struct Index {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) tantivy: tantivy::Index,
    pub(crate) fields: Fields,
    pub(crate) reader: IndexReader,
    /// Taken for reading to add a document, for writing to commit: a commit never parts a document.
    pub(crate) writer: RwLock<Option<IndexWriter>>,
    /// What was added (or removed: `None`) since the last commit, by id.
    pub(crate) pending: Mutex<HashMap<String, Option<Card>>>,
}

/// What an index holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexStatus {
    /// Documents.
    pub documents: u64,
    /// Passages.
    pub passages: u64,
    /// Bytes of the documents' texts.
    pub text_bytes: u64,
    /// Bytes of the index's files; 0 in memory.
    pub disk_bytes: u64,
}

impl Index {
    /// Opens the index in `dir`, which is made when absent.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`], [`IndexError::Version`].
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        std::fs::create_dir_all(dir).map_err(|source| IndexError::Io { path: dir.to_path_buf(), source })?;
        let directory = MmapDirectory::open(dir).map_err(|e| doing("open its folder")(e.into()))?;
        Self::over(Box::new(directory), Some(dir.to_path_buf()))
    }

    /// An index that is gone with the process.
    ///
    /// # Errors
    /// [`IndexError::Tantivy`].
    pub fn in_memory() -> Result<Self, IndexError> {
        Self::over(Box::new(RamDirectory::create()), None)
    }

    fn over(directory: Box<dyn tantivy::Directory>, dir: Option<PathBuf>) -> Result<Self, IndexError> {
        let (schema, fields) = schema(analyse::ENGLISH);
        let tantivy = tantivy::Index::open_or_create(directory, schema).map_err(doing("open its files"))?;
        tantivy.tokenizers().register(analyse::ENGLISH, analyse::english());
        let reader = tantivy.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(doing("open its files"))?;
        Ok(Self { dir, tantivy, fields, reader, writer: RwLock::new(None), pending: Mutex::default() })
    }

    /// A document with its text, by its id or by a path to its file; `None` when it is not here.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when the passages kept do not make up the document's text.
    pub fn document(&self, id_or_path: &str) -> Result<Option<Document>, IndexError> {
        let searcher = self.reader.searcher();
        let Some(card) = self.known(&searcher, id_or_path)? else { return Ok(None) };
        let mut passages = Vec::with_capacity(card.passages as usize);
        for address in alive(&searcher, &Term::from_field_text(self.fields.document, &card.id))? {
            let passage: TantivyDocument = searcher.doc(address).map_err(doing("read a passage"))?;
            let start = passage.get_first(self.fields.start).and_then(|v| v.as_u64()).unwrap_or(u64::MAX);
            let text = passage.get_first(self.fields.text).and_then(|v| v.as_str()).unwrap_or_default();
            passages.push((start, text.to_string()));
        }
        passages.sort_unstable();
        let mut text = String::with_capacity(card.text_bytes as usize);
        for (_, part) in &passages {
            text.push_str(part);
        }
        if hex(&Sha256::digest(text.as_bytes())) != card.text_sha256 {
            let what = format!("the {} passages kept of {} are not its text", passages.len(), card.id);
            return Err(IndexError::Damaged { path: self.place(), what });
        }
        Ok(Some(Document {
            id: card.id,
            path: card.path,
            title: card.title,
            format: card.format,
            text,
            decoded: card.decoded,
            metadata: card.metadata,
        }))
    }

    /// All documents, in the order of their ids.
    ///
    /// # Errors
    /// Those of the index.
    pub fn documents(&self) -> Result<Vec<DocumentSummary>, IndexError> {
        let searcher = self.reader.searcher();
        let mut summaries = cards(&searcher, &self.fields, "")?
            .into_iter()
            .map(|(_, address)| Ok(read_card(&searcher, &self.fields, address)?.summary()))
            .collect::<Result<Vec<_>, IndexError>>()?;
        summaries.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(summaries)
    }

    /// How much is here.
    ///
    /// # Errors
    /// Those of the index.
    pub fn status(&self) -> Result<IndexStatus, IndexError> {
        let searcher = self.reader.searcher();
        let mut status =
            IndexStatus { documents: 0, passages: searcher.num_docs(), text_bytes: 0, disk_bytes: self.disk_bytes()? };
        for (_, address) in cards(&searcher, &self.fields, "")? {
            status.documents += 1;
            status.text_bytes += read_card(&searcher, &self.fields, address)?.text_bytes;
        }
        Ok(status)
    }

    /// The card of a document, by its id or by a path to its file.
    pub(crate) fn known(&self, searcher: &Searcher, id_or_path: &str) -> Result<Option<Card>, IndexError> {
        if id_or_path.is_empty() {
            return Ok(None);
        }
        if let Some(found) = card(searcher, &self.fields, id_or_path)? {
            return Ok(Some(found));
        }
        match canonical(Path::new(id_or_path)) {
            Some(id) if id != id_or_path => card(searcher, &self.fields, &id),
            _ => Ok(None),
        }
    }

    /// The index's folder, for messages.
    pub(crate) fn place(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(|| PathBuf::from("the index in memory"))
    }

    fn disk_bytes(&self) -> Result<u64, IndexError> {
        let Some(dir) = &self.dir else { return Ok(0) };
        let failed = |source| IndexError::Io { path: dir.clone(), source };
        let mut bytes = 0;
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            // A file that a merge removed meanwhile takes no space.
            bytes += entry.map_err(failed)?.metadata().map_or(0, |m| m.len());
        }
        Ok(bytes)
    }
}

/// The id of the file at `path`, which may be gone: canonical where it exists, its folder canonical where that does.
pub(crate) fn canonical(path: &Path) -> Option<String> {
    let found = std::fs::canonicalize(path).ok().or_else(|| {
        let absolute = std::path::absolute(path).ok()?;
        let folder = std::fs::canonicalize(absolute.parent()?).ok()?;
        Some(folder.join(absolute.file_name()?))
    })?;
    found.into_os_string().into_string().ok()
}
