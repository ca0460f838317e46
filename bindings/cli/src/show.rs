//! What is printed: for people, or one JSON object of a stable shape.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use palimpsest_engine::fidelity::Fidelity;
use palimpsest_engine::index::{Document, DocumentSummary, Hit, IngestReport, Place, Progress};
use palimpsest_engine::{Answer, Citation, Error, Result, Status};
use serde_json::{Value, json};

/// Where output goes and in which form.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// One object to stdout, or what `text` prints.
    pub(crate) fn object(self, value: Value, text: impl FnOnce()) -> Result<()> {
        if self.json {
            print_line(&value.to_string())
        } else {
            text();
            Ok(())
        }
    }

    /// One object; for people, a line for each of its keys.
    pub(crate) fn table(self, value: Value) -> Result<()> {
        if self.json {
            return print_line(&value.to_string());
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            let shown = match value {
                Value::String(s) => s.clone(),
                Value::Number(n) if n.is_f64() => format!("{:.4}", n.as_f64().unwrap_or_default()),
                other => other.to_string(),
            };
            print_line(&format!("{key:22} {shown}"))?;
        }
        Ok(())
    }

    /// A row for each way of keeping states.
    pub(crate) fn fidelity(self, questions: usize, table: &[Fidelity]) -> Result<()> {
        self.object(json!({ "n": questions, "kept": table }), || {
            println!("{questions} questions");
            println!("{:10} {:>9} {:>6} {:>6} {:>11} {:>10} {:>6}", "kept", "bytes", "EM", "F1", "perplexity", "KL", "same");
            for f in table {
                let (em, f1, perplexity, kl, same) = (f.em, f.f1, f.perplexity, f.kl, f.same_answers);
                println!("{:10} {:>9} {em:6.2} {f1:6.2} {perplexity:11.4} {kl:10.2e} {same:6.1}", f.kept, f.bytes);
            }
        })
    }

    pub(crate) fn ingest(self, store: &Path, report: &IngestReport, seconds: f64, notices: &[String]) -> Result<()> {
        let failed: Vec<Value> =
            report.failed.iter().map(|(path, reason)| json!({ "path": path, "reason": reason.to_string() })).collect();
        let value = json!({
            "store": store, "added": report.added, "updated": report.updated, "unchanged": report.unchanged,
            "removed": report.removed, "failed": failed, "seconds": seconds, "notices": notices,
        });
        self.object(value, || {
            print_notices(notices);
            for (path, reason) in &report.failed {
                eprintln!("left out: {}: {reason}", path.display());
            }
            println!(
                "{} added, {} updated, {} unchanged, {} removed, {} left out, in {seconds:.2} s; store {}",
                report.added,
                report.updated,
                report.unchanged,
                report.removed,
                report.failed.len(),
                store.display()
            );
        })
    }

    pub(crate) fn answer(self, answer: &Answer, store: &Path, store_is_default: bool, ready_ms: f64) -> Result<()> {
        if self.json {
            let mut value = serde_json::to_value(answer).map_err(|e| Error::Input(e.to_string()))?;
            value["store"] = json!(store);
            value["timings_ms"]["ready"] = json!(ready_ms);
            return print_line(&value.to_string());
        }
        print_notices(&answer.notices);
        match &answer.answer {
            Some(text) => {
                let whose = if answer.free { "in the reader's own words, " } else { "" };
                print_line(&format!("{text}   ({whose}confidence {:.2})", answer.confidence))?;
                answer.citations.iter().try_for_each(print_citation)?;
            }
            None => {
                print_line("no answer in these documents")?;
                if !answer.nearest.is_empty() {
                    print_line("nearest:")?;
                }
                answer.nearest.iter().try_for_each(print_citation)?;
            }
        }
        let mut line = format!(
            "{} tokens read, {} restored, {:.0} ms (and {ready_ms:.0} ms to get ready)",
            answer.tokens_read, answer.tokens_restored, answer.timings_ms.total
        );
        if store_is_default {
            line.push_str(&format!("; store {}", store.display()));
        }
        print_line(&line)
    }

    pub(crate) fn hits(self, hits: &[Hit], notices: &[String]) -> Result<()> {
        let rows: Vec<Value> = hits
            .iter()
            .map(|h| {
                json!({ "document": h.document, "path": h.path, "title": h.title, "passage": h.passage,
                        "start": h.range.start, "end": h.range.end, "score": h.score, "text": h.text, "place": h.place })
            })
            .collect();
        if self.json {
            return print_line(&json!({ "hits": rows, "notices": notices }).to_string());
        }
        print_notices(notices);
        for hit in hits {
            let line: String = hit.text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(160).collect();
            let at = place(hit.place.as_ref());
            print_line(&format!(
                "{:6.2}  {}{at}  {}..{}\n        {line}",
                hit.score, hit.document, hit.range.start, hit.range.end
            ))?;
        }
        Ok(())
    }

    pub(crate) fn document(self, document: &Document) -> Result<()> {
        if self.json {
            return print_line(
                &json!({ "document": document.id, "path": document.path, "title": document.title,
                         "format": document.format.to_string(), "text_sha256": document.text_sha256(), "text": document.text })
                .to_string(),
            );
        }
        std::io::stdout().write_all(document.text.as_bytes()).map_err(stdout_error)
    }

    pub(crate) fn status(self, status: &Status, documents: Option<&[DocumentSummary]>) -> Result<()> {
        let mut value = serde_json::to_value(status).map_err(|e| Error::Input(e.to_string()))?;
        if let Some(documents) = documents {
            value["documents"] = serde_json::to_value(documents).map_err(|e| Error::Input(e.to_string()))?;
        }
        if self.json {
            return print_line(&value.to_string());
        }
        print_notices(&status.notices);
        print_line(&format!("store      {}", status.store.display()))?;
        for part in ["index", "snapshots", "contexts"] {
            for (key, value) in value[part].as_object().into_iter().flatten() {
                print_line(&format!("{part:10} {key} {value}"))?;
            }
        }
        documents.into_iter().flatten().try_for_each(|d| print_line(&format!("document   {}  {}", d.id, d.title)))
    }
}

