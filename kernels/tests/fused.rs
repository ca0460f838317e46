//! What is done at once has the bits of what is done one by one.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use inputs::{DTYPES, Random, assert_same, every_way};
use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels, LayerOffsets, Matrix, Mixer, MixerRows, OutputGate, together};

/// Weights and rows of a mixer, at random.
struct Case {
    shape: Gdn2Shape,
    lens: Vec<usize>,
    key_side: [Vec<f32>; 3],
    value_side: [Vec<f32>; 2],
    a_log: Vec<f32>,
    o_norm: Vec<f32>,
    f_up: Matrix,
    g_up: Matrix,
    keys: [Vec<f32>; 3],
    values: [Vec<f32>; 2],
    low: [Vec<f32>; 2],
    states: Vec<Vec<f32>>,
    at: LayerOffsets,
    output_gate: OutputGate,
}

impl Case {
    fn random(random: &mut Random, shape: Gdn2Shape, lens: &[usize], dtype: Dtype) -> Self {
        let (hk, hv, m) = (shape.heads * shape.key_dim, shape.value_heads * shape.value_dim, lens.iter().sum::<usize>());
        let ranks = [1 + random.below(70), 1 + random.below(70)];
        let at = LayerOffsets { recurrent: 5, conv_q: 5 + shape.state_elements(), conv_k: 0, conv_v: 0 };
        let at = LayerOffsets { conv_k: at.conv_q + 3 * hk, conv_v: at.conv_q + 6 * hk, ..at };
        let mut pack = |n: usize, k: usize| Matrix::pack(n, k, &random.vec(n * k, -0.3, 0.3), dtype).unwrap();
        let (f_up, g_up) = (pack(hk, ranks[0]), pack(hv, ranks[1]));
        Self {
            shape,
            lens: lens.to_vec(),
            key_side: [4 * hk, 4 * hk, hk].map(|n| random.vec(n, -1.0, 1.0)),
            value_side: [4 * hv, hv].map(|n| random.vec(n, -1.0, 1.0)),
            a_log: random.vec(shape.heads, -2.0, 1.0),
            o_norm: random.vec(shape.value_dim, 0.5, 1.5),
            f_up,
            g_up,
            keys: [(); 3].map(|()| random.vec(m * hk, -2.0, 2.0)),
            values: [(); 2].map(|()| random.vec(m * hv, -2.0, 2.0)),
            low: ranks.map(|rank| random.vec(m * rank, -1.0, 1.0)),
            states: lens.iter().map(|_| random.vec(at.conv_v + 3 * hv + 2, -1.0, 1.0)).collect(),
            at,
            output_gate: [OutputGate::Sigmoid, OutputGate::Silu][random.below(2)],
        }
    }

    fn mixer(&self) -> Mixer<'_> {
        let [q_taps, k_taps, dt_bias] = self.key_side.each_ref().map(|x| &x[..]);
        let [v_taps, g_bias] = self.value_side.each_ref().map(|x| &x[..]);
        Mixer {
            shape: self.shape,
            q_taps,
            k_taps,
            v_taps,
            f_up: &self.f_up,
            a_log: &self.a_log,
            dt_bias,
            g_up: &self.g_up,
            g_bias,
            o_norm: &self.o_norm,
            eps: 1e-5,
            output_gate: self.output_gate,
            erase_scale: 2.0,
            write_scale: 1.0,
        }
    }

    /// All that is written: rows, then states.
    fn run(&self, kernels: &Kernels, fused: bool) -> Vec<f32> {
        let (mut written, mut states) = (Written::of(self, f32::NAN), self.states.clone());
        let (mixer, rows) = (self.mixer(), written.rows());
        if fused {
            kernels.mix(&mixer, &self.lens, rows, &mut states, self.at).unwrap();
        } else {
            kernels.mix_one_by_one(&mixer, &self.lens, rows, &mut states, self.at).unwrap();
        }
        written.all().chain(states.concat()).collect()
    }
}

/// What a mixer writes to: `b, q, k, g` and `w, v, gate, out, mixed`.
struct Written {
    keys: [Vec<f32>; 4],
    values: [Vec<f32>; 5],
    /// What it reads: `raw_q, raw_k, raw_v`, and of low rank those of the decay and the output gate.
    read: [Vec<f32>; 5],
}

impl Written {
    /// The gates' logits as they are, and `before` everywhere else.
    fn of(case: &Case, before: f32) -> Self {
        let ([.., b], [.., w]) = (&case.keys, &case.values);
        let (other_keys, other_values) = (vec![before; b.len()], vec![before; w.len()]);
        let keys = [b.clone(), other_keys.clone(), other_keys.clone(), other_keys];
        let values = [w.clone(), other_values.clone(), other_values.clone(), other_values.clone(), other_values];
        let ([raw_q, raw_k, _], [raw_v, _], [decay_low, gate_low]) = (&case.keys, &case.values, &case.low);
        Self { keys, values, read: [raw_q, raw_k, raw_v, decay_low, gate_low].map(Clone::clone) }
    }

    fn rows(&mut self) -> MixerRows<'_> {
        let [raw_q, raw_k, raw_v, decay_low, gate_low] = &mut self.read;
        let ([b, q, k, g], [w, v, gate, out, mixed]) = (&mut self.keys, &mut self.values);
        MixerRows { raw_q, raw_k, raw_v, decay_low, gate_low, b, w, q, k, v, g, gate, out, mixed }
    }

    fn all(&self) -> impl Iterator<Item = f32> {
        self.keys.concat().into_iter().chain(self.values.concat())
    }
}

