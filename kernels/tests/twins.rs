//! Every instruction set against scalar, and scalar against f64: ugly sizes, fresh inputs, poisoned outputs.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use inputs::{DTYPES, Inputs, Random, UGLY, assert_near, assert_near_in, assert_same, every_isa, every_way, sums};
use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels, Matrix, OutputGate, quantise};

fn scalar() -> Kernels {
    Kernels::new(Isa::Scalar).unwrap()
}

fn as_f32(x: impl Iterator<Item = f64>) -> Vec<f32> {
    x.map(|x| x as f32).collect()
}

#[test]
fn products_agree() {
    let mut random = Random::fresh("products_agree");
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        for _ in 0..40 {
            let (m, n, k) = (random.below(30), UGLY[random.below(13)], UGLY[random.below(13)]);
            product_agrees(kernels, &mut random, dtype, m, n, k);
        }
        // More rows than a block, more words than a chunk, more panels than a tile.
        for (m, n, k) in [(0, 3, 3), (1, 300, 700), (2, 300, 513), (67, 97, 512), (3, 33, 9000), (70, 31, 4100), (140, 64, 16)] {
            product_agrees(kernels, &mut random, dtype, m, n, k);
        }
    }
}

/// What a matrix of `dtype` makes of rows of `k` numbers.
fn rounded(k: usize, x: &[f32], dtype: Dtype) -> Vec<f64> {
    match dtype {
        Dtype::Bf16 => x.iter().map(|x| half::bf16::from_f32(*x).to_f64()).collect(),
        Dtype::Int8 => {
            let (quantised, scales) = quantise(k, x).unwrap();
            quantised.iter().enumerate().map(|(i, q)| f64::from(*q) * f64::from(scales[i / k])).collect()
        }
        _ => x.iter().map(|x| f64::from(*x)).collect(),
    }
}

fn product_agrees(kernels: &Kernels, random: &mut Random, dtype: Dtype, m: usize, n: usize, k: usize) {
    let what = format!("{} {dtype:?} [{m}, {n}, {k}]", kernels.isa());
    let (x, w) = (random.vec(m * k, -1.0, 1.0), random.vec(n * k, -1.0, 1.0));
    let matrix = Matrix::pack(n, k, &w, dtype).unwrap();
    let product = |x: &[f64], w: &[f64]| {
        let (sums, scale) = sums((0..m * n).map(|at| (0..k).map(|c| x[at / n * k + c] * w[at % n * k + c]).collect()));
        (as_f32(sums.into_iter()), scale)
    };
    let mut out = vec![f32::NAN; m * n];
    kernels.matmul(&x, &matrix, &mut out).unwrap();
    // Against exactly the rounded numbers, and, where there are enough to speak of an error, against the given ones.
    let (expected, scale) = product(&rounded(k, &x, dtype), &rounded(k, &w, dtype));
    assert_near_in(&what, &out, &expected, &scale, 1e-5);
    if m * n >= 64 {
        let bound = match dtype {
            Dtype::Bf16 => 1e-2,
            Dtype::Int8 => 3e-2,
            _ => 1e-5,
        };
        let (expected, scale) = product(&rounded(k, &x, Dtype::F32), &rounded(k, &w, Dtype::F32));
        assert_near_in(&what, &out, &expected, &scale, bound);
    }

    let residual = random.vec(m * n, -1.0, 1.0);
    let mut sum = residual.clone();
    kernels.matmul_add(&x, &matrix, &mut sum).unwrap();
    let added: Vec<f32> = residual.iter().zip(&out).map(|(r, o)| r + o).collect();
    assert_same(&format!("{what} added"), &sum, &added);
}

