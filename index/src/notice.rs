//! What should an app's user hear that is no error?

use std::fmt;

/// Something that works, but less well than it might.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The collection's language is not known: words are found as they are written only, whatever their endings.
    UnknownLanguage {
        /// As it was named.
        language: String,
    },
    /// The collection was to be opened in another language than it was made in.
    KeptLanguage {
        /// The one that it keeps.
        kept: String,
        /// The one that was named.
        asked: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownLanguage { language } => {
                write!(
                    f,
                    "the language {language:?} is not known here: words are found as they are written, whatever their endings"
                )
            }
            Self::KeptLanguage { kept, asked } => {
                write!(f, "these documents were taken in as {kept}, which they stay: for {asked} take them into a new store")
            }
        }
    }
}
