//! The contexts of a store: long texts that are read once and asked by name.

use std::path::{Path, PathBuf};

use super::Engine;
use crate::cancel::Cancel;
use crate::context::{Context, Stoppable};
use crate::error::{Error, Result};

impl Engine {
    /// The folder of the context `name`, whether it exists or not.
    ///
    /// # Errors
    /// [`Error::Input`] when `name` is no file name of letters, digits, `.`, `_` and `-`.
    pub fn context_folder(&self, name: &str) -> Result<PathBuf> {
        let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.starts_with('.') || name.len() > 100 || !name.chars().all(plain) {
            return Err(Error::Input(format!(
                "{name:?} cannot name a context: letters, digits, '.', '_' and '-', 100 bytes at most"
            )));
        }
        Ok(self.options.store.join("contexts").join(name))
    }

    /// The context `name`.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn context(&self, name: &str) -> Result<Context> {
        Context::open(&self.reader()?, &self.context_folder(name)?)?.beside(&self.store)
    }

    /// The context `name` of the file `source` under `title`: begun, or taken up where it was. Where the file holds another version
    /// of the text, reading begins at the first section that changed; where the context is damaged, it is made anew, with a
    /// notice. What is still to be read is for [`Context::advance`].
    ///
    /// # Errors
    /// As [`Context::of_file`].
    pub fn context_of(&self, name: &str, title: &str, source: &Path) -> Result<Context> {
        Context::of_file(&self.reader()?, &self.context_folder(name)?, title, source)?.beside(&self.store)
    }

    /// Reads `source` into the new context `name`, keeping what [`Context::beside`] says. `progress` gets the tokens read so far
    /// and all of them.
    ///
    /// # Errors
    /// As [`Context::read`].
    pub fn read_context(
        &self,
        name: &str,
        title: &str,
        source: impl std::io::Read,
        cancel: &Cancel,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Context> {
        let source = Stoppable { source, cancel };
        let begun = Context::begin(&self.reader()?, &self.context_folder(name)?, title, source);
        let mut context = cancel.check().and(begun)?.beside(&self.store)?;
        context.advance(cancel, progress)?;
        Ok(context)
    }

    /// Makes the blob that [`Context::export`] packed the context `name`.
    ///
    /// # Errors
    /// As [`Context::import`].
    pub fn import_context(&self, name: &str, blob: &mut dyn std::io::Read) -> Result<Context> {
        Context::import(&self.reader()?, &self.context_folder(name)?, blob)?.beside(&self.store)
    }

    /// The names of all contexts, in order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn contexts(&self) -> Result<Vec<String>> {
        let folder = self.options.store.join("contexts");
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::io(&folder, e)),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|e| e.path().join("seal.json").exists())
            .filter_map(|e| e.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes the context `name` and all it kept.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none.
    pub fn drop_context(&self, name: &str) -> Result<()> {
        let folder = self.context_folder(name)?;
        if !folder.exists() {
            return Err(Error::Input(format!("no context {name} in this store: `palimpsest context list` lists them")));
        }
        std::fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))
    }
}
