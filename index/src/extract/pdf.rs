//! PDF: the text of its pages, in the order in which they draw it.
//!
//! lopdf reads the file and decodes strings by their fonts' encodings; lines and spaces are found here, from where strings are
//! drawn: a new line where the baseline moves, an empty one where it moves by more than a line, a space where there is room
//! for one. Tables and columns come out as the page draws them. Scanned pages have no text.

use std::collections::BTreeMap;

use lopdf::content::Content;
use lopdf::{Dictionary, Document, Encoding, Object, ObjectId};

use super::{Extracted, damaged};
use crate::{Format, Unread};

/// Longest page and longest font table, unpacked.
const PAGE_BYTES: usize = 64 << 20;

pub(super) fn extract(bytes: &[u8]) -> Result<Extracted, Unread> {
    let document = Document::load_mem(bytes).map_err(damaged)?;
    if document.is_encrypted() {
        return Err(damaged("it is encrypted"));
    }
    let mut extracted = Extracted::new(Format::Pdf, String::new());
    for page in document.page_iter() {
        if !extracted.text.is_empty() {
            extracted.text.push('\n');
        }
        extracted.pages.push(extracted.text.len());
        // A page that cannot be read is an empty one: the others are worth having.
        if let Ok(text) = page_text(&document, page) {
            extracted.text.push_str(&text);
        }
    }
    if extracted.text.trim().is_empty() {
        return Err(damaged("it has no text: its pages may be scans"));
    }
    extracted.title = title(&document);
    Ok(extracted)
}

fn title(document: &Document) -> Option<String> {
    let info = document.trailer.get(b"Info").and_then(|i| document.dereference(i)).ok()?.1.as_dict().ok()?;
    let raw = document.dereference(info.get(b"Title").ok()?).ok()?.1.as_str().ok()?;
    let text = match raw {
        [0xfe, 0xff, rest @ ..] => encoding_rs::UTF_16BE.decode(rest).0.into_owned(),
        raw => String::from_utf8(raw.to_vec()).unwrap_or_else(|_| encoding_rs::WINDOWS_1252.decode(raw).0.into_owned()),
    };
    let title = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!title.is_empty()).then_some(title)
}

struct Font<'a> {
    encoding: Option<Encoding<'a>>,
    first: i64,
    /// Thousandths of the size, by code from `first`; empty when the font names none.
    widths: Vec<f32>,
}

impl<'a> Font<'a> {
    fn new(document: &'a Document, font: &'a Dictionary) -> Self {
        let numbers =
            |o: &Object| o.as_array().map(|a| a.iter().map(|w| w.as_float().unwrap_or(500.0)).collect()).unwrap_or_default();
        let widths = font.get(b"Widths").and_then(|w| document.dereference(w)).map(|(_, w)| numbers(w)).unwrap_or_default();
        Self {
            encoding: font.get_font_encoding_with_limit(document, PAGE_BYTES).ok(),
            first: font.get(b"FirstChar").and_then(Object::as_i64).unwrap_or(0),
            widths,
        }
    }

    fn decode(&self, bytes: &[u8]) -> String {
        match &self.encoding {
            Some(encoding) => Document::decode_text(encoding, bytes).unwrap_or_default(),
            None => encoding_rs::WINDOWS_1252.decode(bytes).0.into_owned(),
        }
    }

    /// Width of a string in sizes: what the font says, or half a size a character.
    fn width(&self, bytes: &[u8], text: &str) -> f32 {
        if self.widths.is_empty() {
            return 0.5 * text.chars().count() as f32;
        }
        let width =
            |&b: &u8| usize::try_from(i64::from(b) - self.first).ok().and_then(|i| self.widths.get(i)).copied().unwrap_or(500.0);
        bytes.iter().map(|b| width(b) / 1000.0).sum()
    }
}

/// Where the pen is, and what was written.
#[derive(Default)]
struct Pen {
    text: String,
    size: f32,
    leading: f32,
    /// Scale of the text matrix across and up.
    scale: (f32, f32),
    line: (f32, f32),
    x: f32,
    /// Baseline and end of the last string.
    last: Option<(f32, f32)>,
}

impl Pen {
    fn move_by(&mut self, x: f32, y: f32) {
        self.line = (self.line.0 + x * self.scale.0, self.line.1 + y * self.scale.1);
        self.x = self.line.0;
    }

    fn show(&mut self, font: Option<&Font<'_>>, bytes: &[u8]) {
        let Some(font) = font else { return };
        let text = font.decode(bytes);
        let width = font.width(bytes, &text) * self.size * self.scale.0.abs();
        let height = (self.size * self.scale.1).abs().max(1.0);
        if let Some((y, end)) = self.last
            && !self.text.is_empty()
        {
            let down = (y - self.line.1).abs();
            if down > height * 0.5 {
                let gap = if down > height * 1.8 { "\n\n" } else { "\n" };
                let kept = self.text.trim_end().len();
                self.text.truncate(kept);
                self.text.push_str(gap);
            } else if self.x - end > height * 0.15 && !self.text.ends_with(char::is_whitespace) && !text.starts_with(' ') {
                self.text.push(' ');
            }
        }
        self.text.extend(text.chars().filter(|c| !c.is_control() || *c == '\n' || *c == '\t'));
        self.x += width;
        self.last = Some((self.line.1, self.x));
    }
}

