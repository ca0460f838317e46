//! What is known about a document besides its passages?
//!
//! A card, JSON on the document's last passage: written and deleted with it, so that the index has one truth.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tantivy::schema::Value as _;
use tantivy::schema::{IndexRecordOption, Term};
use tantivy::{DocAddress, DocId, DocSet, Searcher, SegmentReader, TERMINATED, TantivyDocument};

use crate::document::{Document, DocumentSummary, Format, Value};
use crate::error::{IndexError, doing};
use crate::records::FieldMap;
use crate::schema::Fields;

/// A document without its text, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Card {
    pub(crate) id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    pub(crate) title: String,
    pub(crate) format: Format,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) decoded: bool,
    /// Of a record: the line of its file on which it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// Of a record: by which map it became one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) fields: Option<FieldMap>,
    pub(crate) text_bytes: u64,
    pub(crate) passages: u32,
    pub(crate) text_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<FileStamp>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, Value>,
}

/// The file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    pub(crate) bytes: u64,
    /// Nanoseconds since 1970; `None` when the file was so young that it could change within the same instant.
    pub(crate) modified_ns: Option<u64>,
    pub(crate) blake3: String,
}

impl FileStamp {
    /// Whether the file is as it was, by its length and time.
    pub(crate) fn is_of(&self, bytes: u64, modified_ns: Option<u64>) -> bool {
        self.bytes == bytes && modified_ns.is_some() && self.modified_ns == modified_ns
    }
}

impl Card {
    /// What a document says of itself; nothing of its text.
    pub(crate) fn of(document: &Document) -> Self {
        Self {
            id: document.id.clone(),
            path: document.path.clone(),
            title: document.title.clone(),
            format: document.format,
            decoded: document.decoded,
            line: None,
            fields: None,
            text_bytes: 0,
            passages: 0,
            text_sha256: String::new(),
            file: None,
            metadata: document.metadata.clone(),
        }
    }

    /// Whether both say the same of the same text, however it came in.
    pub(crate) fn same_document(&self, other: &Self) -> bool {
        let (mine, theirs) = (Self { file: None, ..self.clone() }, Self { file: None, ..other.clone() });
        mine == theirs
    }

    pub(crate) fn summary(self) -> DocumentSummary {
        DocumentSummary {
            id: self.id,
            path: self.path,
            title: self.title,
            format: self.format,
            decoded: self.decoded,
            text_bytes: self.text_bytes,
            passages: self.passages,
            text_sha256: self.text_sha256,
            metadata: self.metadata,
        }
    }
}

/// The card of the document of that id.
pub(crate) fn card(searcher: &Searcher, fields: &Fields, id: &str) -> Result<Option<Card>, IndexError> {
    let addresses = alive(searcher, &Term::from_field_text(fields.card_of, id))?;
    addresses.first().map(|&address| read_card(searcher, fields, address)).transpose()
}

/// Addresses of the passages that hold `term` and are not deleted.
pub(crate) fn alive(searcher: &Searcher, term: &Term) -> Result<Vec<DocAddress>, IndexError> {
    let mut found = Vec::new();
    for (segment, reader) in searcher.segment_readers().iter().enumerate() {
        found.extend(alive_in(reader, term)?.map(|doc| DocAddress::new(segment as u32, doc)));
    }
    Ok(found)
}

/// The same of one segment, one after the other: a document may have millions.
pub(crate) fn alive_in<'a>(reader: &'a SegmentReader, term: &Term) -> Result<impl Iterator<Item = DocId> + use<'a>, IndexError> {
    let inverted = reader.inverted_index(term.field()).map_err(doing("look a document up"))?;
    let mut postings =
        inverted.read_postings(term, IndexRecordOption::Basic).map_err(|e| doing("look a document up")(e.into()))?;
    let all = std::iter::from_fn(move || {
        let postings = postings.as_mut()?;
        let doc = postings.doc();
        postings.advance();
        (doc != TERMINATED).then_some(doc)
    });
    Ok(all.filter(|doc| !reader.is_deleted(*doc)))
}

/// The card on that passage.
pub(crate) fn read_card(searcher: &Searcher, fields: &Fields, address: DocAddress) -> Result<Card, IndexError> {
    let passage: TantivyDocument = searcher.doc(address).map_err(doing("read a document's card"))?;
    let bytes = passage.get_first(fields.card).and_then(|v| v.as_bytes());
    bytes.and_then(|b| serde_json::from_slice(b).ok()).ok_or_else(|| IndexError::Damaged {
        path: PathBuf::from("card"),
        what: format!("passage {} of segment {} has no card that can be read", address.doc_id, address.segment_ord),
    })
}

/// Ids of all documents that begin with `prefix`, with the place of their card, in the order of segments.
pub(crate) fn cards(searcher: &Searcher, fields: &Fields, prefix: &str) -> Result<Vec<(String, DocAddress)>, IndexError> {
    let failed = |e: std::io::Error| doing("list the documents")(e.into());
    let mut found = Vec::new();
    for (segment, reader) in searcher.segment_readers().iter().enumerate() {
        let inverted = reader.inverted_index(fields.card_of).map_err(doing("list the documents"))?;
        let mut ids = inverted.terms().range().ge(prefix.as_bytes()).into_stream().map_err(failed)?;
        while ids.advance() {
            if !ids.key().starts_with(prefix.as_bytes()) {
                break;
            }
            let mut postings = inverted.read_postings_from_terminfo(ids.value(), IndexRecordOption::Basic).map_err(failed)?;
            let mut doc = postings.doc();
            while doc != TERMINATED {
                if !reader.is_deleted(doc) {
                    found.push((String::from_utf8_lossy(ids.key()).into_owned(), DocAddress::new(segment as u32, doc)));
                }
                doc = postings.advance();
            }
        }
    }
    Ok(found)
}
