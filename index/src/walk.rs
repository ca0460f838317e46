//! Which files are there?
//!
//! Files and folders that were named become jobs, each file once however many names and links lead to it.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use walkdir::WalkDir;

use crate::extract::format_of;
use crate::ingest::Run;
use crate::{Format, Unread};

/// A file to be read.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) bytes: u64,
    pub(crate) modified: Option<SystemTime>,
}

impl Job {
    /// The title of a file that has none of its own.
    pub(crate) fn stem(&self) -> String {
        self.path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

/// Files and folders that were found.
#[derive(Default)]
pub(crate) struct Walk {
    /// Ids of the files seen, hashed.
    seen: HashSet<u64>,
    hasher: RandomState,
    /// Folders listed, canonical.
    pub(crate) roots: Vec<String>,
    /// Where listing failed: what lies below may still be there.
    unlisted: Vec<PathBuf>,
    /// Files named one by one that are gone.
    pub(crate) gone: Vec<PathBuf>,
}

impl Walk {
    /// Sends every file below `paths` to the threads of `run`.
    pub(crate) fn of(paths: &[PathBuf], run: &Run<'_>, jobs: &SyncSender<Job>) -> Self {
        let mut walk = Self::default();
        for path in paths {
            let root = match std::fs::canonicalize(path) {
                Ok(root) => root,
                Err(e) => {
                    walk.gone.push(path.clone());
                    run.failed(path, e.into());
                    continue;
                }
            };
            if root.is_file() {
                walk.offer(&root, format_of(&root).unwrap_or(Format::Text), run, jobs);
                continue;
            }
            match root.to_str() {
                Some(id) => walk.roots.push(id.to_string()),
                None => run.failed(path, Unread::Path),
            }
            let visible = |e: &walkdir::DirEntry| e.depth() == 0 || !e.file_name().as_encoded_bytes().starts_with(b".");
            for entry in WalkDir::new(&root).sort_by_file_name().into_iter().filter_entry(visible) {
                if run.stopped() {
                    return walk;
                }
                match entry {
                    Ok(entry) if entry.file_type().is_dir() => {}
                    Ok(entry) => match format_of(entry.path()) {
                        Some(format) => walk.offer(entry.path(), format, run, jobs),
                        None => run.ignored(),
                    },
                    Err(e) => {
                        let at = e.path().unwrap_or(&root).to_path_buf();
                        run.failed(&at, e.into_io_error().map_or(Unread::Path, Unread::from));
                        walk.unlisted.push(at);
                    }
                }
            }
        }
        walk
    }

    fn offer(&mut self, path: &Path, format: Format, run: &Run<'_>, jobs: &SyncSender<Job>) {
        // A link leads to its file, which is one document however many names it has.
        let (path, found) = match std::fs::canonicalize(path).and_then(|p| p.metadata().map(|m| (p, m))) {
            Ok(found) => found,
            Err(e) => return run.failed(path, e.into()),
        };
        let Some(id) = path.to_str().map(str::to_string) else { return run.failed(&path, Unread::Path) };
        if !found.is_file() || !self.seen.insert(self.hasher.hash_one(&id)) {
            return;
        }
        run.found(found.len());
        let job = Job { id, path, format, bytes: found.len(), modified: found.modified().ok() };
        // Without a thread to take it there was an error, which ends the walk.
        let _ = jobs.send(job);
    }

    /// Whether the file of that id was come by.
    pub(crate) fn saw(&self, id: &str) -> bool {
        self.seen.contains(&self.hasher.hash_one(id))
    }

    /// Whether the folders above the file of that id could be listed, so that it is gone if it was not seen.
    pub(crate) fn listed(&self, id: &str) -> bool {
        !self.unlisted.iter().any(|folder| Path::new(id).starts_with(folder))
    }
}