#[test]
fn a_mixer_at_once_is_its_operations() {
    let mut random = Random::fresh("a_mixer_at_once");
    let many = vec![1; 70]; // more than have their states at hand at once
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        for (heads, groups, key_dim, value_dim) in
            [(6, 1, 64, 64), (4, 2, 16, 48), (2, 1, 17, 33), (3, 1, 32, 8), (1, 3, 128, 64)]
        {
            let shape = Gdn2Shape { heads, value_heads: heads * groups, key_dim, value_dim };
            for lens in [&[1][..], &[0], &[], &[66], &[3, 0, 1, 20], &many] {
                let case = Case::random(&mut random, shape, lens, dtype);
                let expected = case.run(kernels, false);
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let what = format!("{} {dtype:?} {shape:?} {lens:?} on {threads} threads", kernels.isa());
                    assert_same(&what, &pool.install(|| case.run(kernels, true)), &expected);
                    assert_same(&what, &pool.install(|| together(|| case.run(kernels, true))), &expected);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut random = Random::fresh("refused");
    let kernels = Kernels::new(Isa::Scalar).unwrap();
    let shape = Gdn2Shape { heads: 2, value_heads: 2, key_dim: 32, value_dim: 32 };
    let refused = |change: &dyn Fn(&mut Case), what: &str| {
        let mut case = Case::random(&mut Random::fixed(5), shape, &[2, 1], Dtype::F32);
        change(&mut case);
        let (mut written, mut states) = (Written::of(&case, 7.0), case.states.clone());
        let before: Vec<f32> = written.all().collect();
        let (mixer, rows) = (case.mixer(), written.rows());
        let error = kernels.mix(&mixer, &case.lens, rows, &mut states, case.at).unwrap_err().to_string();
        assert!(error.starts_with("mix: ") && error.contains("the caller's") && error.contains(what), "{error}");
        assert_eq!(states, case.states);
        assert_eq!(written.all().collect::<Vec<_>>(), before, "something was written");
    };
    refused(&|case| case.lens[0] = 3, "raw_q has 192 elements");
    refused(&|case| case.lens = vec![usize::MAX, 4], "raw_q has 192 elements");
    refused(&|case| case.lens.push(0), "states");
    refused(&|case| case.states[1].truncate(100), "state (at least) has 100");
    refused(&|case| case.at.conv_v += 3, "state (at least)");
    refused(&|case| case.at.conv_k = case.at.conv_q + 1, "overlap");
    refused(&|case| case.at.recurrent = usize::MAX - 7, "state (at least)");
    refused(&|case| case.o_norm.push(1.0), "o_norm has 33");
    refused(&|case| case.low[1].truncate(1), "gate_low has 1");
    refused(
        &|case| case.f_up = Matrix::pack(63, case.f_up.cols(), &vec![0.0; 63 * case.f_up.cols()], Dtype::F32).unwrap(),
        "f_up (its N) has 63",
    );
    refused(&|case| case.shape.key_dim = 0, "key_dim is 0");

    let [wide, narrow] = [4, 3].map(|n| Matrix::pack(n, 2, &random.vec(2 * n, -1.0, 1.0), Dtype::F32).unwrap());
    let other_type = Matrix::pack(4, 2, &[1.0; 8], Dtype::Bf16).unwrap();
    let mut hidden = [7.0; 4];
    assert!(kernels.matmul_swiglu(&[1.0; 2], &wide, &narrow, &mut hidden).is_err());
    assert!(kernels.matmul_swiglu(&[1.0; 2], &wide, &other_type, &mut hidden).is_err());
    assert!(kernels.matmul_swiglu(&[1.0; 2], &wide, &wide, &mut hidden[..3]).is_err());
    assert!(kernels.matmul_swiglu(&[1.0; 3], &wide, &wide, &mut hidden).is_err());
    assert_eq!(hidden, [7.0; 4]);
}

#[test]
fn a_swiglu_at_once_is_its_operations() {
    let mut random = Random::fresh("a_swiglu_at_once");
    for (kernels, dtype) in every_way().iter().flat_map(|k| DTYPES.map(|dtype| (k, dtype))) {
        for (m, n, k) in [(0, 40, 7), (1, 1000, 384), (5, 33, 17), (130, 96, 64), (67, 400, 131)] {
            let x = random.vec(m * k, -1.0, 1.0);
            let [gate, up] = [(); 2].map(|()| Matrix::pack(n, k, &random.vec(n * k, -0.3, 0.3), dtype).unwrap());
            let run = |fused: bool| {
                let [mut a, mut b, mut hidden] = [(); 3].map(|()| vec![f32::NAN; m * n]);
                if fused {
                    kernels.matmul_swiglu(&x, &gate, &up, &mut hidden).unwrap();
                } else {
                    kernels.matmul_each(&x, [&gate, &up], [&mut a, &mut b]).unwrap();
                    kernels.swiglu(&a, &b, &mut hidden).unwrap();
                }
                hidden
            };
            let expected = run(false);
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let what = format!("{} {dtype:?} [{m}, {n}, {k}] on {threads} threads", kernels.isa());
                assert_same(&what, &pool.install(|| run(true)), &expected);
                assert_same(&what, &pool.install(|| together(|| run(true))), &expected);
            }
        }
    }
}
