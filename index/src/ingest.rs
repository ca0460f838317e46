//! How do files and folders get in, and stay in step?
//!
//! A walk names the files, a few threads read, cut and add them, so that what is in memory is the files being read. A file
//! that is as it was (length and time, else content hash) is left alone. What was ingested below a folder and is not there
//! any more is removed, unless that part of the folder could not be listed.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::card::{Card, FileStamp, cards, read_card};
use crate::document::{Value, hex};
use crate::extract::{Decoded, extract, markdown_title};
use crate::open::canonical;
use crate::place::Layout;
use crate::records::{self, FieldMap};
use crate::stream::{self, Stop};
use crate::walk::{Job, Walk};
use crate::{Change, Document, Format, Index, IndexError, Unread};

/// A file touched less than this before it was read may be touched again within the same instant of its clock.
const YOUNG: Duration = Duration::from_secs(1);

/// Between two reports of progress.
const REPORT_EVERY: Duration = Duration::from_millis(50);

/// Between two commits: what a kill can cost.
const COMMIT_EVERY: Duration = Duration::from_secs(20);

/// Texts that are their file are read in blocks above this.
const STREAM_BYTES: u64 = 4 << 20;

/// Longest file that is read whole, as every other format is.
const WHOLE_BYTES: u64 = 256 << 20;

/// Between two looks at how far a long file is.
const STEP_BYTES: u64 = 1 << 20;

/// What a caller says of what is brought in.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct IngestOptions {
    /// Tables (CSV, TSV, JSON lines) become a document a record by this map, which is kept with them for the next time. A table
    /// that never had a map is taken as the text that it is.
    pub fields: Option<FieldMap>,
    /// Kept with every document that is brought in, beside what was kept with it before.
    pub metadata: BTreeMap<String, Value>,
}

/// How far an ingest is.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Files looked at so far.
    pub files_done: usize,
    /// Files found; grows while folders are still being listed.
    pub files_total: usize,
    /// Bytes of the files looked at.
    pub bytes_done: u64,
    /// Bytes of the files found.
    pub bytes_total: u64,
    /// Since the ingest began.
    pub seconds: f64,
}

impl Progress {
    /// How fast it goes.
    #[must_use]
    pub fn bytes_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes_done as f64 / self.seconds } else { 0.0 }
    }

    /// What is left of the files found so far, at that pace; `None` before anything is done.
    #[must_use]
    pub fn seconds_left(&self) -> Option<f64> {
        let rate = self.bytes_per_s();
        (rate > 0.0).then(|| self.bytes_total.saturating_sub(self.bytes_done) as f64 / rate)
    }
}

/// What an ingest did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IngestReport {
    /// Documents that were not there before.
    pub added: usize,
    /// Documents whose text is another one now.
    pub updated: usize,
    /// Documents that are as they were.
    pub unchanged: usize,
    /// Documents whose file is gone.
    pub removed: usize,
    /// Files in folders that are of no format read here.
    pub ignored: usize,
    /// Files and records that were left out, and why.
    pub failed: Vec<(PathBuf, Unread)>,
}

impl IngestReport {
    /// Counts what a document came to.
    pub(crate) fn count(&mut self, change: Change) {
        match change {
            Change::Added => self.added += 1,
            Change::Updated => self.updated += 1,
            Change::Unchanged => self.unchanged += 1,
        }
    }

    fn join(&mut self, other: Self) {
        self.added += other.added;
        self.updated += other.updated;
        self.unchanged += other.unchanged;
        self.removed += other.removed;
        self.failed.extend(other.failed);
    }
}

/// What the threads of an ingest share.
pub(crate) struct Run<'a> {
    index: &'a Index,
    options: &'a IngestOptions,
    progress: &'a (dyn Fn(&Progress) + Sync),
    stop: &'a AtomicBool,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    report: IngestReport,
    progress: Progress,
    reported: Instant,
    committed: Instant,
    /// The first refusal of the index itself ends the ingest.
    error: Option<IndexError>,
}