#[test]
fn int8_sums_are_exact_on_every_isa() {
    let mut random = Random::fresh("int8_sums");
    for (m, n, k) in [(1, 65, 17), (5, 33, 131), (13, 97, 2500), (1, 97, 2500), (1, 300, 9001)] {
        let (x, w) = (random.vec(m * k, -9.0, 9.0), random.vec(n * k, -1.0, 1.0));
        let matrix = Matrix::pack(n, k, &w, Dtype::Int8).unwrap();
        let (quantised, scales) = quantise(k, &w).unwrap();
        let same = Matrix::from_int8(n, k, &quantised, &scales).unwrap();
        let mut expected = vec![f32::NAN; m * n];
        scalar().matmul(&x, &same, &mut expected).unwrap();
        for kernels in every_way() {
            let mut out = vec![f32::NAN; m * n];
            kernels.matmul(&x, &matrix, &mut out).unwrap();
            assert_same(&format!("{} int8", kernels.isa()), &out, &expected);
        }
        // What others quantised may hold -128, and inputs at both ends: nothing saturates.
        let ends: Vec<i8> = (0..n * k).map(|i| [-128, 127, -128][(i + i / k) % 3]).collect();
        let x: Vec<f32> = (0..m * k).map(|i| if (i / 2 + i / k) % 2 == 0 { 9.0 } else { -9.0 }).collect();
        let matrix = Matrix::from_int8(n, k, &ends, &vec![0.5; n]).unwrap();
        scalar().matmul(&x, &matrix, &mut expected).unwrap();
        for kernels in every_way() {
            let mut out = vec![f32::NAN; m * n];
            kernels.matmul(&x, &matrix, &mut out).unwrap();
            assert_same(&format!("{} int8 at its ends", kernels.isa()), &out, &expected);
        }
    }
}

#[test]
fn a_row_that_is_not_finite_spoils_itself_alone() {
    let k = 70;
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        let matrix = Matrix::pack(3, k, &vec![0.5; 3 * k], dtype).unwrap();
        for bad in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            let mut x = vec![1.0; 3 * k];
            x[k + 69] = bad;
            let mut out = vec![0.0; 9];
            kernels.matmul(&x, &matrix, &mut out).unwrap();
            assert!(out[3..6].iter().all(|x| x.is_nan()), "{} {dtype:?}: {out:?}", kernels.isa());
            assert!([0, 1, 2, 6, 7, 8].iter().all(|i| (out[*i] - 35.0).abs() < 0.3), "{} {dtype:?}: {out:?}", kernels.isa());
        }
        // All zeros, and all too small for a scale.
        for small in [0.0, 1e-40] {
            let mut out = vec![f32::NAN; 3];
            kernels.matmul(&vec![small; k], &matrix, &mut out).unwrap();
            assert!(out.iter().all(|x| x.abs() < 1e-37), "{} {dtype:?}: {out:?}", kernels.isa());
        }
    }
}

#[test]
fn rows_agree() {
    let mut random = Random::fresh("rows_agree");
    for kernels in every_isa() {
        let isa = kernels.isa();
        for dim in UGLY.into_iter().chain([384, 2048]) {
            let rows = [0, 1, 3, 65][random.below(4)];
            let n = rows * dim;
            let (x, y, weight) = (random.vec(n, -3.0, 3.0), random.vec(n, -30.0, 30.0), random.vec(dim, 0.5, 1.5));
            let mean = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / dim as f64;
            let sigmoid = |x: f32| 1.0 / (1.0 + (-f64::from(x)).exp());
            let mut out = vec![f32::NAN; n];

            kernels.rms_norm(&x, &weight, 1e-5, &mut out).unwrap();
            let normed: Vec<f64> = x
                .chunks_exact(dim)
                .flat_map(|row| row.iter().zip(&weight).map(move |(x, w)| f64::from(x * w) / (mean(row) + 1e-5).sqrt()))
                .collect();
            assert_near(&format!("{isa} rms_norm {dim}"), &out, &as_f32(normed.iter().copied()), 1e-6 + dim as f64 * 1e-9);

            for kind in [OutputGate::Sigmoid, OutputGate::Silu] {
                out.fill(f32::NAN);
                kernels.gated_rms_norm(&x, &y, &weight, 1e-5, kind, &mut out).unwrap();
                let gate = |y: f32| if kind == OutputGate::Silu { f64::from(y) * sigmoid(y) } else { sigmoid(y) };
                let expected = as_f32(normed.iter().zip(&y).map(|(x, y)| x * gate(*y)));
                assert_near(&format!("{isa} gated_rms_norm {dim} {kind:?}"), &out, &expected, 1e-6 + dim as f64 * 1e-9);
            }

            out.copy_from_slice(&x);
            kernels.l2_norm(&mut out, dim).unwrap();
            let expected = x
                .chunks_exact(dim)
                .flat_map(|row| row.iter().map(move |x| f64::from(*x) / (mean(row) * dim as f64 + 1e-6).sqrt()));
            assert_near(&format!("{isa} l2_norm {dim}"), &out, &as_f32(expected), 1e-6 + dim as f64 * 1e-9);

            out.fill(f32::NAN);
            kernels.swiglu(&y, &x, &mut out).unwrap();
            let expected = as_f32(x.iter().zip(&y).map(|(x, y)| f64::from(*x) * f64::from(*y) * sigmoid(*y)));
            assert_near(&format!("{isa} swiglu {n}"), &out, &expected, 1e-6);

            out.copy_from_slice(&y);
            kernels.sigmoid(&mut out, 2.0).unwrap();
            assert_near(&format!("{isa} sigmoid {n}"), &out, &as_f32(y.iter().map(|y| 2.0 * sigmoid(*y))), 1e-6);

            for heads in [1, 3] {
                let (a_log, bias) = (random.vec(heads, -3.0, 3.0), random.vec(heads * dim, -6.0, 3.0));
                let f = random.vec(rows * heads * dim, -4.0, 4.0);
                out = f.clone();
                kernels.log_decay(&mut out, &a_log, &bias).unwrap();
                let expected = f.iter().enumerate().map(|(i, f)| {
                    let at = i % (heads * dim);
                    -f64::from(a_log[at / dim]).exp() * (f64::from(*f) + f64::from(bias[at])).exp().ln_1p()
                });
                assert_near(&format!("{isa} log_decay {heads} x {dim}"), &out, &as_f32(expected), 1e-6);
            }
        }
    }
}

