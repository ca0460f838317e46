//! `palimpsest`: the command line. What was typed is `args.rs`; what it does is one function a verb in `verbs.rs`,
//! `contexts.rs` and `eval.rs`; what is printed is `show.rs`.

mod args;
mod bench;
mod contexts;
mod eval;
mod show;
mod verbs;

use std::process::ExitCode;

use args::{Args, Verb};
use clap::Parser;
use palimpsest_engine::Error;

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    let args = Args::parse();
    let json = args.json;
    match run(args) {
        Ok(code) => code,
        Err(error) => {
            let (code, kind) = exit_code(&error);
            if json {
                println!("{}", serde_json::json!({ "error": { "kind": kind, "code": code, "message": error.to_string() } }));
            }
            eprintln!("palimpsest: {error}");
            ExitCode::from(code)
        }
    }
}

/// `palimpsest … | head` closes our output: then there is nothing left to do, and nothing to complain of. Rust's own
/// printing panics there.
fn end_quietly_when_nobody_reads() {
    let complain = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        complain(panic);
    }));
}

fn run(args: Args) -> Result<ExitCode, Error> {
    let out = show::Output { json: args.json };
    match args.verb {
        Verb::Ingest(v) => verbs::ingest(&v, out),
        Verb::Ask(v) => verbs::ask(&v, out),
        Verb::Search(v) => verbs::search(&v, out),
        Verb::Show(v) => verbs::show(&v, out),
        Verb::Forget(v) => verbs::forget(&v, out),
        Verb::Status(v) => verbs::status(&v, out),
        Verb::Verify(v) => return verbs::verify(&v, out),
        Verb::Context(v) => contexts::context(&v, out),
        Verb::Model(v) => verbs::model(&v, out),
        Verb::Eval(v) => eval::eval(&v, out),
        Verb::Bench(v) => bench::bench(&v, out),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Documented in the README: a script can branch on it.
fn exit_code(error: &Error) -> (u8, &'static str) {
    match error {
        Error::Input(_) | Error::Io { .. } => (3, "input"),
        Error::Reader { .. } => (4, "reader"),
        Error::Index(_) | Error::Store(_) | Error::Context { .. } => (5, "store"),
        Error::Kernel(_) | Error::Cuda(_) => (6, "processor"),
        Error::Cancelled => (130, "cancelled"),
        _ => (1, "internal"),
    }
}
