//! What does a file say? One file a format, each from bytes to text.

mod docx;
mod epub;
mod html;
mod markdown;
mod pdf;
mod text;
mod zipped;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Format, Unread};

pub(crate) use markdown::title as markdown_title;
pub(crate) use text::Decoded;

/// What was read out of a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extracted {
    pub(crate) format: Format,
    /// What the file calls itself.
    pub(crate) title: Option<String>,
    pub(crate) text: String,
    /// The text is not the file byte for byte, although the format is one that would be.
    pub(crate) decoded: bool,
    /// Where the pages begin in the text, for formats that have pages.
    pub(crate) pages: Vec<usize>,
}

impl Extracted {
    fn new(format: Format, text: String) -> Self {
        Self { format, title: None, text, decoded: false, pages: Vec::new() }
    }
}

/// Extensions of source code and of text that is laid out for machines as much as for people.
const CODE: [&str; 68] = [
    "rs", "py", "js", "mjs", "cjs", "ts", "tsx", "jsx", "go", "c", "h", "cc", "cpp", "cxx", "hpp", "hh", "cu", "cuh", "java",
    "kt", "kts", "swift", "rb", "php", "cs", "fs", "scala", "clj", "ex", "exs", "erl", "hs", "ml", "mli", "lua", "pl", "pm", "r",
    "jl", "m", "mm", "sh", "bash", "zsh", "fish", "ps1", "sql", "toml", "yaml", "yml", "json", "ini", "cfg", "conf", "proto",
    "css", "scss", "tex", "rst", "org", "adoc", "vue", "dart", "zig", "nim", "gradle", "cmake", "tf",
];

/// The format that a file's name promises; `None` for names that promise nothing that is read here.
pub(crate) fn format_of(path: &Path) -> Option<Format> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    match extension.as_str() {
        "md" | "markdown" | "mdown" | "mkd" => Some(Format::Markdown),
        "txt" | "text" | "log" => Some(Format::Text),
        "html" | "htm" | "xhtml" => Some(Format::Html),
        "pdf" => Some(Format::Pdf),
        "docx" => Some(Format::Docx),
        "epub" => Some(Format::Epub),
        "csv" | "tsv" => Some(Format::Csv),
        "jsonl" | "ndjson" => Some(Format::JsonLines),
        other => CODE.contains(&other).then_some(Format::Code),
    }
}

/// Reads a file's bytes as that format.
///
/// # Errors
/// [`Unread`], with what is wrong with the file. A parser that panics on it is caught: the file is damaged, whoever else
/// may be at fault.
pub(crate) fn extract(bytes: Vec<u8>, format: Format) -> Result<Extracted, Unread> {
    let read = || match format {
        Format::Text | Format::Code | Format::Csv | Format::JsonLines => text::extract(bytes, format),
        Format::Markdown => markdown::extract(bytes),
        Format::Html => html::extract(bytes),
        Format::Pdf => pdf::extract(&bytes),
        Format::Docx => docx::extract(bytes),
        Format::Epub => epub::extract(bytes),
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(damaged("its parser gave up")))
}

fn damaged(what: impl ToString) -> Unread {
    Unread::Damaged { what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_formats() {
        for (name, format) in [
            ("a.MD", Some(Format::Markdown)),
            ("a.b.txt", Some(Format::Text)),
            ("a.pdf", Some(Format::Pdf)),
            ("main.rs", Some(Format::Code)),
            ("a.tsv", Some(Format::Csv)),
            ("a.png", None),
            ("Makefile", None),
        ] {
            assert_eq!(format_of(Path::new(name)), format, "{name}");
        }
    }

    #[test]
    fn no_file_is_too_broken_for_an_answer() {
        for format in [Format::Pdf, Format::Docx, Format::Epub] {
            for bytes in [&b""[..], b"%PDF-1.7", b"PK\x03\x04", b"%PDF-1.4\n1 0 obj\n<<>>\nstartxref\n9\n%%EOF", &[0xff; 300]] {
                assert!(matches!(extract(bytes.to_vec(), format), Err(Unread::Damaged { .. })), "{format}, {bytes:?}");
            }
        }
    }
}
