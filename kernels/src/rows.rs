//! Norms, gates and activations: what is done to each row by itself.

use std::ops::Range;

use crate::Kernels;
use crate::cpu::Shared;
use crate::parallel::split;
use crate::shape::{ShapeError, length, rows_of};

/// Elements that an activation (exp and a division) takes a nanosecond for, about, and the same of a norm.
const ACTIVATIONS: usize = 2;
const NORMS: usize = 6;
/// Elements an elementwise part is rounded up to.
const UNIT: usize = 1024;

/// What the output gate's logits go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputGate {
    /// `1 / (1 + exp(-x))`: flash-linear-attention.
    Sigmoid,
    /// `x / (1 + exp(-x))`: NVIDIA.
    Silu,
}

impl Kernels {
    /// RMSNorm: `out = x / sqrt(mean(x^2) + eps) * weight` over rows of `weight.len()`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` is not such rows or `out` not as long as `x`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), ShapeError> {
        rows_of("rms_norm", "x", x, weight.len())?;
        length("rms_norm", "out", out.len(), x.len())?;
        // SAFETY: the table fits this processor; both parts have the same whole rows of `weight.len()`.
        pairs(weight.len(), weight.len() / NORMS, x, out, &|x, out| unsafe { (self.table.rms_norm)(x, weight, eps, out) });
        Ok(())
    }

    /// L2 norm of each `dim` elements, in place: `x / sqrt(sum(x^2) + 1e-6)`.
    ///
    /// # Errors
    /// [`ShapeError`] when `x` does not divide into `dim`.
    pub fn l2_norm(&self, x: &mut [f32], dim: usize) -> Result<(), ShapeError> {
        rows_of("l2_norm", "x", x, dim)?;
        // SAFETY: the table fits this processor; a part has whole rows of `dim`.
        in_place(dim, dim / NORMS, x, &|x| unsafe { (self.table.l2_norm)(x, dim) });
        Ok(())
    }

    /// `x = scale / (1 + exp(-x))`: the gates. `scale` is 2 where negative eigenvalues are allowed, else 1.
    ///
    /// # Errors
    /// None; it returns a result as its siblings do.
    pub fn sigmoid(&self, x: &mut [f32], scale: f32) -> Result<(), ShapeError> {
        // SAFETY: the table fits this processor.
        in_place(UNIT, UNIT / ACTIVATIONS, x, &|x| unsafe { (self.table.sigmoid)(x, scale) });
        Ok(())
    }

    /// The log-decay `g [M, H, K] = -exp(a_log[h]) * softplus(f + dt_bias[h, k])`, in place of `f`. Never positive.
    ///
    /// # Errors
    /// [`ShapeError`] when `dt_bias [H, K]` does not divide by the heads of `a_log [H]`, or `f` by `dt_bias`.
    pub fn log_decay(&self, f: &mut [f32], a_log: &[f32], dt_bias: &[f32]) -> Result<(), ShapeError> {
        rows_of("log_decay", "dt_bias", dt_bias, a_log.len())?;
        rows_of("log_decay", "f", f, dt_bias.len())?;
        // SAFETY: the table fits this processor; a part has whole rows of `dt_bias.len()`, which `a_log.len()` divides.
        in_place(dt_bias.len(), dt_bias.len() / ACTIVATIONS, f, &|f| unsafe { (self.table.log_decay)(f, a_log, dt_bias) });
        Ok(())
    }

    /// The mixer's output: `out = rms_norm(o) * weight * kind(gate)` over rows of `weight.len()` = V.
    ///
    /// # Errors
    /// [`ShapeError`] when `o` is not such rows, or `gate` or `out` not as long as `o`.
    pub fn gated_rms_norm(
        &self,
        o: &[f32],
        gate: &[f32],
        weight: &[f32],
        eps: f32,
        kind: OutputGate,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        rows_of("gated_rms_norm", "o", o, weight.len())?;
        length("gated_rms_norm", "gate", gate.len(), o.len())?;
        length("gated_rms_norm", "out", out.len(), o.len())?;
        triples(weight.len(), weight.len() / ACTIVATIONS, o, gate, out, &|o, gate, out| {
            // SAFETY: the table fits this processor; the parts have the same whole rows of `weight.len()`.
            unsafe { (self.table.gated_rms_norm)(o, gate, weight, eps, kind, out) }
        });
        Ok(())
    }

    /// `out = gate / (1 + exp(-gate)) * up`, elementwise.
    ///
    /// # Errors
    /// [`ShapeError`] when the three are not of one length.
    pub fn swiglu(&self, gate: &[f32], up: &[f32], out: &mut [f32]) -> Result<(), ShapeError> {
        length("swiglu", "up", up.len(), gate.len())?;
        length("swiglu", "out", out.len(), gate.len())?;
        // SAFETY: the table fits this processor; the parts are of one length.
        triples(UNIT, UNIT / ACTIVATIONS, gate, up, out, &|gate, up, out| unsafe { (self.table.swiglu)(gate, up, out) });
        Ok(())
    }
}

/// Calls `work` with ranges that cover `0..len` in units of `unit` elements, which cost `cost` nanoseconds each, about.
fn in_units(unit: usize, cost: usize, len: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    split(len.div_ceil(unit.max(1)), cost, &|part| work(part.start * unit..len.min(part.end * unit)));
}

fn in_place(unit: usize, cost: usize, x: &mut [f32], work: &(impl Fn(&mut [f32]) + Sync)) {
    let (len, x) = (x.len(), Shared(x.as_mut_ptr()));
    // SAFETY: parts are within `x` and do not meet.
    in_units(unit, cost, len, &|part| work(unsafe { x.part(part) }));
}

fn pairs(unit: usize, cost: usize, x: &[f32], out: &mut [f32], work: &(impl Fn(&[f32], &mut [f32]) + Sync)) {
    let out = Shared(out.as_mut_ptr());
    // SAFETY: `out` is as long as `x`; parts do not meet.
    in_units(unit, cost, x.len(), &|part| work(&x[part.clone()], unsafe { out.part(part) }));
}

fn triples(unit: usize, cost: usize, x: &[f32], y: &[f32], out: &mut [f32], work: &(impl Fn(&[f32], &[f32], &mut [f32]) + Sync)) {
    let out = Shared(out.as_mut_ptr());
    // SAFETY: `out` is as long as `x` and `y`; parts do not meet.
    in_units(unit, cost, x.len(), &|part| work(&x[part.clone()], &y[part.clone()], unsafe { out.part(part) }));
}
