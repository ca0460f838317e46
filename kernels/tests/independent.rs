//! Rows are independent, bit for bit: of other rows, of how a text is cut, of other sequences and of threads.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use inputs::{DTYPES, Inputs, Random, UGLY, assert_same, every_isa, every_way};
use palimpsest_kernels::{Dtype, Gdn2Shape, Kernels, Matrix, OutputGate};

const LENGTHS: [usize; 9] = [0, 1, 15, 16, 17, 63, 64, 65, 131];

#[test]
fn a_row_of_a_product_is_the_product_of_the_row() {
    let mut random = Random::fresh("a_row_of_a_product");
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        for (n, k) in [(1, 1), (33, 17), (64, 64), (300, 131), (97, 600), (256, 384)] {
            let w = Matrix::pack(n, k, &random.vec(n * k, -1.0, 1.0), dtype).unwrap();
            for m in UGLY {
                let x = random.vec(m * k, -1.0, 1.0);
                let mut all = vec![f32::NAN; m * n];
                kernels.matmul(&x, &w, &mut all).unwrap();
                for (i, row) in x.chunks_exact(k).enumerate() {
                    let mut one = vec![f32::NAN; n];
                    kernels.matmul(row, &w, &mut one).unwrap();
                    assert_same(
                        &format!("{} {dtype:?} row {i} of [{m}, {n}, {k}]", kernels.isa()),
                        &all[i * n..(i + 1) * n],
                        &one,
                    );
                }
            }
        }
    }
}

#[test]
fn products_together_are_products_alone() {
    let mut random = Random::fresh("products_together");
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        for (m, k) in [(0, 5), (1, 384), (7, 131), (65, 64)] {
            let sizes = [384, 33, 64, 700];
            let w = sizes.map(|n| Matrix::pack(n, k, &random.vec(n * k, -1.0, 1.0), dtype).unwrap());
            let x = random.vec(m * k, -1.0, 1.0);
            let mut together = sizes.map(|n| vec![f32::NAN; m * n]);
            kernels.matmul_each(&x, w.each_ref(), together.each_mut().map(|out| &mut out[..])).unwrap();
            for (w, together) in w.iter().zip(&together) {
                let mut alone = vec![f32::NAN; together.len()];
                kernels.matmul(&x, w, &mut alone).unwrap();
                assert_same(&format!("{} {dtype:?}", kernels.isa()), together, &alone);
            }
        }
    }
}

#[test]
fn the_recurrence_does_not_see_how_a_text_is_cut() {
    let mut random = Random::fresh("how_a_text_is_cut");
    for kernels in every_isa() {
        for (heads, groups, key_dim, value_dim) in [(2, 1, 16, 32), (1, 2, 17, 33), (1, 1, 128, 128), (1, 1, 150, 16)] {
            let shape = Gdn2Shape { heads, value_heads: heads * groups, key_dim, value_dim };
            let start = random.vec(shape.state_elements(), -1.0, 1.0);
            for tokens in LENGTHS {
                let inputs = Inputs::random(&mut random, shape, tokens);
                let run = |cuts: &[usize]| {
                    let (mut state, mut out, mut from) = (start.clone(), Vec::new(), 0);
                    for &to in cuts {
                        out.extend(inputs.run(&kernels, from, to, &mut state));
                        from = to;
                    }
                    (out, state)
                };
                let (whole, state) = run(&[tokens]);
                let steps: Vec<usize> = (1..=tokens).collect();
                let mut random_cuts: Vec<usize> = (0..4).map(|_| random.below(tokens + 1)).chain([tokens]).collect();
                random_cuts.sort_unstable();
                for cuts in [steps, random_cuts] {
                    let (out, end) = run(&cuts);
                    let what = format!("{} {tokens} tokens cut at {cuts:?}", kernels.isa());
                    assert_same(&what, &out, &whole);
                    assert_same(&format!("{what}: state"), &end, &state);
                }
            }
        }
    }
}

