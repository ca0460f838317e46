//! Where does a person find a passage?
//!
//! Told from one passage of a text to the next: the page where there are pages, the heading where there are headings, the
//! line where the text is the file. Pages and headings that begin within a passage are kept with it, so that a quote has its
//! own place and not only its passage's.

use serde::{Deserialize, Serialize};

use crate::Format;
use crate::passage::heading_level;

/// Where a person finds a passage, or a quote from it, in the document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Place {
    /// Page on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Heading under which it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<String>,
    /// Line on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// A page or a heading that begins within a passage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// Bytes of the passage before it.
    at: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heading: Option<String>,
}

/// A passage's place and what changes within it, as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    #[serde(flatten)]
    pub(crate) place: Place,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) turns: Vec<Turn>,
}

impl Placed {
    pub(crate) fn is_nowhere(&self) -> bool {
        *self == Self::default()
    }

    /// The place of byte `at` of the passage's `text`.
    pub(crate) fn at(&self, text: &str, at: usize) -> Place {
        let mut place = self.place.clone();
        for turn in self.turns.iter().take_while(|turn| turn.at <= at) {
            place.page = turn.page.or(place.page);
            place.heading = turn.heading.clone().or(place.heading);
        }
        // The passage's line is that of its first word.
        let first = leading(text);
        let between = text.as_bytes().get(first..at).unwrap_or_default();
        place.line = place.line.map(|line| line + newlines(between));
        place
    }
}

fn leading(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

fn newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// What is known of a text's places before it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layout<'a> {
    /// Nothing but the text.
    Text,
    /// Where its pages begin.
    Pages(&'a [usize]),
    /// It is a record that begins on this line of its file.
    Line(u64),
}

impl Layout<'_> {
    pub(crate) fn line(&self) -> Option<u64> {
        match self {
            Self::Line(line) => Some(*line),
            _ => None,
        }
    }
}

/// Tells the places of the passages of a text, one after another.
pub(crate) struct Places<'a> {
    format: Format,
    layout: Layout<'a>,
    line: u64,
    heading: Option<String>,
    /// Within fenced code, where `#` begins a comment.
    fenced: bool,
}

impl<'a> Places<'a> {
    pub(crate) fn new(format: Format, layout: Layout<'a>) -> Self {
        Self { format, layout, line: 1, heading: None, fenced: false }
    }

    /// The place of the next passage, `text`, which begins at byte `start`.
    pub(crate) fn next(&mut self, start: usize, text: &str) -> Placed {
        let mut placed = Placed::default();
        let words = leading(text);
        match self.layout {
            Layout::Line(line) => {
                placed.place.line = Some(line);
                return placed;
            }
            Layout::Pages(pages) => {
                let number = |pages: usize| u32::try_from(pages).ok().filter(|&page| page > 0);
                let before = pages.partition_point(|&begin| begin <= start + words);
                placed.place.page = number(before);
                for (i, begin) in pages.iter().enumerate().skip(before).take_while(|(_, begin)| **begin < start + text.len()) {
                    placed.turns.push(Turn { at: begin - start, page: number(i + 1), heading: None });
                }
            }
            Layout::Text if self.format.is_the_file() => {
                placed.place.line = Some(self.line + newlines(&text.as_bytes()[..words]))
            }
            Layout::Text => {}
        }
        self.line += newlines(text.as_bytes());
        if matches!(self.format, Format::Markdown | Format::Html | Format::Docx | Format::Epub) {
            placed.place.heading.clone_from(&self.heading);
            let (mut at, mut leading) = (0, true);
            for line in text.split_inclusive('\n') {
                let bare = line.trim_start();
                if self.format == Format::Markdown && (bare.starts_with("```") || bare.starts_with("~~~")) {
                    self.fenced = !self.fenced;
                }
                if heading_level(line).is_some() && !self.fenced {
                    let heading = line.trim_start_matches('#').trim().to_string();
                    if leading {
                        placed.place.heading = Some(heading.clone());
                    } else {
                        placed.turns.push(Turn { at, page: None, heading: Some(heading.clone()) });
                    }
                    self.heading = Some(heading);
                } else if !line.trim().is_empty() {
                    leading = false;
                }
                at += line.len();
            }
        }
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(page: Option<u32>, heading: Option<&str>, line: Option<u64>) -> Place {
        Place { page, heading: heading.map(str::to_string), line }
    }

    #[test]
    fn a_quote_has_its_own_heading_and_line() {
        let mut places = Places::new(Format::Markdown, Layout::Text);
        let (one, two) = ("# One\n\nwords\n\n## Two\nmore\n", "\n\nrest\n# Three\nend");
        let first = places.next(0, one);
        assert_eq!(first.place, place(None, Some("One"), Some(1)));
        let at = |placed: &Placed, text: &str, word: &str| placed.at(text, text.find(word).expect("there"));
        assert_eq!(at(&first, one, "words"), place(None, Some("One"), Some(3)));
        assert_eq!(at(&first, one, "## Two"), place(None, Some("Two"), Some(5)));
        assert_eq!(at(&first, one, "more"), place(None, Some("Two"), Some(6)));
        let second = places.next(one.len(), two);
        assert_eq!(second.place, place(None, Some("Two"), Some(9)));
        assert_eq!(at(&second, two, "end"), place(None, Some("Three"), Some(11)));
        let code = "\n```sh\n# no heading\n```\n";
        let third = places.next(0, code);
        assert_eq!(at(&third, code, "no"), place(None, Some("Three"), Some(13)));
        let kept = serde_json::to_vec(&second).expect("JSON");
        assert_eq!(serde_json::from_slice::<Placed>(&kept).expect("read"), second);
    }

    #[test]
    fn a_quote_has_its_own_page() {
        let text = "one\n\ntwo\n\nthree";
        let pages = [0, 5, 10];
        let mut places = Places::new(Format::Pdf, Layout::Pages(&pages));
        let first = places.next(0, &text[..8]);
        assert_eq!((first.place.page, first.at(text, 4).page, first.at(text, 6).page), (Some(1), Some(1), Some(2)));
        let second = places.next(8, &text[8..]);
        assert_eq!((second.place.page, second.at(&text[8..], 5).page), (Some(3), Some(3)));
        let record = Places::new(Format::Csv, Layout::Line(7)).next(0, "a\nb");
        assert_eq!(record.place, place(None, None, Some(7)));
    }
}
