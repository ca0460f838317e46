//! DOCX: the paragraphs of the main text, headings marked as in Markdown, cells of a table parted by ` | `.
//!
//! Of the archive word/document.xml is read, and the title of docProps/core.xml. Deleted text of tracked changes, field codes
//! and what stands in headers, footers and comments is left out.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::zipped::Zipped;
use super::{Extracted, damaged};
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>) -> Result<Extracted, Unread> {
    let mut archive = Zipped::open(bytes)?;
    let body = archive.read("word/document.xml")?;
    let mut extracted = Extracted::new(Format::Docx, paragraphs(&body)?);
    let named = archive.read("docProps/core.xml").ok().and_then(|xml| element(&xml, "title"));
    extracted.title = named.or_else(|| super::markdown_title(&extracted.text));
    Ok(extracted)
}

/// Text of the first element of that local name.
pub(super) fn element(xml: &str, name: &str) -> Option<String> {
    let mut reader = Reader::from_str(xml);
    let mut text = String::new();
    let mut inside = false;
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => inside |= tag.local_name().as_ref() == name,
            Event::Text(words) if inside => text.push_str(&words),
            Event::GeneralRef(reference) if inside => text.push_str(&resolved(&reference)),
            Event::End(tag) if inside && tag.local_name().as_ref() == name => {
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                return (!text.is_empty()).then_some(text);
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

/// The character that `&name;` or `&#n;` stands for; nothing for names of one's own.
pub(super) fn resolved(reference: &quick_xml::events::BytesRef<'_>) -> String {
    if let Ok(Some(c)) = reference.resolve_char_ref() {
        return c.to_string();
    }
    match &**reference {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => "",
    }
    .to_string()
}

fn paragraphs(xml: &str) -> Result<String, Unread> {
    let mut reader = Reader::from_str(xml);
    let mut text = String::new();
    let mut paragraph = String::new();
    let mut level = 0;
    let mut listed = false;
    let mut in_text = false;
    let mut cells: Option<usize> = None;
    loop {
        match reader.read_event().map_err(|e| damaged(format!("word/document.xml: {e}")))? {
            event @ (Event::Start(_) | Event::Empty(_)) => {
                let closed = matches!(event, Event::Empty(_));
                let (Event::Start(tag) | Event::Empty(tag)) = event else { continue };
                match tag.local_name().as_ref() {
                    "p" if !closed => (level, listed) = (0, false),
                    "pStyle" => level = heading(&tag).unwrap_or(0),
                    "numPr" => listed = true,
                    "t" => in_text = !closed,
                    "tab" => paragraph.push('\t'),
                    "br" | "cr" => paragraph.push('\n'),
                    "tr" => cells = Some(0),
                    "tc" => {
                        if let Some(n) = &mut cells {
                            if *n > 0 {
                                text.push_str(" | ");
                            }
                            *n += 1;
                        }
                    }
                    _ => {}
                }
            }
            Event::Text(words) if in_text => paragraph.push_str(&words),
            Event::GeneralRef(reference) if in_text => paragraph.push_str(&resolved(&reference)),
            Event::End(tag) => match tag.local_name().as_ref() {
                "t" => in_text = false,
                "p" => {
                    let words = paragraph.trim();
                    if !words.is_empty() {
                        match (cells, level) {
                            (Some(_), _) => {
                                if !text.is_empty() && !text.ends_with(['\n', ' ']) {
                                    text.push(' ');
                                }
                                text.push_str(&words.replace('\n', " "));
                            }
                            (None, 0) if listed => text.push_str(&format!("- {words}\n\n")),
                            (None, 0) => text.push_str(&format!("{words}\n\n")),
                            (None, level) => text.push_str(&format!("{} {words}\n\n", "#".repeat(level))),
                        }
                    }
                    paragraph.clear();
                }
                "tr" => {
                    cells = None;
                    text.push('\n');
                }
                "tbl" => text.push('\n'),
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
    }
    let length = text.trim_end().len();
    text.truncate(length);
    if !text.is_empty() {
        text.push('\n');
    }
    Ok(text)
}

/// 1 to 6 for the styles Title and Heading 1 to 6, as Word and LibreOffice name them.
fn heading(tag: &quick_xml::events::BytesStart<'_>) -> Option<usize> {
    let style = tag.attributes().flatten().find(|a| a.key.local_name().as_ref() == "val")?;
    let style = style.value.to_lowercase();
    if style == "title" {
        return Some(1);
    }
    let level = style.strip_prefix("heading")?.trim().parse().ok()?;
    (1..=6).contains(&level).then_some(level)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Cursor, Write};

    use super::*;

    /// A zip archive of those files.
    pub(crate) fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).expect("started");
            zip.write_all(text.as_bytes()).expect("written");
        }
        zip.finish().expect("finished").into_inner()
    }

    #[test]
    fn paragraphs_headings_lists_and_tables() {
        let body = r#"<?xml version="1.0"?><w:document xmlns:w="w"><w:body>
            <w:p><w:pPr><w:pStyle w:val="Heading2"/></w:pPr><w:r><w:t>Head</w:t></w:r><w:r><w:t xml:space="preserve"> line</w:t></w:r></w:p>
            <w:p><w:r><w:t>One &amp; two&#233;</w:t><w:br/><w:t>three</w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del></w:p>
            <w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>item</w:t></w:r></w:p>
            <w:tbl><w:tr><w:tc><w:p><w:r><w:t>a</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>b</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
            <w:p/><w:p><w:r><w:t>end</w:t></w:r></w:p></w:body></w:document>"#;
        let file = archive(&[("word/document.xml", body)]);
        let read = extract(file).expect("read");
        assert_eq!(read.text, "## Head line\n\nOne & twoé\nthree\n\n- item\n\na | b\n\nend\n");
        assert_eq!(read.title.as_deref(), Some("Head line"));
        let core = "<c:p xmlns:c='c' xmlns:dc='dc'><dc:title>Its  name</dc:title></c:p>";
        let file = archive(&[("word/document.xml", body), ("docProps/core.xml", core)]);
        assert_eq!(extract(file).expect("read").title.as_deref(), Some("Its name"));
    }

    #[test]
    fn a_broken_archive_is_named() {
        assert!(matches!(extract(archive(&[("other", "")])), Err(Unread::Damaged { .. })));
        assert!(matches!(extract(archive(&[("word/document.xml", "<w:p><w:t></w:p>")])), Err(Unread::Damaged { .. })));
    }
}