impl Index {
    /// Brings files and folders in, and what was ingested below them before in step with them. Commits.
    ///
    /// Hidden files and files of formats that are not read here are passed over in folders; a file named by itself is taken
    /// whatever its name, as text where its name says nothing. A file named by itself that is gone is removed; of a folder
    /// that is gone the documents stay, since it may be on a disk that is not there today.
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process writes; a file that cannot be read is in the report instead.
    pub fn ingest(&self, paths: &[PathBuf], progress: &(dyn Fn(&Progress) + Sync)) -> Result<IngestReport, IndexError> {
        self.ingest_with(paths, &IngestOptions::default(), &AtomicBool::new(false), progress)
    }

    /// As [`Index::ingest`], with tables as records and with metadata, until `stop` is set: it is looked at before every
    /// file, and after every mebibyte of a long one.
    ///
    /// # Errors
    /// As [`Index::ingest`]; [`IndexError::Stopped`]: what went in before is kept, and the next ingest goes on from it.
    pub fn ingest_with(
        &self,
        paths: &[PathBuf],
        options: &IngestOptions,
        stop: &AtomicBool,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<IngestReport, IndexError> {
        self.commit()?;
        self.refresh()?;
        let now = Instant::now();
        let state =
            State { report: IngestReport::default(), progress: Progress::default(), reported: now, committed: now, error: None };
        let run = Run { index: self, options, progress, stop, began: now, state: Mutex::new(state) };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let (sender, receiver) = sync_channel(threads * 16);
        let receiver = Mutex::new(receiver);
        let walk = std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| run.work(&receiver));
            }
            let walk = Walk::of(paths, &run, &sender);
            // Ends the threads once they have taken what is left.
            drop(sender);
            walk
        });
        run.remove_gone(&walk);
        let mut state = run.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.error {
            // What went in before is good: it is kept, and the next ingest goes on from it.
            let _ = self.finish();
            return Err(error);
        }
        self.finish()?;
        state.progress.seconds = now.elapsed().as_secs_f64();
        progress(&state.progress);
        state.report.failed.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(state.report)
    }
}

