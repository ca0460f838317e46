//! Passages -> states: the longest cached prefix from the store, the rest through the kernels.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use palimpsest_kernels::cuda::{CudaError, Gpu};
use palimpsest_kernels::{Dtype, Kernels, on};

use crate::calibration::Calibration;
use crate::cancel::Pace;
use crate::checkpoint::{Checkpoint, Dialect};
use crate::device::DeviceModel;
use crate::error::{Error, Result};
use crate::files::ReaderFiles;
use crate::model::{Config, MAX_ROWS, Model, Scratch, Sequence, Want};
use crate::prompt::{PassageTokens, Prompt};
use crate::snapshot::{Chain, Fingerprint, Restore, Snapshot};
use crate::state::{SEGMENT, State};
use crate::store::{Store, StoreError};

/// Version of the layout in `state.rs` and of the order of arithmetic: raised when either changes, so that no older snapshot
/// is taken for a newer one.
pub const STATE_FORMAT: u32 = 1;

/// How a reader is opened.
#[derive(Debug, Clone, Default)]
pub struct ReaderOptions {
    /// Threads to read with; all processors where `None`.
    pub threads: Option<usize>,
    /// What matrices are kept as in memory; int8 where they are stored so, else f32, where `None`.
    pub dtype: Option<Dtype>,
    /// Where it reads.
    pub device: Device,
}

/// Where a reader reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Device {
    /// On an NVIDIA GPU where one can be used, else on the CPU: [`Reader::device`] says which, and [`Reader::notices`] why a GPU
    /// that is there was not used.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On an NVIDIA GPU, or not at all.
    Cuda,
}

enum Network {
    Cpu(Box<Model>),
    Cuda(Box<DeviceModel>),
}

/// A reader ready to read: network, tokenizer and form of prompts, with the fingerprint that its snapshots carry.
pub struct Reader {
    folder: PathBuf,
    dialect: Dialect,
    network: Network,
    notices: Vec<String>,
    dtype: Dtype,
    prompt: Prompt,
    calibration: Calibration,
    fingerprint: Fingerprint,
    threads: rayon::ThreadPool,
    scratch: Mutex<Vec<Scratch>>,
}

impl Reader {
    /// Loads the reader in `folder`.
    ///
    /// # Errors
    /// [`Error::Reader`] naming file and tensor; [`Error::Kernel`] when `PALIMPSEST_ISA` asks for what this processor lacks.
    pub fn open(folder: &Path, options: &ReaderOptions) -> Result<Self> {
        Self::open_files(&ReaderFiles::folder(folder), options)
    }

