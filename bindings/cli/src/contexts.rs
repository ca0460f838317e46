//! `palimpsest context …`: one long text, kept.

use std::fs::File;
use std::path::Path;

use palimpsest_engine::{Cancel, Context, ContextStatus, Engine, Error, Result};
use serde_json::{Value, json};

use crate::args::{self, ContextVerb};
use crate::show::{self, Output};
use crate::verbs::{io, open, store_folder};

pub(crate) fn context(args: &args::Context, out: Output) -> Result<()> {
    let engine = open(store_folder(args.store.store.as_ref(), &[])?, Some(&args.reader))?;
    match &args.verb {
        ContextVerb::Read { name, file, title } => read(&engine, name, file.as_deref(), title.as_deref(), out),
        ContextVerb::Ask { name, question } => {
            let mut context = engine.context(name)?;
            let answer = context.ask(question)?;
            let mut value = serde_json::to_value(&answer).map_err(|e| Error::Input(e.to_string()))?;
            let mut notices = engine.notices();
            notices.extend(context.status().notices);
            value["notices"] = json!(notices);
            out.object(value, || match (&answer.answer, answer.start, answer.end) {
                (Some(text), Some(start), Some(end)) => println!("{text}   [{start}..{end}]"),
                _ => println!("no answer in this text"),
            })
        }
        ContextVerb::Fork { name, copy } => {
            let copied = engine.context(name)?.fork(&engine.context_folder(copy)?)?;
            report(copy, &copied.status(), out)
        }
        ContextVerb::Undo { name, turns } => {
            let mut context = engine.context(name)?;
            context.undo(*turns)?;
            report(name, &context.status(), out)
        }
        ContextVerb::Export { name, file } => {
            let blob = engine.context(name)?.export()?;
            std::fs::write(file, &blob).map_err(|e| io(file, e))?;
            out.object(json!({ "name": name, "file": file, "bytes": blob.len() }), || {
                println!("{} bytes written to {}", blob.len(), file.display());
            })
        }
        ContextVerb::Import { name, file } => {
            let mut blob = File::open(file).map_err(|e| io(file, e))?;
            let context = engine.import_context(name, &mut blob)?;
            // On another machine or with another reader the state is rebuilt from the ids.
            read_on(name, &mut { context }, out)
        }
        ContextVerb::List => list(&engine, out),
        ContextVerb::Drop { name } => {
            engine.drop_context(name)?;
            out.object(json!({ "dropped": name }), || println!("dropped {name}"))
        }
    }
}

fn read(engine: &Engine, name: &str, file: Option<&Path>, title: Option<&str>, out: Output) -> Result<()> {
    let mut context = match file {
        Some(file) => {
            let stem = file.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            engine.context_of(name, title.unwrap_or(&stem), file)?
        }
        None => engine.context(name)?,
    };
    read_on(name, &mut context, out)
}

/// Reads what is still to be read, and says how much that was.
fn read_on(name: &str, context: &mut Context, out: Output) -> Result<()> {
    let restored = context.status().tokens;
    let bar = show::progress_bar();
    context.advance(&Cancel::new(), &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let status = context.status();
    let mut value = shape(name, &status);
    value["tokens_restored"] = json!(restored);
    value["tokens_read"] = json!(status.tokens - restored);
    out.object(value, || {
        status.notices.iter().for_each(|n| eprintln!("notice: {n}"));
        println!("{}; {} tokens read, {restored} restored", line(name, &status), status.tokens - restored);
    })
}

fn shape(name: &str, status: &ContextStatus) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    value["name"] = json!(name);
    value
}

fn line(name: &str, s: &ContextStatus) -> String {
    let left = if s.tokens_left > 0 { format!(" ({} still to be read)", s.tokens_left) } else { String::new() };
    format!(
        "{name}: {} tokens{left}, {} turns; state {} bytes, log {} bytes, index {} bytes, text {} bytes",
        s.tokens, s.turns, s.state_bytes, s.log_bytes, s.index_bytes, s.text_bytes
    )
}

fn report(name: &str, status: &ContextStatus, out: Output) -> Result<()> {
    out.object(shape(name, status), || {
        status.notices.iter().for_each(|n| eprintln!("notice: {n}"));
        println!("{}", line(name, status));
    })
}

fn list(engine: &Engine, out: Output) -> Result<()> {
    let mut all = Vec::new();
    let mut notices = engine.notices();
    for name in engine.contexts()? {
        match engine.context(&name) {
            Ok(context) => all.push((name, context.status())),
            Err(e @ Error::Context { .. }) => notices.push(e.to_string()),
            Err(e) => return Err(e),
        }
    }
    let shapes: Vec<Value> = all.iter().map(|(name, status)| shape(name, status)).collect();
    out.object(json!({ "contexts": shapes, "notices": notices }), || {
        notices.iter().for_each(|n| eprintln!("notice: {n}"));
        all.iter().for_each(|(name, status)| println!("{}", line(name, status)));
    })
}