impl Run<'_> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn failed(&self, path: &Path, reason: Unread) {
        self.state().report.failed.push((path.to_path_buf(), reason));
    }

    pub(crate) fn ignored(&self) {
        self.state().report.ignored += 1;
    }

    /// One more file of that length.
    pub(crate) fn found(&self, bytes: u64) {
        let mut state = self.state();
        state.progress.files_total += 1;
        state.progress.bytes_total += bytes;
    }

    pub(crate) fn stopped(&self) -> bool {
        if self.stop.load(Ordering::Acquire) {
            self.stop(IndexError::Stopped);
        }
        self.state().error.is_some()
    }

    fn stop(&self, error: IndexError) {
        self.state().error.get_or_insert(error);
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            if self.stopped() {
                continue;
            }
            let mut file = Part { run: self, bytes: job.bytes, counted: 0, waiting: 0, may_commit: false };
            let report = self.bring_in(&job, &mut file).and_then(|report| file.done().map(|()| report));
            match report {
                Ok(report) => self.state().report.join(report),
                Err(error) => self.stop(error),
            }
        }
    }

    /// Reads a file and adds what it says, unless it is as it was.
    fn bring_in(&self, job: &Job, file: &mut Part<'_>) -> Result<IngestReport, IndexError> {
        let mut report = IngestReport::default();
        let outcome = match self.map(job)? {
            Some(map) => return self.table(job, &map, file),
            None if job.format.is_the_file() && job.bytes > STREAM_BYTES => self.stream(job, file),
            None => self.whole(job),
        };
        match outcome {
            Ok(change) => report.count(change),
            Err(Stop::File(reason)) => report.failed.push((job.path.clone(), reason)),
            Err(Stop::Index(error)) => return Err(error),
        }
        Ok(report)
    }

    /// How the file becomes records: as the caller says, or as it did before.
    fn map(&self, job: &Job) -> Result<Option<FieldMap>, IndexError> {
        if !matches!(job.format, Format::Csv | Format::JsonLines) {
            return Ok(None);
        }
        match &self.options.fields {
            Some(map) => Ok(Some(map.clone())),
            None => records::map_of(self.index, &job.id),
        }
    }

    /// Brings the records of a table in, and those that it had before in step.
    fn table(&self, job: &Job, map: &FieldMap, file: &mut Part<'_>) -> Result<IngestReport, IndexError> {
        let mut report = IngestReport::default();
        file.may_commit = true;
        if self.index.latest(&job.id)?.is_some_and(|card| card.file.is_some()) {
            // It was taken as a text before.
            self.index.remove(&job.id)?;
            report.removed += 1;
        }
        records::bring_in(self.index, &job.path, map, &self.options.metadata, &mut report, &mut |bytes| file.more(bytes))?;
        Ok(report)
    }

    /// What is kept of the file, and the metadata that it is to have.
    fn kept(&self, job: &Job) -> Result<(Option<Card>, BTreeMap<String, Value>), IndexError> {
        let old = self.index.latest(&job.id)?;
        let mut metadata = old.as_ref().map(|card| card.metadata.clone()).unwrap_or_default();
        metadata.extend(self.options.metadata.clone());
        Ok((old, metadata))
    }

    /// A file that is read whole.
    fn whole(&self, job: &Job) -> Result<Change, Stop> {
        let (old, metadata) = self.kept(job)?;
        let stamp = old.filter(|card| card.metadata == metadata).and_then(|card| card.file);
        let modified_ns = job.modified.and_then(settled);
        if stamp.as_ref().is_some_and(|stamp| stamp.is_of(job.bytes, modified_ns)) {
            return Ok(Change::Unchanged);
        }
        if job.bytes > WHOLE_BYTES {
            return Err(Unread::TooLarge { bytes: job.bytes, limit: WHOLE_BYTES }.into());
        }
        let bytes = std::fs::read(&job.path).map_err(Unread::from)?;
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        if stamp.is_some_and(|stamp| stamp.blake3 == blake3) {
            return Ok(Change::Unchanged);
        }
        let file = FileStamp { bytes: bytes.len() as u64, modified_ns, blake3 };
        let extracted = extract(bytes, job.format)?;
        let mut document = Document::new(&job.id, extracted.title.unwrap_or_else(|| job.stem()), extracted.text);
        document.path = Some(job.path.clone());
        document.format = extracted.format;
        document.decoded = extracted.decoded;
        document.metadata = metadata;
        let layout = if extracted.pages.is_empty() { Layout::Text } else { Layout::Pages(&extracted.pages) };
        Ok(self.index.put(&document, Some(file), layout)?)
    }

    /// A text of any length, read twice: once for what its card says, once for its passages.
    fn stream(&self, job: &Job, file: &mut Part<'_>) -> Result<Change, Stop> {
        let (old, metadata) = self.kept(job)?;
        let known = old.is_some();
        let stamp = old.filter(|card| card.metadata == metadata).and_then(|card| card.file);
        let modified_ns = job.modified.and_then(settled);
        if stamp.as_ref().is_some_and(|stamp| stamp.is_of(job.bytes, modified_ns)) {
            return Ok(Change::Unchanged);
        }
        let bounds = self.index.settings.bounds();
        let source = Decoded::of(&job.path)?;
        let open = || source.read(&job.path).map_err(Unread::from);
        let (mut content, mut text, mut passages, mut bytes) = (blake3::Hasher::new(), Sha256::new(), 0u32, 0u64);
        let mut title = None;
        stream::passages(open()?, bounds, |passage| {
            content.update(passage.as_bytes());
            text.update(passage.as_bytes());
            if passages == 0 && job.format == Format::Markdown {
                title = markdown_title(passage);
            }
            passages += 1;
            bytes += passage.len() as u64;
            // Half of the work, as far as anyone watches.
            Ok(file.more(passage.len() as u64 / 2)?)
        })?;
        let blake3 = content.finalize();
        if stamp.is_some_and(|stamp| stamp.blake3 == *blake3.to_hex()) {
            return Ok(Change::Unchanged);
        }
        let mut document = Document::new(&job.id, title.unwrap_or_else(|| job.stem()), "");
        document.path = Some(job.path.clone());
        document.format = job.format;
        document.decoded = source.is_decoded();
        document.metadata = metadata;
        let card = Card {
            text_bytes: bytes,
            passages,
            text_sha256: hex(&text.finalize()),
            // What is read from here on is compared with what was read before: a file that was too young then may be old enough now.
            file: Some(FileStamp {
                bytes: job.bytes,
                modified_ns: job.modified.and_then(settled),
                blake3: blake3.to_hex().to_string(),
            }),
            ..Card::of(&document)
        };
        self.index.replace(card, Layout::Text, |adding| {
            let mut again = blake3::Hasher::new();
            stream::passages(open()?, bounds, |passage| {
                again.update(passage.as_bytes());
                adding.passage(passage)?;
                Ok(file.more(passage.len() as u64 / 2)?)
            })?;
            if again.finalize() == blake3 { Ok(()) } else { Err(Stop::File(Unread::Changed)) }
        })?;
        Ok(if known { Change::Updated } else { Change::Added })
    }

    /// Removes what was ingested below the folders walked and was not seen now.
    fn remove_gone(&self, walk: &Walk) {
        if self.stopped() {
            return;
        }
        if let Err(error) = self.try_remove_gone(walk) {
            self.stop(error);
        }
    }

    fn try_remove_gone(&self, walk: &Walk) -> Result<(), IndexError> {
        let searcher = self.index.reader.searcher();
        let mut gone = HashSet::new();
        for root in &walk.roots {
            let below = if root.ends_with('/') { root.clone() } else { format!("{root}/") };
            for (id, address) in cards(&searcher, &self.index.fields, &below)? {
                if walk.saw(&id) || !walk.listed(&id) {
                    continue;
                }
                // A text of an app may be called like a file; only files go with their file, and records with theirs.
                let card = read_card(&searcher, &self.index.fields, address)?;
                let record_of = card.path.as_ref().and_then(|p| p.to_str()).filter(|path| *path != id);
                let file_unseen = record_of.is_some_and(|path| !walk.saw(path));
                if card.file.is_some() || file_unseen {
                    gone.insert(id);
                }
            }
        }
        for path in &walk.gone {
            let Some(id) = canonical(path) else { continue };
            let records = cards(&searcher, &self.index.fields, &format!("{id}#"))?.into_iter().map(|(id, _)| id);
            let file = self.index.latest(&id)?.filter(|card| card.file.is_some()).map(|card| card.id);
            let before = gone.len();
            gone.extend(records.chain(file));
            if gone.len() > before {
                self.state().report.failed.retain(|(failed, _)| failed != path);
            }
        }
        for id in gone {
            self.index.remove(&id)?;
            self.state().report.removed += 1;
        }
        Ok(())
    }
}