#[test]
fn the_convolution_does_not_see_how_a_text_is_cut() {
    let mut random = Random::fresh("the_convolution");
    for kernels in every_isa() {
        for channels in UGLY {
            let taps = random.vec(4 * channels, -1.0, 1.0);
            for tokens in LENGTHS {
                let (x, start) = (random.vec(tokens * channels, -1.0, 1.0), random.vec(3 * channels, -1.0, 1.0));
                let run = |cuts: &[usize]| {
                    let (mut state, mut out, mut from) = (start.clone(), vec![f32::NAN; x.len()], 0);
                    for &to in cuts {
                        let part = from * channels..to * channels;
                        let states = &mut [&mut state[..]];
                        kernels.conv_silu(&[to - from], &x[part.clone()], &taps, states, 0, &mut out[part]).unwrap();
                        from = to;
                    }
                    (out, state)
                };
                let (whole, state) = run(&[tokens]);
                let mut cuts: Vec<usize> = (0..3).map(|_| random.below(tokens + 1)).chain([tokens]).collect();
                cuts.sort_unstable();
                for cuts in [(1..=tokens).collect(), cuts] {
                    let (out, end) = run(&cuts);
                    assert_same("conv_silu", &out, &whole);
                    assert_same("conv_silu's state", &end, &state);
                }
            }
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let mut random = Random::fresh("neighbours");
    let shape = Gdn2Shape { heads: 2, value_heads: 4, key_dim: 33, value_dim: 40 };
    let (at, padding) = (7, 3); // the state of a layer lies among those of others
    for kernels in every_isa() {
        let lens: Vec<usize> = (0..9).map(|_| [0, 1, 2, 17, 64][random.below(5)]).collect();
        let rows: usize = lens.iter().sum();
        let inputs = Inputs::random(&mut random, shape, rows);
        let size = at + shape.state_elements() + padding;
        let starts: Vec<Vec<f32>> = lens.iter().map(|_| random.vec(size, -1.0, 1.0)).collect();
        let mut states: Vec<Box<[f32]>> = starts.iter().map(|s| s.clone().into_boxed_slice()).collect();
        let mut out = vec![f32::NAN; rows * 160];
        let Inputs { q, k, v, g, b, w, .. } = &inputs;
        kernels.gdn2(&shape, &lens, q, k, v, g, b, w, &mut states, at, &mut out).unwrap();
        let mut from = 0;
        for (i, len) in lens.iter().enumerate() {
            let mut alone = starts[i].clone();
            let expected = inputs.run(&kernels, from, from + len, &mut alone[at..at + shape.state_elements()]);
            assert_same("its outputs", &out[from * 160..(from + len) * 160], &expected);
            assert_same("its state, and what lies beside it", &states[i], &alone);
            from += len;
        }

        let (channels, taps) = (160, random.vec(640, -1.0, 1.0));
        let starts: Vec<Vec<f32>> = lens.iter().map(|_| random.vec(at + 3 * channels + padding, -1.0, 1.0)).collect();
        let mut states = starts.clone();
        kernels.conv_silu(&lens, v, &taps, &mut states, at, &mut out).unwrap();
        let mut from = 0;
        for (i, len) in lens.iter().enumerate() {
            let part = from * channels..(from + len) * channels;
            let (mut alone, mut expected) = (starts[i].clone(), vec![f32::NAN; part.len()]);
            kernels.conv_silu(&[*len], &v[part.clone()], &taps, &mut [&mut alone[..]], at, &mut expected).unwrap();
            assert_same("its convolution", &out[part], &expected);
            assert_same("its inputs, and what lies beside them", &states[i], &alone);
            from += len;
        }
    }
}

/// Everything at once, at a size that is spread over threads.
fn everything(kernels: &Kernels, random: &mut Random, dtype: Dtype) -> Vec<f32> {
    let shape = Gdn2Shape { heads: 6, value_heads: 6, key_dim: 64, value_dim: 64 };
    let (m, d, hidden) = (256, 384, 1024);
    let lens = [64, 0, 100, 92];
    let x = random.vec(m * d, -1.0, 1.0);
    let up = Matrix::pack(hidden, d, &random.vec(hidden * d, -0.1, 0.1), dtype).unwrap();
    let down = Matrix::pack(d, hidden, &random.vec(hidden * d, -0.1, 0.1), dtype).unwrap();
    let weight = random.vec(d, 0.5, 1.5);
    let taps = random.vec(4 * d, -1.0, 1.0);
    let inputs = Inputs::random(random, shape, m);
    let [mut a, mut b, mut c] = [vec![0.0; m * hidden], vec![0.0; m * hidden], vec![0.0; m * d]];
    let mut states = vec![vec![0.1; shape.state_elements() + 3 * d]; lens.len()];
    kernels.rms_norm(&x, &weight, 1e-5, &mut c).unwrap();
    kernels.matmul(&c, &up, &mut a).unwrap();
    kernels.swiglu(&a, &a, &mut b).unwrap();
    kernels.matmul_add(&b, &down, &mut c).unwrap();
    let mut out = vec![f32::NAN; m * d];
    kernels.conv_silu(&lens, &c, &taps, &mut states, shape.state_elements(), &mut out).unwrap();
    kernels.l2_norm(&mut out, 64).unwrap();
    let Inputs { k, v, g, w, b: erase, .. } = &inputs;
    kernels.gdn2(&shape, &lens, &out, k, v, g, erase, w, &mut states, 0, &mut c).unwrap();
    kernels.gated_rms_norm(&c, &out, &weight[..64], 1e-5, OutputGate::Silu, &mut a[..m * d]).unwrap();
    kernels.sigmoid(&mut b, 2.0).unwrap();
    kernels.log_decay(&mut c, &[0.5; 6], &weight).unwrap();
    [a, b, c, out].concat().into_iter().chain(states.concat()).collect()
}

#[test]
fn threads_change_nothing() {
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        let mut one: Option<Vec<f32>> = None;
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut random = Random::fixed(17);
            let out = pool.install(|| everything(kernels, &mut random, dtype));
            let expected = one.get_or_insert_with(|| out.clone());
            assert_same(&format!("{} {dtype:?} on {threads} threads", kernels.isa()), &out, expected);
        }
    }
}
