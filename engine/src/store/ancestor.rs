//! The tree of prefixes: which ancestor of these ids is kept?
//!
//! Keys do not say whose prefix they are, so each length in question costs a key and a look into the book, both in memory. The
//! lengths in question are few: those of what begins with the same 64 ids. Of all that, one snapshot is read from disk.

use super::Store;
use super::lookup::HashIds;
use crate::snapshot::{Chain, Fingerprint, Form, Refusal, Restore, Snapshot, SnapshotKey};

impl Store {
    pub(super) fn find_longest<E>(
        &self,
        fingerprint: &Fingerprint,
        tokens: u64,
        hash: &mut HashIds<'_, E>,
    ) -> Result<(Option<Snapshot>, Restore), E> {
        let mut chain = Chain::new(fingerprint);
        let root = tokens.min(Chain::ROOT_TOKENS as u64);
        let mut begun = chain.clone();
        hash(&mut begun, 0..root)?;
        let lengths = self.shelf().ledger.lengths(begun.key().root());
        let mut keys = Vec::new();
        for length in lengths.into_iter().take_while(|l| *l <= tokens) {
            // The first ids have been hashed already.
            if length >= root && chain.tokens() < root {
                chain = begun.clone();
            }
            let from = chain.tokens();
            hash(&mut chain, from..length)?;
            keys.push((length, chain.key()));
        }
        let mut refused = None;
        for (length, key) in keys.iter().rev() {
            match self.fetch_or_near(key, fingerprint) {
                Some(Ok((snapshot, exact))) => {
                    let restore = match (exact, *length == tokens) {
                        (true, true) => Restore::Exact { tokens },
                        (true, false) => Restore::Prefix { tokens: *length },
                        (false, _) => Restore::Near { tokens: *length },
                    };
                    return Ok((Some(snapshot), restore));
                }
                Some(Err(refusal)) => refused = refused.or(Some(refusal)),
                None => {}
            }
        }
        let why = match refused {
            Some(why) => why,
            None => {
                let mut whole = if chain.tokens() >= root { chain } else { begun };
                let from = whole.tokens();
                hash(&mut whole, from..tokens)?;
                self.shelf().missing(&whole.key(), fingerprint)
            }
        };
        Ok((None, Restore::Refused(why)))
    }

    /// The state that `key` names and whether it is that state exactly; one of other arithmetic where the store may use those.
    /// `None` where neither is kept.
    fn fetch_or_near(&self, key: &SnapshotKey, fingerprint: &Fingerprint) -> Option<Result<(Snapshot, bool), Refusal>> {
        if self.contains(key) {
            return Some(self.fetch(key, fingerprint).map(|s| (s, self.options.form == Form::F32)));
        }
        if !self.options.other_arithmetic {
            return None;
        }
        let other = self.shelf().ledger.of_text(key).find_map(|(key, entry)| {
            let only_arithmetic = matches!(fingerprint.refuses(&entry.fingerprint), Some(Refusal::OtherArithmetic { .. }));
            only_arithmetic.then_some((*key, entry.fingerprint))
        });
        other.map(|(key, fingerprint)| self.fetch(&key, &fingerprint).map(|s| (s, false)))
    }
}
