//! Folded bf16 is bf16: products have the bits of the same weights unfolded, on every instruction set.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use inputs::{Random, UGLY, assert_same, every_way};
use palimpsest_kernels::{Dtype, Kernels, Matrix};

/// Uniform, but some are 0, and some so small that their panel has no code for them.
fn weights(random: &mut Random, n: usize, one_in: usize) -> Vec<f32> {
    let mut weights = random.vec(n, -1.0, 1.0);
    for w in &mut weights {
        match random.below(4 * one_in) {
            0 => *w = 0.0,
            1 => *w = -0.0,
            2 => *w *= 1e-9,
            3 => *w *= f32::MIN_POSITIVE,
            _ => (),
        }
    }
    weights
}

fn compare(kernels: &Kernels, what: &str, x: &[f32], folded: &Matrix, unfolded: &Matrix) {
    let (n, m) = (folded.rows(), x.len() / folded.cols());
    let what = format!("{} {what} [{m}, {n}, {}]", kernels.isa(), folded.cols());
    // Which NaN it is, Rust does not say; a number that no result is stands for all.
    let comparable = |out: &[f32]| -> Vec<f32> { out.iter().map(|x| if x.is_nan() { 1234.5 } else { *x }).collect() };
    let [mut a, mut b] = [vec![0.5; m * n], vec![0.5; m * n]];
    kernels.matmul(x, folded, &mut a).unwrap();
    kernels.matmul(x, unfolded, &mut b).unwrap();
    assert_same(&what, &comparable(&a), &comparable(&b));
    kernels.matmul_add(x, folded, &mut a).unwrap();
    kernels.matmul_add(x, unfolded, &mut b).unwrap();
    assert_same(&format!("{what} added"), &comparable(&a), &comparable(&b));
}

#[test]
fn folded_weights_are_the_weights() {
    let mut random = Random::fresh("folded_weights");
    for (n, k) in [(1, 1), (33, 17), (64, 64), (300, 131), (97, 600), (256, 384), (40, 2100), (260, 1024)] {
        for one_in in [100_000, 2_000, 300] {
            let w = weights(&mut random, n * k, one_in);
            let folded = Matrix::pack(n, k, &w, Dtype::Bf16).unwrap();
            let unfolded = Matrix::pack_unfolded(n, k, &w, Dtype::Bf16).unwrap();
            if n >= 32 && k >= 384 {
                assert!(folded.bytes() * 100 < unfolded.bytes() * 78, "[{n}, {k}]: {} of {}", folded.bytes(), unfolded.bytes());
            }
            for kernels in every_way() {
                for m in UGLY {
                    compare(&kernels, "folded", &random.vec(m * k, -1.0, 1.0), &folded, &unfolded);
                }
            }
        }
    }
}

/// AMX takes numbers below the smallest normal f32 for 0, and no other instruction set does: its ways with one row must agree all the same.
#[test]
fn numbers_at_the_ends_of_f32_are_as_unfolded() {
    let mut random = Random::fresh("ends_of_f32");
    let (n, k) = (97, 600);
    let usual = random.vec(n * k, -1.0, 1.0);
    let scaled = |by: f32| usual.iter().map(|w| w * by).collect::<Vec<_>>();
    let mut two_ends = usual.clone();
    two_ends[..32 * k].iter_mut().for_each(|w| *w *= 1e-30);
    let mut not_finite = usual.clone();
    (not_finite[5], not_finite[40 * k], not_finite[70 * k + 599]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    for w in [scaled(1e-38), scaled(1e-20), scaled(1e-14), scaled(1e15), scaled(1e30), two_ends, not_finite] {
        let folded = Matrix::pack(n, k, &w, Dtype::Bf16).unwrap();
        let unfolded = Matrix::pack_unfolded(n, k, &w, Dtype::Bf16).unwrap();
        for by in [1.0, 1e-38, 1e-25, 1e-15, 1e-14, 1e14, 1e20, f32::INFINITY] {
            for m in [1, 2, 33] {
                let x: Vec<f32> = random.vec(m * k, -1.0, 1.0).iter().map(|x| x * by).collect();
                every_way().iter().for_each(|kernels| compare(kernels, "ends", &x, &folded, &unfolded));
            }
        }
    }
}

#[test]
fn weights_of_all_magnitudes_stay_as_they_are() {
    let mut random = Random::fresh("all_magnitudes");
    let (n, k) = (64, 256);
    let w: Vec<f32> = (0..n * k)
        .map(|_| f32::from_bits((random.below(0xff00) as u32) << 16))
        .map(|w| if w.is_nan() { 1.0 } else { w })
        .collect();
    let [folded, unfolded] = [Matrix::pack, Matrix::pack_unfolded].map(|pack| pack(n, k, &w, Dtype::Bf16).unwrap());
    assert_eq!(folded.bytes(), unfolded.bytes());
    // One that holds the last k alone shows each column's weight as it is.
    for (n, k, one_in) in [(70, 33, 100_000), (64, 256, 300)] {
        let w = weights(&mut random, n * k, one_in);
        let matrix = Matrix::pack(n, k, &w, Dtype::Bf16).unwrap();
        for kernels in every_way() {
            for at in [0, k / 2, k - 1] {
                let mut x = vec![0.0; k];
                x[at] = 1.0;
                let mut out = vec![f32::NAN; n];
                kernels.matmul(&x, &matrix, &mut out).unwrap();
                for (column, out) in out.into_iter().enumerate() {
                    let expected = half::bf16::from_f32(w[column * k + at]).to_f32();
                    // AMX and the dot products of AVX-512 take what is below the smallest normal number for 0.
                    let expected = if out == 0.0 && expected.abs() < f32::MIN_POSITIVE { 0.0 } else { expected };
                    assert_eq!(out, expected, "{} weight [{column}, {at}] of [{n}, {k}]", kernels.isa());
                }
            }
        }
    }
}
