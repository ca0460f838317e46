//! What does it read, remember, answer?
//!
//! A question goes through one file an arrow: `retrieve` -> `rerank` -> `read` -> `state` <-> `snapshot` <-> `store` ->
//! `answer` -> `cite`; `ask` strings them together and [`Engine`] is what an app holds. The network is `model`, its plain
//! twin `twin`, its weights on disk `checkpoint`, its tokenizer and prompts `prompt`.
//!
//! Refused here: hybrids with attention, spans that are not in the source byte for byte, snapshots of another reader.

pub mod answer;
pub mod ask;
pub mod bench;
pub mod calibrate;
pub mod calibration;
pub mod cancel;
pub mod checkpoint;
pub mod cite;
pub mod collection;
pub mod compose;
pub mod consider;
pub mod context;
pub mod convert;
pub mod device;
#[cfg(feature = "dense")]
pub mod encoder;
mod engine;
mod error;
pub mod events;
pub mod fidelity;
pub mod files;
pub mod fit;
pub mod free;
pub mod hints;
pub mod measure;
pub mod model;
pub mod plot;
pub mod point;
pub mod prompt;
pub mod ranking;
pub mod read;
pub mod rerank;
pub mod retrieval;
pub mod retrieve;
mod search;
pub mod snapshot;
pub mod spans;
pub mod state;
pub mod store;
pub mod stream;
pub mod tied;
pub mod trust;
pub mod twin;
mod weights;
pub mod words;

pub use ask::{Answer, AskOptions, Tier, Timings};
pub use cancel::Cancel;
pub use cite::Citation;
pub use context::{Context, ContextAnswer, ContextBytes, ContextStatus};
pub use engine::{Engine, Options, Status, Verified, default_reader, store_name};
pub use error::{Error, Result};
pub use events::{Event, Events};
pub use files::ReaderFiles;
pub use read::{Device, Reader, ReaderOptions};
pub use snapshot::{Refusal, Restore};

pub use palimpsest_index as index;
pub use palimpsest_kernels as kernels;
