//! The engine as a host holds it, and the jobs that it gives.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use async_channel::{Receiver, Sender, bounded};
use palimpsest_engine::cancel::Cancel;
use palimpsest_engine::index::Change;
use palimpsest_engine::{self as engine, index};

use crate::call::off_thread;
use crate::context::Contexts;
use crate::error::PalimpsestError;
use crate::gathered::Gathered;
use crate::job::Job;
use crate::options::{AskOptions, EngineOptions, IngestOptions, SearchOptions};
use crate::records::{
    Answer, AskEvent, Document, DocumentSummary, Hit, IngestProgress, IngestReport, ModelInfo, Status, TextDocument, Verified,
};

type Result<T> = std::result::Result<T, PalimpsestError>;

/// Questions at work at once. Each uses all threads of the reader and holds the states of its passages: more of them cost
/// memory and gain nothing. The others wait for their turn.
const QUESTIONS_AT_ONCE: usize = 2;

/// An open engine, and what is under way in it.
pub(crate) struct Open {
    pub(crate) engine: engine::Engine,
    /// Contexts that are open, by name: whoever opens one twice has the same twice.
    pub(crate) contexts: Mutex<Contexts>,
    cancels: Mutex<Vec<Cancel>>,
    gate: Gate,
    /// Dropped after the engine: whoever waits for it to be closed then sees that it is.
    _alive: Sender<()>,
}

impl Open {
    /// A handle for a job of this engine: closing cancels it too.
    pub(crate) fn cancel(&self) -> Cancel {
        let cancel = Cancel::new();
        let mut all = lock(&self.cancels);
        all.retain(|c| !c.is_cancelled());
        all.push(cancel.clone());
        cancel
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a few through at once.
struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Gate {
    fn through<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Pass<'a>(&'a Gate);
        impl Drop for Pass<'_> {
            fn drop(&mut self) {
                *lock(&self.0.free) += 1;
                self.0.freed.notify_one();
            }
        }
        let mut free = self.freed.wait_while(lock(&self.free), |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let _pass = Pass(self);
        work()
    }
}

/// Opens the engine of a store. What went wrong with its cache is put right and told in the status.
#[uniffi::export]
pub async fn open_engine(options: EngineOptions) -> Result<Arc<EngineHandle>> {
    off_thread(move || {
        let (alive, closed) = bounded(1);
        let open = Open {
            engine: engine::Engine::open(options.into_engine()?)?,
            contexts: Mutex::default(),
            cancels: Mutex::default(),
            gate: Gate { free: Mutex::new(QUESTIONS_AT_ONCE), freed: Condvar::new() },
            _alive: alive,
        };
        Ok(Arc::new(EngineHandle { open: Mutex::new(Some(Arc::new(open))), closed }))
    })
    .await
}

/// Answers on a thread beside this one, and sends on what happens: waking a host up, which may take as long as the host holds its
/// lock, never holds up the reader.
fn answer(
    engine: &engine::Engine,
    question: &str,
    options: &engine::AskOptions,
    cancel: &Cancel,
    events: &Sender<AskEvent>,
) -> Result<Answer> {
    let gathered = Gathered::default();
    std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            let _ending = gathered.ending();
            engine.ask_with(question, options, cancel, &mut |event| {
                if let Some(event) = AskEvent::of(event) {
                    gathered.add(event);
                }
            })
        });
        while let Some(told) = gathered.take() {
            told.into_iter().for_each(|event| drop(events.try_send(event)));
        }
        let answer = answering.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(answer.into())
    })
}

/// An engine. Every method may be called from any thread at any time.
#[derive(uniffi::Object)]
pub struct EngineHandle {
    open: Mutex<Option<Arc<Open>>>,
    closed: Receiver<()>,
}

impl EngineHandle {
    pub(crate) fn open(&self) -> Result<Arc<Open>> {
        lock(&self.open).clone().ok_or_else(PalimpsestError::engine_closed)
    }

    async fn with<T: Send + 'static>(&self, work: impl FnOnce(&Open) -> Result<T> + Send + 'static) -> Result<T> {
        let open = self.open()?;
        off_thread(move || work(&open)).await
    }

    fn let_go(&self) {
        let Some(open) = lock(&self.open).take() else { return };
        lock(&open.cancels).iter().for_each(Cancel::cancel);
        // The last to let go writes what the store holds: never on the host's thread.
        blocking::unblock(move || drop(open)).detach();
    }
}

#[uniffi::export]
impl EngineHandle {
    /// Brings files and folders in, and what was ingested below them before in step with them.
    pub fn ingest(&self, paths: Vec<String>, options: IngestOptions) -> Result<Arc<IngestJob>> {
        let (open, options) = (self.open()?, options.try_into()?);
        let paths: Vec<PathBuf> = paths.into_iter().map(PathBuf::from).collect();
        let job = Job::start(open.cancel(), move |events, cancel| {
            let progress = |p: &index::Progress| drop(events.try_send(p.into()));
            Ok(open.engine.ingest_as(&paths, &options, cancel, &progress)?.into())
        });
        Ok(Arc::new(IngestJob { job }))
    }

