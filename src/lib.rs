//! Palimpsest.
pub use palimpsest_engine::*;
