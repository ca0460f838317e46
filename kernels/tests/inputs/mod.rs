//! Random inputs for the tests: seeded, so that a failure can be run again (`PALIMPSEST_SEED`), and fresh otherwise.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)] // each test file uses some of it

use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels};

pub mod layer;

/// Sizes that break loops which assume a width.
pub const UGLY: [usize; 13] = [1, 2, 3, 5, 15, 16, 17, 31, 33, 63, 64, 65, 131];

/// Every kind of weight.
pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn fresh(name: &str) -> Self {
        let seed = match std::env::var("PALIMPSEST_SEED") {
            Ok(seed) => seed.parse().expect("PALIMPSEST_SEED is a number"),
            Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos() as u64,
        };
        println!("{name}: PALIMPSEST_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn fixed(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `low..high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.next() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn vec(&mut self, n: usize, low: f32, high: f32) -> Vec<f32> {
        (0..n).map(|_| self.between(low, high)).collect()
    }
}

/// Inputs of the recurrence for `tokens` tokens.
pub struct Inputs {
    pub shape: Gdn2Shape,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub g: Vec<f32>,
    pub b: Vec<f32>,
    pub v: Vec<f32>,
    pub w: Vec<f32>,
}

impl Inputs {
    /// As a network would make them: q and k of norm 1, g from weak to strong decay.
    pub fn random(random: &mut Random, shape: Gdn2Shape, tokens: usize) -> Self {
        let (keys, values) = (tokens * shape.heads * shape.key_dim, tokens * shape.value_heads * shape.value_dim);
        let [mut q, mut k] = [random.vec(keys, -1.0, 1.0), random.vec(keys, -1.0, 1.0)];
        for x in [&mut q, &mut k] {
            for head in x.chunks_exact_mut(shape.key_dim) {
                let norm = head.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-6;
                head.iter_mut().for_each(|x| *x /= norm);
            }
        }
        let g = (0..keys).map(|_| -random.between(-8.0, 2.0).exp()).collect();
        let b = random.vec(keys, 0.0, 1.0);
        let [v, w] = [random.vec(values, -2.0, 2.0), random.vec(values, 0.0, 1.0)];
        Self { shape, q, k, g, b, v, w }
    }

    /// Runs tokens `from..to` as one sequence from `state`; returns their outputs.
    pub fn run(&self, kernels: &Kernels, from: usize, to: usize, state: &mut [f32]) -> Vec<f32> {
        let s = &self.shape;
        let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
        let key = |x: &'static str| {
            let x = match x {
                "q" => &self.q,
                "k" => &self.k,
                "g" => &self.g,
                _ => &self.b,
            };
            &x[from * keys..to * keys]
        };
        let mut out = vec![f32::NAN; (to - from) * values];
        let (v, w) = (&self.v[from * values..to * values], &self.w[from * values..to * values]);
        kernels
            .gdn2(s, &[to - from], key("q"), key("k"), v, key("g"), key("b"), w, &mut [state], 0, &mut out)
            .expect("shapes fit");
        out
    }
}

/// Kernels of every instruction set of this processor.
pub fn every_isa() -> Vec<Kernels> {
    Isa::available().into_iter().map(|isa| Kernels::new(isa).unwrap()).collect()
}

/// The same, with panels one by one and side by side: one row is multiplied otherwise.
pub fn every_way() -> Vec<Kernels> {
    every_isa().iter().flat_map(|kernels| [1, 8].map(|panels| kernels.with_panels_side_by_side(panels))).collect()
}

/// `||out - expected|| / ||expected||`; infinite where one of them is NaN.
pub fn distance(out: &[f32], expected: &[f32]) -> f64 {
    distance_in(out, expected, expected)
}

/// `||out - expected|| / ||scale||`; infinite where one of them is NaN.
fn distance_in(out: &[f32], expected: &[f32], scale: &[f32]) -> f64 {
    assert_eq!((out.len(), out.len()), (expected.len(), scale.len()));
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut out.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let all = norm(&mut scale.iter().map(|x| f64::from(*x)));
    let ratio = if off == 0.0 { 0.0 } else { off / all };
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// Sums of products, and the size that such a sum has when its terms do not cancel: the root of the sum of their squares. Rounding
/// grows with the terms, so an error is measured in this: against a sum that happens to cancel any error is large.
pub fn sums(terms: impl Iterator<Item = Vec<f64>>) -> (Vec<f64>, Vec<f32>) {
    terms.map(|t| (t.iter().sum::<f64>(), t.iter().map(|x| x * x).sum::<f64>().sqrt() as f32)).unzip()
}

#[track_caller]
pub fn assert_near(what: &str, out: &[f32], expected: &[f32], bound: f64) {
    assert_near_in(what, out, expected, expected, bound);
}

/// As [`assert_near`], with the error in units of `scale`.
#[track_caller]
pub fn assert_near_in(what: &str, out: &[f32], expected: &[f32], scale: &[f32], bound: f64) {
    let distance = distance_in(out, expected, scale);
    assert!(distance <= bound, "{what}: off by {distance:.2e}, more than {bound:.0e}");
}

/// Equal as bits, and no NaN left of a poisoned output.
#[track_caller]
pub fn assert_same(what: &str, out: &[f32], expected: &[f32]) {
    assert_eq!(out.len(), expected.len(), "{what}: lengths");
    for (i, (a, b)) in out.iter().zip(expected).enumerate() {
        assert!(a.to_bits() == b.to_bits() && !a.is_nan(), "{what}: element {i} is {a:?}, expected {b:?}");
    }
}
