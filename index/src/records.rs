//! How does a table become documents?
//!
//! Each record of a CSV, TSV or JSON-lines file is a document of its own, by a map of its fields. Its id is the file's with
//! `#` and the record's own id, or its line, so that ingesting the file again changes only the records that changed.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::card::cards;
use crate::document::Value;
use crate::extract::format_of;
use crate::open::canonical;
use crate::{Change, Document, Format, Index, IndexError, IngestReport, Unread};

/// Which fields of a record are what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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

type Record = BTreeMap<String, Value>;

impl Index {
    /// Brings the records of a CSV, TSV or JSON-lines file in, and those ingested from it before in step. Commits.
    ///
    /// # Errors
    /// Those of the index; a record or a file that cannot be read is in the report instead.
    pub fn ingest_records(&self, file: &Path, map: &FieldMap) -> Result<IngestReport, IndexError> {
        self.commit()?;
        self.refresh()?;
        let mut report = IngestReport::default();
        let Some(path) = canonical(file).map(PathBuf::from) else {
            report.failed.push((file.to_path_buf(), Unread::Path));
            return Ok(report);
        };
        let prefix = format!("{}#", path.display());
        let mut seen = HashSet::new();
        let mut put = |line: u64, record: Result<Record, Unread>| -> Result<(), IndexError> {
            let read = record.and_then(|record| document(&path, &prefix, line, &record, map));
            match read {
                Ok(document) => {
                    seen.insert(document.id.clone());
                    match self.add(document)? {
                        Change::Added => report.added += 1,
                        Change::Updated => report.updated += 1,
                        Change::Unchanged => report.unchanged += 1,
                    }
                }
                Err(reason) => report.failed.push((PathBuf::from(format!("{prefix}{line}")), reason)),
            }
            Ok(())
        };
        let whole = match format_of(&path) {
            Some(Format::JsonLines) => json_lines(&path, &mut put)?,
            _ => table(&path, &mut put)?,
        };
        match whole {
            Ok(()) => {
                for (id, _) in cards(&self.reader.searcher(), &self.fields, &prefix)? {
                    if !seen.contains(&id) {
                        self.remove(&id)?;
                        report.removed += 1;
                    }
                }
            }
            // What could not be read to its end says nothing of what is gone.
            Err(reason) => report.failed.push((path.clone(), reason)),
        }
        self.finish()?;
        Ok(report)
    }
}

type Put<'a> = &'a mut dyn FnMut(u64, Result<Record, Unread>) -> Result<(), IndexError>;

fn json_lines(path: &Path, put: Put<'_>) -> Result<Result<(), Unread>, IndexError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) => return Ok(Err(e.into())),
    };
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = match line {
            Ok(line) => line,
            Err(e) => return Ok(Err(e.into())),
        };
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&line);
        let record = record.map_err(|e| Unread::Damaged { what: e.to_string() });
        put(number as u64 + 1, record.map(|fields| fields.into_iter().filter_map(|(name, v)| Some((name, json(v)?))).collect()))?;
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

fn table(path: &Path, put: Put<'_>) -> Result<Result<(), Unread>, IndexError> {
    let tabs = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("tsv"));
    let reader = csv::ReaderBuilder::new().delimiter(if tabs { b'\t' } else { b',' }).flexible(true).from_path(path);
    let damaged = |e: csv::Error| Unread::Damaged { what: e.to_string() };
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(e) => return Ok(Err(damaged(e))),
    };
    let names = match reader.headers() {
        Ok(names) => names.clone(),
        Err(e) => return Ok(Err(damaged(e))),
    };
    for row in reader.records() {
        let line = row.as_ref().ok().and_then(|r| r.position().map(csv::Position::line)).unwrap_or(0);
        let record = row.map_err(damaged);
        put(
            line,
            record.map(|row| names.iter().zip(row.iter()).map(|(name, cell)| (name.trim().to_string(), typed(cell))).collect()),
        )?;
    }
    Ok(Ok(()))
}

/// A cell as the type it is written as.
fn typed(cell: &str) -> Value {
    let bare = cell.trim();
    if let Ok(whole) = bare.parse() {
        return Value::Integer(whole);
    }
    match (bare, bare.parse::<f64>()) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Ok(number)) if number.is_finite() => Value::Number(number),
        _ => Value::Text(cell.to_string()),
    }
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
            assert_eq!(typed(cell), value, "{cell:?}");
        }
    }
}