    /// Loads the reader of these files, wherever they lie.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_files(from: &ReaderFiles, options: &ReaderOptions) -> Result<Self> {
        let kernels = Kernels::detect()?;
        let checkpoint = Checkpoint::open_files(from)?;
        let stored = checkpoint.stored_as(checkpoint.head()).unwrap_or_default();
        let dtype = options.dtype.unwrap_or(if stored == "I8" { Dtype::Int8 } else { Dtype::F32 });
        let prompt = Prompt::open_files(from, checkpoint.config().vocabulary)?;
        if prompt.start().is_some() && !checkpoint.config().tied {
            let reason = "reader.json names a mark to point by (`start`); pointing needs a tied embedding, and this reader's head is its own";
            return Err(Error::Input(reason.into()));
        }
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads.unwrap_or(0))
            .thread_name(|i| format!("palimpsest-{i}"))
            .build()
            .map_err(|e| Error::Input(format!("{:?} threads cannot be started: {e}", options.threads)))?;
        let mut notices = Vec::new();
        let network = threads.install(|| match options.device {
            Device::Cpu => Ok(Network::Cpu(Box::new(Model::load(&checkpoint, kernels, dtype)?))),
            Device::Cuda => Ok(Network::Cuda(Box::new(on_gpu(&checkpoint)?))),
            Device::Auto => match on_gpu(&checkpoint) {
                Ok(model) => Ok(Network::Cuda(Box::new(model))),
                Err(Error::Cuda(reason)) => {
                    // That there is no GPU is no news: `device` says where it reads.
                    if !matches!(reason, CudaError::Missing { .. }) {
                        notices.push(format!("reading on the CPU: {reason}"));
                    }
                    Ok(Network::Cpu(Box::new(Model::load(&checkpoint, kernels, dtype)?)))
                }
                Err(other) => Err(other),
            },
        })?;
        let (dtype, arithmetic) = match &network {
            Network::Cpu(_) => (dtype, format!("{} {dtype:?}", kernels.arithmetic())),
            Network::Cuda(model) => (Dtype::Bf16, model.gpu().arithmetic()),
        };
        let fingerprint = Fingerprint::new(weights_hash(from, &checkpoint)?, tokenizer_hash(from)?, STATE_FORMAT, &arithmetic);
        Ok(Self {
            folder: from.name().to_path_buf(),
            dialect: checkpoint.dialect(),
            network,
            notices,
            dtype,
            calibration: Calibration::open(from, prompt.none().is_some())?,
            prompt,
            fingerprint,
            threads,
            scratch: Mutex::new(Vec::new()),
        })
    }

    /// Where it was loaded from; for an archive, what to call it.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How its checkpoint names its tensors.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// What its matrices are kept as in memory.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The network, where it reads on the CPU.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        match &self.network {
            Network::Cpu(model) => Some(model),
            Network::Cuda(_) => None,
        }
    }

    /// The network, where it reads on a GPU.
    #[must_use]
    pub fn device_model(&self) -> Option<&DeviceModel> {
        match &self.network {
            Network::Cpu(_) => None,
            Network::Cuda(model) => Some(model),
        }
    }

    /// Where it reads: the instruction set, or the GPU's name.
    #[must_use]
    pub fn device(&self) -> String {
        match &self.network {
            Network::Cpu(model) => format!("cpu ({})", model.kernels().isa()),
            Network::Cuda(model) => format!("cuda ({})", model.gpu().name()),
        }
    }

    /// Bytes that the weights take in memory.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match &self.network {
            Network::Cpu(model) => model.weight_bytes(),
            Network::Cuda(model) => model.weight_bytes(),
        }
    }

    /// What the user should know of how it was opened.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The shape of the network.
    #[must_use]
    pub fn config(&self) -> &Config {
        match &self.network {
            Network::Cpu(model) => model.config(),
            Network::Cuda(model) => model.config(),
        }
    }

    /// The tokenizer and the form of its prompts.
    #[must_use]
    pub fn prompt(&self) -> &Prompt {
        &self.prompt
    }

    /// What its scores are worth.
    #[must_use]
    pub fn calibration(&self) -> &Calibration {
        &self.calibration
    }

    /// The same reader with other weights on its scores: what fits them measures with it.
    #[must_use]
    pub fn with_calibration(self, calibration: Calibration) -> Self {
        Self { calibration, ..self }
    }

    /// What its snapshots are keyed with: weights, tokenizer, state format and arithmetic.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Threads it reads with.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Runs `work` on the reader's threads.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        on(&self.threads, work)
    }

    /// The state after `ids`, taken up again from the `data` that was kept of it. `None` when that is not of the right size.
    #[must_use]
    pub fn take_up(&self, tokens: u64, data: &[f32], ids: &[u32]) -> Option<State> {
        let state = State::from_parts(self.config(), tokens, data)?;
        Some(if self.device_model().is_some() { state.with_tail(ids) } else { state })
    }

    /// Lets go of the buffers of calls that ended.
    pub fn trim_memory(&self) {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).clear();
        if let Network::Cuda(model) = &self.network {
            model.trim_memory();
        }
    }

    /// Appends ids to states, all sequences in one batch.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn append(&self, batch: &mut [Sequence<'_>]) -> Result<()> {
        self.forward(batch, Want::Nothing, &mut |_, _, _| {})
    }

    /// Appends ids to states and hands out logits, as [`Model::forward`].
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn forward(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        sink: &mut (dyn FnMut(usize, usize, &[f32]) + Send),
    ) -> Result<()> {
        self.forward_at(batch, want, &mut Pace::free(), sink)
    }

    /// As [`Reader::append`], with the product of the steps' matrices of each sequence: see `compose.rs`.
    pub(crate) fn append_with_transitions(
        &self,
        batch: &mut [Sequence<'_>],
        transitions: Vec<Vec<f32>>,
    ) -> Result<Vec<Vec<f32>>> {
        let Network::Cpu(model) = &self.network else {
            return Err(Error::Input("parts are made on the CPU alone: open the reader with Device::Cpu".into()));
        };
        let mut scratch = Scratch::default();
        scratch.transitions = transitions;
        on(&self.threads, || model.forward(batch, Want::Nothing, &mut scratch, &mut |_, _, _| {}))?;
        Ok(scratch.transitions)
    }

    /// As [`Reader::forward`], stopping where `pace` says so.
    ///
    /// # Errors
    /// As [`Model::forward_at`].
    pub fn forward_at(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        pace: &mut Pace<'_>,
        sink: &mut (dyn FnMut(usize, usize, &[f32]) + Send),
    ) -> Result<()> {
        let model = match &self.network {
            Network::Cpu(model) => model,
            Network::Cuda(model) => return model.forward_at(batch, want, pace, sink),
        };
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let result = on(&self.threads, || model.forward_at(batch, want, &mut scratch, pace, sink));
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        result
    }
}

