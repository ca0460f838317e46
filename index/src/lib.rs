//! Where does the corpus say it?
//!
//! Documents go in, passages that answer to a question come out. A passage is a byte range of its document's text, so
//! that what is found can be quoted and checked. BM25 over tantivy; no model, no tokens, no network.

mod analyse;
mod bm25;
mod card;
mod checked;
mod document;
mod error;
mod extract;
mod filter;
mod ingest;
pub mod measure;
mod notice;
mod open;
mod passage;
mod records;
mod schema;
mod search;
mod settings;
mod stream;
mod write;

pub use document::{Document, DocumentSummary, Format, Value};
pub use error::{IndexError, Unread};
pub use filter::Filter;
pub use ingest::{IngestReport, Progress};
pub use notice::Notice;
pub use open::{Index, IndexStatus};
pub use passage::{Bounds, passages};
pub use records::FieldMap;
pub use search::{Hit, Place, SearchOptions, Weights};
pub use settings::Options;
pub use write::{Change, ID_BYTES};
