//! What can be typed to measure answers, retrieval and speed.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use palimpsest_engine::kernels::Isa;

use super::{DenseArg, Device, ReaderArgs};

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
        /// Leave out what the words around a span say: how much does the reader know by itself?
        #[arg(long)]
        reader_alone: bool,
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
    /// What the words of questions alone say about which can be answered, and the weights that say it best
    Words {
        /// Questions, as for `qa`, some without an answer
        file: PathBuf,
        /// The first N questions [default: all]
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
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
