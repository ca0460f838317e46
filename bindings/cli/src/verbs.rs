//! One function a verb: arguments -> engine -> output.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use palimpsest_engine::checkpoint::Checkpoint;
use palimpsest_engine::convert::{Stored, convert};
use palimpsest_engine::state::State;
use palimpsest_engine::{
    AskOptions, Cancel, Engine, Error, Options, Reader, ReaderFiles, ReaderOptions, Result, default_reader, index,
};
use serde_json::json;

use crate::args;
use crate::show::{self, Output};

pub(crate) fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { path: path.to_path_buf(), source }
}

/// The store that was named, or one in the user's cache: one for each set of paths, `default` for none.
pub(crate) fn store_folder(named: Option<&PathBuf>, paths: &[PathBuf]) -> Result<PathBuf> {
    if let Some(folder) = named {
        return Ok(folder.clone());
    }
    let cache = dirs::cache_dir()
        .ok_or_else(|| Error::Input("this user has no cache folder: name a store with --store DIR".into()))?
        .join("palimpsest");
    if paths.is_empty() {
        return Ok(cache.join("default"));
    }
    let mut absolute = paths.iter().map(|p| p.canonicalize().map_err(|e| io(p, e))).collect::<Result<Vec<_>>>()?;
    absolute.sort();
    absolute.dedup();
    let name = palimpsest_engine::store_name(&absolute);
    Ok(cache.join(name))
}

pub(crate) fn open(store: PathBuf, reader: Option<&args::ReaderArgs>) -> Result<Engine> {
    Engine::open(options(store, reader)?)
}

fn options(store: PathBuf, reader: Option<&args::ReaderArgs>) -> Result<Options> {
    let mut options = Options::new(store);
    if let Some(reader) = reader {
        options.reader = reader.model.clone().map(ReaderFiles::at).transpose()?;
        options.threads = reader.threads;
        options.dtype = reader.dtype.map(Into::into);
        options.device = reader.device.into();
    }
    Ok(options)
}

pub(crate) fn open_reader(args: &args::ReaderArgs) -> Result<Reader> {
    let folder = match &args.model {
        Some(folder) => folder.clone(),
        None => default_reader()?,
    };
    Reader::open_files(
        &ReaderFiles::at(folder)?,
        &ReaderOptions { threads: args.threads, dtype: args.dtype.map(Into::into), device: args.device.into() },
    )
}

fn ingest_into(engine: &Engine, paths: &[PathBuf], documents: &args::DocumentArgs) -> Result<index::IngestReport> {
    let mut options = index::IngestOptions::default();
    options.fields.clone_from(&documents.fields);
    options.metadata = documents.metadata.iter().cloned().collect();
    let bar = show::ingest_bar();
    let report = engine.ingest_as(paths, &options, &Cancel::new(), &|p| show::ingest_progress(&bar, p));
    let synced = report.and_then(|report| {
        bar.reset();
        engine.sync(&Cancel::new(), &|p| show::ingest_progress(&bar, p))?;
        Ok(report)
    });
    bar.finish_and_clear();
    synced
}

pub(crate) fn ingest(args: &args::Ingest, out: Output) -> Result<()> {
    let clock = Instant::now();
    let store = store_folder(args.store.store.as_ref(), &[])?;
    let (language, encoder) = (args.documents.language.clone(), args.dense.encoder.clone());
    let engine = Engine::open(Options { language, encoder, ..options(store.clone(), None)? })?;
    let report = ingest_into(&engine, &args.paths, &args.documents)?;
    out.ingest(&store, &report, clock.elapsed().as_secs_f64(), &engine.notices())
}

pub(crate) fn ask(args: &args::Ask, out: Output) -> Result<()> {
    let clock = Instant::now();
    let store = store_folder(args.store.store.as_ref(), &args.paths)?;
    let options = options(store.clone(), Some(&args.reader))?;
    let (language, state_form) = (args.documents.language.clone(), args.state_form.into());
    let encoder = args.dense.encoder.clone();
    let engine = Engine::open(Options { language, encoder, state_form, ..options })?;
    let report = if args.paths.is_empty() { None } else { Some(ingest_into(&engine, &args.paths, &args.documents)?) };
    engine.reader()?;
    let ready_ms = clock.elapsed().as_secs_f64() * 1e3;
    let mut options = AskOptions {
        passages: args.passages,
        tier: args.tier.map(Into::into),
        budget_tokens: args.budget_tokens,
        budget_ms: args.budget_ms,
        rerank: args.rerank,
        free: args.free,
        ..AskOptions::default()
    };
    options.filter.clone_from(&args.condition.filter);
    if let Some(p) = args.min_confidence {
        options.min_confidence = p;
    }
    let mut answer = engine.ask(&args.question, &options)?;
    answer
        .notices
        .extend(report.iter().flat_map(|r| &r.failed).map(|(path, reason)| format!("{} was left out: {reason}", path.display())));
    out.answer(&answer, &store, args.store.store.is_none(), ready_ms)
}

