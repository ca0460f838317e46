//! How does a table become documents?
//!
//! Each record of a CSV, TSV or JSON-lines file is a document of its own, by a map of its fields. Its id is the file's with
//! `#` and the record's own id, or its line, so that ingesting the file again changes only the records that changed.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::rc::Rc;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::card::{cards, read_card};
use crate::document::Value;
use crate::extract::{Decoded, format_of};
use crate::place::Layout;
use crate::{Document, Format, Index, IndexError, IngestReport, Unread};

/// Longest record; a longer one is a quotation mark that was never closed, or no table.
const RECORD_BYTES: u64 = 64 << 20;

/// Which fields of a record are what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldMap {
    /// The record's id, unique in its file; its line without.
    pub id: Option<String>,
    /// The document's title; empty without.
    pub title: Option<String>,
    /// The document's text: these fields, one below the other.
    pub text: Vec<String>,
    /// Kept as typed metadata, under the same names.
    pub metadata: Vec<String>,
}

/// A map of fields that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field map {text:?}: {what}; as in: id=sku title=name text=about,notes metadata=price, or as JSON")]
pub struct Unmapped {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub what: String,
}

impl FromStr for FieldMap {
    type Err = Unmapped;

    /// `id=sku title=name text=about,notes metadata=price,year`, or JSON where names have spaces or commas.
    fn from_str(text: &str) -> Result<Self, Unmapped> {
        let wrong = |what: String| Unmapped { text: text.to_string(), what };
        let map = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?
        } else {
            let mut map = Self::default();
            for part in text.split_whitespace() {
                let (role, names) = part.split_once('=').ok_or_else(|| wrong(format!("{part:?} has no `=`")))?;
                let names: Vec<String> = names.split(',').filter(|name| !name.is_empty()).map(String::from).collect();
                match (role, names.as_slice()) {
                    ("id", [name]) => map.id = Some(name.clone()),
                    ("title", [name]) => map.title = Some(name.clone()),
                    ("text", _) => map.text.extend(names),
                    ("metadata", _) => map.metadata.extend(names),
                    ("id" | "title", _) => return Err(wrong(format!("{role} is one field"))),
                    _ => return Err(wrong(format!("{role:?} is none of id, title, text, metadata"))),
                }
            }
            map
        };
        if map.text.is_empty() { Err(wrong("it names no field of text".into())) } else { Ok(map) }
    }
}

/// Of a table, where its first line is looked for.
const FIRST_LINE_BYTES: u64 = 64 << 10;

type Record = BTreeMap<String, Value>;

/// By which map the file's records became documents; `None` where it has none.
pub(crate) fn map_of(index: &Index, id: &str) -> Result<Option<FieldMap>, IndexError> {
    let searcher = index.reader.searcher();
    let records = cards(&searcher, &index.fields, &format!("{id}#"))?;
    let Some((_, address)) = records.first() else { return Ok(None) };
    Ok(read_card(&searcher, &index.fields, *address)?.fields)
}