fn on_gpu(checkpoint: &Checkpoint) -> Result<DeviceModel> {
    DeviceModel::load(checkpoint, Gpu::open()?)
}

/// A passage and what the reader remembers of it.
#[derive(Debug, Clone)]
pub struct ReadPassage {
    /// What was read.
    pub tokens: PassageTokens,
    /// The state after its last token, read from the empty state.
    pub state: State,
    /// What the store had of it.
    pub restore: Restore,
    /// Tokens at its beginning that were read once for it and for others that begin alike.
    pub shared_tokens: u64,
    /// Why the disk did not take what was read, so that it is read again next time.
    pub not_kept: Option<String>,
}

impl ReadPassage {
    /// Tokens that a snapshot held.
    #[must_use]
    pub fn tokens_restored(&self) -> u64 {
        match self.restore {
            Restore::Exact { tokens } | Restore::Prefix { tokens } | Restore::Near { tokens } => tokens,
            Restore::Refused(_) => 0,
        }
    }

    /// Tokens that run through the reader.
    #[must_use]
    pub fn tokens_read(&self) -> u64 {
        self.tokens.ids.len() as u64 - self.tokens_restored() - self.shared_tokens
    }
}

/// Reads each passage from the empty state, or restores it; what was read goes into the store.
///
/// # Errors
/// As [`Model::forward`]. A store that refuses a snapshot costs time, never the answer.
pub fn read_passages(reader: &Reader, store: &Store, passages: Vec<PassageTokens>) -> Result<Vec<ReadPassage>> {
    let mut read = restore_passages(reader, store, passages);
    read_missing(reader, store, &mut read, None, &mut Pace::free())?;
    Ok(read)
}

/// Each passage as far as the store holds it; [`read_missing`] reads the rest.
#[must_use]
pub fn restore_passages(reader: &Reader, store: &Store, passages: Vec<PassageTokens>) -> Vec<ReadPassage> {
    let restored = passages.into_iter().map(|tokens| {
        let (state, restore) = restore(reader, store, &tokens.ids);
        ReadPassage { tokens, state, restore, shared_tokens: 0, not_kept: None }
    });
    restored.collect()
}

/// Passages read at once under a deadline: each fills a segment of a round of the network (`MAX_ROWS`).
const BEFORE_A_DEADLINE: usize = MAX_ROWS / SEGMENT;

/// Reads what is missing of `passages`, in one batch, and puts it into the store; under a `deadline` a few at a time, in
/// order, until it has passed. Returns how many are wholly read: all, or those at the front.
///
/// # Errors
/// As [`Model::forward_at`]. A store that refuses a snapshot costs time, never the answer.
pub fn read_missing(
    reader: &Reader,
    store: &Store,
    passages: &mut [ReadPassage],
    deadline: Option<Instant>,
    pace: &mut Pace<'_>,
) -> Result<usize> {
    let size = if deadline.is_some() { BEFORE_A_DEADLINE } else { passages.len().max(1) };
    let mut whole = 0;
    for group in passages.chunks_mut(size) {
        if deadline.is_some_and(|d| Instant::now() >= d) {
            break;
        }
        read_together(reader, store, group, pace)?;
        whole += group.len();
    }
    Ok(whole)
}

fn read_together(reader: &Reader, store: &Store, passages: &mut [ReadPassage], pace: &mut Pace<'_>) -> Result<()> {
    let started = Instant::now();
    let beginnings = read_beginnings(reader, passages, pace)?;
    let mut missing = Vec::new();
    for passage in passages.iter_mut() {
        let read = passage.state.tokens() as usize;
        missing.push(Sequence { ids: &passage.tokens.ids[read..], state: &mut passage.state });
    }
    reader.forward_at(&mut missing, Want::Nothing, pace, &mut |_, _, _| {})?;
    let tokens: u64 = passages.iter().map(ReadPassage::tokens_read).sum();
    let cost_ms_per_token = started.elapsed().as_secs_f32() * 1e3 / tokens.max(1) as f32;
    // What was read on from a state that is only near is not the state that its key names.
    let exact = |p: &&ReadPassage| p.tokens_read() > 0 && !matches!(p.restore, Restore::Near { .. });
    let wholes = passages.iter().filter(exact).map(|p| (&p.tokens.ids, &p.state));
    let kept: Vec<_> = beginnings.iter().map(|(ids, state)| (ids, state)).chain(wholes).collect();
    let mut not_kept = None;
    for (i, (ids, state)) in kept.iter().enumerate() {
        // The next one comes from the GPU while this one is written.
        if let Some((_, next)) = kept.get(i + 1) {
            next.fetch();
        }
        if let Err(e @ StoreError::Io { .. }) = keep(reader, store, ids, state, cost_ms_per_token) {
            not_kept = Some(e.to_string());
        }
    }
    passages.iter_mut().for_each(|p| p.not_kept.clone_from(&not_kept));
    Ok(())
}

