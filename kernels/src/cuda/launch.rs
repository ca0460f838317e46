//! The operations: lengths checked, then launched.

use std::sync::Arc;

use half::bf16;

use super::driver::Stream;
use super::operands::{Mixer, Table, Tiles};
use super::params::{ConvParams, GatedNormParams, Params, RowParams, Tile};
use super::{Buffer, CudaError, Gpu, TILE, View};
use crate::rows::OutputGate;
use crate::shape::length;

/// Threads of a block that goes over rows, and elements that each takes in elementwise kernels.
const ROW_THREADS: usize = 256;
/// Most blocks of a grid's second dimension.
const GRID_Y: usize = 65_535;

impl Gpu {
    /// Cuts sequences of `lens` tokens, one after the other, into tiles.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn tiles(&self, lens: &[usize]) -> Result<Tiles, CudaError> {
        let (mut tiles, mut first_tile, mut row, mut longest) = (Vec::new(), vec![0i32], 0, 0);
        for (sequence, &len) in lens.iter().enumerate() {
            for at in (0..len).step_by(TILE) {
                let len = TILE.min(len - at) as i32;
                tiles.push(Tile { row: (row + at) as i32, len, sequence: sequence as i32, first: i32::from(at == 0) });
            }
            row += len;
            longest = longest.max(len.div_ceil(TILE));
            first_tile.push(tiles.len() as i32);
        }
        Ok(Tiles {
            count: tiles.len(),
            tiles: self.upload(&tiles)?,
            first_tile: self.upload(&first_tile)?,
            longest,
            sequences: lens.len(),
            rows: row,
        })
    }

    /// A table of `states`.
    ///
    /// # Errors
    /// [`CudaError::Memory`].
    pub fn table(&self, states: Vec<Arc<Buffer>>) -> Result<Table, CudaError> {
        let mut table = Table { addresses: self.allocate(8 * states.len())?, states: Vec::new() };
        table.set(states)?;
        Ok(table)
    }

    pub(super) fn launch(&self, kernel: &'static str, grid: [usize; 2], params: &impl Params) -> Result<(), CudaError> {
        self.driver.launch(kernel, grid, params.bytes(), Stream::Main)
    }

    /// `residual [M, D]` (f32) = `table [ids [M], D]` (bf16). Ids must be below the table's rows.
    ///
    /// # Errors
    /// [`CudaError::Shape`].
    pub fn embed(&self, ids: &Buffer, m: usize, table: &Buffer, d: usize, residual: &Buffer) -> Result<(), CudaError> {
        let p = RowParams {
            ids: View::dense(ids, 1).rows::<u32>("embed", m, 1)?,
            x: table.address(),
            residual: View::dense(residual, d).rows::<f32>("embed", m, d)?,
            d: d as i32,
            ..RowParams::default()
        };
        self.launch("embed", [m, 1], &p)
    }

    /// RMSNorm of rows of `residual [.., D]` (f32) into `out [M, D]` (bf16): the first M, or those that `rows` (u32) names. Neither `rows` nor
    /// `weight`, nor the weights of a product queued after it, may be what a kernel queued just before writes: they are asked for before it has ended.
    ///
    /// # Errors
    /// [`CudaError::Shape`].
    pub fn rms_norm(
        &self,
        residual: &Buffer,
        rows: Option<&Buffer>,
        m: usize,
        weight: &Buffer,
        eps: f32,
        out: &Buffer,
    ) -> Result<(), CudaError> {
        let (op, d) = ("rms_norm", weight.bytes() / size_of::<f32>());
        let p = RowParams {
            residual: View::dense(residual, d).rows::<f32>(op, if rows.is_some() { 1 } else { m }, d)?,
            ids: rows.map(|r| View::dense(r, 1).rows::<u32>(op, m, 1)).transpose()?.unwrap_or(0),
            weight: weight.address(),
            out: View::dense(out, d).rows::<bf16>(op, m, d)?,
            d: d as i32,
            out_row: d as i32,
            eps,
            ..RowParams::default()
        };
        self.launch(op, [m, 1], &p)
    }

    /// `out [M, D] = silu(x [M, 0..D]) * x [M, D..2D]`, bf16; D even.
    ///
    /// # Errors
    /// [`CudaError::Shape`].
    pub fn swiglu(&self, x: &Buffer, m: usize, d: usize, out: &Buffer) -> Result<(), CudaError> {
        let op = "swiglu";
        let mut row = 0;
        while row < m {
            let rows = (m - row).min(GRID_Y);
            let p = RowParams {
                x: View::dense(x, 2 * d).from(row * 2 * d).rows::<bf16>(op, rows, 2 * d)?,
                out: View::dense(out, d).from(row * d).rows::<bf16>(op, rows, d)?,
                d: d as i32,
                x_row: 2 * d as i32,
                out_row: d as i32,
                ..RowParams::default()
            };
            let each = if d.is_multiple_of(8) { 8 } else { 2 };
            self.launch(op, [d.div_ceil(each * ROW_THREADS), rows], &p)?;
            row += rows;
        }
        Ok(())
    }

    /// The `n` largest of each row of `logits [M, D]` (f32), in order, the lowest id first among equals: ids into `ids [M, n]` (u32),
    /// their logits into `values [M, n]` (f32) where it is given. With `n` of 1 the greedy choice.
    ///
    /// # Errors
    /// [`CudaError::Shape`], also when there are fewer than `n`.
    pub fn top(
        &self,
        logits: &Buffer,
        m: usize,
        d: usize,
        n: usize,
        ids: &Buffer,
        values: Option<&Buffer>,
    ) -> Result<(), CudaError> {
        let op = "top";
        if n > d {
            length(op, "logits", d, n)?;
        }
        let p = RowParams {
            residual: View::dense(logits, d).rows::<f32>(op, m, d)?,
            ids_out: View::dense(ids, n).rows::<u32>(op, m, n)?,
            values_out: values.map(|v| View::dense(v, n).rows::<f32>(op, m, n)).transpose()?.unwrap_or(0),
            d: d as i32,
            out_row: n as i32,
            ..RowParams::default()
        };
        let kernel = if n == 1 && d.is_multiple_of(4) { "largest" } else { op };
        self.launch(kernel, [m, 1], &p)
    }

    /// The short convolutions of q, k and v, and SiLU: `qkv` into `out`, both `[M, 2 * H * K + HV * V]`. What they carry lies in
    /// each state behind `S [HV, K, V]`, which begins at element `at`.
    ///
    /// # Errors
    /// [`CudaError::Shape`].
    pub fn conv_silu(
        &self,
        mixer: &Mixer,
        tiles: &Tiles,
        qkv: View<'_>,
        states: &Table,
        at: usize,
        out: View<'_>,
    ) -> Result<(), CudaError> {
        let (op, s) = ("conv_silu", &mixer.shape);
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let width = 2 * keys + values;
        length(op, "taps", mixer.taps.bytes(), 4 * width * size_of::<f32>())?;
        let at = at + s.state_elements();
        let p = ConvParams {
            x: qkv.rows::<bf16>(op, tiles.rows, width)?,
            out: out.rows::<bf16>(op, tiles.rows, width)?,
            taps: mixer.taps.address(),
            tiles: tiles.tiles.address(),
            first_tile: tiles.first_tile.address(),
            states: states.check(op, tiles.sequences, at + 3 * width)?,
            at: at as u64,
            key_width: keys as i32,
            value_width: values as i32,
            x_row: qkv.row as i32,
            out_row: out.row as i32,
        };
        if tiles.count > GRID_Y {
            return Err(CudaError::Unsupported { op, needs: "at most 65,535 tiles of 16 tokens a pass", got: tiles.count });
        }
        self.launch("conv_silu", [width.div_ceil(2 * ROW_THREADS), tiles.count], &p)?;
        self.launch("conv_carry", [width.div_ceil(ROW_THREADS), tiles.sequences], &p)
    }

    /// The mixer's output of M rows: `out = rms_norm(x) * gate`, all `[M, HV, V]` in bf16.
    ///
    /// # Errors
    /// [`CudaError::Shape`].
    pub fn gated_norm(&self, mixer: &Mixer, m: usize, x: View<'_>, gate: View<'_>, out: View<'_>) -> Result<(), CudaError> {
        let (op, s) = ("gated_norm", &mixer.shape);
        let width = s.value_heads * s.value_dim;
        length(op, "weight", mixer.o_norm.bytes(), s.value_dim * size_of::<f32>())?;
        length(op, "bias", mixer.gate_bias.bytes(), width * size_of::<f32>())?;
        let p = GatedNormParams {
            x: x.rows::<bf16>(op, m, width)?,
            gate: gate.rows::<bf16>(op, m, width)?,
            bias: mixer.gate_bias.address(),
            weight: mixer.o_norm.address(),
            out: out.rows::<bf16>(op, m, width)?,
            m: m as i32,
            heads: s.value_heads as i32,
            d: s.value_dim as i32,
            x_row: x.row as i32,
            gate_row: gate.row as i32,
            out_row: out.row as i32,
            silu: i32::from(mixer.gate == OutputGate::Silu),
            eps: mixer.eps,
        };
        self.launch(op, [(m * s.value_heads).div_ceil(ROW_THREADS / 32), 1], &p)
    }
}

pub(super) fn aligned(op: &'static str, elements: usize) -> Result<(), CudaError> {
    if elements.is_multiple_of(8) {
        Ok(())
    } else {
        Err(CudaError::Unsupported { op, needs: "widths that are multiples of 8", got: elements })
    }
}
