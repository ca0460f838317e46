//! Where is a text cut into passages?
//!
//! A passage is a half-open byte range; the passages of a document follow each other without a gap and cover its text. They
//! are bounded in bytes, which bounds tokens, so that nothing is tokenised here. A cut falls, in this order of preference,
//! before a heading, after a blank line, after a sentence, after a line, after white space, and at last between any two
//! characters; of equals the last one that fits. The end of a text is shared out, so that no crumb is left over.
//!
//! Each cut looks at no more than [`Bounds::lookahead`] bytes, so that a text of any length can be cut while it is read.

use std::ops::Range;

/// How long passages are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// No cut before this, unless the text ends.
    pub min_bytes: usize,
    /// No passage is longer.
    pub max_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { min_bytes: 500, max_bytes: 1_200 }
    }
}

impl Bounds {
    /// Bytes after which more text does not change the first cut.
    #[must_use]
    pub fn lookahead(&self) -> usize {
        self.max_bytes + self.min_bytes + 4
    }

    /// Length of the first passage of `text`, which is the rest of a document or at least [`Bounds::lookahead`] bytes of it.
    /// Between 1 and `max_bytes` where that holds a whole character; 0 for an empty text.
    #[must_use]
    pub fn first(&self, text: &str) -> usize {
        let max = self.max_bytes.max(4);
        if text.len() <= max {
            return text.len();
        }
        // Near the end the rest is shared by two passages.
        let min = self.min_bytes.clamp(1, max);
        let low = if text.len() <= max + min { (text.len() - max).max(min / 2) } else { min };
        let high = if text.len() <= max + min { max.min(text.len() - min / 2) } else { max };
        let high = floor(text, high);
        let window = Window { text, low: ceil(text, low).min(high), high };
        window
            .paragraph()
            .or_else(|| window.sentence())
            .or_else(|| window.line())
            .or_else(|| window.space())
            .filter(|&at| at > 0)
            .unwrap_or_else(|| window.character())
    }
}

/// The passages of `text`. An empty text has one, which is empty, so that every document has one.
pub fn passages(text: &str, bounds: Bounds) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    let mut first = true;
    std::iter::from_fn(move || {
        if at == text.len() && !first {
            return None;
        }
        first = false;
        let start = at;
        at += bounds.first(&text[at..]);
        Some(start..at)
    })
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}

/// Cuts are looked for at `low..=high` of `text`, both on character boundaries.
struct Window<'a> {
    text: &'a str,
    low: usize,
    high: usize,
}

impl Window<'_> {
    /// The last heading in the window, or else the last line after a blank one.
    fn paragraph(&self) -> Option<usize> {
        let bytes = self.text.as_bytes();
        let mut blank = None;
        let mut heading = None;
        // A cut lies before the first byte of a line; the line above ends at `at - 1`.
        for at in memchr::memchr_iter(b'\n', &bytes[..self.high]).map(|newline| newline + 1).filter(|&at| at >= self.low) {
            if heading_level(&self.text[at..]).is_some() {
                heading = Some(at);
            }
            let above = &bytes[..at - 1];
            let line = &above[memchr::memrchr(b'\n', above).map_or(0, |i| i + 1)..];
            if line.iter().all(u8::is_ascii_whitespace) && bytes.get(at).is_some_and(|&b| b != b'\n' && b != b'\r') {
                blank = Some(at);
            }
        }
        heading.or(blank)
    }

    /// After the white space that follows the last full stop.
    fn sentence(&self) -> Option<usize> {
        let mut end = None;
        let mut after_stop = false;
        let mut after_space = false;
        let from = floor(self.text, self.low.saturating_sub(16));
        for (offset, c) in self.text[from..].char_indices() {
            let at = from + offset;
            if at > self.high {
                break;
            }
            if after_space && !c.is_whitespace() {
                if at >= self.low && !c.is_lowercase() {
                    end = Some(at);
                }
                after_space = false;
                after_stop = false;
            }
            match c {
                '.' | '!' | '?' | '…' => after_stop = true,
                '。' | '！' | '？' | '।' | '۔' => {
                    let next = at + c.len_utf8();
                    if next >= self.low && next <= self.high {
                        end = Some(next);
                    }
                }
                '"' | '\'' | ')' | ']' | '”' | '’' | '»' => {}
                c if c.is_whitespace() => after_space = after_stop,
                _ => after_stop = false,
            }
        }
        end
    }

    fn line(&self) -> Option<usize> {
        memchr::memrchr(b'\n', &self.text.as_bytes()[..self.high]).map(|newline| newline + 1).filter(|&at| at >= self.low)
    }

    fn space(&self) -> Option<usize> {
        let (at, c) = self.text[..self.high].char_indices().rfind(|(_, c)| c.is_whitespace())?;
        Some(at + c.len_utf8()).filter(|&at| at >= self.low)
    }

    /// No character is cut; marks that combine with the one before stay with it where they fit.
    fn character(&self) -> usize {
        let mut at = self.high;
        for _ in 0..8 {
            match self.text[at..].chars().next() {
                Some(c) if joins(c) && at > self.low => at = floor(self.text, at - 1),
                _ => break,
            }
        }
        if at > 0 { at } else { self.text.chars().next().map_or(0, char::len_utf8) }
    }
}

