//! The engine that apps hold: a store folder with index and snapshots, and a reader that is loaded when first needed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use palimpsest_index::{
    Document, DocumentSummary, Hit, Index, IndexError, IndexStatus, IngestOptions, IngestReport, Progress, Retriever,
    SearchOptions,
};
use palimpsest_kernels::Dtype;
use serde::Serialize;

use crate::ask::{Answer, AskOptions, ask, ask_many};
use crate::cancel::Cancel;
use crate::consider::Sources;
use crate::context::ContextBytes;
use crate::error::{Error, Result};
use crate::events::{Event, Events};
use crate::files::ReaderFiles;
use crate::read::{Device, Reader, ReaderOptions};
use crate::snapshot::Form;
use crate::store::{Store, StoreEvent, StoreOptions, StoreStats, VerifyReport};

mod contexts;

/// How an engine is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder for the index and the snapshots; made when absent.
    pub store: PathBuf,
    /// Files of the reader; those of [`default_reader`] where `None`.
    pub reader: Option<ReaderFiles>,
    /// Threads to read with; all processors where `None`.
    pub threads: Option<usize>,
    /// What the reader's matrices are kept as in memory; int8 where they are stored so, else f32, where `None`.
    pub dtype: Option<Dtype>,
    /// Where the reader reads.
    pub device: Device,
    /// Bytes that snapshots may take on disk.
    pub snapshot_budget_bytes: u64,
    /// Language of a new store's documents, by its English name or two-letter code; English where `None`. A store that is
    /// there keeps its own.
    pub language: Option<String>,
    /// Folder of a sentence-transformer that finds passages by their meaning, beside their words. Needs the feature `dense`.
    pub encoder: Option<PathBuf>,
    /// How the states of passages are kept. With a rounded form, answers from restored states are near those from states just
    /// read, not equal to them (engine/STORE.md has what that costs).
    pub state_form: Form,
}

impl Options {
    /// Everything by default, in the folder `store`.
    #[must_use]
    pub fn new(store: impl Into<PathBuf>) -> Self {
        Self {
            store: store.into(),
            reader: None,
            threads: None,
            dtype: None,
            device: Device::Auto,
            snapshot_budget_bytes: 1 << 30,
            language: None,
            encoder: None,
            state_form: Form::F32,
        }
    }
}

/// Documents, a reader and what it remembers of them. Shared between threads by reference.
pub struct Engine {
    options: Options,
    index: Arc<Index>,
    store: Arc<Store>,
    reader: Mutex<Option<Arc<Reader>>>,
    events: Vec<StoreEvent>,
    /// Who finds passages in the place of `index`, or with it.
    fused: Option<Box<dyn Retriever>>,
}

/// What an engine holds.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its folder.
    pub store: PathBuf,
    /// Documents, passages and bytes of the index.
    pub index: IndexStatus,
    /// Entries, bytes, hits and misses of the snapshot store.
    pub snapshots: StoreStats,
    /// Bytes of the contexts: states, logs, indexes and texts apart.
    pub contexts: ContextBytes,
    /// What happened while opening.
    pub notices: Vec<String>,
}

/// What [`Engine::verify`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// What is wrong with the index; nothing where it is whole.
    pub index: Option<String>,
    /// What is wrong with the snapshots.
    pub snapshots: VerifyReport,
    /// What is wrong with contexts, and was not put right: read those texts again from their files.
    pub contexts: Vec<String>,
}

impl Verified {
    /// Whether everything is as it was written, or was put right.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.index.is_none() && self.contexts.is_empty() && self.snapshots.damaged.len() as u64 <= self.snapshots.repaired
    }
}

impl Engine {
    /// Opens the folder `options.store`. A snapshot store that does not open is set aside and made anew: [`Engine::notices`].
    ///
    /// # Errors
    /// [`Error::Index`] and [`Error::Store`] when the folder cannot be used.
    pub fn open(options: Options) -> Result<Self> {
        std::fs::create_dir_all(&options.store).map_err(|e| Error::io(&options.store, e))?;
        let mut made = palimpsest_index::Options::default();
        if let Some(language) = &options.language {
            made.language.clone_from(language);
        }
        let index = Arc::new(Index::open_with(&options.store.join("index"), &made)?);
        let fused = options.encoder.as_deref().map(|folder| fused(folder, &options.store, &index)).transpose()?;
        let (store, events) = Store::open(
            &options.store.join("snapshots"),
            StoreOptions { budget_bytes: options.snapshot_budget_bytes, form: options.state_form, ..StoreOptions::default() },
        )?;
        Ok(Self { options, index, store: Arc::new(store), reader: Mutex::new(None), events, fused })
    }

    /// Adds the files below `paths`, brings changed ones up to date and forgets those that are gone.
    ///
    /// # Errors
    /// Those of the index; a file that cannot be read is in the report instead.
    pub fn ingest(&self, paths: &[PathBuf], progress: &(dyn Fn(&Progress) + Sync)) -> Result<IngestReport> {
        self.ingest_with(paths, &Cancel::new(), progress)
    }

