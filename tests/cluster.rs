//! Does the engine answer from a search cluster? Feature `elastic`.
//!
//! Asked of two servers. One is of this test: it takes `POST /INDEX/_search` and evaluates the queries that the adapter sends, over
//! passages, as Elasticsearch, OpenSearch and Quickwit document them: `bool` with `must`, `filter`, `should`, `must_not`; `term`,
//! `range`, `exists`, `match_all`, `multi_match`; `size` and `sort`. The other is the cluster that `PALIMPSEST_CLUSTER` names
//! (`http://host:port`), which is given an index of its own for the time of the test. `.ci/run` names an osmem-server there, from the
//! PyPI package of that name: an independent server for tests that speaks OpenSearch's API. No registry that this is built from has
//! Elasticsearch, OpenSearch or Quickwit itself.

#![cfg(feature = "elastic")]

use std::cmp::Ordering;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use palimpsest::index::{Bounds, Elastic, Filter, SearchOptions, passages};
use palimpsest::{AskOptions, Engine, Options};
use serde_json::{Value, json};

/// Serves passages until the test ends; gives its address.
fn serve(passages: Vec<Value>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A caller that goes away is no concern of the server's.
            let _ = answer(stream, &passages);
        }
    });
    url
}

fn answer(mut stream: TcpStream, passages: &[Value]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some(n) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = n.trim().parse().unwrap_or(0);
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, body) = match serde_json::from_slice::<Value>(&body) {
        Ok(query) if first.starts_with("POST /passages/_search ") => ("200 OK", search(&query, passages)),
        Ok(_) => ("404 Not Found", json!({ "error": { "type": "index_not_found_exception" } })),
        Err(e) => ("400 Bad Request", json!({ "error": e.to_string() })),
    };
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn search(query: &Value, passages: &[Value]) -> Value {
    let mut found: Vec<(f64, &Value)> = passages.iter().filter_map(|p| Some((score(&query["query"], p)?, p))).collect();
    match query["sort"][0].as_object().and_then(|sort| sort.iter().next()) {
        Some((field, order)) => {
            found.sort_by(|a, b| compare(&a.1[field], &b.1[field]).unwrap_or(Ordering::Equal));
            if order["order"] == "desc" {
                found.reverse();
            }
        }
        None => found.sort_by(|a, b| b.0.total_cmp(&a.0)),
    }
    found.truncate(query["size"].as_u64().unwrap_or(10) as usize);
    let hits: Vec<Value> = found.iter().map(|(score, source)| json!({ "_score": score, "_source": source })).collect();
    json!({ "took": 1, "timed_out": false, "hits": { "total": { "value": hits.len(), "relation": "eq" }, "hits": hits } })
}

/// The score of a passage that a query matches.
fn score(query: &Value, passage: &Value) -> Option<f64> {
    let (kind, of) = query.as_object()?.iter().next()?;
    let one = || of.as_object().and_then(|o| o.iter().next());
    let all = |part: &str| of[part].as_array().cloned().unwrap_or_default();
    let when = |holds: bool| holds.then_some(0.0);
    match kind.as_str() {
        "match_all" => Some(1.0),
        "exists" => when(!passage[of["field"].as_str()?].is_null()),
        "term" => one().and_then(|(field, value)| when(passage[field] == value["value"])),
        "range" => {
            let (field, bounds) = one()?;
            let holds = bounds.as_object()?.iter().all(|(bound, value)| {
                let order = compare(&passage[field], value);
                match bound.as_str() {
                    "gte" => order.is_some_and(Ordering::is_ge),
                    "gt" => order.is_some_and(Ordering::is_gt),
                    "lte" => order.is_some_and(Ordering::is_le),
                    _ => order.is_some_and(Ordering::is_lt),
                }
            });
            when(holds)
        }
        "multi_match" => {
            let words =
                |text: &str| text.to_lowercase().split(|c: char| !c.is_alphanumeric()).map(String::from).collect::<Vec<_>>();
            let asked = words(of["query"].as_str()?);
            let held =
                of["fields"].as_array()?.iter().flat_map(|f| words(passage[f.as_str().unwrap_or("")].as_str().unwrap_or("")));
            let held: Vec<String> = held.collect();
            let common = asked.iter().filter(|w| w.len() > 3 && held.contains(w)).count();
            (common > 0).then_some(common as f64)
        }
        "bool" => {
            let mut sum = 0.0;
            for must in all("must") {
                sum += score(&must, passage)?;
            }
            let filtered = all("filter").iter().all(|q| score(q, passage).is_some());
            let kept = !all("must_not").iter().any(|q| score(q, passage).is_some());
            let should: Vec<f64> = all("should").iter().filter_map(|q| score(q, passage)).collect();
            let enough = should.len() as u64 >= of["minimum_should_match"].as_u64().unwrap_or(0);
            (filtered && kept && enough).then(|| sum + should.iter().sum::<f64>())
        }
        _ => None,
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// The countries of examples/documents whose text is their file, as an app would put them on a cluster.
fn countries() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/documents");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).expect("listed").map(|e| e.expect("an entry").path()) {
        let name = entry.file_stem().expect("a name").to_string_lossy().into_owned();
        let format = match entry.extension().and_then(|e| e.to_str()) {
            Some("txt") => "text",
            Some("md") => "markdown",
            _ => continue,
        };
        let text = std::fs::read_to_string(&entry).expect("read");
        for (n, cut) in passages(&text, Bounds::default()).enumerate() {
            all.push(json!({
                "document": name, "title": name, "text": &text[cut.clone()], "start": cut.start, "passage": n,
                "path": entry, "format": format, "text_sha256": "of the text", "place": { "line": 1 },
                "letters": name.len(), "first": &name[..1],
            }));
        }
    }
    all
}

