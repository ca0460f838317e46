//! Who is asking? Swift, Kotlin and Python, through one surface that UniFFI carries over.
//!
//! What goes in and out are records, enums, strings and bytes, never lists of floats; what lives on this side are handles:
//! an [`EngineHandle`], a [`ContextHandle`], and jobs. Short calls are `async` and run on threads of this library. A long
//! call gives a job at once, from which the host pulls events when it likes, and which it cancels by hand, since a host's
//! own cancelling does not reach Rust in every language. No code of the host is called from here, so none can fail here.
//!
//! Nothing panics across the border: what panics inside comes out as [`PalimpsestError::Internal`].
//! The packages in `bindings/swift`, `bindings/kotlin` and `bindings/python` put their language's idiom on top.

#![expect(clippy::missing_errors_doc, reason = "every call fails as `PalimpsestError` says, and hosts read these lines too")]

mod call;
mod context;
mod engine;
mod error;
mod gathered;
mod job;
mod options;
mod records;

pub use call::rehearse_panic;
pub use context::{ContextAskJob, ContextHandle, ReadJob};
pub use engine::{AskJob, AskManyJob, EngineHandle, IngestJob, open_engine};
pub use error::PalimpsestError;
pub use options::{
    AskOptions, Device, EngineOptions, FieldMap, IngestOptions, ReaderSource, SearchOptions, SnapshotForm, Tier, Weights,
};
pub use records::{
    Answer, AskEvent, Citation, ContextAnswer, ContextStatus, Document, DocumentSummary, FailedFile, Filter, Hit, IngestProgress,
    IngestReport, ModelInfo, ReadProgress, Status, TextDocument, Timings, Turn, Value, Verified,
};

uniffi::setup_scaffolding!("palimpsest");