/// The worst error over the whole range, in units in the last place of the exact result.
fn worst_ulps(kernels: &Kernels, exact: impl Fn(f64) -> f64, range: (f32, f32), run: impl Fn(&Kernels, &mut [f32])) -> f64 {
    let steps = 200_000;
    let x: Vec<f32> = (0..=steps).map(|i| range.0 + (range.1 - range.0) * i as f32 / steps as f32).collect();
    let mut out = x.clone();
    run(kernels, &mut out);
    x.iter()
        .zip(&out)
        .map(|(x, out)| {
            let exact = exact(f64::from(*x));
            let ulp = f64::from((exact as f32).abs().max(f32::MIN_POSITIVE)) * f64::from(f32::EPSILON);
            (f64::from(*out) - exact).abs() / ulp
        })
        .fold(0.0, f64::max)
}

#[test]
fn activations_stay_within_their_stated_error() {
    for kernels in every_isa() {
        let isa = kernels.isa();
        let sigmoid = worst_ulps(&kernels, |x| 1.0 / (1.0 + (-x).exp()), (-87.0, 88.0), |k, x| k.sigmoid(x, 1.0).unwrap());
        let silu = worst_ulps(
            &kernels,
            |x| x / (1.0 + (-x).exp()),
            (-87.0, 88.0),
            |k, x| {
                let (gate, ones) = (x.to_vec(), vec![1.0; x.len()]);
                k.swiglu(&gate, &ones, x).unwrap();
            },
        );
        let softplus = worst_ulps(&kernels, |x| -x.exp().ln_1p(), (-86.0, 80.0), |k, x| k.log_decay(x, &[0.0], &[0.0]).unwrap());
        println!("{isa}: sigmoid {sigmoid:.2}, silu {silu:.2}, softplus {softplus:.2} ulp");
        assert!(sigmoid <= 4.0 && silu <= 4.0 && softplus <= 4.0, "{isa}: {sigmoid} {silu} {softplus}");
    }
}

#[test]
fn activations_of_what_no_network_should_give() {
    for kernels in every_isa() {
        let isa = kernels.isa();
        let mut x = [f32::NEG_INFINITY, -1e30, -0.0, 0.0, 1e30, f32::INFINITY, f32::NAN];
        kernels.sigmoid(&mut x, 1.0).unwrap();
        assert!(x[0].abs() < 1e-37 && x[1].abs() < 1e-37 && x[2] == 0.5 && x[3] == 0.5, "{isa} {x:?}");
        assert!(x[4] == 1.0 && x[5] == 1.0 && x[6].is_nan(), "{isa} {x:?}");
        let mut x = [-1e30f32, 1e30, f32::NAN];
        kernels.log_decay(&mut x, &[0.0], &[0.0]).unwrap();
        assert!(x[0].abs() < 1e-37 && x[1] == -1e30 && x[2].is_nan(), "{isa} {x:?}");
    }
}

