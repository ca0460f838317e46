//! Which terms does a text have?
//!
//! Words are runs of letters and digits, lower case, stemmed by the collection's language. The same analysis is applied to
//! passages and questions; its name is part of the schema, so that an index cannot be read with another one.

use tantivy::tokenizer::{Language, LowerCaser, RemoveLongFilter, SimpleTokenizer, Stemmer, TextAnalyzer};

/// Longest word that is indexed, in bytes; longer ones are data, not words.
const WORD_BYTES: usize = 64;

/// Name of the analyser in the schema.
pub(crate) const ENGLISH: &str = "words_english";

/// The analyser of English.
pub(crate) fn english() -> TextAnalyzer {
    TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES))
        .filter(LowerCaser)
        .filter(Stemmer::new(Language::English))
        .build()
}