/// Brings the records of a CSV, TSV or JSON-lines file in, and those that it had before in step. `more` hears of the bytes
/// that were read.
///
/// # Errors
/// Those of the index and of `more`; a record or a file that cannot be read is in the report instead.
pub(crate) fn bring_in(
    index: &Index,
    path: &Path,
    map: &FieldMap,
    metadata: &BTreeMap<String, Value>,
    report: &mut IngestReport,
    more: &mut dyn FnMut(u64) -> Result<(), IndexError>,
) -> Result<(), IndexError> {
    let prefix = format!("{}#", path.display());
    let (hasher, mut seen) = (RandomState::new(), HashSet::new());
    let mut put = |line: u64, record: Result<Record, Unread>, bytes: u64| -> Result<(), IndexError> {
        let read = record.and_then(|record| document(path, &prefix, line, &record, map)).and_then(|document| {
            let first = seen.insert(hasher.hash_one(&document.id));
            if first { Ok(document) } else { Err(Unread::Damaged { what: "an earlier record has its id".into() }) }
        });
        match read {
            Ok(mut document) => {
                // What was set before and is no field of the record stays.
                if let Some(old) = index.latest(&document.id)? {
                    let fields = old.fields.map(|map| map.metadata).unwrap_or_default();
                    let set = old.metadata.into_iter().filter(|(name, _)| !fields.contains(name));
                    let own = std::mem::take(&mut document.metadata);
                    document.metadata = set.chain(own).collect();
                }
                document.metadata.extend(metadata.clone());
                report.count(index.put_record(&document, map, Layout::Line(line))?);
            }
            Err(reason) => report.failed.push((format!("{prefix}{line}").into(), reason)),
        }
        more(bytes)
    };
    let done = Decoded::of(path).and_then(|decoded| Ok(decoded.read(path)?)).map(|file| match format_of(path) {
        Some(Format::JsonLines) => json_lines(Bounded::new(file), &mut put),
        _ => table(Bounded::new(file), path, &mut put),
    });
    match done {
        Ok(Ok(Ok(()))) => {
            for (id, _) in cards(&index.reader.searcher(), &index.fields, &prefix)? {
                if !seen.contains(&hasher.hash_one(&id)) {
                    index.remove(&id)?;
                    report.removed += 1;
                }
            }
        }
        Ok(Err(error)) => return Err(error),
        // What could not be read to its end says nothing of what is gone.
        Ok(Ok(Err(reason))) | Err(reason) => report.failed.push((path.to_path_buf(), reason)),
    }
    Ok(())
}

/// A file of records of which none is longer than [`RECORD_BYTES`].
struct Bounded<R> {
    inner: R,
    /// Bytes read since the last record.
    since: Rc<Cell<u64>>,
}

impl<R: Read> Bounded<R> {
    fn new(inner: R) -> Self {
        Self { inner, since: Rc::default() }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.since.get() > RECORD_BYTES {
            let what = format!("a record longer than {RECORD_BYTES} bytes: a quotation mark may be missing");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let read = self.inner.read(into)?;
        self.since.set(self.since.get() + read as u64);
        Ok(read)
    }
}

type Put<'a> = &'a mut dyn FnMut(u64, Result<Record, Unread>, u64) -> Result<(), IndexError>;

fn json_lines(file: Bounded<impl Read>, put: Put<'_>) -> Result<Result<(), Unread>, IndexError> {
    let since = file.since.clone();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = match line {
            Ok(line) => line,
            Err(e) => return Ok(Err(e.into())),
        };
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let record = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line);
        let record = record.map_err(|e| Unread::Damaged { what: e.to_string() });
        let record = record.map(|fields| fields.into_iter().filter_map(|(name, v)| Some((name, json(v)?))).collect());
        put(number as u64 + 1, record, since.take())?;
    }
    Ok(Ok(()))
}

fn json(value: serde_json::Value) -> Option<Value> {
    match value {
        serde_json::Value::Bool(b) => Some(Value::Bool(b)),
        serde_json::Value::Number(n) => n.as_i64().map(Value::Integer).or_else(|| n.as_f64().map(Value::Number)),
        serde_json::Value::String(s) => Some(Value::Text(s)),
        _ => None,
    }
}

fn table(mut file: Bounded<impl Read>, path: &Path, put: Put<'_>) -> Result<Result<(), Unread>, IndexError> {
    let since = file.since.clone();
    let mut beginning = Vec::new();
    if let Err(e) = file.by_ref().take(FIRST_LINE_BYTES).read_to_end(&mut beginning) {
        return Ok(Err(e.into()));
    }
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let delimiter = if tabs { b'\t' } else { delimiter(&beginning) };
    let file = io::Cursor::new(beginning).chain(file);
    let damaged = |e: csv::Error| Unread::Damaged { what: e.to_string() };
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(file);
    let names = match reader.headers() {
        Ok(names) => names.clone(),
        Err(e) => return Ok(Err(damaged(e))),
    };
    for row in reader.records() {
        let row = match row {
            Ok(row) => row,
            // A file that cannot be read on ends the table, whatever the next row would be.
            Err(e) if e.is_io_error() => return Ok(Err(damaged(e))),
            Err(e) => {
                put(e.position().map_or(0, csv::Position::line), Err(damaged(e)), since.take())?;
                continue;
            }
        };
        let line = row.position().map_or(0, csv::Position::line);
        let cells = names.iter().zip(row.iter());
        put(line, Ok(cells.map(|(name, cell)| (name.trim().to_string(), Value::written(cell))).collect()), since.take())?;
    }
    Ok(Ok(()))
}

