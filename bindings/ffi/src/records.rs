//! What goes over the border: answers, citations, documents, and what is known of store and reader.
//!
//! Ranges are half-open bytes of a document's extracted text.

mod answers;
mod contexts;
mod documents;
mod holdings;
mod ingests;
mod metadata;

use std::path::Path;

pub use answers::{Answer, AskEvent, Citation, Timings};
pub use contexts::{ContextAnswer, ContextStatus, ReadProgress, Turn};
pub use documents::{Document, DocumentSummary, Hit, TextDocument};
pub use holdings::{ModelInfo, Status, Verified};
pub use ingests::{FailedFile, IngestProgress, IngestReport};
pub(crate) use metadata::plain;
pub use metadata::{Filter, Value};

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