/// Of passages that begin alike for whole segments (a long heading, a shared prompt) and of which nothing is there yet, reads that
/// beginning once, for all of them. Returns ids and state of each beginning.
fn read_beginnings(reader: &Reader, passages: &mut [ReadPassage], pace: &mut Pace<'_>) -> Result<Vec<(Vec<u32>, State)>> {
    let mut alike: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
    for (i, passage) in passages.iter().enumerate().filter(|(_, p)| p.state.tokens() == 0) {
        if let Some(first) = passage.tokens.ids.get(..SEGMENT) {
            alike.entry(first.to_vec()).or_default().push(i);
        }
    }
    alike.retain(|_, group| group.len() > 1);
    let mut beginnings = Vec::new();
    for group in alike.values() {
        let first = &passages[group[0]].tokens.ids;
        let common = |i: &usize| first.iter().zip(&passages[*i].tokens.ids).take_while(|(a, b)| a == b).count();
        let tokens = group.iter().map(common).min().unwrap_or(0) / SEGMENT * SEGMENT;
        beginnings.push((first[..tokens].to_vec(), State::empty(reader.config())));
    }
    let mut batch: Vec<_> = beginnings.iter_mut().map(|(ids, state)| Sequence { ids, state }).collect();
    reader.forward_at(&mut batch, Want::Nothing, pace, &mut |_, _, _| {})?;
    for (group, (ids, state)) in alike.values().zip(&beginnings) {
        for (at, i) in group.iter().enumerate() {
            passages[*i].state = state.clone();
            // The first of them counts as having read it.
            passages[*i].shared_tokens = if at == 0 { 0 } else { ids.len() as u64 };
        }
    }
    Ok(beginnings)
}

fn restore(reader: &Reader, store: &Store, ids: &[u32]) -> (State, Restore) {
    let (snapshot, restore) = store.longest(reader.fingerprint(), ids);
    let state = snapshot.and_then(|Snapshot { tokens, data }| reader.take_up(tokens, &data, ids.get(..tokens as usize)?));
    match state {
        Some(state) => (state, restore),
        None => {
            let restore = match restore {
                Restore::Refused(reason) => Restore::Refused(reason),
                _ => Restore::Refused(crate::snapshot::Refusal::Damaged("of another size than the reader's states".into())),
            };
            (State::empty(reader.config()), restore)
        }
    }
}

/// Puts the state after `ids` into the store. It is a cache: failure costs time.
fn keep(reader: &Reader, store: &Store, ids: &[u32], state: &State, cost_ms_per_token: f32) -> Result<(), StoreError> {
    let mut chain = Chain::new(reader.fingerprint());
    chain.extend(ids);
    let key = chain.key();
    if store.admits(&key) {
        let cost_ms = cost_ms_per_token * ids.len() as f32;
        store.put(&key, reader.fingerprint(), state.tokens(), &state.elements_here(), cost_ms)?;
    }
    Ok(())
}

/// The same wherever the files lie.
fn weights_hash(from: &ReaderFiles, checkpoint: &Checkpoint) -> Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    hash.update(format!("{:?}", checkpoint.config()).as_bytes());
    for path in checkpoint.files() {
        if from.is_folder() {
            let mut reader = std::fs::File::open(path).map_err(|e| Error::io(path, e))?;
            hash.update_reader(&mut reader).map_err(|e| Error::io(path, e))?;
        } else {
            let name = path.file_name().map(|n| n.to_string_lossy()).unwrap_or_default();
            hash.update(&from.read(&name).map_err(|e| Error::io(path, e))?);
        }
    }
    Ok(*hash.finalize().as_bytes())
}

fn tokenizer_hash(from: &ReaderFiles) -> Result<[u8; 32]> {
    let mut hash = blake3::Hasher::new();
    for name in ["tokenizer.json", "reader.json"] {
        match from.read(name) {
            Ok(bytes) => hash.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => hash.update(b"absent"),
            Err(e) => return Err(Error::io(from.path(name), e)),
        };
    }
    Ok(*hash.finalize().as_bytes())
}
