//! The whole network: token ids and a [`State`] in, logits out.
//!
//! Gated DeltaNet-2 (arXiv 2605.22791). Per block: `x += mixer(norm(x)); x += swiglu(norm(x))`. Shapes: `M` rows (tokens of
//! all sequences, concatenated), `D` width, `H` heads of `K` on the query/key side, `HV` heads of `V` on the value side.
//!
//! Every row depends on its own tokens alone, bit for bit, whatever is read beside it: the kernels promise it for products
//! and recurrences, and nothing here mixes rows. The plain twin of this file is `twin.rs`.

use palimpsest_kernels::{Dtype, Floats, Gdn2Shape, Kernels, Layer, LayerRows, Matrix, Mixer, MixerRows, together};

use crate::cancel::Pace;
use crate::checkpoint::{Checkpoint, Part};
use crate::error::{Error, Result};
use crate::state::{SEGMENT, State, layer_offsets};

mod config;

pub use config::Config;

/// Most rows of one pass through the layers, a multiple of [`SEGMENT`]: bounds the scratch memory, and keeps the activations in
/// the second cache (kernels/README.md: 128 rows read 1.1 times as fast as 512).
pub const MAX_ROWS: usize = 2 * SEGMENT;

struct Block {
    attn_norm: Vec<f32>,
    q: Matrix,
    k: Matrix,
    v: Matrix,
    b: Matrix,
    w: Matrix,
    f_down: Matrix,
    f_up: Matrix,
    g_down: Matrix,
    g_up: Matrix,
    g_bias: Vec<f32>,
    q_taps: Vec<f32>,
    k_taps: Vec<f32>,
    v_taps: Vec<f32>,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
    o_norm: Vec<f32>,
    o: Matrix,
    mlp_norm: Vec<f32>,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
}

/// One sequence of a batch: tokens to append to a context.
pub struct Sequence<'a> {
    /// What is read now.
    pub ids: &'a [u32],
    /// What was read before; advanced past `ids`.
    pub state: &'a mut State,
}

/// Which rows' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// None: the state is all that matters.
    Nothing,
    /// Those after the last token of each sequence that is not empty.
    Last,
    /// After the last token of each sequence that is not empty, one number alone: the id of the largest logit, of equals the lowest. What greedy
    /// decoding needs; a GPU then keeps the logits.
    Largest,
    /// Those after every token.
    All,
    /// After every token, the logits of these two ids alone: what pointing needs. The embedding must be tied.
    Only([u32; 2]),
}

impl Want {
    fn after_last(self) -> bool {
        matches!(self, Self::Last | Self::Largest)
    }
}

/// Of the largest, the lowest id; no vocabulary has more than the 2^24 that a float tells apart.
fn largest(logits: &[f32]) -> usize {
    logits.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(id, _)| id)
}

/// The network's weights, packed for this machine. Shared between threads; all that changes is in [`State`] and [`Scratch`].
pub struct Model {
    config: Config,
    kernels: Kernels,
    embedding: Vec<f32>,
    blocks: Vec<Block>,
    final_norm: Vec<f32>,
    head: Matrix,
}

/// Activations of one pass, sized by the configuration: reused between calls so that decoding allocates nothing.
#[derive(Default)]
pub struct Scratch {
    x: Floats,
    normed: Floats,
    q: Floats,
    k: Floats,
    v: Floats,
    raw_q: Floats,
    raw_k: Floats,
    raw_v: Floats,
    b: Floats,
    w: Floats,
    g: Floats,
    decay_low: Floats,
    gate_low: Floats,
    gate: Floats,
    out: Floats,
    mixed: Floats,
    hidden: Floats,
    last: Vec<f32>,
    logits: Floats,
    lens: Vec<usize>,
    read: Vec<usize>,
    /// One for each sequence, or none at all: `[layers, H, K, K]`, what a head's state is multiplied with by reading
    /// (`compose.rs`). Identities before the first token.
    pub(crate) transitions: Vec<Vec<f32>>,
    nothing: Floats,
    thrown_away: Floats,
}

