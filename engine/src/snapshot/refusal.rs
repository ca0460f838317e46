//! What a lookup gives, and every reason why it may give nothing.

use super::{Form, Short, SnapshotKey};

/// Why a state is not restored. Nobody's fault but [`Refusal::Damaged`]'s, which is the disk's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Kept by a reader with other weights.
    #[error("it belongs to another reader (weights {stored}, here {wanted})")]
    OtherReader {
        /// Whose it is.
        stored: Short<12>,
        /// Who asked.
        wanted: Short<12>,
    },
    /// Kept with the same weights and another tokenizer.
    #[error("it belongs to another tokenizer ({stored}, here {wanted})")]
    OtherTokenizer {
        /// Whose it is.
        stored: Short<8>,
        /// Who asked.
        wanted: Short<8>,
    },
    /// Its elements are laid out as another version of the engine lays them out.
    #[error("its state format is {stored}, here it is {wanted}")]
    OtherFormat {
        /// Its format.
        stored: u32,
        /// The format here.
        wanted: u32,
    },
    /// Its bytes are of a newer version than this engine reads.
    #[error("its bytes are of version {stored}, and the newest known here is {newest}")]
    OtherVersion {
        /// Its version.
        stored: u16,
        /// The newest version that this engine reads.
        newest: u16,
    },
    /// Computed by arithmetic that rounds otherwise: another back end, instruction set or element type.
    #[error("it was computed by other arithmetic ({stored}, here {wanted})")]
    OtherArithmetic {
        /// Hash of its arithmetic's name.
        stored: Short<8>,
        /// Hash of the arithmetic's name here.
        wanted: Short<8>,
    },
    /// Kept in a rounded form where the exact one is wanted, or in another rounded form.
    #[error("it is kept as {stored:?}, and {wanted:?} is wanted")]
    OtherForm {
        /// Its form.
        stored: Form,
        /// The form wanted.
        wanted: Form,
    },
    /// The same reader's state of other ids.
    #[error("it is the state of another text ({stored}, wanted {wanted})")]
    OtherText {
        /// Its key.
        stored: SnapshotKey,
        /// The key asked for.
        wanted: SnapshotKey,
    },
    /// Its bytes are not those that were written.
    #[error("it is damaged: {0}")]
    Damaged(Damage),
    /// It was there and had to go, to hold the budget.
    #[error("it was evicted to hold the store's budget")]
    Evicted,
    /// The store knows nothing of it.
    #[error("it was never kept")]
    NeverSeen,
}

impl From<Damage> for Refusal {
    fn from(damage: Damage) -> Self {
        Refusal::Damaged(damage)
    }
}

/// What is wrong with damaged bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// They do not begin as a snapshot does.
    #[error("it does not begin as a snapshot")]
    Magic,
    /// There are too few or too many of them.
    #[error("{found_bytes} bytes where {expected_bytes} belong")]
    Length {
        /// Bytes that belong there.
        expected_bytes: u64,
        /// Bytes that are there.
        found_bytes: u64,
    },
    /// This field of the header does not hold.
    #[error("{0} of the header does not hold")]
    Header(&'static str),
    /// The elements do not match their checksum.
    #[error("the elements do not match their checksum")]
    Elements,
    /// The file cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system said.
        reason: String,
    },
    /// Whole, but of no use to the caller, for the reason given.
    #[error("{0}")]
    Unusable(&'static str),
}

impl From<&'static str> for Damage {
    fn from(reason: &'static str) -> Self {
        Damage::Unusable(reason)
    }
}

/// How far logits may lie from the exact ones after [`Restore::Near`]: |a - b| over |b|. That is what int8 products stay within
/// on a trained reader (kernels/README.md); f32 on another instruction set stays within 1e-4.
pub const NEAR_TOLERANCE: f32 = 3e-2;

/// What a lookup gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restore {
    /// The state after all ids asked for: nothing is left to read.
    Exact {
        /// Tokens restored.
        tokens: u64,
    },
    /// The exact state after the first of them: the rest is to be read.
    Prefix {
        /// Tokens restored.
        tokens: u64,
    },
    /// A state near the one after the first of them, where the caller asked for such: kept in a rounded form, or computed by
    /// other arithmetic. What is read on from it is near, too: logits within [`NEAR_TOLERANCE`].
    Near {
        /// Tokens restored.
        tokens: u64,
    },
    /// Nothing of it, for this reason: all is to be read.
    Refused(Refusal),
}