pub(crate) fn search(args: &args::Search, out: Output) -> Result<()> {
    let encoder = args.dense.encoder.clone();
    let engine = Engine::open(Options { encoder, ..options(store_folder(args.store.store.as_ref(), &[])?, None)? })?;
    let mut options = index::SearchOptions::default();
    options.limit = args.limit;
    options.filter.clone_from(&args.condition.filter);
    out.hits(&engine.search_with(&args.query, &options)?, &engine.notices())
}

pub(crate) fn show(args: &args::OneDocument, out: Output) -> Result<()> {
    let engine = open(store_folder(args.store.store.as_ref(), &[])?, None)?;
    out.document(&engine.document(&args.document)?)
}

pub(crate) fn forget(args: &args::OneDocument, out: Output) -> Result<()> {
    let engine = open(store_folder(args.store.store.as_ref(), &[])?, None)?;
    engine.forget(&args.document)?;
    out.object(json!({ "forgotten": args.document }), || println!("forgot {}", args.document))
}

pub(crate) fn status(args: &args::Status, out: Output) -> Result<()> {
    let engine = open(store_folder(args.store.store.as_ref(), &[])?, None)?;
    let documents = if args.documents { Some(engine.documents()?) } else { None };
    out.status(&engine.status()?, documents.as_deref())
}

/// Exit code 5 when something is not as it was written.
pub(crate) fn verify(args: &args::Verify, out: Output) -> Result<ExitCode> {
    let engine = open(store_folder(args.store.store.as_ref(), &[])?, None)?;
    let found = engine.verify(args.repair)?;
    let mut value = serde_json::to_value(&found).unwrap_or_default();
    value["whole"] = json!(found.is_whole());
    value["notices"] = json!(engine.notices());
    out.object(value, || {
        engine.notices().iter().for_each(|n| eprintln!("notice: {n}"));
        found.index.iter().chain(&found.snapshots.damaged).chain(&found.contexts).for_each(|d| println!("damaged: {d}"));
        let (entries, bytes) = (found.snapshots.entries, found.snapshots.bytes);
        println!("{entries} snapshots, {bytes} bytes; {}", if found.is_whole() { "all is whole" } else { "not all is whole" });
    })?;
    Ok(if found.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(5) })
}

pub(crate) fn model(args: &args::Model, out: Output) -> Result<()> {
    let folder = match &args.verb {
        args::ModelVerb::Inspect { folder } => folder,
        args::ModelVerb::Convert { dtype, from, to } => {
            let stored = match dtype {
                args::Stored::Bf16 => Stored::Bf16,
                args::Stored::Int8 => Stored::Int8,
            };
            let converted = convert(from, to, stored)?;
            return out.table(serde_json::to_value(&converted).unwrap_or_default());
        }
    };
    let checkpoint = Checkpoint::open(folder)?;
    let config = checkpoint.config().clone();
    let embedding = checkpoint.stored_as(checkpoint.dialect().embedding()).unwrap_or_default();
    let files: Vec<String> = checkpoint.files().map(|f| f.display().to_string()).collect();
    let dialect = checkpoint.dialect().name();
    drop(checkpoint);
    let reader = Reader::open(folder, &ReaderOptions::default())?;
    let value = json!({
        "folder": folder,
        "dialect": dialect,
        "files": files,
        "stored_as": embedding,
        "parameters": config.parameters(),
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "value_heads": config.value_heads,
        "key_dim": config.key_dim,
        "value_dim": config.value_dim,
        "hidden": config.hidden,
        "vocabulary": config.vocabulary,
        "norm_eps": config.norm_eps,
        "allow_neg_eigval": config.allow_neg_eigval,
        "output_gate": format!("{:?}", config.output_gate).to_lowercase(),
        "tied": config.tied,
        "state_bytes": State::bytes(&config),
        "weight_bytes": reader.weight_bytes(),
        "isa": reader.model().map(|m| m.kernels().isa().to_string()),
        "device": reader.device(),
        "prompt": if reader.prompt().from_file() { "reader.json" } else { "plain text" },
        "fingerprint": reader.fingerprint().to_string(),
    });
    out.table(value)
}