    /// As [`Engine::ingest`], until `cancel`.
    ///
    /// # Errors
    /// As [`Engine::ingest`]; [`Error::Cancelled`]: what went in before is kept, and the next ingest goes on from it.
    pub fn ingest_with(&self, paths: &[PathBuf], cancel: &Cancel, progress: &(dyn Fn(&Progress) + Sync)) -> Result<IngestReport> {
        self.ingest_as(paths, &IngestOptions::default(), cancel, progress)
    }

    /// As [`Engine::ingest_with`], with tables as records and with metadata.
    ///
    /// # Errors
    /// As [`Engine::ingest_with`].
    pub fn ingest_as(
        &self,
        paths: &[PathBuf],
        options: &IngestOptions,
        cancel: &Cancel,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<IngestReport> {
        match self.index.ingest_with(paths, options, cancel.flag(), progress) {
            Err(IndexError::Stopped) => Err(Error::Cancelled),
            done => Ok(done?),
        }
    }

    /// Brings what is kept beside the index, vectors for one, in step with it: after documents came in. What is not in step is
    /// still found by its words. `progress` counts documents as files.
    ///
    /// # Errors
    /// Those of the retriever; [`Error::Cancelled`]: what was done stays, and the next call goes on from it.
    pub fn sync(&self, cancel: &Cancel, progress: &(dyn Fn(&Progress) + Sync)) -> Result<()> {
        match self.retriever().sync(cancel.flag(), progress) {
            Err(IndexError::Stopped) => Err(Error::Cancelled),
            done => Ok(done?),
        }
    }

    /// Finds passages with `retriever` from now on, a search cluster for one, in the place of the store's own index. Ingest
    /// and forget go on to speak of the index.
    #[must_use]
    pub fn retrieving(mut self, retriever: Box<dyn Retriever>) -> Self {
        self.fused = Some(retriever);
        self
    }

    /// Who finds passages.
    #[must_use]
    pub fn retriever(&self) -> &dyn Retriever {
        self.fused.as_deref().unwrap_or(&*self.index)
    }

    /// Answers `question` from the documents.
    ///
    /// # Errors
    /// As [`crate::consider::consider`].
    pub fn ask(&self, question: &str, options: &AskOptions) -> Result<Answer> {
        self.ask_with(question, options, &Cancel::new(), &mut |_| {})
    }

    /// As [`Engine::ask`], until `cancel`; `tell` gets what happens on the way, [`Event::Done`] at last.
    ///
    /// # Errors
    /// As [`Engine::ask`]; [`Error::Cancelled`].
    pub fn ask_with(
        &self,
        question: &str,
        options: &AskOptions,
        cancel: &Cancel,
        tell: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Answer> {
        cancel.check()?;
        let notices = self.notices();
        let reader = self.reader()?;
        ask(self.sources(&reader), question, options, &notices, cancel, tell)
    }

    /// Answers many questions in one batch: they share the weights and the passages read, and each answer is the one that
    /// [`Engine::ask`] gives.
    ///
    /// # Errors
    /// As [`Engine::ask_with`]; no answer then.
    pub fn ask_many(&self, questions: &[&str], options: &AskOptions, cancel: &Cancel) -> Result<Vec<Answer>> {
        cancel.check()?;
        let reader = self.reader()?;
        let mut answers = ask_many(self.sources(&reader), questions, options, cancel)?;
        answers.iter_mut().for_each(|a| drop(a.notices.splice(0..0, self.notices())));
        Ok(answers)
    }

    /// Answers `question` on a thread of its own and hands out what happens, as an iterator and as an async stream. Dropping
    /// it cancels.
    #[must_use]
    pub fn events(self: &Arc<Self>, question: impl Into<String>, options: AskOptions) -> Events {
        Events::begin(self.clone(), question.into(), options, Cancel::new())
    }

    fn sources<'a>(&'a self, reader: &'a Reader) -> Sources<'a> {
        Sources { retriever: self.retriever(), reader, store: &self.store }
    }

    /// The passages that match `query` best.
    ///
    /// # Errors
    /// Those of the retriever.
    pub fn search(&self, query: &str, limit: usize) -> Result<Vec<Hit>> {
        let mut options = SearchOptions::default();
        options.limit = limit;
        self.search_with(query, &options)
    }

    /// As [`Engine::search`], among the documents of a filter.
    ///
    /// # Errors
    /// Those of the retriever.
    pub fn search_with(&self, query: &str, options: &SearchOptions) -> Result<Vec<Hit>> {
        Ok(self.retriever().retrieve(query, options)?)
    }

    /// The document with this id or path.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none.
    pub fn document(&self, id_or_path: &str) -> Result<Document> {
        self.index.document(id_or_path)?.ok_or_else(|| unknown(id_or_path))
    }

    /// All documents.
    ///
    /// # Errors
    /// Those of the index.
    pub fn documents(&self) -> Result<Vec<DocumentSummary>> {
        Ok(self.index.documents()?)
    }

    /// Forgets the document with this id or path.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none.
    pub fn forget(&self, id_or_path: &str) -> Result<()> {
        if !self.index.forget(id_or_path)? {
            return Err(unknown(id_or_path));
        }
        self.sync(&Cancel::new(), &|_| {})
    }

    /// What it holds.
    ///
    /// # Errors
    /// Those of the index.
    pub fn status(&self) -> Result<Status> {
        let mut contexts = ContextBytes::default();
        for name in self.contexts()? {
            contexts.add(&self.context_folder(&name)?);
        }
        Ok(Status {
            store: self.options.store.clone(),
            index: self.index.status()?,
            snapshots: self.store.stats(),
            contexts,
            notices: self.notices(),
        })
    }

    /// What happened while opening, for the user.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let index = self.index.notices().into_iter().map(|n| n.to_string());
        let reader = self.loaded();
        let reader = reader.iter().flat_map(|r| r.notices().to_vec()).collect::<Vec<_>>();
        index.chain(self.events.iter().map(ToString::to_string)).chain(reader).collect()
    }

    /// Reads every byte of the store again and compares it with what was written. `repair` removes snapshots that are not
    /// whole, those of contexts too; they are read again when needed.
    ///
    /// # Errors
    /// Those of the store; a damaged index is in the report.
    pub fn verify(&self, repair: bool) -> Result<Verified> {
        let mut contexts = Vec::new();
        for name in self.contexts()? {
            contexts.extend(crate::context::verify(&self.context_folder(&name)?, repair));
        }
        let index = self.index.verify().err().map(|e| e.to_string());
        Ok(Verified { index, snapshots: self.store.verify(repair)?, contexts })
    }

    /// The document index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The snapshot store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The reader, loaded at the first call.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn reader(&self) -> Result<Arc<Reader>> {
        let mut loaded = self.loaded();
        if let Some(reader) = &*loaded {
            return Ok(reader.clone());
        }
        let files = match &self.options.reader {
            Some(files) => files.clone(),
            None => ReaderFiles::folder(default_reader()?),
        };
        let options = ReaderOptions { threads: self.options.threads, dtype: self.options.dtype, device: self.options.device };
        let reader = Arc::new(Reader::open_files(&files, &options)?);
        *loaded = Some(reader.clone());
        Ok(reader)
    }

