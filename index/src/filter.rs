//! Which documents may a search look at?
//!
//! Metadata is indexed as one term a value, `name 0 type value`, where the value's bytes are in the order of the values, so
//! that a range is a stretch of the term dictionary. Every passage carries its document's. Numbers are compared as f64:
//! whole ones are exact up to 2^53.

use std::ops::Bound;

use serde::{Deserialize, Serialize};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, DocSet, Searcher, SegmentReader, TERMINATED};

use crate::document::Value;

/// A condition on a document's metadata. A document without the field meets neither equality nor range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filter {
    /// The field has this value.
    Is(String, Value),
    /// The field has a value of the bounds' type between them.
    Between(String, Bound<Value>, Bound<Value>),
    /// All hold; so do none.
    And(Vec<Filter>),
    /// One holds at least.
    Or(Vec<Filter>),
    /// It does not hold.
    Not(Box<Filter>),
}

impl Filter {
    /// The field has this value.
    #[must_use]
    pub fn is(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Is(field.into(), value.into())
    }

    /// The field's value is `from` or more.
    #[must_use]
    pub fn at_least(field: impl Into<String>, from: impl Into<Value>) -> Self {
        Self::Between(field.into(), Bound::Included(from.into()), Bound::Unbounded)
    }

    /// The field's value is `to` or less.
    #[must_use]
    pub fn at_most(field: impl Into<String>, to: impl Into<Value>) -> Self {
        Self::Between(field.into(), Bound::Unbounded, Bound::Included(to.into()))
    }
}

/// The passages of one segment that a filter picks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    bits: Vec<u64>,
}

impl Chosen {
    fn none(passages: u32) -> Self {
        Self { bits: vec![0; passages.div_ceil(64) as usize] }
    }

    fn insert(&mut self, doc: DocId) {
        if let Some(word) = self.bits.get_mut(doc as usize / 64) {
            *word |= 1 << (doc % 64);
        }
    }

    pub(crate) fn holds(&self, doc: DocId) -> bool {
        self.bits.get(doc as usize / 64).is_some_and(|word| word & (1 << (doc % 64)) != 0)
    }

    fn combine(mut self, other: &Self, both: impl Fn(u64, u64) -> u64) -> Self {
        for (a, b) in self.bits.iter_mut().zip(&other.bits) {
            *a = both(*a, *b);
        }
        self
    }
}

/// What `filter` picks of each segment.
pub(crate) fn choose(searcher: &Searcher, field: Field, filter: &Filter) -> tantivy::Result<Vec<Chosen>> {
    searcher.segment_readers().iter().map(|reader| choose_in(reader, field, filter)).collect()
}

fn choose_in(reader: &SegmentReader, field: Field, filter: &Filter) -> tantivy::Result<Chosen> {
    let none = Chosen::none(reader.max_doc());
    Ok(match filter {
        Filter::Is(name, value) => {
            let bound = Bound::Included(value.clone());
            stretch(reader, field, name, &bound, &bound, none)?
        }
        Filter::Between(name, from, to) => stretch(reader, field, name, from, to, none)?,
        Filter::And(filters) => {
            let mut all = none.combine(&Chosen::none(reader.max_doc()), |_, _| u64::MAX);
            for filter in filters {
                all = all.combine(&choose_in(reader, field, filter)?, |a, b| a & b);
            }
            all
        }
        Filter::Or(filters) => {
            let mut any = none;
            for filter in filters {
                any = any.combine(&choose_in(reader, field, filter)?, |a, b| a | b);
            }
            any
        }
        Filter::Not(filter) => none.combine(&choose_in(reader, field, filter)?, |_, b| !b),
    })
}

