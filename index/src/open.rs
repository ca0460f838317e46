//! What is an index, and what is in it?

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, RwLock};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tantivy::directory::{MmapDirectory, RamDirectory};
use tantivy::schema::Value as _;
use tantivy::{DocAddress, IndexReader, IndexWriter, ReloadPolicy, Searcher, TantivyDocument, Term};

use crate::card::{Card, alive_in, card, cards, read_card};
use crate::checked::{Checked, opening, read_sealed, validate, write_sealed};
use crate::document::hex;
use crate::error::doing;
use crate::schema::{Fields, schema};
use crate::settings::{self, Options, Settings};
use crate::{Document, DocumentSummary, IndexError, Notice, analyse};

/// What stands for a folder in messages about an index that has none.
const IN_MEMORY: &str = "the index in memory";

/// Documents, cut into passages and searchable. Shared between threads by reference.
pub struct Index {
    /// The language that it was to be opened with, where it was made with another.
    asked: Option<String>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) tantivy: tantivy::Index,
    pub(crate) fields: Fields,
    pub(crate) settings: Settings,
    pub(crate) reader: IndexReader,
    /// Taken for reading to add a document, for writing to commit: a commit never parts a document.
    pub(crate) writer: RwLock<Option<IndexWriter>>,
    /// The writer refused a passage: it has lost its threads.
    pub(crate) broken: AtomicBool,
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
    /// As [`Index::open_with`].
    pub fn open(dir: &Path) -> Result<Self, IndexError> {
        Self::open_with(dir, &Options::default())
    }

    /// Opens the index in `dir`; a new one is made with `options`, one that is there keeps those it was made with.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Damaged`], [`IndexError::Version`].
    pub fn open_with(dir: &Path, options: &Options) -> Result<Self, IndexError> {
        let failed = |source| IndexError::Io { path: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let dir = std::fs::canonicalize(dir).map_err(failed)?;
        let directory = MmapDirectory::open(&dir).map_err(|e| doing("open its folder")(e.into()))?;
        Self::over(Checked::new(directory), Some(dir), options)
    }

    /// An index that is gone with the process.
    ///
    /// # Errors
    /// [`IndexError::Tantivy`].
    pub fn in_memory() -> Result<Self, IndexError> {
        Self::in_memory_with(&Options::default())
    }

    /// As [`Index::in_memory`], made with `options`.
    ///
    /// # Errors
    /// [`IndexError::Tantivy`].
    pub fn in_memory_with(options: &Options) -> Result<Self, IndexError> {
        Self::over(Checked::new(RamDirectory::create()), None, options)
    }

    pub(crate) fn over(directory: Checked, dir: Option<PathBuf>, options: &Options) -> Result<Self, IndexError> {
        let place = dir.clone().unwrap_or_else(|| PathBuf::from(IN_MEMORY));
        let settings = settings(&directory, &place, options)?;
        let (schema, fields) = schema(analyse::ANALYSER);
        let tantivy = tantivy::Index::open_or_create(directory, schema).map_err(opening(&place))?;
        tantivy.tokenizers().register(analyse::ANALYSER, analyse::passages(&settings.language));
        if options.validate {
            validate(&tantivy, &place)?;
        }
        let asked = Settings::new(options).language;
        let reader = tantivy.reader_builder().reload_policy(ReloadPolicy::Manual).try_into().map_err(opening(&place))?;
        let asked = Some(asked).filter(|asked| *asked != settings.language && options.language != Options::default().language);
        Ok(Self {
            asked,
            dir,
            tantivy,
            fields,
            settings,
            reader,
            writer: RwLock::new(None),
            broken: AtomicBool::new(false),
            pending: Mutex::default(),
        })
    }

    /// What works, but less well than it might.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        let language = &self.settings.language;
        let unknown = (!analyse::is_known(language)).then(|| Notice::UnknownLanguage { language: language.clone() });
        let kept = self.asked.clone().map(|asked| Notice::KeptLanguage { kept: language.clone(), asked });
        unknown.into_iter().chain(kept).collect()
    }

    /// Sees what another process committed since this index was opened, or refreshed, or written to.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when the files are not what was written.
    pub fn refresh(&self) -> Result<(), IndexError> {
        self.reader.reload().map_err(opening(&self.place()))
    }

    /// Goes through every byte of the index that a search may read.
    ///
    /// # Errors
    /// [`IndexError::Damaged`], with the first file that is not what was written.
    pub fn verify(&self) -> Result<(), IndexError> {
        validate(&self.tantivy, &self.place())
    }

    /// A document with its text, by its id or by a path to its file; `None` when it is not here.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when the passages kept do not make up the document's text.
    pub fn document(&self, id_or_path: &str) -> Result<Option<Document>, IndexError> {
        let searcher = self.reader.searcher();
        let Some(card) = self.known(&searcher, id_or_path)? else { return Ok(None) };
        let passages = self.addresses_of(&searcher, &card.id)?;
        let mut text = String::with_capacity(card.text_bytes as usize);
        for (_, address) in &passages {
            self.append(&searcher, *address, &mut text)?;
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

    /// A document's text at `range` alone, read from the passages that hold it; `None` when the document is not here or has
    /// no such range.
    ///
    /// # Errors
    /// Those of the index.
    pub fn text(&self, id_or_path: &str, range: Range<u64>) -> Result<Option<String>, IndexError> {
        let searcher = self.reader.searcher();
        let Some(card) = self.known(&searcher, id_or_path)? else { return Ok(None) };
        if range.start > range.end || range.end > card.text_bytes {
            return Ok(None);
        }
        let (mut first, mut after) = (None, Vec::new());
        self.each_passage(&searcher, &card.id, &mut |start, address| {
            if start <= range.start {
                first = first.max(Some((start, address)));
            } else if start < range.end {
                after.push((start, address));
            }
        })?;
        let Some((begin, address)) = first else { return Ok(None) };
        after.sort_unstable();
        let mut text = String::new();
        for address in std::iter::once(address).chain(after.into_iter().map(|(_, address)| address)) {
            self.append(&searcher, address, &mut text)?;
        }
        let within = |at: u64| at.checked_sub(begin).and_then(|at| usize::try_from(at).ok());
        let (Some(from), Some(to)) = (within(range.start), within(range.end)) else { return Ok(None) };
        Ok(text.get(from..to).map(str::to_string))
    }

    /// Appends the text of a passage.
    pub(crate) fn append(&self, searcher: &Searcher, address: DocAddress, text: &mut String) -> Result<(), IndexError> {
        let passage: TantivyDocument = searcher.doc(address).map_err(doing("read a passage"))?;
        text.push_str(passage.get_first(self.fields.text).and_then(|v| v.as_str()).unwrap_or_default());
        Ok(())
    }

    /// Where the passages of a document lie, with their first bytes, in order.
    pub(crate) fn addresses_of(&self, searcher: &Searcher, id: &str) -> Result<Vec<(u64, DocAddress)>, IndexError> {
        let mut starts = Vec::new();
        self.each_passage(searcher, id, &mut |start, address| starts.push((start, address)))?;
        starts.sort_unstable();
        Ok(starts)
    }

    /// Calls `each` with the first byte and the place of every passage of a document, in no order.
    fn each_passage(&self, searcher: &Searcher, id: &str, each: &mut dyn FnMut(u64, DocAddress)) -> Result<(), IndexError> {
        let of = Term::from_field_text(self.fields.document, id);
        for (segment, reader) in searcher.segment_readers().iter().enumerate() {
            let starts = reader.fast_fields().u64("start").map_err(doing("find a passage"))?;
            alive_in(reader, &of)?
                .for_each(|doc| each(starts.first(doc).unwrap_or(u64::MAX), DocAddress::new(segment as u32, doc)));
        }
        Ok(())
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
        self.dir.clone().unwrap_or_else(|| PathBuf::from(IN_MEMORY))
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

/// The settings of the index that is there, or those of `options`, which are kept.
fn settings(directory: &Checked, place: &Path, options: &Options) -> Result<Settings, IndexError> {
    let damaged = |what: &str| IndexError::Damaged { path: place.join(settings::FILE), what: what.into() };
    let gone = |file: &str| IndexError::Damaged { path: place.join(file), what: "it is gone".into() };
    let exists = tantivy::Index::exists(directory).map_err(|e| opening(place)(e.into()))?;
    if let Some(kept) = read_sealed(directory, place, settings::FILE)? {
        // The format first: another one may have other settings.
        let value: serde_json::Value = serde_json::from_slice(&kept).map_err(|_| damaged("it is no JSON"))?;
        let found = value["format"].as_u64().and_then(|f| u32::try_from(f).ok()).ok_or_else(|| damaged("it names no format"))?;
        if found != settings::FORMAT {
            return Err(IndexError::Version { path: place.to_path_buf(), found, expected: settings::FORMAT });
        }
        let settings = serde_json::from_value(value).map_err(|_| damaged("a setting is missing"))?;
        // A kill while the index was made leaves neither a list of segments nor segments.
        return if exists || !has_segments(place) { Ok(settings) } else { Err(gone("meta.json")) };
    }
    if exists || has_segments(place) {
        return Err(gone(settings::FILE));
    }
    let settings = Settings::new(options);
    write_sealed(directory, place, settings::FILE, &serde_json::to_vec(&settings).unwrap_or_default())?;
    Ok(settings)
}

fn has_segments(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.path().extension().is_some_and(|extension| extension == "store"))
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
