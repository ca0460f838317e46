//! What does a file say? One file a format, each from bytes to text.

mod html;
mod markdown;
mod text;

use std::path::Path;

use crate::{Format, Unread};

/// What was read out of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extracted {
    pub(crate) format: Format,
    /// What the file calls itself.
    pub(crate) title: Option<String>,
    pub(crate) text: String,
    /// The text is not the file byte for byte, although the format is one that would be.
    pub(crate) decoded: bool,
}

/// The format that a file's name promises; `None` for names that promise nothing that is read here.
pub(crate) fn format_of(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "md" | "markdown" | "mdown" | "mkd" => Some(Format::Markdown),
        "txt" | "text" => Some(Format::Text),
        "html" | "htm" | "xhtml" => Some(Format::Html),
        _ => None,
    }
}

/// Reads a file's bytes as that format.
///
/// # Errors
/// [`Unread`], with what is wrong with the file.
pub(crate) fn extract(bytes: Vec<u8>, format: Format) -> Result<Extracted, Unread> {
    match format {
        Format::Text => text::extract(bytes),
        Format::Markdown => markdown::extract(bytes),
        Format::Html => html::extract(bytes),
    }
}
