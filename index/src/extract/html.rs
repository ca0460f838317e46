//! HTML: the text that a reader sees.
//!
//! The tokenizer of html5ever, which is the browsers', without a tree: scripts, styles and the like are dropped, white space
//! is folded as a browser folds it, blocks begin on a line of their own, headings and paragraphs after an empty one, and the
//! cells of a table are parted by ` | `. Headings are marked as in Markdown, so that passages are cut before them.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

use super::{Extracted, text};
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>) -> Result<Extracted, Unread> {
    let declared = declared(&bytes);
    let (source, _) = text::decode(bytes, declared)?;
    let (title, text) = readable(&source);
    Ok(Extracted { title, ..Extracted::new(Format::Html, text) })
}

/// The encoding that a page names within its first kilobyte.
fn declared(bytes: &[u8]) -> Option<&'static encoding_rs::Encoding> {
    let head = bytes[..bytes.len().min(1024)].to_ascii_lowercase();
    let after = memchr::memmem::find(&head, b"charset=")? + b"charset=".len();
    let label: Vec<u8> = head[after..]
        .iter()
        .copied()
        .skip_while(|b| matches!(b, b'"' | b'\'' | b' '))
        .take_while(|b| !b"\"' />;".contains(b))
        .collect();
    encoding_rs::Encoding::for_label(&label)
}

/// Title and readable text.
pub(super) fn readable(source: &str) -> (Option<String>, String) {
    let tokenizer = Tokenizer::new(Page::default(), TokenizerOpts::default());
    let input = BufferQueue::default();
    input.push_back(StrTendril::from_slice(source.trim_start_matches('\u{feff}')));
    // The sink never asks to run a script, so one call takes all.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    let mut page = tokenizer.sink.0.into_inner();
    let title = page.title.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = page.text.trim_end().len();
    page.text.truncate(length);
    if !page.text.is_empty() {
        page.text.push('\n');
    }
    let title = if title.is_empty() { page.heading } else { Some(title) };
    (title, page.text)
}

#[derive(Default)]
struct Page(RefCell<State>);

#[derive(Default)]
struct State {
    title: String,
    /// The first heading.
    heading: Option<String>,
    heading_from: Option<usize>,
    text: String,
    in_title: bool,
    /// Elements open whose text nobody reads, and their name.
    dropped: Option<(String, usize)>,
    preformatted: usize,
    /// White space was seen since the last word.
    space: bool,
    /// Line breaks owed before the next word.
    breaks: usize,
    cells: usize,
}

impl State {
    fn block(&mut self, breaks: usize) {
        if breaks > 0 {
            self.breaks = self.breaks.max(breaks);
            self.space = false;
        }
    }

    fn words(&mut self, words: &str) {
        if self.in_title {
            self.title.push_str(words);
            return;
        }
        if self.dropped.is_some() {
            return;
        }
        for c in words.chars() {
            if self.preformatted > 0 && (c == '\n' || c == ' ' || c == '\t') && self.breaks == 0 {
                self.text.push(c);
            } else if c.is_ascii_whitespace() {
                self.space = true;
            } else {
                self.flow();
                self.text.push(c);
            }
        }
    }

    /// Writes what is owed before a word.
    fn flow(&mut self) {
        if self.text.is_empty() {
            self.breaks = 0;
            self.space = false;
        }
        if self.breaks > 0 {
            let kept = self.text.trim_end_matches([' ', '\n']).len();
            self.text.truncate(kept);
            self.text.extend(std::iter::repeat_n('\n', self.breaks));
        } else if self.space && !self.text.ends_with([' ', '\n']) {
            self.text.push(' ');
        }
        self.breaks = 0;
        self.space = false;
    }

    fn open(&mut self, name: &str, closed: bool) {
        if let Some((dropped, depth)) = &mut self.dropped {
            if dropped == name && !closed {
                *depth += 1;
            }
            return;
        }
        match name {
            "title" if self.title.is_empty() => self.in_title = true,
            "noscript" | "template" | "svg" | "math" | "canvas" | "object" | "select" | "head" if !closed => {
                if name != "head" {
                    self.dropped = Some((name.to_string(), 1));
                }
            }
            "br" => self.block((self.breaks + 1).min(2)),
            "pre" => {
                self.block(2);
                self.preformatted += 1;
            }
            "td" | "th" => {
                if self.cells > 0 {
                    self.flow();
                    self.text.push_str(" |");
                    self.space = true;
                }
                self.cells += 1;
            }
            "tr" => {
                self.block(1);
                self.cells = 0;
            }
            "li" => {
                self.block(1);
                self.flow();
                if !self.text.is_empty() && !self.text.ends_with('\n') {
                    self.text.push('\n');
                }
                self.text.push_str("- ");
            }
            _ => match heading(name) {
                Some(level) => {
                    self.block(2);
                    self.flow();
                    self.text.extend(std::iter::repeat_n('#', level));
                    self.heading_from = Some(self.text.len());
                    self.space = true;
                }
                None => self.block(breaks(name)),
            },
        }
    }