fn print_citation(c: &Citation) -> Result<()> {
    let quote = c.quote.split_whitespace().collect::<Vec<_>>().join(" ");
    let at = place(c.place.as_ref());
    print_line(&format!("  {}{at} [{}..{}]  {}\n    \"{quote}\"", c.document, c.start, c.end, c.title))
}

/// `:17`, `, page 3`, `, under "Climate"`: what is known of it.
fn place(place: Option<&Place>) -> String {
    let Some(place) = place else { return String::new() };
    let line = place.line.map(|line| format!(":{line}"));
    let page = place.page.map(|page| format!(", page {page}"));
    let heading = place.heading.as_ref().map(|heading| format!(", under {heading:?}"));
    [line, page, heading].into_iter().flatten().collect()
}

fn print_notices(notices: &[String]) {
    for notice in notices {
        eprintln!("notice: {notice}");
    }
}

fn print_line(line: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{line}").map_err(stdout_error)
}

/// A reader of our output that went away (`| head`) is no error worth a message of its own.
fn stdout_error(source: std::io::Error) -> Error {
    Error::Io { path: "stdout".into(), source }
}

/// Shown on a terminal only.
pub(crate) fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    styled("{spinner} {wide_bar} {pos}/{len} {per_sec} {eta} {msg}")
}

/// Bytes, their rate and the time that is left, with the files in words. Shown on a terminal only.
pub(crate) fn ingest_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    styled("{spinner} {wide_bar} {msg}")
}

fn styled(template: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

pub(crate) fn ingest_progress(bar: &ProgressBar, p: &Progress) {
    bar.set_length(p.bytes_total);
    bar.set_position(p.bytes_done);
    let left = p.seconds_left().map_or(String::new(), |s| format!(", {} left", HumanDuration(Duration::from_secs_f64(s))));
    let rate = HumanBytes(p.bytes_per_s() as u64);
    bar.set_message(format!("{} of {} files, {rate}/s{left}", p.files_done, p.files_total));
}
