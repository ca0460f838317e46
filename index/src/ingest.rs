//! How do files and folders get in, and stay in step?
//!
//! A walk names the files, a few threads read, cut and add them, so that what is in memory is the files being read. A file
//! that is as it was (length and time, else content hash) is left alone. What was ingested below a folder and is not there
//! any more is removed, unless that part of the folder could not be listed.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::card::{Card, FileStamp, cards, read_card};
use crate::document::hex;
use crate::extract::{extract, format_of, markdown_title};
use crate::open::canonical;
use crate::stream::{self, Stop};
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
    /// Files that were left out, and why.
    pub failed: Vec<(PathBuf, Unread)>,
}

/// A file to be read.
struct Job {
    id: String,
    path: PathBuf,
    format: Format,
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Job {
    /// The title of a file that has none of its own.
    fn stem(&self) -> String {
        self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// What the threads of an ingest share.
struct Run<'a> {
    index: &'a Index,
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

/// Files and folders found by the walk.
struct Walk {
    /// Ids of the files seen, hashed.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// Folders listed, canonical.
    roots: Vec<String>,
    /// Where listing failed: what lies below may still be there.
    unlisted: Vec<PathBuf>,
    /// Files named one by one that are gone.
    gone: Vec<PathBuf>,
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
        self.ingest_until(paths, &AtomicBool::new(false), progress)
    }

    /// As [`Index::ingest`], until `stop` is set: it is looked at before every file, and before every passage of a long one.
    ///
    /// # Errors
    /// As [`Index::ingest`]; [`IndexError::Stopped`]: what went in before is kept, and the next ingest goes on from it.
    pub fn ingest_until(
        &self,
        paths: &[PathBuf],
        stop: &AtomicBool,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<IngestReport, IndexError> {
        self.commit()?;
        self.refresh()?;
        let now = Instant::now();
        let state =
            State { report: IngestReport::default(), progress: Progress::default(), reported: now, committed: now, error: None };
        let run = Run { index: self, progress, stop, began: now, state: Mutex::new(state) };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let (sender, receiver) = sync_channel(threads * 16);
        let receiver = Mutex::new(receiver);
        let walk = std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| run.work(&receiver));
            }
            let walk = run.walk(paths, &sender);
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

    fn failed(&self, path: &Path, reason: Unread) {
        self.state().report.failed.push((path.to_path_buf(), reason));
    }

    fn stopped(&self) -> bool {
        let asked_to = self.asked_to_stop();
        let mut state = self.state();
        if asked_to {
            state.error.get_or_insert(IndexError::Stopped);
        }
        state.error.is_some()
    }

    fn asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn stop(&self, error: IndexError) {
        self.state().error.get_or_insert(error);
    }

    /// Sends every file below `paths` to the threads.
    fn walk(&self, paths: &[PathBuf], jobs: &SyncSender<Job>) -> Walk {
        let mut walk = Walk { seen: HashSet::new(), hasher: RandomState::new(), roots: vec![], unlisted: vec![], gone: vec![] };
        for path in paths {
            let root = match std::fs::canonicalize(path) {
                Ok(root) => root,
                Err(e) => {
                    walk.gone.push(path.clone());
                    self.failed(path, e.into());
                    continue;
                }
            };
            if root.is_file() {
                self.offer(&root, format_of(&root).unwrap_or(Format::Text), &mut walk, jobs);
                continue;
            }
            match root.to_str() {
                Some(id) => walk.roots.push(id.to_string()),
                None => self.failed(path, Unread::Path),
            }
            let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().as_encoded_bytes().starts_with(b".");
            for entry in WalkDir::new(&root).sort_by_file_name().into_iter().filter_entry(visible) {
                if self.stopped() {
                    return walk;
                }
                match entry {
                    Ok(entry) if entry.file_type().is_dir() => {}
                    Ok(entry) => match format_of(entry.path()) {
                        Some(format) => self.offer(entry.path(), format, &mut walk, jobs),
                        None => self.state().report.ignored += 1,
                    },
                    Err(e) => {
                        let at = e.path().unwrap_or(&root).to_path_buf();
                        self.failed(&at, e.into_io_error().map_or(Unread::Path, Unread::from));
                        walk.unlisted.push(at);
                    }
                }
            }
        }
        walk
    }

    fn offer(&self, path: &Path, format: Format, walk: &mut Walk, jobs: &SyncSender<Job>) {
        // A link leads to its file, which is one document however many names it has.
        let (path, found) = match std::fs::canonicalize(path).and_then(|p| p.metadata().map(|m| (p, m))) {
            Ok(found) => found,
            Err(e) => return self.failed(path, e.into()),
        };
        let Some(id) = path.to_str().map(str::to_string) else { return self.failed(&path, Unread::Path) };
        if !found.is_file() || !walk.seen.insert(walk.hasher.hash_one(&id)) {
            return;
        }
        {
            let mut state = self.state();
            state.progress.files_total += 1;
            state.progress.bytes_total += found.len();
        }
        let job = Job { id, path, format, bytes: found.len(), modified: found.modified().ok() };
        // Without a thread to take it there was an error, which ends the walk.
        let _ = jobs.send(job);
    }

    fn work(&self, jobs: &Mutex<Receiver<Job>>) {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(job) = job else { return };
            if !self.stopped() {
                let bytes = job.bytes;
                match self.bring_in(&job) {
                    Ok(done) => self.done(&job.path, bytes, done),
                    Err(error) => self.stop(error),
                }
            }
        }
    }

    /// Reads a file and adds what it says, unless it is as it was.
    fn bring_in(&self, job: &Job) -> Result<Result<Change, Unread>, IndexError> {
        if matches!(job.format, Format::Csv | Format::JsonLines) && self.has_records(&job.id)? {
            return Ok(Ok(Change::Unchanged));
        }
        let old = self.index.latest(&job.id)?.and_then(|card| card.file);
        let modified_ns = job.modified.and_then(settled);
        if old.as_ref().is_some_and(|o| o.bytes == job.bytes && modified_ns.is_some() && o.modified_ns == modified_ns) {
            return Ok(Ok(Change::Unchanged));
        }
        if job.format.is_the_file() && job.bytes > STREAM_BYTES {
            match self.stream(job, old.as_ref(), modified_ns) {
                Ok(change) => return Ok(Ok(change)),
                Err(Stop::Index(error)) => return Err(error),
                // Another encoding has to be decoded whole.
                Err(Stop::File(Unread::NotText { .. })) => {}
                Err(Stop::File(reason)) => return Ok(Err(reason)),
            }
        }
        if job.bytes > WHOLE_BYTES {
            return Ok(Err(Unread::TooLarge { bytes: job.bytes, limit: WHOLE_BYTES }));
        }
        let bytes = match read(&job.path) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e.into())),
        };
        let blake3 = blake3::hash(&bytes).to_hex().to_string();
        if old.is_some_and(|o| o.blake3 == blake3) {
            return Ok(Ok(Change::Unchanged));
        }
        let file = FileStamp { bytes: bytes.len() as u64, modified_ns, blake3 };
        let extracted = match extract(bytes, job.format) {
            Ok(extracted) => extracted,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut document = Document::new(&job.id, extracted.title.unwrap_or_else(|| job.stem()), extracted.text);
        document.path = Some(job.path.clone());
        document.format = extracted.format;
        document.decoded = extracted.decoded;
        Ok(Ok(self.index.put(&document, Some(file), &extracted.pages)?))
    }

    /// Whether the file's records are documents, so that the file itself is none.
    fn has_records(&self, id: &str) -> Result<bool, IndexError> {
        Ok(!cards(&self.index.reader.searcher(), &self.index.fields, &format!("{id}#"))?.is_empty())
    }

    /// Brings in a text of any length, reading it twice: once for what its card says, once for its passages.
    fn stream(&self, job: &Job, old: Option<&FileStamp>, modified_ns: Option<u64>) -> Result<Change, Stop> {
        let bounds = self.index.settings.bounds();
        let open = || File::open(&job.path).map_err(Unread::from);
        let (mut content, mut text, mut passages, mut bytes) = (blake3::Hasher::new(), Sha256::new(), 0u32, 0u64);
        let mut title = None;
        let go_on = || if self.asked_to_stop() { Err(Stop::Index(IndexError::Stopped)) } else { Ok(()) };
        stream::passages(open()?, bounds, |passage| {
            go_on()?;
            content.update(passage.as_bytes());
            text.update(passage.as_bytes());
            if passages == 0 && job.format == Format::Markdown {
                title = markdown_title(passage);
            }
            passages += 1;
            bytes += passage.len() as u64;
            Ok(())
        })?;
        let blake3 = content.finalize();
        if old.is_some_and(|o| o.blake3 == *blake3.to_hex()) {
            return Ok(Change::Unchanged);
        }
        let mut document = Document::new(&job.id, title.unwrap_or_else(|| job.stem()), "");
        document.path = Some(job.path.clone());
        document.format = job.format;
        let card = Card {
            text_bytes: bytes,
            passages,
            text_sha256: hex(&text.finalize()),
            file: Some(FileStamp { bytes, modified_ns, blake3: blake3.to_hex().to_string() }),
            ..Card::of(&document)
        };
        let known = self.index.latest(&job.id)?.is_some();
        self.index.replace(card, &[], |adding| {
            let mut again = blake3::Hasher::new();
            stream::passages(open()?, bounds, |passage| {
                go_on()?;
                again.update(passage.as_bytes());
                Ok(adding.passage(passage)?)
            })?;
            if again.finalize() == blake3 { Ok(()) } else { Err(Stop::File(Unread::Changed)) }
        })?;
        Ok(if known { Change::Updated } else { Change::Added })
    }

    /// Counts a file, reports, and commits when it is time.
    fn done(&self, path: &Path, bytes: u64, outcome: Result<Change, Unread>) {
        let mut state = self.state();
        match outcome {
            Ok(Change::Added) => state.report.added += 1,
            Ok(Change::Updated) => state.report.updated += 1,
            Ok(Change::Unchanged) => state.report.unchanged += 1,
            Err(reason) => state.report.failed.push((path.to_path_buf(), reason)),
        }
        state.progress.files_done += 1;
        state.progress.bytes_done += bytes;
        state.progress.seconds = self.began.elapsed().as_secs_f64();
        let report = (state.reported.elapsed() >= REPORT_EVERY).then(|| state.progress.clone());
        if report.is_some() {
            state.reported = Instant::now();
        }
        let commit = state.committed.elapsed() >= COMMIT_EVERY;
        if commit {
            state.committed = Instant::now();
        }
        drop(state);
        if let Some(progress) = report {
            (self.progress)(&progress);
        }
        if commit && let Err(error) = self.index.commit() {
            self.stop(error);
        }
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
                let unseen = !walk.seen.contains(&walk.hasher.hash_one(&id));
                let listed = !walk.unlisted.iter().any(|folder| Path::new(&id).starts_with(folder));
                if !unseen || !listed {
                    continue;
                }
                // A text of an app may be called like a file; only files go with their file, and records with theirs.
                let card = read_card(&searcher, &self.index.fields, address)?;
                let record_of = card.path.as_ref().and_then(|p| p.to_str()).filter(|path| *path != id);
                let file_unseen = record_of.is_some_and(|path| !walk.seen.contains(&walk.hasher.hash_one(path)));
                if card.file.is_some() || file_unseen {
                    gone.insert(id);
                }
            }
        }
        for path in &walk.gone {
            let Some(id) = canonical(path) else { continue };
            if self.index.latest(&id)?.is_some_and(|card| card.file.is_some()) {
                self.state().report.failed.retain(|(failed, _)| failed != path);
                gone.insert(id);
            }
        }
        for id in gone {
            self.index.remove(&id)?;
            self.state().report.removed += 1;
        }
        Ok(())
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file's time, when it is old enough to be told from the next.
fn settled(modified: SystemTime) -> Option<u64> {
    let age = SystemTime::now().duration_since(modified).ok()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    (age >= YOUNG).then(|| u64::try_from(since.as_nanos()).ok())?
}
