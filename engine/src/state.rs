//! What the reader remembers: a fixed number of bytes, whatever was read.
//!
//! One flat buffer of f32. For each layer, in order: the recurrent state `S` `[HV, K, V]`, then the last three inputs of the
//! three short convolutions, oldest first: q `[3, H*K]`, k `[3, H*K]`, v `[3, HV*V]`. The state passes into the model and
//! out of it and is never owned by it, so that a fork is a clone and a snapshot is its bytes.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use palimpsest_kernels::Floats;
pub use palimpsest_kernels::LayerOffsets;
use palimpsest_kernels::cuda::{Arrival, Buffer, Host};

use crate::model::Config;

/// Tokens of a segment. Reading is cut at multiples of it, counted from the start of the context, so that the arithmetic of
/// a token depends on the ids before it alone, also on a back end whose wide products differ from its narrow ones.
pub const SEGMENT: usize = 64;

/// Inputs a width-4 causal convolution carries over.
pub(crate) const CARRIED: usize = 3;

/// Offsets of layer `layer`'s parts in a state of `config`'s shape: `S` `[HV, K, V]`, then the last inputs of the convolutions of
/// queries and keys `[3, H*K]` and of values `[3, HV*V]`.
#[must_use]
pub fn layer_offsets(config: &Config, layer: usize) -> LayerOffsets {
    let recurrent = layer * elements_per_layer(config);
    let conv_q = recurrent + config.value_heads * config.key_dim * config.value_dim;
    let conv_k = conv_q + CARRIED * config.key_width();
    LayerOffsets { recurrent, conv_q, conv_k, conv_v: conv_k + CARRIED * config.key_width() }
}

fn elements_per_layer(config: &Config) -> usize {
    config.value_heads * config.key_dim * config.value_dim + CARRIED * (2 * config.key_width() + config.value_width())
}

/// The memory of one context: what `tokens` tokens left behind.
///
/// On a GPU it is what was there at the last boundary of a segment, and the ids since: see `device.rs`. Then [`State::data`] is the
/// state at that boundary, fetched when it is asked for, and [`State::with_tail`] gives the ids back to a state taken up again.
#[derive(Debug, Clone)]
pub struct State {
    tokens: u64,
    elements: usize,
    data: OnceLock<Floats>,
    tail: Vec<u32>,
    resident: Option<Resident>,
    /// What `fetch` began.
    coming: Arc<Mutex<Option<Arrival>>>,
}

/// A state's elements on the host: its own, or a GPU's in pinned memory, which is given back when this goes.
pub(crate) enum Elements<'s> {
    Here(&'s [f32]),
    Fetched(Host),
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Here(data) => data,
            Self::Fetched(host) => host.as_slice(),
        }
    }
}

/// A state that lies on a GPU.
#[derive(Debug, Clone)]
pub(crate) struct Resident {
    /// After the last whole segment.
    pub(crate) boundary: Arc<Buffer>,
    /// After the ids since; `None` when there are none, or they were not gone through yet.
    pub(crate) live: Option<Arc<Buffer>>,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.tokens == other.tokens && self.tail == other.tail && self.data() == other.data()
    }
}

impl State {
    /// The state before the first token: all zeros.
    #[must_use]
    pub fn empty(config: &Config) -> Self {
        Self::of(0, Floats::zeros(Self::elements(config)))
    }

    /// A state taken up again from its parts. `None` when `data` is not of `config`'s size.
    #[must_use]
    pub fn from_parts(config: &Config, tokens: u64, data: &[f32]) -> Option<Self> {
        (data.len() == Self::elements(config)).then(|| Self::of(tokens, Floats::from(data)))
    }

    fn of(tokens: u64, data: Floats) -> Self {
        Self {
            tokens,
            elements: data.len(),
            data: OnceLock::from(data),
            tail: Vec::new(),
            resident: None,
            coming: Arc::default(),
        }
    }

    /// The same, of a reader on a GPU whose last tokens were `ids`: those since the last boundary are kept with it.
    #[must_use]
    pub fn with_tail(mut self, ids: &[u32]) -> Self {
        let since = (self.tokens % SEGMENT as u64) as usize;
        self.tail = ids[ids.len().saturating_sub(since)..].to_vec();
        self
    }

    /// The ids since the last boundary, of a state of a reader on a GPU.
    #[must_use]
    pub fn tail(&self) -> &[u32] {
        &self.tail
    }

    /// Elements it has, wherever they lie.
    pub(crate) fn len(&self) -> usize {
        self.elements
    }

    pub(crate) fn take_resident(&mut self) -> Option<Resident> {
        self.resident.take()
    }

    /// What it is after `tokens` more: `resident`, and `tail` since the last boundary.
    pub(crate) fn settle(&mut self, tokens: usize, tail: Vec<u32>, resident: Resident) {
        self.tokens += tokens as u64;
        self.tail = tail;
        self.data = OnceLock::new();
        self.resident = Some(resident);
        self.coming = Arc::default();
    }

    pub(crate) fn on_gpu(&self) -> bool {
        self.resident.is_some()
    }

    /// Begins to copy it from the GPU where it lies, for [`State::elements_here`]; what the GPU is given next runs beside the copy.
    pub(crate) fn fetch(&self) {
        if let (Some(resident), None) = (&self.resident, self.data.get()) {
            let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
            if coming.is_none() {
                *coming = resident.boundary.fetch().ok();
            }
        }
    }

    /// As [`State::data`], but that nothing is kept on the host of a state that lies on a GPU.
    pub(crate) fn elements_here(&self) -> Elements<'_> {
        if let Some(data) = self.data.get() {
            return Elements::Here(data);
        }
        self.fetch();
        let arrival = self.coming.lock().unwrap_or_else(PoisonError::into_inner).take();
        arrival.and_then(|a| a.wait().ok()).map_or(Elements::Here(&[]), Elements::Fetched)
    }

    /// Elements (f32) of a state of `config`'s shape.
    #[must_use]
    pub fn elements(config: &Config) -> usize {
        config.layers * elements_per_layer(config)
    }

    /// Bytes of a state of `config`'s shape: a function of the configuration alone.
    #[must_use]
    pub fn bytes(config: &Config) -> usize {
        Self::elements(config) * size_of::<f32>()
    }

    /// Tokens read since the state was empty.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The raw elements, in the layout of this module. None at all where a GPU that held them could not be asked: no place
    /// that takes a state takes it so.
    #[must_use]
    pub fn data(&self) -> &[f32] {
        self.data.get_or_init(|| Floats::from(&*self.elements_here()))
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.tokens += tokens as u64;
    }
}

impl AsMut<[f32]> for State {
    fn as_mut(&mut self) -> &mut [f32] {
        self.data.get_mut().map_or(&mut [], |data| &mut **data)
    }
}