/// Combining marks, joiners and variation selectors, which belong to the character before them.
fn joins(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{20d0}'..='\u{20ff}')
}

/// 1 to 6 when the text begins with a Markdown heading (`## `).
pub(crate) fn heading_level(text: &str) -> Option<usize> {
    let marks = text.bytes().take(7).take_while(|&b| b == b'#').count();
    ((1..=6).contains(&marks) && text.as_bytes().get(marks).is_some_and(|&b| b == b' ' || b == b'\t')).then_some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UGLY: &str =
        "ÄÖÜ ß€🍎👩‍👩‍👧‍👦e\u{301}क्षि\u{feff}\u{0}\r\n\r\n日本語。テキスト！\n# Title\n\nA. B? \"C!\" d\u{2028}\t\t\u{a0}مرحبا ";

    fn check(text: &str, bounds: Bounds) {
        let mut at = 0;
        for range in passages(text, bounds) {
            assert_eq!(range.start, at, "no gap");
            assert!(text.get(range.clone()).is_some(), "{range:?} cuts a character");
            assert!(range.len() <= bounds.max_bytes.max(4), "{range:?} is longer than {bounds:?}");
            assert!(!range.is_empty() || text.is_empty());
            at = range.end;
        }
        assert_eq!(at, text.len(), "covered");
    }

    #[test]
    fn passages_cover_any_text_within_their_bound() {
        for bytes in 0..UGLY.len() {
            let start = (bytes..).find(|&i| UGLY.is_char_boundary(i)).expect("an end");
            let text = UGLY[start..].repeat(7);
            for max in [0, 1, 2, 3, 4, 5, 7, 16, 31, 64, 127, 1000] {
                for min in [0, 1, max / 2, max] {
                    check(&text, Bounds { min_bytes: min, max_bytes: max });
                }
            }
        }
        check("", Bounds::default());
        assert!(passages("", Bounds::default()).eq(std::iter::once(0..0)));
    }

    #[test]
    fn a_cut_does_not_depend_on_what_lies_beyond_the_lookahead() {
        let text = UGLY.repeat(50);
        for bounds in [Bounds::default(), Bounds { min_bytes: 20, max_bytes: 50 }, Bounds { min_bytes: 64, max_bytes: 64 }] {
            for (at, _) in text.char_indices().step_by(3) {
                let rest = &text[at..];
                if rest.len() > bounds.lookahead() {
                    let seen = (bounds.lookahead()..).find(|&i| rest.is_char_boundary(i)).expect("an end");
                    assert_eq!(bounds.first(&rest[..seen]), bounds.first(rest));
                }
            }
        }
    }

    #[test]
    fn cuts_fall_where_a_reader_would_pause() {
        let cut = |text: &str| Bounds { min_bytes: 20, max_bytes: 60 }.first(text);
        let tail = "x".repeat(90);
        for (text, at) in [
            ("Some words here and there.\n\nMore words.\n# Head\nA b c", 40),
            ("Some words here and there.\n\nMore words. Yes, more here", 28),
            ("Some words here and there. More words, e.g. these, yes", 27),
            ("| a table of words here |\n| and here another row of", 26),
            ("no stop at all in these words which go on and on and", 49),
        ] {
            assert_eq!(cut(&format!("{text}{tail}")), at, "{text}");
        }
        assert_eq!(cut(&tail), 60);
    }

    #[test]
    fn no_crumb_is_left_at_the_end() {
        let bounds = Bounds::default();
        for words in [1, 201, 209, 250, 299, 301, 401] {
            let text = "word ".repeat(words);
            let shortest = passages(&text, bounds).map(|r| r.len()).min().expect("one");
            assert!(shortest >= 250.min(text.len()), "{words} words: {shortest} bytes");
        }
    }
}
