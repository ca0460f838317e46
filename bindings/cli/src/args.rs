//! What can be typed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use palimpsest_engine::index::{FieldMap, Filter, Value};
use palimpsest_engine::kernels::Isa;

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

#[derive(ClapArgs)]
pub(crate) struct Eval {
    #[command(subcommand)]
    pub(crate) verb: EvalVerb,
}

#[derive(Subcommand)]
pub(crate) enum EvalVerb {
    /// EM and F1, each question's own paragraph given
    Qa {
        /// Questions: .jsonl or .jsonl.zst with title, context, question and answers
        file: PathBuf,
        /// The first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Write a JSON line for each question here
        #[arg(long, value_name = "OUT")]
        rows: Option<PathBuf>,
        /// Measure the other order of reading, too: the question before its paragraph and after it
        #[arg(long)]
        question_first: bool,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// End to end: all paragraphs go in, the questions are asked of all of them
    Collection {
        /// Questions as for `qa`, or a folder of documents with a questions.jsonl
        file: PathBuf,
        /// The first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Write a JSON line for each passage that was read here
        #[arg(long, value_name = "OUT")]
        rows: Option<PathBuf>,
        /// Draw reliability and risk against coverage here, as SVG
        #[arg(long, value_name = "OUT")]
        plot: Option<PathBuf>,
        /// Passages to read at most
        #[arg(long, default_value_t = 5, value_name = "N")]
        passages: usize,
        /// Passages to read and put in order by the reader's likelihood of the question; 0 for BM25's order
        #[arg(long, default_value_t = 0, value_name = "N")]
        rerank: usize,
        /// Measure tier A alone
        #[arg(long)]
        only_a: bool,
        /// Questions to ask one by one for their time, at most
        #[arg(long, default_value_t = 100, value_name = "N")]
        timed: usize,
        /// Give no answer below this confidence, 0..1
        #[arg(long, value_name = "P")]
        min_confidence: Option<f32>,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Fit what a reader's scores are worth, and write calibration.json into its folder
    Calibrate {
        /// Training questions, as for `collection`: none of those that anything is measured on
        file: PathBuf,
        /// Questions to fit on, spread over all
        #[arg(long, default_value_t = 600, value_name = "N")]
        questions: usize,
        /// Measure on these questions afterwards
        #[arg(long, value_name = "FILE")]
        measure: Option<PathBuf>,
        /// Measure on N questions, spread over all [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Draw reliability and risk against coverage here, as SVG
        #[arg(long, value_name = "OUT")]
        plot: Option<PathBuf>,
        /// Write no calibration.json
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// nDCG@10 of BM25 with the reader's likelihood of the question mixed in, by weight
    Rerank {
        /// Questions as for `collection`, or a folder as for `retrieval`
        path: PathBuf,
        /// Passages to rerank
        #[arg(long, default_value_t = 20, value_name = "N")]
        candidates: usize,
        /// N questions, spread over all [default: all]; a folder as for `retrieval` is measured whole
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// What the forms cost that states can be kept in: F1, perplexity of the right answers, KL from the exact state
    States {
        /// Questions as for `qa`
        file: PathBuf,
        /// The first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Experimental: passages put together from parts that were read apart, beside reading them in sequence and tier A
    Composition {
        /// Questions as for `qa`
        file: PathBuf,
        /// The first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        /// Passages, the question's own among them
        #[arg(long, default_value_t = 4, value_name = "N")]
        passages: usize,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Perplexity of the paragraphs
    Perplexity {
        /// Questions as for `qa`
        file: PathBuf,
        /// The paragraphs of the first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// nDCG@10, recall@100 and MRR@10 of BM25; with an encoder also of its vectors, and of both together
    Retrieval {
        /// Folder with corpus.jsonl, queries.jsonl and qrels.tsv
        folder: PathBuf,
        /// BM25's k1: how soon more of a word counts no more [default: 1.2]
        #[arg(long)]
        k1: Option<f32>,
        /// BM25's b: how much a long passage must have more of it, 0..1 [default: 0.75]
        #[arg(long)]
        b: Option<f32>,
        #[command(flatten)]
        dense: DenseArg,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) verb: BenchVerb,
}

#[derive(Subcommand)]
pub(crate) enum BenchVerb {
    /// Rate of reading: on the CPU beside its matrix products alone and candle's, on a GPU beside one large product
    Read {
        /// Tokens to read in each round
        #[arg(long, default_value_t = 1024, value_name = "N")]
        tokens: usize,
        /// Rounds; medians are reported
        #[arg(long, default_value_t = 5, value_name = "N")]
        rounds: usize,
        #[command(flatten)]
        network: NetworkArgs,
    },
    /// Rate of decoding: on the CPU beside reading a buffer of the weights' size, on a GPU beside the bytes that a step must read
    Decode {
        /// Sequences decoded together
        #[arg(long, default_value_t = 1, value_name = "N")]
        batch: usize,
        /// Tokens to decode of each; on the CPU in each round
        #[arg(long, default_value_t = 64, value_name = "N")]
        tokens: usize,
        /// Rounds on the CPU; medians are reported
        #[arg(long, default_value_t = 5, value_name = "N")]
        rounds: usize,
        #[command(flatten)]
        network: NetworkArgs,
    },
    /// Time to the first token of an answer from one long text, read before and not
    Context {
        /// The text
        file: PathBuf,
        /// What is asked
        #[arg(long, default_value = "What is it about?", value_name = "QUESTION")]
        question: String,
        /// Rounds; medians are reported
        #[arg(long, default_value_t = 20, value_name = "N")]
        rounds: usize,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Anonymous memory while a text of 1,000 tokens is read, and a long one
    Memory {
        /// Tokens of the long one, about
        #[arg(long, default_value_t = 1_000_000, value_name = "N")]
        tokens: u64,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Milliseconds that a decoded token costs, beside the network, where the answer is a span of a long text
    Spans {
        /// The text
        file: PathBuf,
        /// Answers to decode
        #[arg(long, default_value_t = 2000, value_name = "N")]
        answers: usize,
        #[command(flatten)]
        reader: ReaderArgs,
    },
    /// Rates of single operations, beside what the machine can do at most
    Kernels {
        /// Where they run
        #[arg(long, value_enum, default_value_t = Device::Auto)]
        device: Device,
    },
}

/// A network to measure.
#[derive(ClapArgs)]
pub(crate) struct NetworkArgs {
    #[command(flatten)]
    pub(crate) reader: ReaderArgs,
    /// Random weights of this shape instead of a reader's
    #[arg(long, value_parser = ["pilot", "151m", "1.3b"], conflicts_with = "model")]
    pub(crate) shape: Option<String>,
    /// Instruction set of the CPU: scalar, neon, avx2, avx512 or amx [default: the best there is]
    #[arg(long, value_name = "ISA")]
    pub(crate) isa: Option<Isa>,
}
