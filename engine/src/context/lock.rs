//! Who may read a context on, or ask it? One process, one context at a time.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// A child process that is being started holds a copy of every open lock for a moment.
const TRIES: u32 = 25;
const PAUSE: Duration = Duration::from_millis(20);

/// The lock on a context's folder, or who has it.
pub(super) enum Lock {
    Held(File),
    /// A sentence.
    Elsewhere {
        reason: String,
        /// Somebody has it, so far as that can be told.
        in_use: bool,
    },
}

impl Lock {
    /// Tries to take it, for half a second.
    pub(super) fn take(folder: &Path) -> Self {
        let path = folder.join("lock");
        let mut file = match File::options().read(true).write(true).create(true).truncate(false).open(&path) {
            Ok(file) => file,
            Err(e) => {
                let reason = format!("it can only be looked at: {} cannot be opened: {e}", path.display());
                return Self::Elsewhere { reason, in_use: false };
            }
        };
        for left in (0..TRIES).rev() {
            match file.try_lock() {
                Ok(()) => {
                    // For the message to the next one; nothing depends on it.
                    let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
                    return Self::Held(file);
                }
                Err(TryLockError::WouldBlock) if left > 0 => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) => {
                    let reason = format!("it can only be looked at: no lock to be had: {e}");
                    return Self::Elsewhere { reason, in_use: false };
                }
            }
        }
        let mut holder = String::new();
        let holder = file.read_to_string(&mut holder).ok().and_then(|_| holder.trim().parse::<u32>().ok());
        let holder = holder.map_or(String::new(), |pid| format!(" ({pid})"));
        let reason = format!("it is in use by another process{holder}, or open twice in this one");
        Self::Elsewhere { reason, in_use: true }
    }

    /// # Errors
    /// [`Error::Context`] where someone else has it.
    pub(super) fn held(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Held(_) => Ok(()),
            Self::Elsewhere { reason, in_use } => {
                Err(Error::Context { folder: folder.to_path_buf(), reason: reason.clone(), in_use: *in_use })
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Self::Held(file) = self {
            // Closing ours would not do while a child holds a copy.
            let _ = file.unlock();
        }
    }
}