#[test]
fn recurrences_agree() {
    let mut random = Random::fresh("recurrences_agree");
    for kernels in every_isa() {
        for (heads, groups, key_dim, value_dim, tokens) in [
            (1, 1, 1, 5, 9),
            (2, 1, 16, 32, 21),
            (1, 2, 17, 33, 15),
            (2, 3, 64, 64, 65),
            (1, 1, 128, 128, 17),
            (1, 1, 131, 15, 40),
            (1, 1, 300, 113, 5),
            (3, 1, 63, 65, 64),
        ] {
            let shape = Gdn2Shape { heads, value_heads: heads * groups, key_dim, value_dim };
            let inputs = Inputs::random(&mut random, shape, tokens);
            let start = random.vec(shape.state_elements(), -1.0, 1.0);
            let (out, state) = exact(&inputs, tokens, &start);
            let mut s = start.clone();
            let o = inputs.run(&kernels, 0, tokens, &mut s);
            assert_near(&format!("{} gdn2 {shape:?} out", kernels.isa()), &o, &out, 1e-5);
            assert_near(&format!("{} gdn2 {shape:?} state", kernels.isa()), &s, &state, 1e-5);
        }
    }
}

/// Equation 9 of arXiv 2605.22791 in f64, as it stands there: `S = (I - k (b * k)^T) Diag(exp g) S + k (w * v)^T`.
fn exact(x: &Inputs, tokens: usize, start: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let s = &x.shape;
    let (kd, vd) = (s.key_dim, s.value_dim);
    let mut state: Vec<f64> = start.iter().map(|x| f64::from(*x)).collect();
    let mut out = vec![f32::NAN; tokens * s.value_heads * vd];
    for t in 0..tokens {
        for j in 0..s.value_heads {
            let h = j * s.heads / s.value_heads;
            let key = |x: &[f32], i: usize| f64::from(x[(t * s.heads + h) * kd + i]);
            let state = &mut state[j * kd * vd..(j + 1) * kd * vd];
            for c in 0..vd {
                let at = (t * s.value_heads + j) * vd + c;
                let decayed: Vec<f64> = (0..kd).map(|i| key(&x.g, i).exp() * state[i * vd + c]).collect();
                let erased: f64 = (0..kd).map(|i| key(&x.b, i) * key(&x.k, i) * decayed[i]).sum();
                for i in 0..kd {
                    state[i * vd + c] =
                        decayed[i] - key(&x.k, i) * erased + key(&x.k, i) * f64::from(x.w[at]) * f64::from(x.v[at]);
                }
                let o: f64 = (0..kd).map(|i| state[i * vd + c] * key(&x.q, i)).sum();
                out[at] = (o / (kd as f64).sqrt()) as f32;
            }
        }
    }
    (out, as_f32(state.into_iter()))
}

#[test]
fn convolutions_agree() {
    let mut random = Random::fresh("convolutions_agree");
    for kernels in every_isa() {
        for channels in UGLY.into_iter().chain([384]) {
            let tokens = [1, 2, 3, 4, 17][random.below(5)];
            let (taps, x) = (random.vec(4 * channels, -1.0, 1.0), random.vec(tokens * channels, -2.0, 2.0));
            let before = random.vec(3 * channels, -2.0, 2.0);
            let (mut state, mut out) = (before.clone(), vec![f32::NAN; x.len()]);
            kernels.conv_silu(&[tokens], &x, &taps, &mut [&mut state[..]], 0, &mut out).unwrap();
            let all: Vec<f32> = before.iter().chain(&x).copied().collect();
            let (convolved, scale) = sums((0..tokens * channels).map(|at| {
                let (t, d) = (at / channels, at % channels);
                (0..4).map(|j| f64::from(taps[j * channels + d]) * f64::from(all[(t + j) * channels + d])).collect()
            }));
            let expected = as_f32(convolved.into_iter().map(|sum| sum / (1.0 + (-sum).exp())));
            let what = format!("{} conv_silu {tokens} x {channels}", kernels.isa());
            assert_near_in(&what, &out, &expected, &scale, 1e-6);
            inputs::assert_same("conv_silu's state", &state, &all[all.len() - 3 * channels..]);
        }
    }
}

#[test]
fn scalar_is_always_there() {
    assert_eq!(scalar().isa(), Isa::Scalar);
    assert!(Isa::available().contains(&Isa::Scalar));
}
