//! Which fields does a passage have in tantivy?
//!
//! One tantivy document is one passage. What is searched (`terms`: the title and the passage's text in one field, so that
//! their term frequencies and lengths add up, as in a text that begins with its title) is not stored; what is stored is the
//! passage's text, so the passages of a document put together are its text. The last passage carries the document's card.

use tantivy::schema::{BytesOptions, Field, IndexRecordOption, NumericOptions, STORED, Schema, TextFieldIndexing, TextOptions};

/// Handles of the fields.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    /// Id of the document, whole.
    pub(crate) document: Field,
    /// The passage's number in it.
    pub(crate) ordinal: Field,
    /// Its first byte in the document's text.
    pub(crate) start: Field,
    /// Title and text, analysed; not stored.
    pub(crate) terms: Field,
    /// The passage's text; stored only.
    pub(crate) text: Field,
    /// The document's title; stored only.
    pub(crate) title: Field,
    /// The document's file; stored only.
    pub(crate) path: Field,
    /// Where a person finds it, as JSON; stored only.
    pub(crate) place: Field,
    /// Typed metadata of the document, a term a value, for filters; see filter.rs.
    pub(crate) metadata: Field,
    /// Id of the document, on its last passage only.
    pub(crate) card_of: Field,
    /// What is known about the document, as JSON, on its last passage only.
    pub(crate) card: Field,
}

/// The fields, `terms` analysed by the tokenizer of that name.
pub(crate) fn schema(analyser: &str) -> (Schema, Fields) {
    let whole =
        TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false);
    let analysed = TextFieldIndexing::default().set_tokenizer(analyser).set_index_option(IndexRecordOption::WithFreqs);
    let stored_number = NumericOptions::default().set_stored();
    let mut builder = Schema::builder();
    let fields = Fields {
        document: builder.add_text_field("document", TextOptions::default().set_indexing_options(whole.clone()).set_stored()),
        ordinal: builder.add_u64_field("ordinal", stored_number.clone()),
        start: builder.add_u64_field("start", stored_number.set_fast()),
        terms: builder.add_text_field("terms", TextOptions::default().set_indexing_options(analysed)),
        text: builder.add_text_field("text", STORED),
        title: builder.add_text_field("title", STORED),
        path: builder.add_text_field("path", STORED),
        place: builder.add_bytes_field("place", BytesOptions::default().set_stored()),
        metadata: builder.add_bytes_field("metadata", BytesOptions::default().set_indexed()),
        card_of: builder.add_text_field("card_of", TextOptions::default().set_indexing_options(whole)),
        card: builder.add_bytes_field("card", BytesOptions::default().set_stored()),
    };
    (builder.build(), fields)
}
