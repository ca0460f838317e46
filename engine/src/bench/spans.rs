//! What does a decoded token cost, beside the network, where an answer is held to the spans of a long text?

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::pseudo_random;
use crate::answer::{ANSWER_TOKENS, Silence};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::read::Reader;
use crate::search::{NARROW, Search};
use crate::spans::Spans;

/// Milliseconds of one decoded token: the pass over its logits, and the search for what may come next. Each is the least of three
/// rounds, so that waiting for a processor counts as little as can be.
#[derive(Debug, Clone, Serialize)]
pub struct SpansBench {
    /// Tokens of the text.
    pub tokens: u64,
    /// Bytes of the index on disk.
    pub index_bytes: u64,
    /// The index opened, and every byte of it and of the log proven: once, at the first question.
    pub open_ms: f64,
    /// Answers decoded, of 14 tokens that stand somewhere in the text.
    pub answers: usize,
    /// Median of a token.
    pub token_ms_p50: f64,
    /// 99 of 100 tokens took no longer.
    pub token_ms_p99: f64,
    /// The longest.
    pub token_ms_most: f64,
    /// How often the commonest id stands in the text.
    pub commonest: usize,
    /// The longest token of an answer that begins with the commonest id, in the best of 20 rounds.
    pub commonest_ms: f64,
}

/// Tokenises `file` into a context below `work` and decodes answers from places all over it, the network left out: the logits say
/// what stands there.
///
/// # Errors
/// Those of [`Context`]; [`Error::Input`] for a text shorter than an answer.
pub fn bench_spans(reader: &Arc<Reader>, file: &Path, work: &Path, answers: usize) -> Result<SpansBench> {
    let source = std::fs::File::open(file).map_err(|e| Error::io(file, e))?;
    let context = Context::begin(reader, &work.join("spans"), "", source)?;
    let clock = Instant::now();
    let spans = context.spans()?;
    let open_ms = clock.elapsed().as_secs_f64() * 1e3;
    let last = spans.tokens().checked_sub(ANSWER_TOKENS + 1).filter(|_| answers > 0);
    let last = last.ok_or_else(|| Error::Input("a text longer than an answer, and at least one answer, are needed".into()))?;
    let mut logits = vec![0.0; reader.config().vocabulary];
    let mut decode = |from: usize| {
        let mut search = Search::new(&spans, None, Silence::Allowed, NARROW);
        let mut took = Vec::new();
        for id in (from..from + ANSWER_TOKENS).map_while(|at| spans.at(at as u32)) {
            logits[id as usize] = 9.0;
            let clock = Instant::now();
            match took.len() {
                0 => search.begin(&logits, None),
                _ => search.step(0, &logits, None, &mut |_| {}),
            }
            took.push(clock.elapsed().as_secs_f64() * 1e3);
            logits[id as usize] = 0.0;
        }
        took
    };
    // Once before, so that the files are in memory.
    decode(last);
    let mut least = |from: usize| {
        let (mut took, again) = (decode(from), [decode(from), decode(from)]);
        again.iter().for_each(|again| took.iter_mut().zip(again).for_each(|(ms, again)| *ms = ms.min(*again)));
        took
    };
    let mut all: Vec<f64> = pseudo_random().take(answers).flat_map(|x| least(x as usize % last)).collect();
    all.sort_by(f64::total_cmp);
    let part = |part: usize| all.get((all.len().max(1) - 1) * part / 100).copied().unwrap_or(f64::NAN);
    let (mut commonest, mut here) = (Vec::new(), Vec::new());
    spans.distinct(&mut |id| {
        here.clear();
        spans.occurrences(id, &mut here);
        if here.len() > commonest.len() {
            std::mem::swap(&mut commonest, &mut here);
        }
    });
    let begin = commonest.get(commonest.len() / 2).map_or(0, |at| *at as usize).min(last);
    let longest = (0..20).map(|_| decode(begin).into_iter().fold(0.0, f64::max));
    Ok(SpansBench {
        tokens: spans.tokens() as u64,
        index_bytes: context.status().index_bytes,
        open_ms,
        answers,
        token_ms_p50: part(50),
        token_ms_p99: part(99),
        token_ms_most: part(100),
        commonest: commonest.len(),
        commonest_ms: longest.fold(f64::INFINITY, f64::min),
    })
}