    /// Adds texts, or replaces those of the same ids. From then until this engine ingests files or is closed, no other engine may
    /// write to the store.
    pub async fn put(&self, documents: Vec<TextDocument>) -> Result<IngestReport> {
        self.with(move |open| {
            let index = open.engine.index();
            let mut report = IngestReport::default();
            for document in documents {
                *match index.add(document.into())? {
                    Change::Added => &mut report.added,
                    Change::Updated => &mut report.updated,
                    Change::Unchanged => &mut report.unchanged,
                } += 1;
            }
            index.commit()?;
            Ok(report)
        })
        .await
    }

    /// Forgets the document with this id or path.
    pub async fn forget(&self, document: String) -> Result<()> {
        self.with(move |open| Ok(open.engine.forget(&document)?)).await
    }

    /// The document with this id or path, with its text.
    pub async fn document(&self, document: String) -> Result<Document> {
        self.with(move |open| Ok(open.engine.document(&document)?.into())).await
    }

    /// All documents, without their texts.
    pub async fn documents(&self) -> Result<Vec<DocumentSummary>> {
        self.with(|open| Ok(open.engine.documents()?.into_iter().map(Into::into).collect())).await
    }

    /// The passages that match `query` best.
    pub async fn search(&self, query: String, options: SearchOptions) -> Result<Vec<Hit>> {
        self.with(move |open| {
            let mut how = index::SearchOptions::default();
            how.limit = options.limit.map_or(how.limit, |n| n as usize);
            how.filter = options.filter.map(Into::into);
            Ok(open.engine.search_with(&query, &how)?.into_iter().map(Into::into).collect())
        })
        .await
    }

    /// Answers `question` from the documents.
    pub fn ask(&self, question: String, options: AskOptions) -> Result<Arc<AskJob>> {
        let open = self.open()?;
        let job = Job::start(open.cancel(), move |events, cancel| {
            open.gate.through(|| answer(&open.engine, &question, &options.into(), cancel, events))
        });
        Ok(Arc::new(AskJob { job }))
    }

    /// Answers many questions from the documents, each as `ask` does: they share the weights and the passages that are read.
    pub fn ask_many(&self, questions: Vec<String>, options: AskOptions) -> Result<Arc<AskManyJob>> {
        let open = self.open()?;
        let job = Job::start(open.cancel(), move |_, cancel| {
            let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
            let answers = open.gate.through(|| open.engine.ask_many(&questions, &options.into(), cancel))?;
            Ok(answers.into_iter().map(Answer::from).collect())
        });
        Ok(Arc::new(AskManyJob { job }))
    }

    /// What it holds.
    pub async fn status(&self) -> Result<Status> {
        self.with(|open| Ok(open.engine.status()?.into())).await
    }

    /// What its reader is. Loads it, as the first question does.
    pub async fn model_info(&self) -> Result<ModelInfo> {
        self.with(|open| Ok((&*open.engine.reader()?).into())).await
    }

    /// Compares every byte of the store with what was written. `repair` removes snapshots that are not whole; they are read
    /// again when needed.
    pub async fn verify(&self, repair: bool) -> Result<Verified> {
        self.with(move |open| Ok(open.engine.verify(repair)?.into())).await
    }

    /// Lets go of memory that can be had again: buffers, and the reader while nothing uses it. The next question loads it
    /// again. Returns the bytes of weights that were let go.
    pub async fn trim_memory(&self) -> Result<u64> {
        self.with(|open| Ok(open.engine.trim_memory())).await
    }

    /// Cancels what is under way, waits until it has ended, and lets go of the store: it may be opened again at once. Every
    /// later call fails as closed. Closing twice is closing once.
    pub async fn shut(&self) {
        self.let_go();
        // Nothing is ever sent: it is closed with the engine.
        let _ = self.closed.recv().await;
    }

    /// As `shut`, holding up the caller's thread: at most as long as a segment of a text takes to be read.
    pub fn shut_now(&self) {
        self.let_go();
        let _ = self.closed.recv_blocking();
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// An ingest under way.
#[derive(uniffi::Object)]
pub struct IngestJob {
    job: Job<IngestProgress, IngestReport>,
}

#[uniffi::export]
impl IngestJob {
    /// How far it is, each time there is something new; none at the end.
    pub async fn next(&self) -> Result<Option<IngestProgress>> {
        self.job.next().await
    }

    /// What it did, once it has ended.
    pub async fn result(&self) -> Result<IngestReport> {
        self.job.result().await
    }

    /// Ends it. What went in before stays.
    pub fn cancel(&self) {
        self.job.cancel();
    }
}

/// A question under way.
#[derive(uniffi::Object)]
pub struct AskJob {
    job: Job<AskEvent, Answer>,
}

#[uniffi::export]
impl AskJob {
    /// The next event; none after the last.
    pub async fn next(&self) -> Result<Option<AskEvent>> {
        self.job.next().await
    }

    /// The whole answer, once there is one.
    pub async fn result(&self) -> Result<Answer> {
        self.job.result().await
    }

    /// Ends it. What was read until then is kept.
    pub fn cancel(&self) {
        self.job.cancel();
    }
}

/// Many questions under way.
#[derive(uniffi::Object)]
pub struct AskManyJob {
    job: Job<(), Vec<Answer>>,
}

#[uniffi::export]
impl AskManyJob {
    /// The answers, in the order of the questions, once there are all.
    pub async fn result(&self) -> Result<Vec<Answer>> {
        self.job.result().await
    }

    /// Ends it. What was read until then is kept.
    pub fn cancel(&self) {
        self.job.cancel();
    }
}
