//! A layer at once has the bits of its operations one by one.
#![allow(clippy::unwrap_used)] // a panic is the report

mod inputs;

use inputs::layer::{Round, Sizes, Weights};
use inputs::{DTYPES, Random, assert_same, every_way};
use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, Kernels, Matrix, together};

fn sizes() -> [Sizes; 4] {
    [
        ((6, 6, 64, 64), 384, 1024, [64, 64]),
        ((4, 8, 16, 48), 96, 40, [5, 33]),
        ((2, 2, 17, 33), 31, 65, [1, 7]),
        ((1, 3, 128, 64), 130, 300, [70, 2]),
    ]
    .map(|((heads, value_heads, key_dim, value_dim), width, hidden, ranks)| {
        let shape = Gdn2Shape { heads, value_heads, key_dim, value_dim };
        Sizes { shape, width, hidden, ranks }
    })
}

#[test]
fn a_layer_at_once_is_its_operations() {
    let mut random = Random::fresh("a_layer_at_once");
    // Each type, and one where the first products are of two types.
    let [.., int8] = DTYPES.map(|dtype| [dtype; 13]);
    let mut mixed = int8;
    [mixed[5], mixed[9]] = [Dtype::F32, Dtype::Bf16];
    let types = [[Dtype::F32; 13], [Dtype::Bf16; 13], int8, mixed];
    for (sizes, dtypes) in sizes().iter().flat_map(|sizes| types.map(|dtypes| (sizes, dtypes))) {
        let weights = Weights::random(&mut random, *sizes, dtypes);
        for lens in [&[1][..], &[0, 1, 0], &[2], &[1, 1], &[], &[3, 0, 20]] {
            let before = Round::random(&mut random, sizes, lens);
            for kernels in every_way() {
                let run = |at_once: bool| {
                    let mut round = before.clone();
                    // Twice, so that what one call leaves is what the next finds.
                    (0..2).for_each(|_| round.run(&kernels, &weights, sizes.at(), at_once).unwrap());
                    round.written()
                };
                let expected = run(false);
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let what = format!("{} {dtypes:?} {sizes:?} {lens:?} on {threads} threads", kernels.isa());
                    assert_same(&what, &pool.install(|| run(true)), &expected);
                    assert_same(&what, &pool.install(|| together(|| run(true))), &expected);
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let kernels = Kernels::new(Isa::Scalar).unwrap();
    let shape = Gdn2Shape { heads: 2, value_heads: 2, key_dim: 32, value_dim: 32 };
    let sizes = Sizes { shape, width: 48, hidden: 80, ranks: [3, 4] };
    let refused = |lens: &[usize], change: &dyn Fn(&mut Weights, &mut Round), what: &str| {
        let mut random = Random::fixed(7);
        let mut weights = Weights::random(&mut random, sizes, [Dtype::F32; 13]);
        let mut round = Round::random(&mut random, &sizes, lens);
        change(&mut weights, &mut round);
        for at_once in [true, false] {
            let mut after = round.clone();
            let error = after.run(&kernels, &weights, sizes.at(), at_once).unwrap_err().to_string();
            assert!(error.contains("the caller's") && error.contains(what), "{error}");
            let [before, after] = [&round, &after].map(|round| round.written().iter().map(|x| x.to_bits()).collect::<Vec<_>>());
            assert_eq!(before, after, "something was written");
        }
    };
    let matrix = |n: usize, k: usize, dtype| Matrix::pack(n, k, &vec![0.0; n * k], dtype).unwrap();
    for lens in [&[1][..], &[2, 1]] {
        refused(lens, &|_, round| _ = round.x.pop(), "x has");
        refused(lens, &|_, round| _ = round.hidden.pop(), "hidden has");
        refused(lens, &|_, round| _ = round.normed.pop(), "normed has");
        refused(lens, &|_, round| _ = round.keys[4].pop(), "raw_q has");
        refused(lens, &|_, round| _ = round.low[1].pop(), "gate_low has");
        refused(lens, &|_, round| _ = round.states[0].drain(3..), "state (at least)");
        refused(lens, &|_, round| round.lens.push(1), "has");
        refused(lens, &|_, round| round.lens = vec![usize::MAX, round.x.len() / 48 + 1], "has");
        refused(lens, &|weights, _| weights.norms[1].push(1.0), "mlp_norm has 49");
        refused(lens, &|weights, _| weights.norms[0].push(1.0), "has");
        for (at, n, k, what) in [
            (0, 63, 48, "q (its N) has 63"),
            (1, 64, 47, "k (its K) has 47"),
            (5, 4, 48, "f_down (its N) has 4"),
            (9, 48, 63, "o (its K) has 63"),
            (11, 81, 48, "up (its N) has 81"),
            (12, 47, 80, "down (its N) has 47"),
        ] {
            refused(lens, &|weights, _| weights.matrices[at] = matrix(n, k, Dtype::F32), what);
        }
        refused(lens, &|weights, _| weights.matrices[11] = matrix(80, 48, Dtype::Bf16), "up (bytes of a weight) has 2");
    }
}
