//! What can be typed.

mod measure;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
pub(crate) use measure::{Bench, BenchVerb, Eval, EvalVerb, NetworkArgs};
use palimpsest_engine::index::{FieldMap, Filter, Value};

/// Read once, ask for ever: documents in, cited answers out.
///
/// Exit codes: 0 done (also when there is no answer), 1 an error of the program itself, 2 wrong usage, 3 bad input (a path,
/// a document, a question), 4 the reader's files, 5 the store, 6 this processor lacks what was asked for, 130 cancelled.
#[derive(Parser)]
#[command(name = "palimpsest", version, about, long_about)]
pub(crate) struct Args {
    /// Print exactly one JSON object to stdout
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Subcommand)]
#[allow(clippy::large_enum_variant)] // one is made in the life of the program
pub(crate) enum Verb {
    /// Add files and folders to a store, and bring it up to date with them
    Ingest(Ingest),
    /// Answer a question from the documents, with citations
    Ask(Ask),
    /// List the passages that match best
    Search(Search),
    /// Print the text of a document, as citations count its bytes
    Show(OneDocument),
    /// Forget a document
    Forget(OneDocument),
    /// What the store holds
    Status(Status),
    /// Compare every byte of the store with what was written
    Verify(Verify),
    /// Read one long text, keep it, and ask it
    Context(Context),
    /// Look at a reader
    Model(Model),
    /// Measure answers or retrieval
    Eval(Eval),
    /// Measure speed
    Bench(Bench),
}

#[derive(ClapArgs)]
pub(crate) struct StoreArg {
    /// Folder of the store [default: a folder of its own in the user's cache]
    #[arg(long, value_name = "DIR", env = "PALIMPSEST_STORE")]
    pub(crate) store: Option<PathBuf>,
}

#[derive(ClapArgs)]
pub(crate) struct ReaderArgs {
    /// Folder of the reader [default: the one that ships]
    #[arg(long = "model", value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Threads to read with [default: all processors]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// What its matrices are kept as in memory [default: int8 where stored so, else f32]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    /// Where it reads
    #[arg(long, value_enum, default_value_t = Device::Auto)]
    pub(crate) device: Device,
}

/// Where a reader reads.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Device {
    /// On an NVIDIA GPU where there is one, else on the CPU
    #[default]
    Auto,
    /// On the CPU
    Cpu,
    /// On an NVIDIA GPU, or not at all
    Cuda,
}

impl From<Device> for palimpsest_engine::Device {
    fn from(device: Device) -> Self {
        match device {
            Device::Auto => Self::Auto,
            Device::Cpu => Self::Cpu,
            Device::Cuda => Self::Cuda,
        }
    }
}

/// What matrices are kept as in memory.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    Int8,
}

impl From<Dtype> for palimpsest_engine::kernels::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::Bf16 => Self::Bf16,
            Dtype::Int8 => Self::Int8,
        }
    }
}

#[derive(ClapArgs)]
pub(crate) struct Ingest {
    /// Files and folders
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    #[command(flatten)]
    pub(crate) dense: DenseArg,
}

/// What finds passages beside their words.
#[derive(ClapArgs, Default)]
pub(crate) struct DenseArg {
    /// Folder of a sentence-transformer: passages are found by their meaning too (in builds with the feature `dense`)
    #[arg(long = "dense", value_name = "DIR", env = "PALIMPSEST_ENCODER")]
    pub(crate) encoder: Option<PathBuf>,
}

/// What is said of documents that are brought in.
#[derive(ClapArgs)]
pub(crate) struct DocumentArgs {
    /// Their language, by its English name or two-letter code; a store keeps the one it was made with [default: english]
    #[arg(long, value_name = "LANGUAGE")]
    pub(crate) language: Option<String>,
    /// Tables (.csv, .tsv, .jsonl) become a document a record, by this map: `id=sku title=name text=about,notes
    /// metadata=price`, or JSON; the store remembers it
    #[arg(long, value_name = "MAP")]
    pub(crate) fields: Option<FieldMap>,
    /// Keep a value with every document, to filter by
    #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = assignment)]
    pub(crate) metadata: Vec<(String, Value)>,
}

/// `year=2020`: the value has the type that it is written as.
fn assignment(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_string(), Value::written(value))),
        _ => Err("a field, `=` and a value were expected, as in year=2020".to_string()),
    }
}

