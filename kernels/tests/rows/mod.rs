//! Rows of a recurrence as a GPU takes them, and what plain loops in f64 make of them.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::missing_panics_doc)] // each test file uses some of it

use std::sync::Arc;

use half::bf16;
use palimpsest_kernels::Gdn2Shape;
use palimpsest_kernels::cuda::{Buffer, Chunk, Gpu, View};

use crate::inputs::Random;

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Rows of the recurrence, bf16 as f32 (`g` is f32 where `gates` is false).
pub struct Rows {
    pub shape: Gdn2Shape,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub g: Vec<f32>,
    pub b: Vec<f32>,
    pub w: Vec<f32>,
    pub a_log: Vec<f32>,
    pub dt_bias: Vec<f32>,
    pub gates: bool,
    /// What the erase gate's sigmoid is multiplied by: 1, or 2 where eigenvalues below 0 are allowed.
    pub erase: f32,
}

impl Rows {
    /// `g` between `-exp(low)` and `-exp(high)` where given, and gates' inputs where not.
    pub fn random(r: &mut Random, shape: Gdn2Shape, m: usize, given: Option<(f32, f32)>) -> Self {
        let (keys, values) = (shape.heads * shape.key_dim, shape.value_heads * shape.value_dim);
        let gates = given.is_none();
        let (low, high) = if gates { (-3.0, 3.0) } else { (0.0, 1.0) };
        let mut rows = Self {
            shape,
            q: r.vec(m * keys, -1.0, 1.0),
            k: r.vec(m * keys, -1.0, 1.0),
            v: through_bf16(r.vec(m * values, -2.0, 2.0)),
            g: match given {
                Some((low, high)) => (0..m * keys).map(|_| -r.between(low, high).exp()).collect(),
                None => through_bf16(r.vec(m * keys, -3.0, 3.0)),
            },
            b: through_bf16(r.vec(m * keys, low, high)),
            w: through_bf16(r.vec(m * values, low, high)),
            a_log: r.vec(shape.heads, -1.0, 1.0),
            dt_bias: r.vec(keys, -2.0, 0.0),
            gates,
            erase: if m.is_multiple_of(2) { 2.0 } else { 1.0 },
        };
        if !gates {
            for x in rows.q.chunks_exact_mut(shape.key_dim).chain(rows.k.chunks_exact_mut(shape.key_dim)) {
                let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
                x.iter_mut().for_each(|x| *x /= norm);
            }
        }
        rows.q = through_bf16(rows.q);
        rows.k = through_bf16(rows.k);
        rows
    }

    pub fn tokens(&self) -> usize {
        self.q.len() / (self.shape.heads * self.shape.key_dim)
    }

    /// The definition, token by token in f64, from `state [HV, K, V]`.
    pub fn expected(&self, rows: std::ops::Range<usize>, state: &mut [f64]) -> Vec<f64> {
        let s = &self.shape;
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let mut out = Vec::new();
        for t in rows {
            for j in 0..s.value_heads {
                let h = j / (s.value_heads / s.heads);
                let at = t * keys + h * s.key_dim;
                let row = |x: &[f32]| -> Vec<f64> { x[at..at + s.key_dim].iter().map(|&x| f64::from(x)).collect() };
                let (mut q, mut k, mut g, mut b) = (row(&self.q), row(&self.k), row(&self.g), row(&self.b));
                if self.gates {
                    for x in [&mut q, &mut k] {
                        let norm = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                        x.iter_mut().for_each(|x| *x /= norm);
                    }
                    let rate = -f64::from(self.a_log[h]).exp();
                    for (i, g) in g.iter_mut().enumerate() {
                        *g = rate * (*g + f64::from(self.dt_bias[h * s.key_dim + i])).exp().ln_1p();
                    }
                    b.iter_mut().for_each(|x| *x = f64::from(self.erase) * sigmoid(*x));
                }
                for e in 0..s.value_dim {
                    let at = t * values + j * s.value_dim + e;
                    let w = f64::from(self.w[at]);
                    let z = f64::from(self.v[at]) * if self.gates { sigmoid(w) } else { w };
                    let column = &mut state[j * s.key_dim * s.value_dim + e..];
                    let mut y = 0.0;
                    for i in 0..s.key_dim {
                        column[i * s.value_dim] *= g[i].exp();
                        y += b[i] * k[i] * column[i * s.value_dim];
                    }
                    let mut o = 0.0;
                    for i in 0..s.key_dim {
                        column[i * s.value_dim] += k[i] * (z - y);
                        o += q[i] * column[i * s.value_dim];
                    }
                    out.push(o / (s.key_dim as f64).sqrt());
                }
            }
        }
        out
    }

    /// On the device: `rows` as sequences of `lens` tokens, whose states' `S` lie from `at`.
    pub fn run(
        &self,
        gpu: &Gpu,
        first: usize,
        lens: &[usize],
        states: &[Arc<Buffer>],
        at: usize,
        scratch_segments: usize,
    ) -> Vec<f32> {
        let s = &self.shape;
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let m: usize = lens.iter().sum();
        let part = |x: &[f32], width: usize| gpu.upload(&rounded(&x[first * width..(first + m) * width])).unwrap();
        let [q, k, b] = [&self.q, &self.k, &self.b].map(|x| part(x, keys));
        let [v, w] = [&self.v, &self.w].map(|x| part(x, values));
        let g = if self.gates { part(&self.g, keys) } else { gpu.upload(&self.g[first * keys..(first + m) * keys]).unwrap() };
        let (a_log, dt_bias) = (gpu.upload(&self.a_log).unwrap(), gpu.upload(&self.dt_bias).unwrap());
        let out = poisoned(gpu, m * values * 2);
        let chunk = Chunk {
            q: View::dense(&q, keys),
            k: View::dense(&k, keys),
            v: View::dense(&v, values),
            g: View::dense(&g, keys),
            b: View::dense(&b, keys),
            w: View::dense(&w, values),
            out: View::dense(&out, values),
            gates: self.gates.then_some((&a_log, &dt_bias, self.erase)),
        };
        let scratch = poisoned(gpu, Gpu::chunk_scratch_bytes(s, lens.len(), scratch_segments));
        let (tiles, table) = (gpu.tiles(lens).unwrap(), gpu.table(states.to_vec()).unwrap());
        gpu.chunk(s, &tiles, &chunk, &table, at, &scratch).unwrap();
        gpu.synchronise().unwrap();
        wide(&out.to_vec::<bf16>().unwrap())
    }
}

pub fn rounded(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&x| bf16::from_f32(x)).collect()
}

pub fn wide(x: &[bf16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}

/// What bf16 makes of it.
pub fn through_bf16(x: Vec<f32>) -> Vec<f32> {
    wide(&rounded(&x))
}

/// A buffer of `n` NaN of bf16 (or f32).
pub fn poisoned(gpu: &Gpu, bytes: usize) -> Buffer {
    gpu.upload(&vec![0xffu8; bytes]).unwrap()
}
