//! State and question -> an answer in the reader's own words, for readers that can: greedy, over the whole vocabulary.
//!
//! Nothing holds it to the text, so it is marked as such and cites the span that speaks for it (`ask.rs`).

use crate::cancel::Pace;
use crate::error::Result;
use crate::model::{Sequence, Want};
use crate::read::Reader;
use crate::state::State;

/// Longest answer in own words, in tokens.
pub const FREE_TOKENS: usize = 128;

/// An answer in the reader's own words.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its text, white space around it left out; `None` when the reader says that there is no answer, or nothing at all.
    pub text: Option<String>,
    /// Tokens run through the reader.
    pub tokens_read: u64,
}

/// Reads `ids` (the question at least, the answer mark at last) into `state` and writes on from there. `piece` gets the text
/// as it comes, in whole characters; all pieces together are the text.
///
/// # Errors
/// As [`crate::model::Model::forward_at`].
pub fn write(
    reader: &Reader,
    state: &mut State,
    ids: &[u32],
    pace: &mut Pace<'_>,
    piece: &mut dyn FnMut(String),
) -> Result<Written> {
    let (none, end) = (reader.prompt().none(), reader.prompt().end());
    let mut written: Vec<u32> = Vec::new();
    let mut said = 0;
    let mut next = likeliest(reader, state, ids, pace)?;
    let mut tokens_read = ids.len() as u64;
    while Some(next) != end && written.len() < FREE_TOKENS && !(written.is_empty() && Some(next) == none) {
        written.push(next);
        // A character whose bytes are not all there yet decodes to a replacement.
        let text = reader.prompt().decode(&written)?;
        if !text.ends_with('\u{fffd}') {
            tell(text.trim(), &mut said, piece);
        }
        next = likeliest(reader, state, &[next], pace)?;
        tokens_read += 1;
    }
    let text = reader.prompt().decode(&written)?.trim().to_string();
    tell(&text, &mut said, piece);
    Ok(Written { text: (!text.is_empty()).then_some(text), tokens_read })
}

/// Hands out what `text` has beyond its first `said` bytes.
fn tell(text: &str, said: &mut usize, piece: &mut dyn FnMut(String)) {
    if let Some(new) = text.get(*said..).filter(|new| !new.is_empty()) {
        *said = text.len();
        piece(new.to_string());
    }
}

/// The token that most likely comes after `ids`; of equals the lowest.
fn likeliest(reader: &Reader, state: &mut State, ids: &[u32], pace: &mut Pace<'_>) -> Result<u32> {
    let mut best = 0;
    reader.forward_at(&mut [Sequence { ids, state }], Want::Largest, pace, &mut |_, _, id| best = id[0] as u32)?;
    Ok(best)
}
