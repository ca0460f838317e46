//! The recurrence: many tokens of each sequence in segments of 64, or one token of each.

use half::bf16;

use super::driver::Stream;
use super::launch::aligned;
use super::operands::{Chunk, Mixer, Projection, Table, Tiles};
use super::params::{ChunkParams, Params, StepParams};
use super::{Buffer, CudaError, Gpu, SEGMENT, TILE, View, embedded};
use crate::rows::OutputGate;
use crate::shape::length;
use crate::{Gdn2Shape, ShapeError};

/// `GATE_PIECES` of 32 in gdn2_step.cu.
const MOST_RANK: usize = 128;

fn supported(shape: &Gdn2Shape) -> Result<(), CudaError> {
    let refuse = |needs, got| Err(CudaError::Unsupported { op: "gdn2", needs, got });
    if ![64, 128].contains(&shape.key_dim) {
        return refuse("K of 64 or 128 a head", shape.key_dim);
    }
    if ![64, 128].contains(&shape.value_dim) {
        return refuse("V of 64 or 128 a head", shape.value_dim);
    }
    if shape.heads == 0 || !shape.value_heads.is_multiple_of(shape.heads) {
        return Err(ShapeError::Ragged { op: "gdn2", name: "value_heads", got: shape.value_heads, unit: shape.heads }.into());
    }
    Ok(())
}

impl Gpu {
    /// Whether the recurrence is made for `shape`, and runs on this GPU.
    ///
    /// # Errors
    /// [`CudaError::Unsupported`].
    pub fn supports(&self, shape: &Gdn2Shape) -> Result<(), CudaError> {
        supported(shape)?;
        let (prepare, scan) = segments(shape);
        let needed =
            [prepare, scan, "ring_4"].into_iter().filter_map(embedded::find).map(|kernel| kernel.shared_bytes as usize).max();
        let got = self.driver.shared_bytes();
        if needed.is_some_and(|needed| needed > got) {
            return Err(CudaError::Unsupported { op: "gdn2", needs: "a GPU with more shared memory a block", got });
        }
        Ok(())
    }

    /// Bytes of scratch memory for [`Gpu::chunk`] to take `segments` of [`SEGMENT`] tokens of each of `sequences` at once, twice: one
    /// part is made while the other is gone through.
    #[must_use]
    pub fn chunk_scratch_bytes(shape: &Gdn2Shape, sequences: usize, segments: usize) -> usize {
        2 * sequences * segments * shape.heads * record_bytes(shape)
    }