    /// Lets go of memory that can be had again: buffers, and the reader itself while no call and no open context uses it.
    /// The next question loads it again. Returns the bytes of weights that were let go.
    pub fn trim_memory(&self) -> u64 {
        let mut loaded = self.loaded();
        match loaded.take() {
            Some(reader) if Arc::strong_count(&reader) == 1 => reader.weight_bytes() as u64,
            Some(reader) => {
                reader.trim_memory();
                *loaded = Some(reader);
                0
            }
            None => 0,
        }
    }

    fn loaded(&self) -> MutexGuard<'_, Option<Arc<Reader>>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Words and meaning together: the index, and vectors beside it in the store.
#[cfg(feature = "dense")]
fn fused(folder: &Path, store: &Path, index: &Arc<Index>) -> Result<Box<dyn Retriever>> {
    let encoder = Arc::new(crate::encoder::SentenceTransformer::open(folder)?);
    Ok(Box::new(palimpsest_index::Fused::new(index.clone(), Some(&store.join("vectors")), encoder)?))
}

#[cfg(not(feature = "dense"))]
fn fused(_: &Path, _: &Path, _: &Arc<Index>) -> Result<Box<dyn Retriever>> {
    Err(without_dense())
}

#[cfg(not(feature = "dense"))]
pub(crate) fn without_dense() -> Error {
    Error::Input("this program was built without dense retrieval: build it with `--features dense`".into())
}

/// What was read in this session is there in the next.
impl Drop for Engine {
    fn drop(&mut self) {
        // A cache that cannot be written costs time later, nothing else.
        let _ = self.store.flush();
    }
}

fn unknown(id_or_path: &str) -> Error {
    Error::Input(format!("no document {id_or_path} in this store: `palimpsest status --documents` lists them"))
}

/// A short name for the store of a set of paths, the same for the same set.
#[must_use]
pub fn store_name(paths: &[PathBuf]) -> String {
    let mut hash = blake3::Hasher::new();
    for path in paths {
        let bytes = path.as_os_str().as_encoded_bytes();
        hash.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }
    hash.finalize().to_hex()[..16].to_string()
}

/// The reader that ships: `$PALIMPSEST_MODEL`, else `models/reader-small` in a folder above the program, above the working
/// folder, or in the source tree the program was built from.
///
/// # Errors
/// [`Error::Input`] naming the places that were looked at.
pub fn default_reader() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("PALIMPSEST_MODEL") {
        return Ok(folder.into());
    }
    let program = std::env::current_exe().ok();
    let working = std::env::current_dir().ok();
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let above = [program.as_deref(), working.as_deref(), Some(source)];
    above
        .into_iter()
        .flatten()
        .flat_map(Path::ancestors)
        .map(|folder| folder.join("models/reader-small"))
        .find(|folder| folder.join("tokenizer.json").is_file())
        .ok_or_else(|| {
            Error::Input(
                "no reader found: name its folder with --model DIR or PALIMPSEST_MODEL (looked for models/reader-small above the program and above the working folder)".into(),
            )
        })
}