fn page_text(document: &Document, page: ObjectId) -> Result<String, lopdf::Error> {
    let fonts: BTreeMap<Vec<u8>, Font<'_>> =
        document.get_page_fonts(page)?.into_iter().map(|(name, font)| (name, Font::new(document, font))).collect();
    let content = Content::decode(&document.get_page_content_with_limit(page, PAGE_BYTES)?)?;
    let mut pen = Pen { size: 1.0, scale: (1.0, 1.0), ..Pen::default() };
    let mut font = None;
    for operation in &content.operations {
        let number = |i: usize| operation.operands.get(i).and_then(|o| o.as_float().ok()).unwrap_or(0.0);
        match operation.operator.as_str() {
            "BT" => {
                pen.scale = (1.0, 1.0);
                pen.line = (0.0, 0.0);
                pen.x = 0.0;
            }
            "Tf" => {
                font = operation.operands.first().and_then(|o| o.as_name().ok()).and_then(|name| fonts.get(name));
                pen.size = number(1);
            }
            "TL" => pen.leading = number(0),
            "Td" => pen.move_by(number(0), number(1)),
            "TD" => {
                pen.leading = -number(1);
                pen.move_by(number(0), number(1));
            }
            "Tm" => {
                pen.scale = (number(0).hypot(number(1)), number(2).hypot(number(3)));
                pen.line = (number(4), number(5));
                pen.x = pen.line.0;
            }
            "T*" => pen.move_by(0.0, -pen.leading),
            "Tj" | "'" | "\"" => {
                if operation.operator != "Tj" {
                    pen.move_by(0.0, -pen.leading);
                }
                if let Some(Ok(bytes)) = operation.operands.last().map(Object::as_str) {
                    pen.show(font, bytes);
                }
            }
            "TJ" => {
                for part in operation.operands.first().and_then(|o| o.as_array().ok()).into_iter().flatten() {
                    match part {
                        Object::String(bytes, _) => pen.show(font, bytes),
                        part => pen.x -= part.as_float().unwrap_or(0.0) / 1000.0 * pen.size * pen.scale.0,
                    }
                }
            }
            _ => {}
        }
    }
    let mut text = pen.text.trim().to_string();
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use lopdf::content::Operation;
    use lopdf::{Object, Stream, dictionary};

    use super::*;

    /// A document of those pages, each given as its drawing operations.
    fn file(pages: Vec<Vec<Operation>>) -> Vec<u8> {
        let mut document = Document::with_version("1.5");
        let tree = document.new_object_id();
        let font = document.add_object(dictionary! {
            "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica", "Encoding" => "WinAnsiEncoding",
        });
        let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
        let kids: Vec<Object> = pages
            .into_iter()
            .map(|operations| {
                let content = Content { operations }.encode().expect("encoded");
                let content = document.add_object(Stream::new(dictionary! {}, content));
                let page = dictionary! { "Type" => "Page", "Parent" => tree, "Contents" => content, "Resources" => resources };
                document.add_object(page).into()
            })
            .collect();
        let count = kids.len() as i64;
        document.objects.insert(tree, Object::Dictionary(dictionary! { "Type" => "Pages", "Kids" => kids, "Count" => count }));
        let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => tree });
        let info = document.add_object(dictionary! { "Title" => Object::string_literal("A  Title") });
        document.trailer.set("Root", catalog);
        document.trailer.set("Info", info);
        let mut bytes = Vec::new();
        document.save_to(&mut bytes).expect("saved");
        bytes
    }

    fn op(name: &str, operands: Vec<Object>) -> Operation {
        Operation::new(name, operands)
    }

    fn words(text: &str) -> Object {
        Object::string_literal(text)
    }

    #[test]
    fn pages_lines_and_spaces() {
        let begin = || vec![op("BT", vec![]), op("Tf", vec!["F1".into(), 10.into()]), op("Td", vec![50.into(), 700.into()])];
        let mut one = begin();
        one.extend([
            op("Tj", vec![words("First line")]),
            op("Td", vec![0.into(), Object::Integer(-12)]),
            op("TJ", vec![vec![words("sec"), 20.into(), words("ond"), Object::Integer(-300), words("line")].into()]),
            op("Td", vec![0.into(), Object::Integer(-30)]),
            op("Tj", vec![words("Next paragraph.")]),
            op("ET", vec![]),
        ]);
        let mut two = begin();
        two.extend([op("Tj", vec![words("Page two")]), op("ET", vec![])]);
        let read = extract(&file(vec![one, two])).expect("read");
        assert_eq!(read.text, "First line\nsecond line\n\nNext paragraph.\n\nPage two\n");
        assert_eq!(read.pages.len(), 2);
        assert_eq!(&read.text[read.pages[1]..], "Page two\n");
        assert_eq!(read.title.as_deref(), Some("A Title"));
    }

    #[test]
    fn a_scan_is_refused() {
        assert!(matches!(extract(&file(vec![vec![]])), Err(Unread::Damaged { .. })));
    }
}
