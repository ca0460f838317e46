//! What is said about documents, and conditions on it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use palimpsest_engine::index;

/// A typed value of a document's metadata.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Value {
    /// True or false.
    Bool {
        /// Which.
        value: bool,
    },
    /// A whole number.
    Integer {
        /// Which.
        value: i64,
    },
    /// A number.
    Number {
        /// Which.
        value: f64,
    },
    /// A word or a text, compared whole.
    Text {
        /// Which.
        value: String,
    },
}

/// A condition on a document's metadata. A document without the field meets neither equality nor range.
#[derive(Debug, Clone, PartialEq, uniffi::Enum)]
pub enum Filter {
    /// The field has this value.
    Equals {
        /// Its name.
        field: String,
        /// Its value.
        value: Value,
    },
    /// The field has a value of the bounds' type between them, bounds included; without a bound it is open on that side.
    Between {
        /// Its name.
        field: String,
        /// The least.
        from: Option<Value>,
        /// The most.
        to: Option<Value>,
    },
    /// All hold; so do none.
    AllOf {
        /// Which.
        filters: Vec<Filter>,
    },
    /// One holds at least.
    AnyOf {
        /// Which.
        filters: Vec<Filter>,
    },
    /// It does not hold.
    Not {
        /// Which.
        filter: Box<Filter>,
    },
}

/// As the engine holds it.
pub(crate) fn plain(metadata: HashMap<String, Value>) -> BTreeMap<String, index::Value> {
    metadata.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// As it goes over the border.
pub(super) fn described(metadata: BTreeMap<String, index::Value>) -> HashMap<String, Value> {
    metadata.into_iter().map(|(name, value)| (name, value.into())).collect()
}

impl From<Value> for index::Value {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool { value } => Self::Bool(value),
            Value::Integer { value } => Self::Integer(value),
            Value::Number { value } => Self::Number(value),
            Value::Text { value } => Self::Text(value),
        }
    }
}

impl From<index::Value> for Value {
    fn from(value: index::Value) -> Self {
        match value {
            index::Value::Bool(value) => Self::Bool { value },
            index::Value::Integer(value) => Self::Integer { value },
            index::Value::Number(value) => Self::Number { value },
            index::Value::Text(value) => Self::Text { value },
        }
    }
}

impl From<Filter> for index::Filter {
    fn from(filter: Filter) -> Self {
        let bound = |value: Option<Value>| value.map_or(Bound::Unbounded, |v| Bound::Included(v.into()));
        let all = |filters: Vec<Filter>| filters.into_iter().map(Self::from).collect();
        match filter {
            Filter::Equals { field, value } => Self::Is(field, value.into()),
            Filter::Between { field, from, to } => Self::Between(field, bound(from), bound(to)),
            Filter::AllOf { filters } => Self::And(all(filters)),
            Filter::AnyOf { filters } => Self::Or(all(filters)),
            Filter::Not { filter } => Self::Not(Box::new((*filter).into())),
        }
    }
}
