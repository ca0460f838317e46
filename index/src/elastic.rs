//! How does a search cluster answer? Feature `elastic`: the `_search` request that Elasticsearch, OpenSearch and Quickwit's
//! Elasticsearch API have in common, over HTTP.
//!
//! A document of the cluster's index is a passage: `document` (a keyword), `title`, `text`, `start` (its first byte in the
//! document's text, a number), `passage`, and where they are known `path`, `place`, `format`, `decoded` and `text_sha256` as
//! in this crate's types; what filters name are fields of their own. A text that names no `format` is not compared with the
//! file at `path`, only with what the cluster keeps. k1 and b are set in the
//! cluster's index, so weights in a search are refused. This is the only file here that speaks to a network, and there is no
//! TLS in it: for a cluster beyond this machine put a proxy between.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use crate::IndexError;
use crate::document::{DocumentSummary, Format, Value};
use crate::filter::Filter;
use crate::place::Placed;
use crate::retriever::{Retriever, Source};
use crate::search::{Hit, SearchOptions};

/// Passages that a quote may reach over.
const QUOTED: usize = 16;

/// An index on a cluster that speaks the Elasticsearch search API.
pub struct Elastic {
    agent: ureq::Agent,
    url: String,
}

impl Elastic {
    /// The index of that name at `endpoint` (`http://host:9200`; for Quickwit `http://host:7280/api/v1/_elastic`). An answer
    /// that takes longer than `timeout` is an error.
    #[must_use]
    pub fn new(endpoint: &str, index: &str, timeout: Duration) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).build();
        Self { agent: config.into(), url: format!("{}/{index}/_search", endpoint.trim_end_matches('/')) }
    }

    fn refused(&self, what: impl ToString) -> IndexError {
        IndexError::Cluster { url: self.url.clone(), what: what.to_string() }
    }
}

#[derive(Deserialize)]
struct Answer {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    #[serde(rename = "_score")]
    score: Option<f32>,
    #[serde(rename = "_source")]
    source: Passage,
}

/// A document of the cluster's index.
#[derive(Deserialize)]
struct Passage {
    document: String,
    #[serde(default)]
    title: String,
    text: String,
    start: u64,
    #[serde(default)]
    passage: u32,
    path: Option<PathBuf>,
    place: Option<Placed>,
    format: Option<Format>,
    #[serde(default)]
    decoded: bool,
    #[serde(default)]
    text_sha256: String,
}

impl Elastic {
    fn ask(&self, query: &Json) -> Result<Vec<Found>, IndexError> {
        let mut request = self.agent.post(&self.url);
        request = request.header("content-type", "application/json");
        let mut response = request.send(query.to_string()).map_err(|e| self.refused(e))?;
        let body = response.body_mut().read_to_string().map_err(|e| self.refused(e))?;
        if !response.status().is_success() {
            let shown: String = body.chars().take(300).collect();
            return Err(self.refused(format!("{}: {shown}", response.status())));
        }
        let answer: Answer = serde_json::from_str(&body).map_err(|e| self.refused(e))?;
        Ok(answer.hits.hits)
    }
}

impl Retriever for Elastic {
    fn retrieve(&self, question: &str, options: &SearchOptions) -> Result<Vec<Hit>, IndexError> {
        if options.weights.is_some() {
            return Err(self.refused("k1 and b are set in the cluster's index, not in a search"));
        }
        Ok(self.ask(&query(question, options))?.into_iter().map(hit).collect())
    }

    fn source(&self, document: &str, range: Range<u64>) -> Result<Option<Source>, IndexError> {
        // The passages that begin before the end of the range, the last of them first, back to the one that holds its start.
        let of = Filter::is("document", document);
        let before = json!({ "range": { "start": { "lt": range.end.max(1) } } });
        let query = json!({
            "size": QUOTED,
            "query": { "bool": { "filter": [condition(&of), before] } },
            "sort": [{ "start": { "order": "desc" } }],
        });
        let mut text = String::new();
        let mut summary = None;
        let mut begin = None;
        for passage in self.ask(&query)?.into_iter().map(|found| found.source) {
            let end = passage.start + passage.text.len() as u64;
            if begin.is_some_and(|begin| begin != end) {
                break;
            }
            begin = Some(passage.start);
            text.insert_str(0, &passage.text);
            let reached = passage.start <= range.start;
            summary.get_or_insert(passage);
            if reached {
                break;
            }
        }
        let (Some(begin), Some(passage)) = (begin, summary) else { return Ok(None) };
        let within = |at: u64| at.checked_sub(begin).and_then(|at| usize::try_from(at).ok());
        let quoted = within(range.start).zip(within(range.end)).and_then(|(from, to)| text.get(from..to));
        Ok(Some(Source { text: quoted.map(str::to_string), summary: summarise(passage) }))
    }
}

/// What a passage says of its document; the cluster does not count its bytes and passages.
fn summarise(passage: Passage) -> DocumentSummary {
    DocumentSummary {
        id: passage.document,
        path: passage.path,
        title: passage.title,
        format: passage.format.unwrap_or(Format::Text),
        decoded: passage.decoded || passage.format.is_none(),
        text_bytes: 0,
        passages: 0,
        text_sha256: passage.text_sha256,
        metadata: BTreeMap::new(),
    }
}