/// Passages with a value between the bounds: those of a stretch of the dictionary.
fn stretch(
    reader: &SegmentReader,
    field: Field,
    name: &str,
    from: &Bound<Value>,
    to: &Bound<Value>,
    mut chosen: Chosen,
) -> tantivy::Result<Chosen> {
    let Some(kind) = [from, to].into_iter().find_map(|b| match b {
        Bound::Included(v) | Bound::Excluded(v) => Some(kind(v)),
        Bound::Unbounded => None,
    }) else {
        // No bound at all: any value of any type.
        return ['b', 'n', 't']
            .into_iter()
            .try_fold(chosen, |chosen, kind| scan(reader, field, &prefix(name, kind), None, None, chosen));
    };
    let same = |b: &Bound<Value>| match b {
        Bound::Included(v) | Bound::Excluded(v) if self::kind(v) != kind => None,
        Bound::Included(v) => Some(Some((term(name, v), true))),
        Bound::Excluded(v) => Some(Some((term(name, v), false))),
        Bound::Unbounded => Some(None),
    };
    // Bounds of two types hold nothing between them.
    let (Some(from), Some(to)) = (same(from), same(to)) else { return Ok(chosen) };
    chosen = scan(reader, field, &prefix(name, kind), from, to, chosen)?;
    Ok(chosen)
}

fn scan(
    reader: &SegmentReader,
    field: Field,
    prefix: &[u8],
    from: Option<(Vec<u8>, bool)>,
    to: Option<(Vec<u8>, bool)>,
    mut chosen: Chosen,
) -> tantivy::Result<Chosen> {
    let inverted = reader.inverted_index(field)?;
    let range = inverted.terms().range();
    let range = match &from {
        Some((from, true)) => range.ge(from),
        Some((from, false)) => range.gt(from),
        None => range.ge(prefix),
    };
    let mut terms = range.into_stream()?;
    while terms.advance() {
        let within = match &to {
            Some((to, true)) => terms.key() <= to.as_slice(),
            Some((to, false)) => terms.key() < to.as_slice(),
            None => true,
        };
        if !within || !terms.key().starts_with(prefix) {
            break;
        }
        let mut postings = inverted.read_postings_from_terminfo(terms.value(), IndexRecordOption::Basic)?;
        let mut doc = postings.doc();
        while doc != TERMINATED {
            chosen.insert(doc);
            doc = postings.advance();
        }
    }
    Ok(chosen)
}

fn kind(value: &Value) -> char {
    match value {
        Value::Bool(_) => 'b',
        Value::Integer(_) | Value::Number(_) => 'n',
        Value::Text(_) => 't',
    }
}

fn prefix(name: &str, kind: char) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend([0, kind as u8]);
    bytes
}

/// The term of that value: its bytes are in the order of the values.
pub(crate) fn term(name: &str, value: &Value) -> Vec<u8> {
    let mut bytes = prefix(name, kind(value));
    match value {
        Value::Bool(b) => bytes.push(u8::from(*b)),
        Value::Integer(i) => bytes.extend(ordered(*i as f64)),
        Value::Number(n) => bytes.extend(ordered(*n)),
        Value::Text(t) => bytes.extend(t.as_bytes()),
    }
    bytes
}

fn ordered(number: f64) -> [u8; 8] {
    // Zero has one sign here; below zero more bits are less.
    let bits = (number + 0.0).to_bits();
    (if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_in_the_order_of_their_values() {
        let numbers = [f64::NEG_INFINITY, -1e300, -2.5, -1.0, -1e-300, 0.0, 1e-300, 0.5, 1.0, 2.0, 1e300, f64::INFINITY];
        for pair in numbers.windows(2) {
            assert!(term("n", &Value::Number(pair[0])) < term("n", &Value::Number(pair[1])), "{pair:?}");
        }
        assert_eq!(term("n", &Value::Integer(-3)), term("n", &Value::Number(-3.0)));
        assert_eq!(term("n", &Value::Number(-0.0)), term("n", &Value::Integer(0)));
        assert!(term("n", &Value::Text("a".into())) < term("n", &Value::Text("aa".into())));
    }
}