    fn close(&mut self, name: &str) {
        if let Some((dropped, depth)) = &mut self.dropped {
            if dropped == name {
                *depth -= 1;
                if *depth == 0 {
                    self.dropped = None;
                }
            }
            return;
        }
        match name {
            "title" => self.in_title = false,
            "pre" => {
                self.preformatted = self.preformatted.saturating_sub(1);
                self.block(2);
            }
            "td" | "th" => {}
            "table" => self.cells = 0,
            _ if heading(name).is_some() => {
                let from = self.heading_from.take().unwrap_or(self.text.len()).min(self.text.len());
                let heading = self.text[from..].trim();
                if self.heading.is_none() && !heading.is_empty() {
                    self.heading = Some(heading.to_string());
                }
                self.block(2);
            }
            _ => self.block(breaks(name)),
        }
    }
}

fn heading(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [b'h', level @ b'1'..=b'6'] => Some(usize::from(level - b'0')),
        _ => None,
    }
}

/// Line breaks around an element: 2 for paragraphs, 1 for other blocks, 0 within a line.
fn breaks(name: &str) -> usize {
    match name {
        "p" | "blockquote" | "table" | "ul" | "ol" | "dl" | "hr" | "section" | "article" | "figure" => 2,
        "div" | "main" | "header" | "footer" | "nav" | "aside" | "address" | "dt" | "dd" | "li" | "tr" | "caption" | "thead"
        | "tbody" | "form" | "fieldset" | "legend" | "figcaption" | "details" | "summary" | "body" | "option" => 1,
        _ => 0,
    }
}

impl TokenSink for Page {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut state = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(words) => state.words(&words),
            Token::TagToken(Tag { kind: TagKind::StartTag, name, self_closing, .. }) => {
                match &*name {
                    // The tokenizer must be told how to read their content; it is dropped, but for the title.
                    "script" | "style" | "iframe" | "noembed" | "noframes" | "xmp" => {
                        state.dropped.get_or_insert((name.to_string(), 1));
                        let kind = if &*name == "script" { RawKind::ScriptData } else { RawKind::Rawtext };
                        return TokenSinkResult::RawData(kind);
                    }
                    "textarea" => {
                        state.dropped.get_or_insert((name.to_string(), 1));
                        return TokenSinkResult::RawData(RawKind::Rcdata);
                    }
                    "title" => {
                        state.open("title", self_closing);
                        if state.dropped.is_none() {
                            return TokenSinkResult::RawData(RawKind::Rcdata);
                        }
                    }
                    name => state.open(name, self_closing),
                }
            }
            Token::TagToken(Tag { name, .. }) => state.close(&name),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_reader_sees() {
        let (title, text) = readable(
            "<!doctype html><html><head><title>A &amp; B\n C</title><style>p { x: y }</style><script>if (a < b) '<p>no</p>'</script>\
             </head><body><nav>Home</nav><h1>Head  <em>line</em></h1><p>One\n  two<br>three &eacute;&#x1F34E;</p>\
             <ul><li>first<li>second</ul><svg><title>no</title><text>no</text></svg>\
             <table><tr><th>a</th><td>b</td></tr><tr><td>c<td>d</table><pre>x\n  y</pre><p>end<!-- no --></body></html>",
        );
        assert_eq!(title.as_deref(), Some("A & B C"));
        assert_eq!(text, "Home\n\n# Head line\n\nOne two\nthree é🍎\n\n- first\n- second\n\na | b\nc | d\n\nx\n  y\n\nend\n");
    }

    #[test]
    fn a_page_may_name_its_encoding() {
        let (bytes, _, _) = encoding_rs::KOI8_R.encode("<meta http-equiv=Content-Type content='text/html; charset=koi8-r'><p>да");
        assert_eq!(extract(bytes.into_owned()).expect("read").text, "да\n");
    }

    #[test]
    fn no_page_is_too_broken() {
        for page in [
            "",
            "<",
            "<p",
            "</p></p>",
            "<title>",
            "<script>",
            "<h1>",
            "<!--",
            "<svg><svg></svg>",
            "&#xffffffff;",
            "\u{0}",
            "<pre>\n",
        ] {
            let _ = readable(page);
        }
        assert_eq!(readable("plain"), (None, "plain\n".to_string()));
        assert_eq!(readable("<h2>Only</h2>x").0.as_deref(), Some("Only"));
    }
}