/// How far one file is.
struct Part<'a> {
    run: &'a Run<'a>,
    /// Its length.
    bytes: u64,
    /// Bytes that were counted, and those that wait to be.
    counted: u64,
    waiting: u64,
    /// Whether it may be committed before it is done: not while a document is half in.
    may_commit: bool,
}

impl Part<'_> {
    /// Some bytes more are done.
    fn more(&mut self, bytes: u64) -> Result<(), IndexError> {
        self.waiting += bytes;
        if self.waiting < STEP_BYTES {
            return Ok(());
        }
        let step = self.waiting.min(self.bytes - self.counted.min(self.bytes));
        (self.counted, self.waiting) = (self.counted + step, 0);
        self.run.step(step, 0, self.may_commit)
    }

    /// All of it is.
    fn done(&mut self) -> Result<(), IndexError> {
        self.run.step(self.bytes - self.counted.min(self.bytes), 1, true)
    }
}

impl Run<'_> {
    /// Counts, reports, and commits when it is time and `may_commit`.
    fn step(&self, bytes: u64, files: usize, may_commit: bool) -> Result<(), IndexError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(IndexError::Stopped);
        }
        let mut state = self.state();
        state.progress.files_done += files;
        state.progress.bytes_done += bytes;
        state.progress.seconds = self.began.elapsed().as_secs_f64();
        let report = (state.reported.elapsed() >= REPORT_EVERY).then(|| state.progress.clone());
        if report.is_some() {
            state.reported = Instant::now();
        }
        let commit = may_commit && state.committed.elapsed() >= COMMIT_EVERY;
        if commit {
            state.committed = Instant::now();
        }
        drop(state);
        if let Some(progress) = report {
            (self.progress)(&progress);
        }
        if commit { self.index.commit() } else { Ok(()) }
    }
}

/// A file's time, when it is old enough to be told from the next.
fn settled(modified: SystemTime) -> Option<u64> {
    let age = SystemTime::now().duration_since(modified).ok()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    (age >= YOUNG).then(|| u64::try_from(since.as_nanos()).ok())?
}
