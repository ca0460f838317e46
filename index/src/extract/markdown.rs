//! Markdown: the text is the file byte for byte, its marks included; the title is its first heading.

use super::{Extracted, text};
use crate::passage::heading_level;
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>) -> Result<Extracted, Unread> {
    let (text, decoded) = text::decode(bytes, None)?;
    Ok(Extracted { title: title(&text), decoded, ..Extracted::new(Format::Markdown, text) })
}

/// The first heading, marked with `#` or underlined, outside of fenced code.
pub(crate) fn title(text: &str) -> Option<String> {
    let mut fence = None;
    let mut above = "";
    for line in text.lines() {
        let bare = line.trim_start();
        let mark = bare.get(..3).filter(|m| *m == "```" || *m == "~~~");
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            (None, None) => {
                let heading = if heading_level(bare).is_some() {
                    bare.trim_start_matches('#').trim().trim_end_matches('#').trim_end()
                } else if !bare.is_empty() && bare.trim_end().bytes().all(|b| b == b'=') {
                    above
                } else {
                    ""
                };
                if !heading.is_empty() {
                    return Some(heading.to_string());
                }
            }
            _ => {}
        }
        above = line.trim();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_is_the_first_heading() {
        for (text, title_is) in [
            ("# One\n\ntext", Some("One")),
            ("\u{feff}no\n\n##   Two ##\n# One", Some("Two")),
            ("```sh\n# a comment\n```\nTitle\n=====\n", Some("Title")),
            ("#hashtag and no more", None),
            ("####### seven", None),
            ("", None),
            ("=\n", None),
        ] {
            assert_eq!(title(text).as_deref(), title_is, "{text:?}");
        }
    }

    #[test]
    fn the_text_is_the_file() {
        let bytes = "# Ü\r\n\r\n  text\t\n".as_bytes().to_vec();
        assert_eq!(extract(bytes.clone()).expect("text").text.into_bytes(), bytes);
        assert!(extract(vec![b'a', 0xff, 0, 1]).is_err());
    }
}
