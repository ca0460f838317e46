//! The states that a context keeps: in its folder, and in the store beside it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::Context;
use crate::error::{Error, Result};
use crate::snapshot::{Chain, Form, Restore, Snapshot, SnapshotKey};
use crate::state::State;

/// What is to be written of a state: `offer` to the store, at what it cost to read.
pub(super) struct Due {
    pub(super) key: SnapshotKey,
    pub(super) offer: Option<f32>,
    pub(super) keep: bool,
}

impl Context {
    /// Puts a state where it is due. What the store refuses costs time later, nothing else.
    pub(super) fn write(&self, state: &State, due: Due) -> Result<()> {
        let (tokens, fingerprint, data) = (state.tokens(), self.reader.fingerprint(), state.elements_here());
        if let (Some(store), Some(cost_ms)) = (&self.store, due.offer) {
            let _ = store.put(&due.key, fingerprint, tokens, &data, cost_ms);
        }
        if due.keep {
            let bytes = Snapshot::encode(tokens, &data, fingerprint, &due.key, Form::F32);
            write_whole(&self.folder.join("state"), &bytes)?;
        }
        Ok(())
    }

    pub(super) fn keep(&self, name: &str) -> Result<()> {
        let (tokens, key) = (self.state.tokens(), self.chain.key());
        let bytes = Snapshot::encode(tokens, &self.state.elements_here(), self.reader.fingerprint(), &key, Form::F32);
        write_whole(&self.folder.join(name), &bytes)
    }

    /// The state in `file`, proven to be the one after a prefix of the ids, and their chain; a sentence where it is not.
    pub(super) fn load(&self, file: &Path) -> Result<std::result::Result<(State, Chain), String>> {
        let read = fs::read(file).map_err(|e| e.to_string());
        let read = read.and_then(|bytes| Snapshot::tokens_of(&bytes).map(|n| (bytes, n)).map_err(|e| e.to_string()));
        let (bytes, tokens) = match read {
            Ok((_, tokens)) if tokens > self.all_tokens() => return Ok(Err("it is of another text".into())),
            Ok(read) => read,
            Err(reason) => return Ok(Err(reason)),
        };
        let chain = self.chain_of(tokens)?;
        let state = Snapshot::decode(&bytes, self.reader.fingerprint(), &chain.key()).map_err(|e| e.to_string());
        let since = self.since_boundary(tokens)?;
        let state = state.and_then(|s| self.reader.take_up(s.tokens, &s.data, &since).ok_or("it is of another size".into()));
        Ok(state.map(|state| (state, chain)))
    }

    pub(super) fn restore(&mut self) -> Result<()> {
        let file = self.folder.join("state");
        if !file.exists() {
            return Ok(());
        }
        match self.load(&file)? {
            Ok((state, chain)) => (self.state, self.chain) = (state, chain),
            Err(reason) => self
                .notices
                .push(format!("the kept state of {} was refused and the text is read again: {reason}", self.folder.display())),
        }
        Ok(())
    }

    /// Where nothing is read yet, the longest part of the text that the store has a state of.
    pub(super) fn restore_from_store(&mut self) -> Result<()> {
        let Some(store) = self.store.as_ref().filter(|_| self.state.tokens() == 0) else { return Ok(()) };
        let log = &self.log;
        let found = store.longest_of(self.reader.fingerprint(), log.tokens(), &mut |chain, range| log.hash(chain, range))?;
        // A state that is only near is not the one that this context stands for.
        if let (Some(snapshot), Restore::Exact { tokens } | Restore::Prefix { tokens }) = found
            && let Some(state) = self.reader.take_up(snapshot.tokens, &snapshot.data, &self.since_boundary(tokens)?)
        {
            self.chain = self.chain_of(tokens)?;
            self.state = state;
        }
        Ok(())
    }
}

/// Written beside and renamed: a reader sees the old bytes or the new ones.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().map_err(|e| Error::io(path, e))
}