#[derive(ClapArgs)]
pub(crate) struct Ask {
    /// What you want to know
    pub(crate) question: String,
    /// Files and folders to bring into the store first
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) reader: ReaderArgs,
    /// Passages to read at most
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub(crate) passages: usize,
    /// How passages are read: a once, b the best of them twice [default: b where the reader can point, else a]
    #[arg(long, value_enum)]
    pub(crate) tier: Option<Tier>,
    /// Give no answer below this confidence, 0..1
    #[arg(long, value_name = "P")]
    pub(crate) min_confidence: Option<f32>,
    /// How states are kept: f32 exactly; f16 and int8 in less room, restored near what they were
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) state_form: StateForm,
    /// Tokens to run through the reader at most: where they do not reach, fewer passages are read
    #[arg(long, value_name = "N")]
    pub(crate) budget_tokens: Option<u64>,
    /// Milliseconds after which no further passage is begun
    #[arg(long, value_name = "MS")]
    pub(crate) budget_ms: Option<u64>,
    /// Passages to read and put in order by the reader's likelihood of the question; 0 for BM25's order
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) rerank: usize,
    /// Answer in the reader's own words (for larger readers): marked as such, and cited
    #[arg(long)]
    pub(crate) free: bool,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    #[command(flatten)]
    pub(crate) condition: WhereArg,
    #[command(flatten)]
    pub(crate) dense: DenseArg,
}

#[derive(ClapArgs)]
pub(crate) struct WhereArg {
    /// Look only at documents of which this holds: `year >= 2020 and not (kind = draft or kind = "short story")`
    #[arg(long = "where", value_name = "FILTER")]
    pub(crate) filter: Option<Filter>,
}

/// How states are kept.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum StateForm {
    F32,
    F16,
    Int8,
}

impl From<StateForm> for palimpsest_engine::snapshot::Form {
    fn from(form: StateForm) -> Self {
        match form {
            StateForm::F32 => Self::F32,
            StateForm::F16 => Self::F16,
            StateForm::Int8 => Self::Int8,
        }
    }
}

/// How passages are read.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Tier {
    A,
    B,
}

impl From<Tier> for palimpsest_engine::Tier {
    fn from(tier: Tier) -> Self {
        match tier {
            Tier::A => palimpsest_engine::Tier::A,
            Tier::B => palimpsest_engine::Tier::B,
        }
    }
}

#[derive(ClapArgs)]
pub(crate) struct Search {
    /// Words to look for
    pub(crate) query: String,
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Passages to list at most
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) condition: WhereArg,
    #[command(flatten)]
    pub(crate) dense: DenseArg,
}

#[derive(ClapArgs)]
pub(crate) struct OneDocument {
    /// The document: its path or id
    pub(crate) document: String,
    #[command(flatten)]
    pub(crate) store: StoreArg,
}

#[derive(ClapArgs)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// List the documents
    #[arg(long)]
    pub(crate) documents: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    /// Remove snapshots that are not whole: they are read again when needed
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(ClapArgs)]
pub(crate) struct Context {
    #[command(flatten)]
    pub(crate) store: StoreArg,
    #[command(flatten)]
    pub(crate) reader: ReaderArgs,
    #[command(subcommand)]
    pub(crate) verb: ContextVerb,
}

#[derive(Subcommand)]
pub(crate) enum ContextVerb {
    /// Read a text of any length; of one that was read before, what is still to be read, or what changed
    Read {
        /// Name of the context
        name: String,
        /// The text (UTF-8); not needed to go on
        file: Option<PathBuf>,
        /// Title that the text is read under [default: the file's name]
        #[arg(long)]
        title: Option<String>,
    },
    /// Ask it; question and answer are remembered
    Ask {
        /// Name of the context
        name: String,
        /// What you want to know
        question: String,
    },
    /// Copy it: both go on on their own
    Fork {
        /// Name of the context
        name: String,
        /// Name of the copy
        copy: String,
    },
    /// Take back the last questions
    Undo {
        /// Name of the context
        name: String,
        /// How many
        #[arg(default_value_t = 1)]
        turns: usize,
    },
    /// Write text, ids, turns and state to one file
    Export {
        /// Name of the context
        name: String,
        /// The file to write
        file: PathBuf,
    },
    /// Make a context of an exported file
    Import {
        /// Name of the new context
        name: String,
        /// The exported file
        file: PathBuf,
    },
    /// List contexts and their sizes
    List,
    /// Remove a context
    Drop {
        /// Name of the context
        name: String,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Model {
    #[command(subcommand)]
    pub(crate) verb: ModelVerb,
}

#[derive(Subcommand)]
pub(crate) enum ModelVerb {
    /// Shape, dialect, prompt form and fingerprint of the reader in a folder
    Inspect {
        /// Folder of the reader
        folder: PathBuf,
    },
    /// Store a reader smaller
    Convert {
        /// What its matrices are stored as
        #[arg(long, value_enum)]
        dtype: Stored,
        /// Folder of the reader
        from: PathBuf,
        /// Folder to write
        to: PathBuf,
    },
}

/// What matrices are stored as.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Stored {
    /// 2 bytes a weight
    Bf16,
    /// 1 byte a weight, one scale a row
    Int8,
}