fn hit(found: Found) -> Hit {
    let source = found.source;
    let (place, turns) = source.place.map_or((None, Vec::new()), |Placed { place, turns }| (Some(place), turns));
    Hit {
        document: source.document,
        path: source.path,
        title: source.title,
        passage: source.passage,
        range: source.start..source.start + source.text.len() as u64,
        text: source.text,
        score: found.score.unwrap_or(0.0),
        place,
        turns,
    }
}

/// The body of the request.
fn query(question: &str, options: &SearchOptions) -> Json {
    let words =
        json!({ "multi_match": { "query": question, "fields": ["title", "text"], "type": "most_fields", "operator": "or" } });
    let query = match &options.filter {
        None => words,
        Some(filter) => json!({ "bool": { "must": [words], "filter": [condition(filter)] } }),
    };
    json!({ "size": options.limit, "query": query })
}

fn condition(filter: &Filter) -> Json {
    match filter {
        Filter::Is(name, value) => json!({ "term": { name: { "value": plain(value) } } }),
        Filter::Between(name, from, to) => {
            let mut range = serde_json::Map::new();
            for (bound, including, excluding) in [(from, "gte", "gt"), (to, "lte", "lt")] {
                match bound {
                    Bound::Included(value) => range.insert(including.into(), plain(value)),
                    Bound::Excluded(value) => range.insert(excluding.into(), plain(value)),
                    Bound::Unbounded => None,
                };
            }
            if range.is_empty() { json!({ "exists": { "field": name } }) } else { json!({ "range": { name: range } }) }
        }
        Filter::And(filters) if filters.is_empty() => json!({ "match_all": {} }),
        Filter::And(filters) => json!({ "bool": { "filter": filters.iter().map(condition).collect::<Vec<_>>() } }),
        Filter::Or(filters) if filters.is_empty() => json!({ "bool": { "must_not": [{ "match_all": {} }] } }),
        Filter::Or(filters) => {
            json!({ "bool": { "should": filters.iter().map(condition).collect::<Vec<_>>(), "minimum_should_match": 1 } })
        }
        Filter::Not(filter) => json!({ "bool": { "must_not": [condition(filter)] } }),
    }
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Bool(b) => json!(b),
        Value::Integer(i) => json!(i),
        Value::Number(n) => json!(n),
        Value::Text(t) => json!(t),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Answers one request with `status` and `body`; gives back its path and JSON.
    fn server(status: &'static str, body: String) -> (String, JoinHandle<(String, Json)>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a caller");
            let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).expect("a request");
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("a header");
                if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = n.trim().parse().expect("a length");
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut sent = vec![0; length];
            reader.read_exact(&mut sent).expect("a body");
            write!(
                stream,
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            )
            .expect("answered");
            (first, serde_json::from_slice(&sent).expect("JSON"))
        });
        (url, thread)
    }

    #[test]
    fn a_search_is_asked_and_answered() {
        let source = json!({ "document": "d", "title": "T", "text": "ÄÖ fruit", "start": 40, "passage": 2, "path": "/d.md" });
        let body =
            json!({ "took": 1, "hits": { "total": { "value": 1 }, "hits": [{ "_id": "x", "_score": 1.5, "_source": source }] } });
        let (url, server) = server("200 OK", body.to_string());
        let options = SearchOptions {
            limit: 7,
            filter: Some(Filter::And(vec![
                Filter::is("kind", "novel"),
                Filter::Not(Box::new(Filter::Or(vec![Filter::at_least("year", 1999i64), Filter::Or(vec![])]))),
            ])),
            weights: None,
        };
        let hits = Elastic::new(&url, "passages", Duration::from_secs(10)).retrieve("what fruit?", &options).expect("hits");
        assert_eq!((hits.len(), hits[0].range.clone(), hits[0].score, hits[0].passage), (1, 40..50, 1.5, 2));
        assert_eq!(hits[0].path.as_deref(), Some("/d.md".as_ref()));
        let (first, sent) = server.join().expect("served");
        assert!(first.starts_with("POST /passages/_search "), "{first}");
        assert_eq!(sent["size"], 7);
        assert_eq!(sent["query"]["bool"]["must"][0]["multi_match"]["query"], "what fruit?");
        let all = &sent["query"]["bool"]["filter"][0]["bool"]["filter"];
        assert_eq!(all[0], json!({ "term": { "kind": { "value": "novel" } } }));
        assert_eq!(all[1]["bool"]["must_not"][0]["bool"]["should"][0], json!({ "range": { "year": { "gte": 1999 } } }));
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let refused = |url: &str| Elastic::new(url, "i", Duration::from_secs(5)).retrieve("q", &SearchOptions::default());
        for (status, body) in [("404 Not Found", "no such index"), ("200 OK", "<html>"), ("200 OK", "{\"hits\":{}}")] {
            let (url, server) = server(status, body.to_string());
            assert!(matches!(refused(&url), Err(IndexError::Cluster { .. })), "{status} {body}");
            server.join().expect("served");
        }
        assert!(matches!(refused("http://127.0.0.1:1"), Err(IndexError::Cluster { .. })));
    }
}
