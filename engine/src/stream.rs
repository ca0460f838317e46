//! A text of any length -> token ids, a piece at a time.
//!
//! A text may be cut only where the ids of its pieces, one after the other, provably are those of the whole. With a
//! byte-level pre-tokenizer (GPT-2's pattern, digits alone or not) that is before a space that stands between a character
//! that is no white space and a letter: no alternative of the pattern matches across such a place, since none goes on into
//! white space after something else, and ` ?\p{L}+` starts there. Other tokenizers give no such proof and get the whole
//! text at once.

use std::io::Read;

use tokenizers::{PreTokenizerWrapper, Tokenizer};

use crate::error::{Error, Result};

/// Bytes after which the next place to cut is looked for.
const PIECE_BYTES: usize = 64 << 10;

/// Bytes within which a place to cut must be found; a text without one for so long (one endless word) is refused.
const LONGEST_BYTES: usize = 64 << 20;

/// Whether pieces cut by [`cut`] have the ids of the whole.
#[must_use]
pub(crate) fn can_cut(tokenizer: &Tokenizer) -> bool {
    fn plain(p: &PreTokenizerWrapper) -> Option<bool> {
        match p {
            // Some(true): splits by the pattern; Some(false): only cuts finer.
            PreTokenizerWrapper::ByteLevel(b) => (!b.add_prefix_space && b.use_regex).then_some(true),
            PreTokenizerWrapper::Digits(_) => Some(false),
            _ => None,
        }
    }
    let splits = match tokenizer.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::Sequence(s)) => {
            s.as_ref().iter().map(plain).collect::<Option<Vec<bool>>>().is_some_and(|v| v.contains(&true))
        }
        Some(p) => plain(p) == Some(true),
        None => false,
    };
    let added_text = tokenizer.get_added_tokens_decoder().into_values().any(|t| !t.special);
    splits && tokenizer.get_normalizer().is_none() && !added_text
}

/// The first place at or after `from` where `text` may be cut.
fn cut(text: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(found) = text.get(at..)?.find(' ') {
        let place = at + found;
        let before = text[..place].chars().next_back();
        let after = text[place + 1..].chars().next();
        if before.is_some_and(|c| !c.is_whitespace()) && after.is_some_and(char::is_alphabetic) {
            return Some(place);
        }
        at = place + 1;
    }
    None
}

/// A piece of the text with its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The text of this piece.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
    /// For each id, the byte after it, counted from the start of this piece.
    pub ends: Vec<usize>,
}

/// Pieces of a text that is read as it comes.
pub struct TokenStream<'t, R> {
    tokenizer: &'t Tokenizer,
    source: R,
    pending: Vec<u8>,
    cuts: bool,
    ended: bool,
}

impl<'t, R: Read> TokenStream<'t, R> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, source: R) -> Self {
        Self { tokenizer, source, pending: Vec::new(), cuts: can_cut(tokenizer), ended: false }
    }

    /// The next piece, `None` at the end of the text.
    ///
    /// # Errors
    /// [`Error::Input`] when the text is no UTF-8, has no place to cut for 64 MiB, or cannot be read.
    pub fn next_piece(&mut self) -> Result<Option<Piece>> {
        let mut wanted = PIECE_BYTES;
        loop {
            self.fill(wanted)?;
            if self.pending.is_empty() {
                return Ok(None);
            }
            let valid = match std::str::from_utf8(&self.pending) {
                Ok(text) => text,
                Err(e) if e.error_len().is_none() && !self.ended => {
                    std::str::from_utf8(&self.pending[..e.valid_up_to()]).unwrap_or_default()
                }
                Err(e) => return Err(Error::Input(format!("the text is no UTF-8 ({e})"))),
            };
            let end = if self.ended && (valid.len() <= PIECE_BYTES || !self.cuts) {
                Some(valid.len())
            } else if self.cuts {
                cut(valid, floor(valid, PIECE_BYTES.min(valid.len()))).or(self.ended.then_some(valid.len()))
            } else {
                None
            };
            if let Some(end) = end {
                let piece = self.encode(&valid[..end])?;
                self.pending.drain(..end);
                return Ok(Some(piece));
            }
            if self.cuts && wanted > LONGEST_BYTES {
                return Err(Error::Input("64 MiB without a space before a letter: this is no text".into()));
            }
            wanted = self.pending.len() + PIECE_BYTES;
        }
    }

    fn fill(&mut self, wanted: usize) -> Result<()> {
        while self.pending.len() < wanted && !self.ended {
            let missing = (wanted - self.pending.len()) as u64;
            let read = (&mut self.source)
                .take(missing)
                .read_to_end(&mut self.pending)
                .map_err(|e| Error::Input(format!("the text cannot be read: {e}")))?;
            self.ended = read == 0;
        }
        Ok(())
    }

    fn encode(&self, text: &str) -> Result<Piece> {
        let encoding =
            self.tokenizer.encode(text, false).map_err(|e| Error::Input(format!("the tokenizer refused the text: {e}")))?;
        let ends = encoding.get_offsets().iter().map(|o| o.1).collect();
        Ok(Piece { text: text.to_string(), ids: encoding.get_ids().to_vec(), ends })
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_lie_between_a_word_and_the_next() {
        assert_eq!(cut("ab  cd ef", 0), Some(6), "two spaces are no place, one is");
        assert_eq!(cut("ab 12 cd", 0), Some(5), "before digits is no place, after them it is");
        assert_eq!(cut("ab\n cd", 0), None);
        assert_eq!(cut("ab", 0), None);
        assert_eq!(cut("ab é", 1), Some(2));
    }
}
