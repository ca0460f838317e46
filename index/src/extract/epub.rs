//! EPUB: the chapters in the order of the book's spine, each read as HTML.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::docx::element;
use super::zipped::Zipped;
use super::{Extracted, damaged, html};
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>) -> Result<Extracted, Unread> {
    let mut archive = Zipped::open(bytes)?;
    let container = archive.read("META-INF/container.xml")?;
    let package =
        starts(&container, |tag| (tag.local_name().as_ref() == "rootfile").then(|| attribute(tag, "full-path")).flatten())?;
    let package = package.into_iter().next().ok_or_else(|| damaged("META-INF/container.xml names no package"))?;
    let book = archive.read(&package)?;
    let items = starts(&book, |tag| {
        let item = tag.local_name().as_ref() == "item";
        item.then(|| Some((attribute(tag, "id")?, attribute(tag, "href")?))).flatten()
    })?;
    let spine = starts(&book, |tag| (tag.local_name().as_ref() == "itemref").then(|| attribute(tag, "idref")).flatten())?;
    let mut extracted = Extracted::new(Format::Epub, String::new());
    for id in spine {
        let Some((_, href)) = items.iter().find(|(known, _)| *known == id) else { continue };
        let (_, chapter) = html::readable(&archive.read(&resolve(&package, href))?);
        if !chapter.is_empty() && !extracted.text.is_empty() {
            extracted.text.push('\n');
        }
        extracted.text.push_str(&chapter);
    }
    if extracted.text.is_empty() {
        return Err(damaged("its spine leads to no text"));
    }
    extracted.title = element(&book, "title").or_else(|| super::markdown_title(&extracted.text));
    Ok(extracted)
}

/// What `pick` takes from each opening tag.
fn starts<T>(xml: &str, pick: impl Fn(&BytesStart<'_>) -> Option<T>) -> Result<Vec<T>, Unread> {
    let mut reader = Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        match reader.read_event().map_err(damaged)? {
            Event::Start(tag) | Event::Empty(tag) => found.extend(pick(&tag)),
            Event::Eof => return Ok(found),
            _ => {}
        }
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = tag.try_get_attribute(name).ok()??;
    Some(quick_xml::escape::unescape(&found.value).ok()?.into_owned())
}

/// The archive's name of `href` in the file `from`.
fn resolve(from: &str, href: &str) -> String {
    let href = href.split('#').next().unwrap_or(href);
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in href.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." | "" => {}
            part => parts.push(part),
        }
    }
    percent_decoded(&parts.join("/"))
}

fn percent_decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = name.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        decoded.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::docx::tests::archive;
    use super::*;

    const CONTAINER: &str = "<container><rootfiles><rootfile full-path='OPS/book.opf'/></rootfiles></container>";

    #[test]
    fn chapters_in_the_order_of_the_spine() {
        let book = "<package><metadata xmlns:dc='d'><dc:title>A Book</dc:title></metadata><manifest>\
            <item id='b' href='text/b%20c.xhtml'/><item id='a' href='./a.xhtml#x'/></manifest>\
            <spine><itemref idref='a'/><itemref idref='gone'/><itemref idref='b'/></spine></package>";
        let chapter = |text: &str| format!("<html><head><title>t</title></head><body><h1>{text}</h1><p>words</p></body></html>");
        let file = archive(&[
            ("META-INF/container.xml", CONTAINER),
            ("OPS/book.opf", book),
            ("OPS/text/b c.xhtml", &chapter("Two")),
            ("OPS/a.xhtml", &chapter("One")),
        ]);
        let read = extract(file).expect("read");
        assert_eq!(read.title.as_deref(), Some("A Book"));
        assert_eq!(read.text, "# One\n\nwords\n\n# Two\n\nwords\n");
    }

    #[test]
    fn a_book_without_text_is_damaged() {
        let file = archive(&[("META-INF/container.xml", CONTAINER), ("OPS/book.opf", "<package/>")]);
        assert!(matches!(extract(file), Err(Unread::Damaged { .. })));
    }
}
