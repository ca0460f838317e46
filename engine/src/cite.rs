//! An answer -> a citation: document, byte range and quote, compared with the source byte for byte.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::PathBuf;

use palimpsest_index::{Hit, Place, Retriever};
use serde::Serialize;

use crate::error::Result;

/// Longest quote, in bytes.
pub const QUOTE_BYTES: usize = 300;

/// A place in a document, quoted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Citation {
    /// The document's id: its path, for files.
    pub document: String,
    /// Absolute path of the file; `None` for text that an app handed over.
    pub path: Option<PathBuf>,
    /// The document's title.
    pub title: String,
    /// First byte of the quote in the document's extracted text.
    pub start: u64,
    /// The byte after its last.
    pub end: u64,
    /// `text[start..end]`, at most [`QUOTE_BYTES`].
    pub quote: String,
    /// SHA-256 of the extracted text, in hex: which text `start` and `end` count in.
    pub text_sha256: String,
    /// Where a person finds the quote: its page, heading or line, where they are known.
    pub place: Option<Place>,
}

/// What became of a citation when it was held against its source.
#[derive(Debug, Clone, PartialEq)]
pub enum Checked {
    /// The source holds these bytes there.
    Holds(Citation),
    /// It does not, for the reason given: the citation must not be shown.
    Withheld(String),
}

/// Quotes the sentence around `span` (bytes of `hit.text`) and compares it with the source: the file itself where its text
/// is the file byte for byte, and the stored text of the document in every case.
///
/// # Errors
/// Those of the retriever.
pub fn cite(retriever: &dyn Retriever, hit: &Hit, span: Range<usize>) -> Result<Checked> {
    let quoted = quote(&hit.text, span);
    let from = quoted.start;
    let start = hit.range.start + quoted.start as u64;
    let end = hit.range.start + quoted.end as u64;
    let quote = &hit.text[quoted];
    let Some(source) = retriever.source(&hit.document, start..end)? else {
        return Ok(Checked::Withheld(format!("{} is no longer in the index", hit.document)));
    };
    if source.text.as_deref() != Some(quote) {
        return Ok(Checked::Withheld(format!(
            "the stored text of {} differs at bytes {start}..{end}: run `palimpsest ingest` again",
            hit.document
        )));
    }
    let document = source.summary;
    if let Some(path) = &document.path
        && document.format.is_the_file()
        && let Some(reason) = differs(path, start, quote.as_bytes())
        && !document.decoded
    {
        return Ok(Checked::Withheld(reason));
    }
    Ok(Checked::Holds(Citation {
        document: hit.document.clone(),
        path: hit.path.clone(),
        title: hit.title.clone(),
        start,
        end,
        quote: quote.to_string(),
        text_sha256: document.text_sha256,
        place: hit.place_at(from),
    }))
}

/// A passage shown without an answer in it.
#[must_use]
pub fn near(hit: &Hit) -> Range<usize> {
    let lead = hit.text.len() - hit.text.trim_start().len();
    quote(&hit.text, lead..lead)
}

fn differs(path: &PathBuf, start: u64, quote: &[u8]) -> Option<String> {
    let mut bytes = vec![0; quote.len()];
    let read = File::open(path).and_then(|mut f| f.seek(SeekFrom::Start(start)).and_then(|_| f.read_exact(&mut bytes)));
    match read {
        Ok(()) if bytes == quote => None,
        Ok(()) => Some(format!("{} changed since it was ingested: run `palimpsest ingest` again", path.display())),
        Err(e) => Some(format!("{} cannot be compared with what was ingested: {e}", path.display())),
    }
}

/// The sentence that holds `span`, white space at its ends left out, cut to [`QUOTE_BYTES`] around it.
fn quote(text: &str, span: Range<usize>) -> Range<usize> {
    let from = sentence_start(text, span.start);
    let to = sentence_end(text, span.end.max(span.start));
    let spare = QUOTE_BYTES.saturating_sub(span.len());
    let mut start = from.max(span.start.saturating_sub(spare / 2));
    let mut end = to.min(start + QUOTE_BYTES).max(span.end);
    start = start.max(end.saturating_sub(QUOTE_BYTES)).min(span.start);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let inner = &text[start..end];
    let lead = (inner.len() - inner.trim_start().len()).min(span.start.saturating_sub(start));
    let trail = (inner.len() - inner.trim_end().len()).min(end.saturating_sub(span.end));
    start + lead..end - trail
}

fn sentence_start(text: &str, at: usize) -> usize {
    let before = &text[..at];
    let stop = [". ", "? ", "! ", ".\n", "\n"].iter().filter_map(|s| before.rfind(s).map(|i| i + s.len())).max();
    stop.unwrap_or(0)
}

fn sentence_end(text: &str, at: usize) -> usize {
    let after = &text[at..];
    let stop = [(". ", 1), ("? ", 1), ("! ", 1), ("\n", 0)].iter().filter_map(|(s, keep)| after.find(s).map(|i| i + keep)).min();
    at + stop.unwrap_or(after.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_around_the_answer_is_quoted() {
        let text = "Kenya lies in Africa. Its capital is Nairobi. It has lakes.";
        let at = text.find("Nairobi").expect("there");
        assert_eq!(&text[quote(text, at..at + 7)], "Its capital is Nairobi.");
    }

    #[test]
    fn a_quote_holds_its_span_within_the_bound_whatever_the_text() {
        let text: String = (0..400).map(|i| if i % 7 == 0 { "ß€🍎" } else { "ab " }).collect();
        for (start, _) in text.char_indices() {
            for len in [0, 1, 20, 290] {
                let Some(end) = (start + len..text.len()).find(|&e| text.is_char_boundary(e)) else { continue };
                let q = quote(&text, start..end);
                assert!(q.start <= start && end <= q.end, "{q:?} holds {start}..{end}");
                assert!(q.len() <= QUOTE_BYTES.max(end - start) + 4, "{} bytes", q.len());
                assert!(text.get(q.clone()).is_some());
            }
        }
    }
}
