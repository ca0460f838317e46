//! How is a text cut that is longer than memory?
//!
//! In blocks: each cut needs no more of the text than `Bounds::lookahead`, so the passages are those of the whole text.

use std::io::Read;

use crate::Unread;
use crate::error::IndexError;
use crate::passage::Bounds;

/// Read at a time.
const BLOCK_BYTES: usize = 256 << 10;

/// What ended the cutting: the file or the index.
#[derive(Debug)]
pub(crate) enum Stop {
    File(Unread),
    Index(IndexError),
}

impl From<IndexError> for Stop {
    fn from(e: IndexError) -> Self {
        Self::Index(e)
    }
}

impl From<Unread> for Stop {
    fn from(e: Unread) -> Self {
        Self::File(e)
    }
}

/// Calls `each` with every passage of the text that `reader` gives.
///
/// # Errors
/// [`Unread::NotText`] where it is not UTF-8, and what `each` refuses.
pub(crate) fn passages(
    mut reader: impl Read,
    bounds: Bounds,
    mut each: impl FnMut(&str) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut buffer: Vec<u8> = Vec::with_capacity(BLOCK_BYTES + bounds.lookahead());
    let mut before = 0u64;
    let mut any = false;
    loop {
        let read = reader.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut buffer).map_err(Unread::from)?;
        let ended = read == 0;
        let text = match std::str::from_utf8(&buffer) {
            Ok(text) => text,
            // The end of a block may cut a character; the end of the file may not.
            Err(e) if e.error_len().is_some() || ended => {
                return Err(Unread::NotText { at: before + e.valid_up_to() as u64 }.into());
            }
            Err(e) => std::str::from_utf8(&buffer[..e.valid_up_to()]).unwrap_or_default(),
        };
        let mut at = 0;
        while text.len() - at >= bounds.lookahead() || (ended && at < text.len()) {
            let length = bounds.first(&text[at..]);
            each(&text[at..at + length])?;
            any = true;
            at += length;
        }
        buffer.drain(..at);
        before += at as u64;
        if ended {
            return if any { Ok(()) } else { each("") };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes a few at a time.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let n = self.1.min(self.0.len()).min(into.len());
            into[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn a_stream_is_cut_as_the_whole_text_is() {
        for (unit, copies) in [("", 1), ("word. ", 30), ("ÄÖ 日本語。 👩‍👩‍👧\n\n# Head\n", 20_000), ("x", 700_001)]
        {
            let text = unit.repeat(copies);
            for bounds in [Bounds::default(), Bounds { min_bytes: 10, max_bytes: 40 }] {
                let whole: Vec<&str> = crate::passages(&text, bounds).map(|r| &text[r]).collect();
                let mut streamed = Vec::new();
                let done = passages(Drip(text.as_bytes(), 1_021), bounds, |p| {
                    streamed.push(p.to_string());
                    Ok(())
                });
                assert!(done.is_ok() && whole == streamed, "{unit:?}");
            }
        }
    }

    #[test]
    fn a_broken_character_is_found_wherever_it_is() {
        for (at, cut) in [(0, false), (5, false), (300_000, false), (262_143, true), (10, true)] {
            let mut bytes = vec![b'a'; at];
            bytes.extend(if cut { &[0xe6, 0x97][..] } else { &[0xff, b'b'][..] });
            let stopped = passages(bytes.as_slice(), Bounds::default(), |_| Ok(()));
            assert!(matches!(stopped, Err(Stop::File(Unread::NotText { at: found })) if found == at as u64), "{at}: {stopped:?}");
        }
    }
}