/// Gives the values of a tensor, by part and shape.
pub(crate) type Tensors<'a> = dyn Fn(Part<'_>, &[usize]) -> Result<Vec<f32>> + 'a;

impl Model {
    /// Converts and packs `checkpoint`'s weights.
    ///
    /// # Errors
    /// [`Error::Reader`] naming the tensor and file at fault.
    pub fn load(checkpoint: &Checkpoint, kernels: Kernels, dtype: Dtype) -> Result<Self> {
        Self::of(checkpoint.config().clone(), kernels, dtype, &|part, shape| checkpoint.part(part, shape))
    }

    /// A network of weights that `tensor` gives, by part and shape.
    ///
    /// # Errors
    /// Those of `tensor`.
    pub(crate) fn of(c: Config, kernels: Kernels, dtype: Dtype, tensor: &Tensors<'_>) -> Result<Self> {
        let (d, hk, hv) = (c.width, c.key_width(), c.value_width());
        let pack = |part: Part<'_>, rows: usize, cols: usize| -> Result<Matrix> {
            Ok(Matrix::pack(rows, cols, &tensor(part, &[rows, cols])?, dtype)?)
        };
        let embedding = tensor(Part::Embedding, &[c.vocabulary, d])?;
        let head = pack(Part::Head, c.vocabulary, d)?;
        let blocks = (0..c.layers)
            .map(|i| {
                let vector = |part: &str, shape: &[usize]| tensor(Part::InLayer(i, part), shape);
                let matrix = |part: &str, rows: usize, cols: usize| pack(Part::InLayer(i, part), rows, cols);
                // A checkpoint has `[width, 1, 4]`.
                let taps = |part: &str, width: usize| {
                    let taps = vector(part, &[width, 1, 4])?;
                    Ok::<_, Error>((0..4).flat_map(|j| taps.iter().skip(j).step_by(4).copied()).collect())
                };
                Ok(Block {
                    attn_norm: vector("attn_norm.weight", &[d])?,
                    q: matrix("attn.q_proj.weight", hk, d)?,
                    k: matrix("attn.k_proj.weight", hk, d)?,
                    v: matrix("attn.v_proj.weight", hv, d)?,
                    b: matrix("attn.b_proj.weight", hk, d)?,
                    w: matrix("attn.w_proj.weight", hv, d)?,
                    f_down: matrix("attn.f_proj.0.weight", c.decay_rank, d)?,
                    f_up: matrix("attn.f_proj.1.weight", hk, c.decay_rank)?,
                    g_down: matrix("attn.g_proj.0.weight", c.gate_rank, d)?,
                    g_up: matrix("attn.g_proj.1.weight", hv, c.gate_rank)?,
                    g_bias: vector("attn.g_proj.1.bias", &[hv])?,
                    q_taps: taps("attn.q_conv1d.weight", hk)?,
                    k_taps: taps("attn.k_conv1d.weight", hk)?,
                    v_taps: taps("attn.v_conv1d.weight", hv)?,
                    a_log: vector("attn.A_log", &[c.heads])?,
                    dt_bias: vector("attn.dt_bias", &[hk])?,
                    o_norm: vector("attn.o_norm.weight", &[c.value_dim])?,
                    o: matrix("attn.o_proj.weight", d, hv)?,
                    mlp_norm: vector("mlp_norm.weight", &[d])?,
                    gate: matrix("mlp.gate_proj.weight", c.hidden, d)?,
                    up: matrix("mlp.up_proj.weight", c.hidden, d)?,
                    down: matrix("mlp.down_proj.weight", d, c.hidden)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let final_norm = tensor(Part::FinalNorm, &[d])?;
        Ok(Self { config: c, kernels, embedding, blocks, final_norm, head })
    }

    /// The shape of the network.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The functions it runs on.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Bytes the weights take in memory.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let matrices: usize = self.blocks.iter().flat_map(Block::matrices).map(Matrix::bytes).sum();
        matrices + self.head.bytes() + self.embedding.len() * size_of::<f32>()
    }

    /// Every matrix a token is multiplied with in reading, in order: what a benchmark of the products alone runs.
    pub fn projections(&self) -> impl Iterator<Item = &Matrix> {
        self.blocks.iter().flat_map(Block::matrices)
    }

    /// The matrix that turns a hidden row into logits.
    #[must_use]
    pub fn head(&self) -> &Matrix {
        &self.head
    }

    /// Reads each sequence's ids into its state. `sink(sequence, position, logits)` gets the wanted rows of logits
    /// `[vocabulary]`, `position` counted within the sequence's ids; with [`Want::Last`] and [`Want::Largest`] in order of the sequences.
    ///
    /// # Errors
    /// [`Error::Input`] when an id is outside the vocabulary or a state is of another network; nothing was read then.
    pub fn forward(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        scratch: &mut Scratch,
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        self.forward_at(batch, want, scratch, &mut Pace::free(), sink)
    }

    /// As [`Model::forward`], asking `pace` before every layer whether to go on.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`Error::Cancelled`] when `pace` says so: then the states of the batch are between two tokens
    /// and must be thrown away.
    pub fn forward_at(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        scratch: &mut Scratch,
        pace: &mut Pace<'_>,
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let c = &self.config;
        if let Want::Only(ids) = want
            && (!c.tied || ids.iter().any(|&id| id as usize >= c.vocabulary))
        {
            return Err(Error::Input(format!("logits of {ids:?} alone: this reader has no such rows in a tied embedding")));
        }
        for s in batch.iter() {
            if let Some(id) = s.ids.iter().find(|&&id| id as usize >= c.vocabulary) {
                return Err(Error::Input(format!("token id {id} is outside the reader's vocabulary of {}", c.vocabulary)));
            }
            if s.state.data().len() != State::elements(c) {
                return Err(Error::Input(format!(
                    "a state of {} elements does not belong to this reader, whose states have {}",
                    s.state.data().len(),
                    State::elements(c)
                )));
            }
        }
        let mut read = std::mem::take(&mut scratch.read);
        read.clear();
        read.resize(batch.len(), 0);
        scratch.last.clear();
        scratch.last.resize(if want.after_last() { batch.len() * c.width } else { 0 }, 0.0);
        let result = self.rounds(batch, want, &mut read, scratch, pace, sink);
        scratch.read = read;
        result
    }

    fn rounds(
        &self,
        batch: &mut [Sequence<'_>],
        want: Want,
        read: &mut [usize],
        scratch: &mut Scratch,
        pace: &mut Pace<'_>,
        sink: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<()> {
        let vocabulary = self.config.vocabulary;
        loop {
            plan_round(batch, read, &mut scratch.lens);
            let rows: usize = scratch.lens.iter().sum();
            if rows == 0 {
                break;
            }
            together(|| {
                self.blocks_forward(batch, read, rows, scratch, pace)?;
                self.advance(batch, read, want, scratch);
                // Of all at once, when all have been read.
                let at_end = want.after_last() && batch.iter().zip(&*read).all(|(s, read)| *read == s.ids.len());
                if at_end { self.logits_after_last(batch.len(), scratch) } else { Ok(()) }
            })?;
            pace.read(rows);
            let wide = match want {
                Want::All => vocabulary,
                Want::Only(ids) => ids.len(),
                Want::Nothing | Want::Last | Want::Largest => continue,
            };
            self.logits_of_all(rows, want, scratch)?;
            let mut row = 0;
            for (i, &len) in scratch.lens.iter().enumerate() {
                for position in read[i] - len..read[i] {
                    sink(i, position, &scratch.logits[row * wide..(row + 1) * wide]);
                    row += 1;
                }
            }
        }
        if want.after_last() {
            let logits = scratch.logits.at_least(batch.len() * vocabulary);
            for (i, s) in batch.iter().enumerate().filter(|(_, s)| !s.ids.is_empty()) {
                let row = &logits[i * vocabulary..(i + 1) * vocabulary];
                match want {
                    Want::Largest => sink(i, s.ids.len() - 1, &[largest(row) as f32]),
                    _ => sink(i, s.ids.len() - 1, row),
                }
            }
        }
        Ok(())
    }

    /// Counts what a round has read, and keeps the rows that end sequences.
    fn advance(&self, batch: &mut [Sequence<'_>], read: &mut [usize], want: Want, scratch: &mut Scratch) {
        let (d, mut first) = (self.config.width, 0);
        for (i, s) in batch.iter_mut().enumerate().filter(|(i, _)| scratch.lens[*i] > 0) {
            let len = scratch.lens[i];
            s.state.advance(len);
            read[i] += len;
            first += len;
            if want.after_last() && read[i] == s.ids.len() {
                scratch.last[i * d..(i + 1) * d].copy_from_slice(&scratch.x[(first - 1) * d..first * d]);
            }
        }
    }

    /// Logits of the rows that end sequences, `[sequences, vocabulary]`, into `scratch.logits`.
    fn logits_after_last(&self, sequences: usize, scratch: &mut Scratch) -> Result<()> {
        let normed = scratch.normed.at_least(sequences * self.config.width);
        let logits = scratch.logits.at_least(sequences * self.config.vocabulary);
        self.kernels.rms_norm(&scratch.last, &self.final_norm, self.config.norm_eps, normed)?;
        Ok(self.kernels.matmul(normed, &self.head, logits)?)
    }

    fn logits_of_all(&self, rows: usize, want: Want, scratch: &mut Scratch) -> Result<()> {
        let d = self.config.width;
        let normed = scratch.normed.at_least(rows * d);
        self.kernels.rms_norm(&scratch.x[..rows * d], &self.final_norm, self.config.norm_eps, normed)?;
        if let Want::Only(ids) = want {
            let logits = scratch.logits.at_least(rows * ids.len());
            for (row, out) in normed.chunks_exact(d).zip(logits.chunks_exact_mut(ids.len())) {
                for (out, id) in out.iter_mut().zip(ids) {
                    let word = &self.embedding[id as usize * d..(id as usize + 1) * d];
                    *out = row.iter().zip(word).map(|(a, b)| a * b).sum();
                }
            }
            return Ok(());
        }
        let logits = scratch.logits.at_least(rows * self.config.vocabulary);
        Ok(self.kernels.matmul(normed, &self.head, logits)?)
    }

    /// One round through all blocks: the next `lens[i]` ids of each sequence; the residual stream is left in `scratch.x`. `pace` is
    /// its own, since it goes to another thread if need be.
    fn blocks_forward(
        &self,
        batch: &mut [Sequence<'_>],
        read: &[usize],
        rows: usize,
        scratch: &mut Scratch,
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        let d = self.config.width;
        let x = scratch.x.at_least(rows * d);
        let ids = batch.iter().zip(read).zip(&scratch.lens).flat_map(|((s, &from), &len)| &s.ids[from..from + len]);
        for (row, &id) in x.chunks_exact_mut(d).zip(ids) {
            row.copy_from_slice(&self.embedding[id as usize * d..(id as usize + 1) * d]);
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            pace.check()?;
            self.layer(layer, block, batch, rows, scratch)?;
        }
        Ok(())
    }

    /// One layer, the recurrence of arXiv 2605.22791 eq. 9 with its projections, and SwiGLU.
    fn layer(&self, layer: usize, block: &Block, batch: &mut [Sequence<'_>], rows: usize, scratch: &mut Scratch) -> Result<()> {
        let (c, kernels, s) = (&self.config, &self.kernels, scratch);
        let (d, hk, hv) = (rows * c.width, rows * c.key_width(), rows * c.value_width());
        let all = LayerRows {
            x: s.x.at_least(d),
            normed: s.normed.at_least(d),
            mixer: MixerRows {
                raw_q: s.raw_q.at_least(hk),
                raw_k: s.raw_k.at_least(hk),
                raw_v: s.raw_v.at_least(hv),
                b: s.b.at_least(hk),
                w: s.w.at_least(hv),
                decay_low: s.decay_low.at_least(rows * c.decay_rank),
                gate_low: s.gate_low.at_least(rows * c.gate_rank),
                q: s.q.at_least(hk),
                k: s.k.at_least(hk),
                v: s.v.at_least(hv),
                g: s.g.at_least(hk),
                gate: s.gate.at_least(hv),
                out: s.out.at_least(hv),
                mixed: s.mixed.at_least(hv),
            },
            hidden: s.hidden.at_least(rows * c.hidden),
        };
        kernels.layer(&block.layer(c), &s.lens, all, batch, layer_offsets(c, layer))?;
        if !s.transitions.is_empty() {
            // The same steps on the identity, with nothing written: their product.
            let shape = Gdn2Shape { value_heads: c.heads, value_dim: c.key_dim, ..c.gdn2() };
            let (nothing, out) = (s.nothing.at_least(hk), s.thrown_away.at_least(hk));
            let at = layer * shape.heads * shape.key_dim * shape.key_dim;
            let (q, k, g, b) = (&s.q[..hk], &s.k[..hk], &s.g[..hk], &s.b[..hk]);
            kernels.gdn2(&shape, &s.lens, q, k, nothing, g, b, nothing, &mut s.transitions, at, out)?;
        }
        Ok(())
    }
}

impl Block {
    fn layer<'a>(&'a self, c: &Config) -> Layer<'a> {
        Layer {
            mixer_norm: &self.attn_norm,
            q: &self.q,
            k: &self.k,
            v: &self.v,
            b: &self.b,
            w: &self.w,
            f_down: &self.f_down,
            g_down: &self.g_down,
            mixer: self.mixer(c),
            o: &self.o,
            mlp_norm: &self.mlp_norm,
            gate: &self.gate,
            up: &self.up,
            down: &self.down,
        }
    }

    fn mixer<'a>(&'a self, c: &Config) -> Mixer<'a> {
        Mixer {
            shape: c.gdn2(),
            q_taps: &self.q_taps,
            k_taps: &self.k_taps,
            v_taps: &self.v_taps,
            f_up: &self.f_up,
            a_log: &self.a_log,
            dt_bias: &self.dt_bias,
            g_up: &self.g_up,
            g_bias: &self.g_bias,
            o_norm: &self.o_norm,
            eps: c.norm_eps,
            output_gate: c.output_gate,
            erase_scale: if c.allow_neg_eigval { 2.0 } else { 1.0 },
            write_scale: if c.doubled_write { 2.0 } else { 1.0 },
        }
    }

    fn matrices(&self) -> [&Matrix; 13] {
        [
            &self.q,
            &self.k,
            &self.v,
            &self.b,
            &self.w,
            &self.f_down,
            &self.f_up,
            &self.g_down,
            &self.g_up,
            &self.o,
            &self.gate,
            &self.up,
            &self.down,
        ]
    }
}

impl AsMut<[f32]> for Sequence<'_> {
    fn as_mut(&mut self) -> &mut [f32] {
        self.state.as_mut()
    }
}

/// Rows each sequence contributes to the next round: a fair share of [`MAX_ROWS`], cut at a segment boundary of its context
/// unless its ids end before.
fn plan_round(batch: &[Sequence<'_>], read: &[usize], lens: &mut Vec<usize>) {
    lens.clear();
    let active = batch.iter().zip(read).filter(|(s, r)| s.ids.len() > **r).count();
    let share = (MAX_ROWS / active.max(1)).max(SEGMENT) / SEGMENT * SEGMENT;
    let mut room = MAX_ROWS;
    for (s, &from) in batch.iter().zip(read) {
        let remaining = s.ids.len() - from;
        let into_segment = (s.state.tokens() % SEGMENT as u64) as usize;
        let len = remaining.min(share - into_segment);
        let len = if len <= room { len } else { 0 };
        room -= len;
        lens.push(len);
    }
}
