//! How long until the first token of an answer, of a text that was read before and of one that was not?

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use super::median;
use crate::cancel::Cancel;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::read::Reader;
use crate::store::{Store, StoreOptions};

/// Milliseconds from a file and a question to the first token of an answer: medians over the rounds.
#[derive(Debug, Clone, Serialize)]
pub struct ContextBench {
    /// Tokens of the text.
    pub tokens: u64,
    /// Rounds.
    pub rounds: usize,
    /// Threads.
    pub threads: usize,
    /// The text is tokenised and read first.
    pub cold_ms: f64,
    /// The text is known by its content: hashed, and the state of its context restored.
    pub warm_ms: f64,
    /// The same, but the context is gone and only the store has the state: the text is tokenised anew.
    pub store_ms: f64,
    /// Cold over warm.
    pub ratio: f64,
}

/// Asks `question` of the text in `file` in folders of their own below `work`, `rounds` times each way, model loaded.
///
/// # Errors
/// Those of [`Context`]; [`Error::Input`] when the ways do not give the same token.
pub fn bench_context(reader: &Arc<Reader>, file: &Path, question: &str, work: &Path, rounds: usize) -> Result<ContextBench> {
    if rounds == 0 {
        return Err(Error::Input("a benchmark needs at least one round".into()));
    }
    let once = |folder: &Path, store: &Arc<Store>| {
        let clock = Instant::now();
        let mut context = Context::of_file(reader, folder, "", file)?.beside(store)?;
        context.advance(&Cancel::new(), &mut |_, _| {})?;
        let token = context.first_token(question)?;
        Ok::<_, Error>((clock.elapsed().as_secs_f64() * 1e3, token, context.state().tokens()))
    };
    let (mut cold, mut warm, mut from_store) = (Vec::new(), Vec::new(), Vec::new());
    let (mut tokens, mut said) = (0, Vec::new());
    for round in 0..rounds {
        let store = Store::open(&work.join(format!("store-{round}")), StoreOptions::default())?.0;
        let (store, folder) = (Arc::new(store), work.join(format!("context-{round}")));
        for times in [&mut cold, &mut warm] {
            let (ms, token, read) = once(&folder, &store)?;
            times.push(ms);
            said.push(token);
            tokens = read;
        }
        let (ms, token, _) = once(&work.join(format!("again-{round}")), &store)?;
        from_store.push(ms);
        said.push(token);
    }
    said.dedup();
    if said.len() != 1 {
        return Err(Error::Input(format!("the first tokens differ: {said:?}; please report it")));
    }
    let [cold_ms, warm_ms, store_ms] = [cold, warm, from_store].map(median);
    Ok(ContextBench { tokens, rounds, threads: reader.threads(), cold_ms, warm_ms, store_ms, ratio: cold_ms / warm_ms })
}
