//! How much room do contexts take on disk, and for what?

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Bytes of all contexts of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContextBytes {
    /// Contexts.
    pub contexts: u64,
    /// Their states, those before the last turns too: the same for each after any number of tokens.
    pub state_bytes: u64,
    /// Their logs of ids.
    pub log_bytes: u64,
    /// The indexes over the logs.
    pub index_bytes: u64,
    /// Their texts.
    pub text_bytes: u64,
}

impl ContextBytes {
    /// Adds the files of the context in `folder`; one that goes meanwhile takes no room.
    pub(crate) fn add(&mut self, folder: &Path) {
        self.contexts += 1;
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            let of = match name.split_once('-').map_or(name.as_str(), |(part, _)| part) {
                "state" | "turn" => &mut self.state_bytes,
                "log" => &mut self.log_bytes,
                "spans" => &mut self.index_bytes,
                "text" => &mut self.text_bytes,
                _ => continue,
            };
            *of += file.metadata().map_or(0, |m| m.len());
        }
    }
}
