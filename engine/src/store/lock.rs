//! Who may write?

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::shelf::make_folder;
use super::{StoreError, StoreEvent, StoreOptions};

/// The lock on the store's folder. `None`, with an event, where another process has it.
pub(super) fn take(folder: &Path, options: &StoreOptions, events: &mut Vec<StoreEvent>) -> Result<Option<File>, StoreError> {
    if let Err(e) = make_folder(folder, events) {
        return read_only_instead(folder, e, events);
    }
    let path = folder.join("lock");
    let mut open = File::options();
    open.read(true).write(true).create(true).truncate(false);
    let mut file = match open.open(&path) {
        Ok(file) => file,
        // A folder in its place.
        Err(_) if path.is_dir() => {
            let aside = folder.join("lock.set-aside");
            std::fs::rename(&path, &aside).map_err(|e| StoreError::io("set aside", &path, e))?;
            events.push(StoreEvent::SetAside { path: aside, reason: "it is a folder where a file belongs".into() });
            open.open(&path).map_err(|e| StoreError::io("open", &path, e))?
        }
        Err(e) => return read_only_instead(folder, StoreError::io("open", &path, e), events),
    };
    match file.try_lock() {
        Ok(()) => {
            // For the message to the next one; nothing depends on it.
            let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            let in_use = StoreError::InUse { folder: folder.to_path_buf(), holder };
            if options.exclusive {
                return Err(in_use);
            }
            events.push(StoreEvent::ReadOnly { folder: folder.to_path_buf(), reason: in_use.to_string() });
            Ok(None)
        }
        Err(TryLockError::Error(e)) => read_only_instead(folder, StoreError::io("lock", &path, e), events),
    }
}

/// A store that cannot be written may still be read.
fn read_only_instead(folder: &Path, e: StoreError, events: &mut Vec<StoreEvent>) -> Result<Option<File>, StoreError> {
    if !folder.join("slots").is_dir() {
        return Err(e);
    }
    events.push(StoreEvent::ReadOnly { folder: folder.to_path_buf(), reason: e.to_string() });
    Ok(None)
}
