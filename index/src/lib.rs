//! Where does the corpus say it?
//!
//! Documents go in, passages that answer to a question come out. A passage is a byte range of its document's text, so
//! that what is found can be quoted and checked. BM25 over tantivy; no model, no tokens, and no
//! network but for the feature `elastic`. Vectors beside BM25, feature `dense`, are made by an encoder that the caller brings.

mod analyse;
mod bm25;
mod card;
mod checked;
mod condition;
mod document;
#[cfg(feature = "elastic")]
mod elastic;
mod error;
mod extract;
mod filter;
#[cfg(test)]
mod full_disk;
#[cfg(feature = "dense")]
mod fused;
mod ingest;
pub mod measure;
mod notice;
mod open;
mod passage;
mod place;
mod records;
mod retriever;
mod schema;
mod search;
mod settings;
mod stream;
#[cfg(feature = "dense")]
mod vectors;
mod walk;
mod write;

pub use condition::Unparsed;
pub use document::{Document, DocumentSummary, Format, Value};
#[cfg(feature = "elastic")]
pub use elastic::Elastic;
pub use error::{IndexError, Unread};
pub use filter::Filter;
#[cfg(feature = "dense")]
pub use fused::{Fused, Ranking};
pub use ingest::{IngestOptions, IngestReport, Progress};
pub use notice::Notice;
pub use open::{Index, IndexStatus};
pub use passage::{Bounds, passages};
pub use place::Place;
pub use records::{FieldMap, Unmapped};
pub use retriever::{Retriever, Source};
pub use search::{Hit, SearchOptions, Weights};
pub use settings::Options;
#[cfg(feature = "dense")]
pub use vectors::{Encoder, Role, Vectors};
pub use write::{Change, ID_BYTES};
