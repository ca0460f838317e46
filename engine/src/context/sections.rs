//! Where does a section of a long text end? Where its state is worth keeping: an edited text is read on from the last section
//! that did not change.
//!
//! A section ends with the last character before a blank line or a heading (a line that begins with `#`, or a form feed), and
//! not before [`SECTION_TOKENS`] are in it. No more than [`MOST_SECTIONS`] are kept: of a longer text every second one is dropped and
//! sections become twice as long. Where they end depends on the text before alone, so that two versions of a text have the
//! same sections up to where they differ, as long as they are of about one length.

/// Fewest tokens of a section: at 2,000 tokens a second, what a kept state of some MB saves is a quarter of a second.
pub const SECTION_TOKENS: u64 = 512;

/// Most sections of a text.
pub const MOST_SECTIONS: usize = 64;

/// Finds ends of sections in a text that comes in pieces of any length.
#[derive(Debug)]
pub(super) struct Sections {
    /// Bytes of the text before the next piece.
    at: u64,
    /// The byte after the last character that is no white space.
    solid: u64,
    /// What stands between it and here: line ends since.
    line_ends: u32,
    /// Byte offsets where a section may end and that no token has passed yet.
    candidates: Vec<u64>,
    /// Tokens at the ends of sections.
    ends: Vec<u64>,
    least_tokens: u64,
}

impl Sections {
    pub(super) fn new() -> Self {
        Self { at: 0, solid: 0, line_ends: 0, candidates: Vec::new(), ends: Vec::new(), least_tokens: SECTION_TOKENS }
    }

    /// Takes the next piece of text in.
    pub(super) fn text(&mut self, piece: &str) {
        for (i, c) in piece.char_indices() {
            let here = self.at + i as u64;
            if c == '\n' {
                self.line_ends += 1;
            }
            if c.is_whitespace() && c != '\u{c}' {
                continue;
            }
            let boundary = self.line_ends >= 2 || (self.line_ends == 1 && c == '#') || c == '\u{c}';
            if boundary && self.solid > 0 && self.candidates.last() != Some(&self.solid) {
                self.candidates.push(self.solid);
            }
            if c != '\u{c}' {
                self.solid = here + c.len_utf8() as u64;
                self.line_ends = 0;
            }
        }
        self.at += piece.len() as u64;
    }

    /// Takes a token in: the `tokens`-th of the context, which ends at byte `end` of text that was taken in before.
    pub(super) fn token(&mut self, tokens: u64, end: u64) {
        let passed = self.candidates.iter().take_while(|c| **c <= end).count();
        // Of a token that goes on beyond the end of a section, the state would know more than the section.
        let exact = passed > 0 && self.candidates[passed - 1] == end;
        self.candidates.drain(..passed);
        if exact && tokens >= self.ends.last().unwrap_or(&0) + self.least_tokens {
            self.ends.push(tokens);
            if self.ends.len() > MOST_SECTIONS {
                let mut n = 0;
                self.ends.retain(|_| {
                    n += 1;
                    n % 2 == 0
                });
                self.least_tokens *= 2;
            }
        }
    }

    /// Tokens at the ends of sections, ascending.
    pub(super) fn ends(self) -> Vec<u64> {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token a byte.
    fn ends(text: &str, piece: usize) -> Vec<u64> {
        let mut sections = Sections::new();
        let mut at = 0;
        for piece in text.as_bytes().chunks(piece) {
            sections.text(std::str::from_utf8(piece).expect("ASCII"));
            for _ in piece {
                at += 1;
                sections.token(at, at);
            }
        }
        sections.ends()
    }

    #[test]
    fn a_section_ends_before_a_blank_line_or_a_heading() {
        let body = "x".repeat(600);
        let text = format!("{body}\n\n{body}\n# Heading\n{body}\nno end here\n{body} \n \nafter");
        let expected = vec![600, 1202, 1202 + 1 + 9 + 1 + 600 + 1 + 11 + 1 + 600];
        assert_eq!(ends(&text, usize::MAX), expected);
        let pieces = ends(&text, 100_000);
        assert_eq!(pieces, expected);
        assert!(ends("short\n\nshort\n\nshort", 100).is_empty());
    }

    #[test]
    fn a_long_text_has_fewer_and_longer_sections() {
        let text = format!("{}\n\n", "x".repeat(600)).repeat(300);
        let ends = ends(&text, usize::MAX);
        assert!((MOST_SECTIONS / 2..=MOST_SECTIONS).contains(&ends.len()), "{}", ends.len());
        assert!(ends.windows(2).all(|w| w[1] - w[0] >= 2 * SECTION_TOKENS), "{ends:?}");
    }
}
