//! The tree of prefixes: which ancestor of these ids is kept?
//!
//! Keys do not say whose prefix they are, so each length in question costs a key and a look into the book, both in memory. The
//! lengths in question are few: those of what begins with the same 64 ids. Of all that, one snapshot is read from disk.

use super::Store;
use crate::snapshot::{Chain, Fingerprint, Restore, Snapshot};

impl Store {
    pub(super) fn find_longest(&self, fingerprint: &Fingerprint, ids: &[u32]) -> (Option<Snapshot>, Restore) {
        let mut chain = Chain::new(fingerprint);
        let (root, rest) = ids.split_at(ids.len().min(Chain::ROOT_TOKENS));
        let mut begun = chain.clone();
        begun.extend(root);
        let lengths = self.shelf().ledger.lengths(begun.key().root());
        let mut keys = Vec::new();
        let mut at = 0;
        for length in lengths.into_iter().filter_map(|l| usize::try_from(l).ok()).take_while(|l| *l <= ids.len()) {
            if length < root.len() {
                chain.extend(&ids[at..length]);
            } else {
                // The first ids have been hashed already.
                if at < root.len() {
                    (chain, at) = (begun.clone(), root.len());
                }
                chain.extend(&rest[at - root.len()..length - root.len()]);
            }
            at = length;
            keys.push(chain.key());
        }
        let mut refused = None;
        let lengths_found = keys.len();
        for (back, key) in keys.iter().rev().enumerate() {
            if !self.contains(key) {
                continue;
            }
            match self.fetch(key, fingerprint) {
                Ok(snapshot) => {
                    let tokens = snapshot.tokens;
                    let exact = back == 0 && at == ids.len() && lengths_found > 0;
                    let restore = if exact { Restore::Exact { tokens } } else { Restore::Prefix { tokens } };
                    return (Some(snapshot), restore);
                }
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        let why = refused.unwrap_or_else(|| {
            let whole = if at == ids.len() && at > 0 {
                chain
            } else {
                begun.extend(rest);
                begun
            };
            self.shelf().missing(&whole.key(), fingerprint)
        });
        (None, Restore::Refused(why))
    }
}
