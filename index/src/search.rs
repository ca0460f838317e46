//! Which passages answer to a question?

use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tantivy::collector::TopDocs;
use tantivy::query::{BooleanQuery, Occur, Query, TermQuery};
use tantivy::schema::{IndexRecordOption, Value as _};
use tantivy::tokenizer::TokenStream;
use tantivy::{DocAddress, Searcher, TantivyDocument, Term};

use crate::error::doing;
use crate::{Index, IndexError};

/// A passage that answers to a question. Its text is the document's text at `range`, byte for byte.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Hit {
    /// Id of the document.
    pub document: String,
    /// Its file; `None` for a text that an app handed over.
    pub path: Option<PathBuf>,
    /// Its title.
    pub title: String,
    /// Which of the document's passages, from 0.
    pub passage: u32,
    /// Half-open bytes of the document's text.
    pub range: Range<u64>,
    /// The document's text there.
    pub text: String,
    /// BM25.
    pub score: f32,
    /// Where a person finds it.
    pub place: Option<Place>,
}

/// Where a person finds a passage in the document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Place {
    /// Page on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Heading under which it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<String>,
    /// Line on which it begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

impl Index {
    /// The `limit` passages that answer best to a question in plain words, best first.
    ///
    /// # Errors
    /// Those of the index; no question is an error.
    pub fn search(&self, question: &str, limit: usize) -> Result<Vec<Hit>, IndexError> {
        let searcher = self.reader.searcher();
        let mut analyser = self.tantivy.tokenizer_for_field(self.fields.terms).map_err(doing("analyse the question"))?;
        let mut terms = Vec::new();
        let mut words = analyser.token_stream(question);
        while words.advance() {
            terms.push(Term::from_field_text(self.fields.terms, &words.token().text));
        }
        if terms.is_empty() || limit == 0 {
            return Ok(Vec::new());
        }
        let any = terms.into_iter().map(|term| {
            let query: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
            (Occur::Should, query)
        });
        let query = BooleanQuery::new(any.collect());
        let best = searcher.search(&query, &TopDocs::with_limit(limit).order_by_score()).map_err(doing("search"))?;
        best.into_iter().map(|(score, address)| self.hit(&searcher, address, score)).collect()
    }

    fn hit(&self, searcher: &Searcher, address: DocAddress, score: f32) -> Result<Hit, IndexError> {
        let f = &self.fields;
        let passage: TantivyDocument = searcher.doc(address).map_err(doing("read a passage"))?;
        let text = |field| passage.get_first(field).and_then(|v| v.as_str());
        let number = |field| passage.get_first(field).and_then(|v| v.as_u64());
        let parts = (text(f.document), text(f.text), number(f.start), number(f.ordinal));
        let (Some(document), Some(words), Some(start), Some(ordinal)) = parts else {
            let what = format!("passage {} of segment {} lacks a field", address.doc_id, address.segment_ord);
            return Err(IndexError::Damaged { path: self.place(), what });
        };
        Ok(Hit {
            document: document.to_string(),
            path: text(f.path).map(PathBuf::from),
            title: text(f.title).unwrap_or_default().to_string(),
            passage: ordinal as u32,
            range: start..start + words.len() as u64,
            text: words.to_string(),
            score,
            place: passage.get_first(f.place).and_then(|v| v.as_bytes()).and_then(|b| serde_json::from_slice(b).ok()),
        })
    }
}