    /// The recurrence over every token of every sequence, in segments. `S [HV, K, V]` is each state's from element `at`. `scratch` of
    /// any size that holds a segment of each sequence: see [`Gpu::chunk_scratch_bytes`].
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Unsupported`].
    pub fn chunk(
        &self,
        shape: &Gdn2Shape,
        tiles: &Tiles,
        chunk: &Chunk<'_>,
        states: &Table,
        at: usize,
        scratch: &Buffer,
    ) -> Result<(), CudaError> {
        self.supports(shape)?;
        let (op, m) = ("chunk", tiles.rows);
        if m == 0 {
            return Ok(());
        }
        let (keys, values) = (shape.heads * shape.key_dim, shape.value_heads * shape.value_dim);
        for view in [chunk.q, chunk.k, chunk.v, chunk.b, chunk.w, chunk.out] {
            aligned(op, view.row)?;
            aligned(op, view.at)?;
        }
        let each = tiles.sequences * shape.heads * record_bytes(shape);
        let room = scratch.bytes() / each;
        if room == 0 {
            length(op, "scratch", scratch.bytes(), each)?;
        }
        // Parts that take turns; all at once where half the room is enough.
        let longest = tiles.longest.div_ceil(SEGMENT / TILE);
        let slice = longest.min((room / 2).max(1));
        let turns = if slice < longest && room >= 2 { 2 } else { 1 };
        let mut p = ChunkParams {
            q: chunk.q.rows::<bf16>(op, m, keys)?,
            k: chunk.k.rows::<bf16>(op, m, keys)?,
            v: chunk.v.rows::<bf16>(op, m, values)?,
            g: if chunk.gates.is_some() { chunk.g.rows::<bf16>(op, m, keys)? } else { chunk.g.rows::<f32>(op, m, keys)? },
            b: chunk.b.rows::<bf16>(op, m, keys)?,
            w: chunk.w.rows::<bf16>(op, m, values)?,
            out: chunk.out.rows::<bf16>(op, m, values)?,
            tiles: tiles.tiles.address(),
            first_tile: tiles.first_tile.address(),
            states: states.check(op, tiles.sequences, at + shape.state_elements())?,
            at: at as u64,
            q_row: chunk.q.row as i32,
            k_row: chunk.k.row as i32,
            v_row: chunk.v.row as i32,
            g_row: chunk.g.row as i32,
            b_row: chunk.b.row as i32,
            w_row: chunk.w.row as i32,
            out_row: chunk.out.row as i32,
            heads: shape.heads as i32,
            value_heads: shape.value_heads as i32,
            value_dim: shape.value_dim as i32,
            sequences: tiles.sequences as i32,
            slice: slice as i32,
            q_scale: 1.0 / (shape.key_dim as f32).sqrt(),
            b_scale: 1.0,
            ..ChunkParams::default()
        };
        if let Some((a_log, dt_bias, scale)) = chunk.gates {
            length(op, "a_log", a_log.bytes(), shape.heads * size_of::<f32>())?;
            length(op, "dt_bias", dt_bias.bytes(), keys * size_of::<f32>())?;
            (p.a_log, p.dt_bias, p.gates, p.b_scale) = (a_log.address(), dt_bias.address(), 1, scale);
        }
        let scan_grid = [shape.value_heads * shape.value_dim / 64, tiles.sequences];
        let (prepare, scan) = segments(shape);
        let part = |i: usize| {
            let mut p = p;
            p.records = scratch.address() + (i % turns * slice * each) as u64;
            p.from = (i * slice) as i32;
            p.to = ((i + 1) * slice).min(longest) as i32;
            p
        };
        let units = [slice * tiles.sequences * shape.heads, 1];
        let parts = longest.div_ceil(slice);
        if turns == 1 {
            for i in 0..parts {
                self.launch(prepare, units, &part(i))?;
                self.launch(scan, scan_grid, &part(i))?;
            }
            return Ok(());
        }
        self.driver.order(Stream::Main, Stream::Side)?;
        self.driver.launch(prepare, units, part(0).bytes(), Stream::Side)?;
        for i in 0..parts {
            // Part i is made, and part i - 1, whose place part i + 1 takes, is gone through.
            self.driver.order(Stream::Side, Stream::Main)?;
            self.driver.order(Stream::Main, Stream::Side)?;
            self.launch(scan, scan_grid, &part(i))?;
            if i + 1 < parts {
                self.driver.launch(prepare, units, part(i + 1).bytes(), Stream::Side)?;
            }
        }
        Ok(())
    }

    /// Whether [`Gpu::step`] can make the decay's and the output gate's inputs from `[M, rank]`: [`Projection::up`].
    #[must_use]
    pub fn makes_gates(shape: &Gdn2Shape, decay_rank: usize, gate_rank: usize) -> bool {
        shape.heads == shape.value_heads
            && decay_rank == gate_rank
            && (1..=MOST_RANK).contains(&decay_rank)
            && decay_rank.is_multiple_of(8)
    }

    /// One token of each of M sequences, from the projections to the gated output `[M, HV, V]`: convolutions, gates, recurrence
    /// and norm. Each state is advanced: `S [HV, K, V]` from element `at`, and what the convolutions carry behind it. It reads the
    /// states before the kernel just before it has ended: another that writes none of them, and is not a norm, must lie between two writers of a
    /// state, as products do in a network.
    ///
    /// # Errors
    /// [`CudaError::Shape`], [`CudaError::Unsupported`].
    pub fn step(
        &self,
        mixer: &Mixer,
        m: usize,
        projection: &Projection<'_>,
        states: &Table,
        at: usize,
        out: View<'_>,
    ) -> Result<(), CudaError> {
        let (op, s) = ("step", &mixer.shape);
        supported(s)?;
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let width = 2 * keys + values;
        length(op, "taps", mixer.taps.bytes(), 4 * width * size_of::<f32>())?;
        length(op, "a_log", mixer.a_log.bytes(), s.heads * size_of::<f32>())?;
        length(op, "dt_bias", mixer.dt_bias.bytes(), keys * size_of::<f32>())?;
        length(op, "o_norm", mixer.o_norm.bytes(), s.value_dim * size_of::<f32>())?;
        length(op, "gate_bias", mixer.gate_bias.bytes(), values * size_of::<f32>())?;
        if !at.is_multiple_of(4) {
            return Err(CudaError::Unsupported { op, needs: "a layer's state at a multiple of 4 elements", got: at });
        }
        let qkv = projection.qkv;
        qkv.rows::<bf16>(op, m, width)?;
        let taps = mixer.taps.address();
        let tap_bytes = (4 * keys * size_of::<f32>()) as u64;
        let (mut f_width, mut gate_width) = (keys, values);
        if let Some(up) = projection.up {
            if !Self::makes_gates(s, up.rank, up.rank) {
                return Err(CudaError::Unsupported {
                    op,
                    needs: "gates of a rank of 8 to 128 in eights, as many value heads as key heads",
                    got: up.rank,
                });
            }
            for view in [projection.f, projection.gate] {
                aligned(op, view.row)?;
                aligned(op, view.at)?;
            }
            length(op, "f_up", up.f.bytes(), keys * up.rank * size_of::<bf16>())?;
            length(op, "g_up", up.gate.bytes(), values * up.rank * size_of::<bf16>())?;
            (f_width, gate_width) = (up.rank, up.rank);
        }
        let p = StepParams {
            q: qkv.rows::<bf16>(op, m, keys)?,
            k: qkv.from(keys).rows::<bf16>(op, m, keys)?,
            v: qkv.from(2 * keys).rows::<bf16>(op, m, values)?,
            f: projection.f.rows::<bf16>(op, m, f_width)?,
            b: projection.b.rows::<bf16>(op, m, keys)?,
            w: projection.w.rows::<bf16>(op, m, values)?,
            gate: projection.gate.rows::<bf16>(op, m, gate_width)?,
            gate_bias: mixer.gate_bias.address(),
            q_taps: taps,
            k_taps: taps + tap_bytes,
            v_taps: taps + 2 * tap_bytes,
            a_log: mixer.a_log.address(),
            dt_bias: mixer.dt_bias.address(),
            o_norm: mixer.o_norm.address(),
            out: out.rows::<bf16>(op, m, values)?,
            states: states.check(op, m, at + s.state_elements() + 3 * width)?,
            at: at as u64,
            q_row: qkv.row as i32,
            k_row: qkv.row as i32,
            v_row: qkv.row as i32,
            f_row: projection.f.row as i32,
            b_row: projection.b.row as i32,
            w_row: projection.w.row as i32,
            gate_row: projection.gate.row as i32,
            out_row: out.row as i32,
            heads: s.heads as i32,
            value_heads: s.value_heads as i32,
            silu: i32::from(mixer.gate == OutputGate::Silu),
            b_scale: mixer.erase_scale,
            q_scale: 1.0 / (s.key_dim as f32).sqrt(),
            eps: mixer.eps,
            f_up: projection.up.map_or(0, |up| up.f.address()),
            g_up: projection.up.map_or(0, |up| up.gate.address()),
            rank: projection.up.map_or(0, |up| up.rank as i32),
            unused: 0,
        };
        let kernel = match (s.key_dim, s.value_dim, projection.up.is_some()) {
            (64, 64, false) => "gdn2_step_k64_v64",
            (64, _, false) => "gdn2_step_k64_v128",
            (_, 64, false) => "gdn2_step_k128_v64",
            (_, _, false) => "gdn2_step_k128_v128",
            (64, 64, true) => "gdn2_step_gates_k64_v64",
            (64, _, true) => "gdn2_step_gates_k64_v128",
            (_, 64, true) => "gdn2_step_gates_k128_v64",
            (_, _, true) => "gdn2_step_gates_k128_v128",
        };
        self.launch(kernel, [s.heads, m], &p)
    }
}

/// The two kernels that go by segments.
fn segments(shape: &Gdn2Shape) -> (&'static str, &'static str) {
    match shape.key_dim {
        64 => ("gdn2_prepare_k64", "gdn2_scan_k64"),
        _ => ("gdn2_prepare_k128", "gdn2_scan_k128"),
    }
}

fn record_bytes(shape: &Gdn2Shape) -> usize {
    embedded::record(shape.key_dim as u32) as usize
}