#[test]
fn an_engine_answers_from_a_cluster() {
    answers(&serve(countries()), "passages");
}

#[test]
fn an_engine_answers_from_the_cluster_that_is_named() {
    let Ok(url) = std::env::var("PALIMPSEST_CLUSTER") else {
        eprintln!("SKIPPED: PALIMPSEST_CLUSTER names no cluster");
        return;
    };
    let cluster = Cluster::with(url.trim_end_matches('/'), &countries());
    answers(cluster.url, &cluster.index);
}

/// An index of passages on a cluster; gone with the test.
struct Cluster<'a> {
    url: &'a str,
    index: String,
}

impl<'a> Cluster<'a> {
    fn with(url: &'a str, passages: &[Value]) -> Self {
        let cluster = Self { url, index: format!("palimpsest-test-{}", std::process::id()) };
        let fields: serde_json::Map<String, Value> = [
            ("keyword", &["document", "path", "format", "text_sha256", "first"][..]),
            ("text", &["title", "text"]),
            ("long", &["start", "passage", "letters"]),
        ]
        .iter()
        .flat_map(|(kind, names)| names.iter().map(move |name| (name.to_string(), json!({ "type": kind }))))
        .chain([("place".to_string(), json!({ "type": "object", "enabled": false }))])
        .collect();
        cluster.call("PUT", &cluster.index, &json!({ "mappings": { "properties": fields } }).to_string());
        let lines: String = passages.iter().map(|p| format!("{{\"index\":{{}}}}\n{p}\n")).collect();
        let done = cluster.call("POST", &format!("{}/_bulk?refresh=true", cluster.index), &lines);
        assert!(done.contains("\"errors\":false"), "{done}");
        cluster
    }

    fn call(&self, method: &str, path: &str, body: &str) -> String {
        let host = self.url.strip_prefix("http://").expect("an address that begins with http://");
        let mut stream = TcpStream::connect(host).expect("a cluster");
        write!(
            stream,
            "{method} /{path} HTTP/1.0\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.split(' ').nth(1).is_some_and(|status| status.starts_with('2')), "{method} {path}: {answer}");
        answer
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.call("DELETE", &self.index, "");
        }
    }
}

/// Asks the countries, which lie in `index` of the cluster at `url`.
fn answers(url: &str, index: &str) {
    let store = tempfile::tempdir().expect("a folder");
    let cluster = |index: &str| Box::new(Elastic::new(url, index, Duration::from_secs(10)));
    let open = || Engine::open(Options::new(store.path())).expect("an engine");
    let engine = open().retrieving(cluster(index));
    let question = "When did the Antarctic Treaty enter into force?";
    let answer = engine.ask(question, &AskOptions::default()).expect("an answer");
    assert_eq!(answer.answer.as_deref(), Some("1961"), "{answer:?}");
    let citation = &answer.citations[0];
    assert!(citation.document == "antarctica" && citation.quote.contains("1961"), "{citation:?}");
    assert!(citation.place.as_ref().and_then(|p| p.line).is_some_and(|line| line > 1), "{citation:?}");

    let found = |filter: Filter| {
        let mut options = SearchOptions::default();
        (options.limit, options.filter) = (100, Some(filter));
        let hits = engine.search_with("population government capital", &options).expect("hits");
        hits.into_iter().map(|h| h.document).collect::<std::collections::BTreeSet<_>>()
    };
    let all = found(Filter::And(vec![]));
    assert!(all.len() > 5, "{all:?}");
    for (text, holds) in [
        ("letters >= 6 and not first = a", (|d: &str| d.len() >= 6 && !d.starts_with('a')) as fn(&str) -> bool),
        ("first = k or letters < 5", |d| d.starts_with('k') || d.len() < 5),
        ("letters and first > b", |d| &d[..1] > "b"),
        ("nothing", |_| false),
    ] {
        let expected = all.iter().filter(|d| holds(d)).cloned().collect();
        assert_eq!(found(text.parse().expect(text)), expected, "{text}");
    }
    assert_eq!(found(Filter::Or(vec![])).len(), 0);

    // What the cluster keeps no more is not cited; an index that is not there is an error with its words.
    assert!(engine.retriever().source("nobody", 0..5).expect("asked").is_none());
    let whole = engine.retriever().source("antarctica", 1_100..1_150).expect("asked").expect("there");
    assert_eq!(whole.text.map(|t| t.len()), Some(50));
    let refused = open().retrieving(cluster("other")).search("anything", 3).expect_err("no such index");
    assert!(refused.to_string().contains("index_not_found"), "{refused}");
}
