//! Is everything of a context as it was written?

use std::fs;
use std::path::Path;

use super::log::Log;
use super::turns;
use crate::snapshot::Snapshot;

/// What is not as it was written in the context of `folder`, a sentence each: every byte is looked at. With `repair`, states that
/// are not whole are removed and not told of: they are read again from the log when needed.
pub(crate) fn verify(folder: &Path, repair: bool) -> Vec<String> {
    let mut found = match Log::open(folder) {
        Ok(log) => log.verify(),
        Err(e) => vec![e.to_string()],
    };
    if let Err(Some(reason)) = turns::read(folder) {
        found.push(reason);
    }
    let states = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    for path in states.filter(|p| p.file_name().is_some_and(|n| n == "state" || n.to_string_lossy().starts_with("turn-"))) {
        let whole = fs::read(&path).map_err(|e| e.to_string()).and_then(|b| Snapshot::check(&b).map_err(|e| e.to_string()));
        if let Err(reason) = whole
            && !(repair && fs::remove_file(&path).is_ok())
        {
            found.push(format!("{}: {reason}", path.display()));
        }
    }
    found
}