/// What parts the cells: the sign that the first line has most of.
fn delimiter(beginning: &[u8]) -> u8 {
    let mut quoted = false;
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    for &byte in beginning {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => break,
            _ if !quoted => counts.iter_mut().filter(|(sign, _)| *sign == byte).for_each(|(_, count)| *count += 1),
            _ => {}
        }
    }
    // Of equals the first.
    counts.into_iter().rev().max_by_key(|&(_, count)| count).map_or(b',', |(sign, _)| sign)
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Integer(i) => i.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(t) => t.clone(),
    }
}

fn document(path: &Path, prefix: &str, line: u64, record: &Record, map: &FieldMap) -> Result<Document, Unread> {
    let field = |name: &String| record.get(name).map(shown).ok_or_else(|| Unread::Field { name: name.clone() });
    let id = map.id.as_ref().map_or_else(|| Ok(line.to_string()), field)?;
    let title = map.title.as_ref().map_or_else(|| Ok(String::new()), field)?;
    let text = map.text.iter().map(field).collect::<Result<Vec<_>, _>>()?.join("\n\n");
    let mut document = Document::new(format!("{prefix}{id}"), title, text);
    document.path = Some(path.to_path_buf());
    document.format = format_of(path).unwrap_or(Format::Csv);
    document.decoded = true;
    document.metadata = map.metadata.iter().filter_map(|name| Some((name.clone(), record.get(name)?.clone()))).collect();
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_types() {
        for (cell, value) in [
            ("12", Value::Integer(12)),
            (" -1.5", Value::Number(-1.5)),
            ("true", Value::Bool(true)),
            ("NaN", Value::Text("NaN".into())),
            ("1,5", Value::Text("1,5".into())),
            ("", Value::Text(String::new())),
        ] {
            assert_eq!(Value::written(cell), value, "{cell:?}");
        }
    }

    #[test]
    fn cells_are_parted_by_what_the_first_line_has_most_of() {
        for (line, sign) in [("a;b;c\n1,2,3,4", b';'), ("\"a;b;c\",d", b','), ("a", b','), ("a\tb", b'\t'), ("", b',')] {
            assert_eq!(delimiter(line.as_bytes()), sign, "{line}");
        }
    }

    #[test]
    fn a_record_has_an_end() {
        let endless = io::repeat(b'"').take(RECORD_BYTES * 4);
        let mut records = 0;
        let stopped = table(Bounded::new(endless), Path::new("a.csv"), &mut |_, _, _| {
            records += 1;
            Ok(())
        });
        assert!(matches!(stopped, Ok(Err(Unread::Damaged { .. }))) && records == 0, "{stopped:?}");
    }

    #[test]
    fn maps_are_read() {
        let map: FieldMap = "id=sku title=name text=about,notes text=more metadata=price,year".parse().expect("a map");
        assert_eq!((map.id.as_deref(), map.title.as_deref()), (Some("sku"), Some("name")));
        assert_eq!(
            (map.text, map.metadata),
            (vec!["about".into(), "notes".into(), "more".into()], vec!["price".into(), "year".into()])
        );
        let map: FieldMap = "{\"text\": [\"Product, long\"]}".parse().expect("a map");
        assert_eq!(map.text, ["Product, long"]);
        for wrong in ["", "id=a", "text", "texts=a", "id=a,b text=c", "{", "{\"text\": []}", "{\"txt\": [\"a\"]}"] {
            assert!(wrong.parse::<FieldMap>().is_err(), "{wrong}");
        }
    }
}
