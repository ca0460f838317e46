//! The GPU's kernels against plain loops in f64. Each test runs on an NVIDIA GPU where there is one, and, as the same sources
//! compiled for the host, wherever there is a C++ compiler; what a machine has not is named in the output as skipped.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a panic is the report

mod inputs;
mod made;
mod rows;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use half::bf16;
use inputs::{Random, assert_same, distance};
use palimpsest_kernels::cuda::{Buffer, Gpu, Mixer, Normed, Out, Projection, View};
use palimpsest_kernels::{Gdn2Shape, OutputGate};
use rows::{Rows, poisoned, rounded, sigmoid, silu, through_bf16, wide};

/// The devices of this machine; `test` is named where one is missing.
fn devices(test: &str) -> Vec<Gpu> {
    static EMULATOR: OnceLock<Result<Gpu, String>> = OnceLock::new();
    let emulator = EMULATOR.get_or_init(build_emulator).clone();
    let gpu = Gpu::open().map_err(|e| e.to_string());
    let mut found = Vec::new();
    for (what, device) in [("GPU", gpu), ("emulator", emulator)] {
        match device {
            Ok(device) => found.push(device),
            Err(reason) => println!("skipped on the {what}: {test}: {reason}"),
        }
    }
    found
}

fn build_emulator() -> Result<Gpu, String> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("libemulate-{}.so", std::process::id()));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let built = Command::new(&compiler)
        .args(["-O2", "-std=c++17", "-w", "-fPIC", "-shared", "emulate.cpp", "-o"])
        .arg(&library)
        .current_dir(&sources)
        .output()
        .map_err(|e| format!("{compiler} in {}: {e}", sources.display()))?;
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let gpu = Gpu::emulated(&library).map_err(|e| e.to_string());
    let _ = std::fs::remove_file(&library);
    gpu
}

fn is_emulated(gpu: &Gpu) -> bool {
    gpu.name().starts_with("emulated")
}

#[track_caller]
fn near(what: &str, out: &[f32], expected: &[f64], bound: f64) {
    let expected: Vec<f32> = expected.iter().map(|&x| x as f32).collect();
    let off = distance(out, &expected);
    println!("{what}: off by {off:.1e}");
    assert!(off <= bound, "{what}: off by {off:.2e}, more than {bound:.0e}");
}

fn shape(heads: usize, value_heads: usize, key_dim: usize, value_dim: usize) -> Gdn2Shape {
    Gdn2Shape { heads, value_heads, key_dim, value_dim }
}

/// Whose lengths are `lens`; the state begins 4 elements in.
fn check_chunk(gpu: &Gpu, r: &mut Random, s: Gdn2Shape, lens: &[usize], given: Option<(f32, f32)>, scratch_segments: usize) {
    let m: usize = lens.iter().sum();
    let rows = Rows::random(r, s, m, given);
    let (mut expected, mut expected_states, mut states, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for &len in lens {
        let state = r.vec(4 + s.state_elements(), -0.5, 0.5);
        states.push(Arc::new(gpu.upload(&state).unwrap()));
        let mut state: Vec<f64> = state[4..].iter().map(|&x| f64::from(x)).collect();
        expected.extend(rows.expected(first..first + len, &mut state));
        expected_states.extend(state);
        first += len;
    }
    let out = rows.run(gpu, 0, lens, &states, 4, scratch_segments);
    let got: Vec<f32> = states.iter().flat_map(|s| s.to_vec::<f32>().unwrap()[4..].to_vec()).collect();
    let what = format!("{s:?} {lens:?} {given:?} on {}", gpu.name());
    near(&format!("out of {what}"), &out, &expected, 1e-2);
    near(&format!("state of {what}"), &got, &expected_states, 5e-3);
}

#[test]
fn chunk_is_the_recurrence() {
    let mut r = Random::fresh("chunk");
    for gpu in devices("chunk_is_the_recurrence") {
        check_chunk(&gpu, &mut r, shape(1, 2, 64, 64), &[1, 15, 16, 17], None, 64);
        check_chunk(&gpu, &mut r, shape(1, 1, 128, 128), &[1, 97], None, 64);
        check_chunk(&gpu, &mut r, shape(1, 1, 64, 128), &[50], Some((-8.0, -1.0)), 1);
        check_chunk(&gpu, &mut r, shape(1, 1, 64, 64), &[64 * 5 + 17], Some((-8.0, -3.0)), 2);
        check_chunk(&gpu, &mut r, shape(1, 1, 128, 64), &[135], Some((-8.0, -3.0)), 1);
        check_chunk(&gpu, &mut r, shape(1, 1, 128, 128), &[64 * 4 + 33], None, 64);
        // g = -8 and beyond: exp(-G) would overflow.
        check_chunk(&gpu, &mut r, shape(1, 1, 64, 64), &[69], Some((8f32.ln(), 8f32.ln())), 2);
        check_chunk(&gpu, &mut r, shape(1, 1, 64, 64), &[130], Some((-8.0, 4.6)), 2);
        if !is_emulated(&gpu) {
            for s in [shape(2, 2, 128, 128), shape(4, 8, 64, 64), shape(3, 3, 64, 128), shape(2, 4, 128, 64)] {
                for given in [None, Some((-8.0, 2.0)), Some((-12.0, -8.0)), Some((2.0, 2.2))] {
                    for lens in [&[257][..], &[1, 2, 3, 63, 64, 65, 131], &[1000, 1, 517]] {
                        check_chunk(&gpu, &mut r, s, lens, given, 1 + r_of(lens));
                    }
                }
            }
            check_chunk(&gpu, &mut r, shape(16, 16, 128, 128), &[700], None, 1000);
            check_chunk(&gpu, &mut r, shape(2, 64, 128, 128), &[300], None, 1000);
        }
    }
}

fn r_of(lens: &[usize]) -> usize {
    lens.len() * 7 % 5
}

/// Cut at segments, beside other sequences, in other slices: the same bits.
#[test]
fn chunk_depends_on_its_own_tokens_alone() {
    let mut r = Random::fresh("cuts");
    for gpu in devices("chunk_depends_on_its_own_tokens_alone") {
        let (s, n) = if is_emulated(&gpu) { (shape(1, 1, 64, 64), 203) } else { (shape(2, 4, 128, 128), 500) };
        for given in [None, Some((-8.0, 3.0))] {
            let rows = Rows::random(&mut r, s, n, given);
            let fresh = || Arc::new(gpu.upload(&vec![0.0f32; s.state_elements()]).unwrap());
            let whole = fresh();
            let out = rows.run(&gpu, 0, &[n], std::slice::from_ref(&whole), 0, 1000);
            let whole = whole.to_vec::<f32>().unwrap();
            for cut in [64, n / 64 * 64] {
                let state = fresh();
                let mut parts = rows.run(&gpu, 0, &[cut], std::slice::from_ref(&state), 0, 2);
                parts.extend(rows.run(&gpu, cut, &[n - cut], std::slice::from_ref(&state), 0, 1));
                assert_same(&format!("out, cut at {cut}"), &parts, &out);
                assert_same(&format!("state, cut at {cut}"), &state.to_vec::<f32>().unwrap(), &whole);
            }
            // Rows of a segment that is cut short are those of the whole segment.
            for cut in [5, 23, 43] {
                let short = rows.run(&gpu, 0, &[64 + cut], &[fresh()], 0, 1000);
                assert_same("a shorter call", &short, &out[..short.len()]);
            }
            // Two sequences: the first of 21 tokens, the second the rest from the empty state.
            let (first, second, short) = (fresh(), fresh(), fresh());
            let both = rows.run(&gpu, 0, &[21, n - 21], &[first.clone(), second.clone()], 0, 3);
            rows.run(&gpu, 0, &[21], std::slice::from_ref(&short), 0, 1000);
            assert_same("the first one's state", &first.to_vec::<f32>().unwrap(), &short.to_vec::<f32>().unwrap());
            let alone = fresh();
            assert_same("beside another", &both[..21 * s.value_heads * s.value_dim], &out[..21 * s.value_heads * s.value_dim]);
            let out = rows.run(&gpu, 21, &[n - 21], std::slice::from_ref(&alone), 0, 1000);
            assert_same("after another", &both[21 * s.value_heads * s.value_dim..], &out);
            assert_same("its state", &second.to_vec::<f32>().unwrap(), &alone.to_vec::<f32>().unwrap());
        }
    }
}

fn mixer(gpu: &Gpu, r: &mut Random, s: Gdn2Shape, gate: OutputGate) -> (Mixer, [Vec<f32>; 5]) {
    let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
    let host = [
        r.vec(4 * (2 * keys + values), -0.7, 0.7),
        r.vec(s.heads, -1.0, 1.0),
        r.vec(keys, -2.0, 0.0),
        r.vec(s.value_dim, 0.5, 1.5),
        r.vec(values, -1.0, 1.0),
    ];
    let [taps, a_log, dt_bias, o_norm, gate_bias] = [0, 1, 2, 3, 4].map(|i: usize| gpu.upload(&host[i]).unwrap());
    (Mixer { shape: s, taps, a_log, dt_bias, o_norm, gate_bias, gate, erase_scale: 1.0, eps: 1e-5 }, host)
}

/// `silu(sum_j taps[d, j] x[t - 3 + j, d])` after `carried [3, D]`.
fn convolved(x: &[f32], carried: &[f32], taps: &[f32], d: usize) -> Vec<f64> {
    let all: Vec<f64> = carried.iter().chain(x).map(|&x| f64::from(x)).collect();
    (0..x.len())
        .map(|i| {
            let (t, c) = (i / d, i % d);
            silu((0..4).map(|j| f64::from(taps[4 * c + j]) * all[(t + j) * d + c]).sum())
        })
        .collect()
}

/// Carried inputs as a state has them: q, k, v, each `[3, ..]`; as rows `[3, D]` here.
fn carried_rows(flat: &[f32], keys: usize, values: usize) -> Vec<f32> {
    let (q, rest) = flat.split_at(3 * keys);
    let (k, v) = rest.split_at(3 * keys);
    (0..3)
        .flat_map(|j| [&q[j * keys..(j + 1) * keys], &k[j * keys..(j + 1) * keys], &v[j * values..(j + 1) * values]].concat())
        .collect()
}

#[test]
fn convolution_carries_its_last_inputs() {
    let mut r = Random::fresh("conv");
    for gpu in devices("convolution_carries_its_last_inputs") {
        let s = shape(2, 4, 64, 128);
        let (keys, values) = (128, 512);
        let d = 2 * keys + values;
        let (mixer, host) = mixer(&gpu, &mut r, s, OutputGate::Silu);
        let lens = [1, 2, 3, 35, 16];
        let m: usize = lens.iter().sum();
        let x = through_bf16(r.vec(m * d, -2.0, 2.0));
        let states: Vec<Vec<f32>> = lens.iter().map(|_| r.vec(4 + s.state_elements() + 3 * d, -1.0, 1.0)).collect();
        let on_device: Vec<Arc<Buffer>> = states.iter().map(|s| Arc::new(gpu.upload(s).unwrap())).collect();
        let (qkv, out) = (gpu.upload(&rounded(&x)).unwrap(), poisoned(&gpu, m * d * 2));
        let table = gpu.table(on_device.clone()).unwrap();
        let tiles = gpu.tiles(&lens).unwrap();
        gpu.conv_silu(&mixer, &tiles, View::dense(&qkv, d), &table, 4, View::dense(&out, d)).unwrap();
        let out = wide(&out.to_vec::<bf16>().unwrap());
        let mut at = 0;
        for ((state, device), len) in states.iter().zip(&on_device).zip(lens) {
            let carried = carried_rows(&state[4 + s.state_elements()..], keys, values);
            let x = &x[at * d..(at + len) * d];
            let expected = convolved(x, &carried, &host[0], d);
            near(&format!("{len} tokens on {}", gpu.name()), &out[at * d..(at + len) * d], &expected, 3e-3);
            let all = [&carried[..], x].concat();
            let after = device.to_vec::<f32>().unwrap();
            assert_same("the rest of the state", &after[..4 + s.state_elements()], &state[..4 + s.state_elements()]);
            let after = carried_rows(&after[4 + s.state_elements()..], keys, values);
            assert_same("carried", &after, &all[all.len() - 3 * d..]);
            at += len;
        }
    }
}

#[test]
fn step_is_one_token_of_everything() {
    let mut r = Random::fresh("step");
    for gpu in devices("step_is_one_token_of_everything") {
        let shapes = [shape(2, 4, 64, 64), shape(1, 1, 128, 128), shape(1, 2, 64, 128), shape(2, 2, 128, 64)];
        for (i, s) in shapes.into_iter().enumerate() {
            let m = if is_emulated(&gpu) { 2 } else { [1, 32, 256, 7][i] };
            let gate = if i % 2 == 0 { OutputGate::Silu } else { OutputGate::Sigmoid };
            let (keys, values) = (s.heads * s.key_dim, s.value_heads * s.value_dim);
            let d = 2 * keys + values;
            let (mut mixer, host) = mixer(&gpu, &mut r, s, gate);
            mixer.erase_scale = if i % 2 == 0 { 1.0 } else { 2.0 };
            let row = d + 2 * keys + 2 * values;
            let x = through_bf16(r.vec(m * row, -2.0, 2.0));
            let elements = 4 + s.state_elements() + 3 * d;
            let states: Vec<Vec<f32>> = (0..m).map(|_| r.vec(elements, -0.5, 0.5)).collect();
            let run = |rows: std::ops::Range<usize>| {
                let on_device: Vec<Arc<Buffer>> = states[rows.clone()].iter().map(|s| Arc::new(gpu.upload(s).unwrap())).collect();
                let all = gpu.upload(&rounded(&x[rows.start * row..rows.end * row])).unwrap();
                let view = View::dense(&all, row);
                let projection = Projection {
                    qkv: view,
                    f: view.from(d),
                    b: view.from(d + keys),
                    w: view.from(d + 2 * keys),
                    gate: view.from(d + 2 * keys + values),
                    up: None,
                };
                let out = poisoned(&gpu, rows.len() * values * 2);
                let table = gpu.table(on_device.clone()).unwrap();
                gpu.step(&mixer, rows.len(), &projection, &table, 4, View::dense(&out, values)).unwrap();
                let out = wide(&out.to_vec::<bf16>().unwrap());
                (out, on_device.iter().map(|s| s.to_vec::<f32>().unwrap()).collect::<Vec<_>>())
            };
            let (out, after) = run(0..m);
            let (mut expected, mut expected_states, mut got_states) = (Vec::new(), Vec::new(), Vec::new());
            for (n, state) in states.iter().enumerate() {
                let x = &x[n * row..(n + 1) * row];
                let carried = carried_rows(&state[4 + s.state_elements()..], keys, values);
                let qkv: Vec<f32> = convolved(&x[..d], &carried, &host[0], d).iter().map(|&x| x as f32).collect();
                let one = Rows {
                    shape: s,
                    q: qkv[..keys].to_vec(),
                    k: qkv[keys..2 * keys].to_vec(),
                    v: qkv[2 * keys..].to_vec(),
                    g: x[d..d + keys].to_vec(),
                    b: x[d + keys..d + 2 * keys].to_vec(),
                    w: x[d + 2 * keys..d + 2 * keys + values].to_vec(),
                    a_log: host[1].clone(),
                    dt_bias: host[2].clone(),
                    gates: true,
                    erase: mixer.erase_scale,
                };
                assert_eq!(one.tokens(), 1);
                let mut recurrent: Vec<f64> = state[4..4 + s.state_elements()].iter().map(|&x| f64::from(x)).collect();
                let o = one.expected(0..1, &mut recurrent);
                for (j, o) in o.chunks_exact(s.value_dim).enumerate() {
                    let scale = 1.0 / (o.iter().map(|x| x * x).sum::<f64>() / s.value_dim as f64 + 1e-5).sqrt();
                    for (e, o) in o.iter().enumerate() {
                        let c = j * s.value_dim + e;
                        let logit = f64::from(x[d + 2 * keys + values + c]) + f64::from(host[4][c]);
                        let gate = if gate == OutputGate::Silu { silu(logit) } else { sigmoid(logit) };
                        expected.push(o * scale * f64::from(host[3][e]) * gate);
                    }
                }
                expected_states.extend(recurrent);
                got_states.extend_from_slice(&after[n][4..4 + s.state_elements()]);
                assert_same("in front of the state", &after[n][..4], &state[..4]);
                let carried_after = carried_rows(&after[n][4 + s.state_elements()..], keys, values);
                assert_same("carried", &carried_after, &[&carried[d..], &x[..d]].concat());
            }
            near(&format!("out of {m} {s:?} on {}", gpu.name()), &out, &expected, 1e-2);
            near("its states", &got_states, &expected_states, 1e-5);
            let (alone, state) = run(m - 1..m);
            assert_same("alone", &alone, &out[(m - 1) * values..]);
            assert_same("its state", &state[0], &after[m - 1]);
        }
        for (s, rank) in
            [(shape(1, 1, 64, 64), 24), (shape(1, 1, 128, 128), 128), (shape(2, 2, 128, 64), 40), (shape(1, 1, 64, 128), 64)]
        {
            made::check_gates(&gpu, &mut r, s, rank, 2);
        }
    }
}

#[test]
fn products_are_those_of_each_row_alone() {
    let mut r = Random::fresh("products");
    for gpu in devices("products_are_those_of_each_row_alone") {
        let sizes: &[(usize, usize)] = if is_emulated(&gpu) {
            &[(24, 40), (17, 264), (92, 40), (440, 40), (28, 4104), (200, 2568), (110, 6664), (8, 8200)]
        } else {
            &[(24, 40), (17, 264), (384, 1024), (4096, 384), (10496, 64), (1000, 2304), (2304, 6208), (4400, 6664), (64, 8200)]
        };
        for &(n, k) in sizes {
            let w = through_bf16(r.vec(n * k, -1.0, 1.0));
            let on_device = gpu.upload(&rounded(&w)).unwrap();
            let most = if is_emulated(&gpu) { 35 } else { 300 };
            let x = through_bf16(r.vec(most * k, -1.0, 1.0));
            let mut first_narrow: Vec<f32> = Vec::new();
            for m in [most, 1, 8, 9, 17, 32, 33, 100].into_iter().filter(|&m| m <= most) {
                let rows = gpu.upload(&rounded(&x[..m * k])).unwrap();
                let out = poisoned(&gpu, m * n * 4);
                gpu.narrow(View::dense(&rows, k), m, &on_device, n, k, Out::Sum(View::dense(&out, n))).unwrap();
                let sum = out.to_vec::<f32>().unwrap();
                if m == most {
                    let expected: Vec<f64> = (0..m * n)
                        .map(|i| {
                            let (row, column) = (i / n, i % n);
                            let (x, w) = (&x[row * k..(row + 1) * k], &w[column * k..(column + 1) * k]);
                            x.iter().zip(w).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                        })
                        .collect();
                    near(&format!("narrow {m} x {n} x {k} on {}", gpu.name()), &sum, &expected, 1e-5);
                    first_narrow = sum.clone();
                    let out = poisoned(&gpu, m * n * 2);
                    gpu.narrow(View::dense(&rows, k), m, &on_device, n, k, Out::Rounded(View::dense(&out, n))).unwrap();
                    assert_same("rounded", &wide(&out.to_vec::<bf16>().unwrap()), &through_bf16(sum.clone()));
                }
                assert_same(&format!("narrow, {m} rows of {most}"), &sum, &first_narrow[..m * n]);
                let twice: Vec<f32> = sum.iter().map(|x| x + x).collect();
                let out = gpu.upload(&sum).unwrap();
                gpu.narrow(View::dense(&rows, k), m, &on_device, n, k, Out::Added(View::dense(&out, n))).unwrap();
                assert_same("added", &out.to_vec::<f32>().unwrap(), &twice);
            }
            made::check(&gpu, &mut r, &on_device, n, k);
            made::check_two(&gpu, &mut r, [if n > 100 { 2 } else { 30 }, n], if k == 264 { k } else { k.min(128) });
            if is_emulated(&gpu) || n % 8 != 0 {
                continue;
            }
            // Wide: whatever library there is, a row does not see how many others there are.
            let most = 4096;
            let x = rounded(&r.vec(most * k, -1.0, 1.0));
            let run = |first: usize, m: usize| {
                let rows = gpu.upload(&x[first * k..(first + m) * k]).unwrap();
                let out = poisoned(&gpu, m * n * 2);
                gpu.wide(View::dense(&rows, k), m, &on_device, n, k, Out::Rounded(View::dense(&out, n))).unwrap();
                let sum = gpu.upload(&vec![0.5f32; m * n]).unwrap();
                gpu.wide(View::dense(&rows, k), m, &on_device, n, k, Out::Added(View::dense(&sum, n))).unwrap();
                (wide(&out.to_vec::<bf16>().unwrap()), sum.to_vec::<f32>().unwrap())
            };
            let (all, sums) = run(0, most);
            let expected: Vec<f64> = (0..50 * n)
                .map(|i| {
                    let (x, w) = (&x[i / n * k..(i / n + 1) * k], &w[i % n * k..(i % n + 1) * k]);
                    0.5 + x.iter().zip(w).map(|(a, b)| f64::from(a.to_f32()) * f64::from(*b)).sum::<f64>()
                })
                .collect();
            near(&format!("wide {most} x {n} x {k}, library {}", gpu.has_library()), &sums[..50 * n], &expected, 1e-5);
            for (first, m) in [(0, 64), (64, 64), (128, 192), (1024, 1024), (4032, 64), (64, 2048), (3, 77)] {
                let (some, some_sums) = run(first, m);
                assert_same(&format!("wide, rows {first}.. of {m}"), &some, &all[first * n..(first + m) * n]);
                assert_same(&format!("wide and added, rows {first}.. of {m}"), &some_sums, &sums[first * n..(first + m) * n]);
            }
        }
    }
}

#[test]
fn the_largest_of_a_vocabulary() {
    let mut r = Random::fresh("largest");
    for gpu in devices("the_largest_of_a_vocabulary") {
        // By `largest`, whose threads go over 4 logits at a time more than once, and by `top`; ties far apart.
        for d in [9000, 9002] {
            let mut logits = r.vec(3 * d, -9.0, 9.0);
            let last = 2 * d - 1;
            (logits[5], logits[d - 1]) = (9.5, 9.5);
            (logits[last - 4096], logits[last]) = (9.5, 9.5);
            let (ids, values) = (poisoned(&gpu, 3 * 4), poisoned(&gpu, 3 * 4));
            gpu.top(&gpu.upload(&logits).unwrap(), 3, d, 1, &ids, Some(&values)).unwrap();
            let most = |row: &[f32]| (0..d).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            let expected: Vec<usize> = logits.chunks_exact(d).map(most).collect();
            assert_eq!(expected[..2], [5, d - 1 - 4096]);
            let ids = ids.to_vec::<u32>().unwrap();
            assert_eq!(ids, expected.iter().map(|&i| i as u32).collect::<Vec<_>>());
            let values = values.to_vec::<f32>().unwrap();
            assert_same("largest", &values, &expected.iter().enumerate().map(|(m, &i)| logits[m * d + i]).collect::<Vec<_>>());
        }
    }
}

#[test]
fn rows_are_what_the_cpu_makes_of_them() {
    let mut r = Random::fresh("rows");
    for gpu in devices("rows_are_what_the_cpu_makes_of_them") {
        for d in [8, 130, 384, 2304] {
            let m = if is_emulated(&gpu) { 2 } else { 33 };
            let table = through_bf16(r.vec(11 * d, -1.0, 1.0));
            let ids: Vec<u32> = (0..m).map(|_| r.below(11) as u32).collect();
            let residual = poisoned(&gpu, m * d * 4);
            gpu.embed(&gpu.upload(&ids).unwrap(), m, &gpu.upload(&rounded(&table)).unwrap(), d, &residual).unwrap();
            let x = residual.to_vec::<f32>().unwrap();
            let expected: Vec<f32> = ids.iter().flat_map(|&i| table[i as usize * d..(i as usize + 1) * d].to_vec()).collect();
            assert_same("embedded", &x, &expected);

            let weight = r.vec(d, 0.5, 1.5);
            let normed = poisoned(&gpu, m * d * 2);
            let rows: Vec<u32> = (0..m as u32).rev().collect();
            gpu.rms_norm(&residual, Some(&gpu.upload(&rows).unwrap()), m, &gpu.upload(&weight).unwrap(), 1e-5, &normed).unwrap();
            let expected: Vec<f64> = (0..m)
                .rev()
                .flat_map(|i| {
                    let x: Vec<f64> = x[i * d..(i + 1) * d].iter().map(|&x| f64::from(x)).collect();
                    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / d as f64 + 1e-5).sqrt();
                    x.iter().zip(&weight).map(|(x, w)| x * scale * f64::from(*w)).collect::<Vec<_>>()
                })
                .collect();
            near(&format!("rms_norm {d} on {}", gpu.name()), &wide(&normed.to_vec::<bf16>().unwrap()), &expected, 3e-3);

            let x = through_bf16(r.vec(m * 2 * d, -4.0, 4.0));
            let out = poisoned(&gpu, m * d * 2);
            gpu.swiglu(&gpu.upload(&rounded(&x)).unwrap(), m, d, &out).unwrap();
            let expected: Vec<f64> =
                (0..m * d).map(|i| silu(f64::from(x[i / d * 2 * d + i % d])) * f64::from(x[i / d * 2 * d + d + i % d])).collect();
            near("swiglu", &wide(&out.to_vec::<bf16>().unwrap()), &expected, 3e-3);

            let mut logits = r.vec(m * d, -9.0, -1.0);
            logits[5] = -0.5;
            logits[7] = -0.5;
            let n = d.min(9);
            let (ids, values) = (poisoned(&gpu, m * n * 4), poisoned(&gpu, m * n * 4));
            let on_device = gpu.upload(&logits).unwrap();
            gpu.top(&on_device, m, d, n, &ids, Some(&values)).unwrap();
            let (ids, values) = (ids.to_vec::<u32>().unwrap(), values.to_vec::<f32>().unwrap());
            for ((row, ids), values) in logits.chunks_exact(d).zip(ids.chunks_exact(n)).zip(values.chunks_exact(n)) {
                let mut order: Vec<u32> = (0..d as u32).collect();
                order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]).then(a.cmp(&b)));
                assert_eq!(ids, &order[..n]);
                assert_eq!(values, order[..n].iter().map(|&id| row[id as usize]).collect::<Vec<_>>());
            }
            assert_eq!(ids[..2], [5, 7], "the lower of equals first");
            let one = poisoned(&gpu, m * 4);
            gpu.top(&on_device, m, d, 1, &one, None).unwrap();
            assert_eq!(one.to_vec::<u32>().unwrap(), ids.iter().step_by(n).copied().collect::<Vec<_>>());
            assert!(gpu.top(&on_device, 1, 4, 5, &one, None).is_err());
        }
        for s in [shape(1, 3, 64, 64), shape(1, 5, 64, 128)] {
            let (mixer, host) = mixer(&gpu, &mut r, s, OutputGate::Sigmoid);
            let (m, width) = (5, s.value_heads * s.value_dim);
            let x = through_bf16(r.vec(m * 2 * width, -2.0, 2.0));
            let (all, out) = (gpu.upload(&rounded(&x)).unwrap(), poisoned(&gpu, m * width * 2));
            let view = View::dense(&all, 2 * width);
            gpu.gated_norm(&mixer, m, view, view.from(width), View::dense(&out, width)).unwrap();
            let mut expected = Vec::new();
            for row in x.chunks_exact(2 * width) {
                for j in 0..s.value_heads {
                    let o = &row[j * s.value_dim..(j + 1) * s.value_dim];
                    let mean = o.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / s.value_dim as f64;
                    for (e, o) in o.iter().enumerate() {
                        let c = j * s.value_dim + e;
                        let gate = sigmoid(f64::from(row[width + c]) + f64::from(host[4][c]));
                        expected.push(f64::from(*o) / (mean + 1e-5).sqrt() * f64::from(host[3][e]) * gate);
                    }
                }
            }
            near(&format!("gated_norm on {}", gpu.name()), &wide(&out.to_vec::<bf16>().unwrap()), &expected, 3e-3);
        }
    }
}

/// What is fetched is what was there when it was asked for, whatever is queued later; what is sent is what was sent.
#[test]
fn copies_run_beside_the_work() {
    let mut r = Random::fresh("copies");
    for gpu in devices("copies_run_beside_the_work") {
        let n = if is_emulated(&gpu) { 1000 } else { 18 << 18 };
        let data = r.vec(n, -1.0, 1.0);
        for _ in 0..3 {
            let there = Arc::new(gpu.send(&gpu.host(&data).unwrap()).unwrap());
            let (arrival, unread) = (there.fetch().unwrap(), there.fetch().unwrap());
            let other = there.duplicate().unwrap();
            other.zero().unwrap();
            drop((there, unread));
            // Memory that was given back is taken again before the copy was waited for.
            let again = poisoned(&gpu, 4 * n);
            assert_same("fetched", arrival.wait().unwrap().as_slice::<f32>(), &data);
            assert!(other.to_vec::<f32>().unwrap().iter().all(|&x| x == 0.0) && again.to_vec::<f32>().unwrap()[0].is_nan());
        }
        let nothing = Arc::new(gpu.send(&gpu.host::<f32>(&[]).unwrap()).unwrap());
        assert!(nothing.fetch().unwrap().wait().unwrap().as_slice::<f32>().is_empty());
    }
}

#[test]
fn wrong_lengths_are_refused_before_anything_runs() {
    for gpu in devices("wrong_lengths_are_refused_before_anything_runs") {
        let (x, w) = (gpu.upload(&[bf16::ONE; 64]).unwrap(), gpu.upload(&[bf16::ONE; 128]).unwrap());
        let out = poisoned(&gpu, 16 * 4);
        let product = |m, n, k| gpu.narrow(View::dense(&x, k), m, &w, n, k, Out::Sum(View::dense(&out, n)));
        assert!(product(4, 8, 16).is_err(), "out has room for two rows");
        assert!(product(2, 16, 16).is_err(), "W is not so large");
        assert!(product(1, 12, 12).is_err(), "K is no multiple of 8");
        assert!(product(2, 8, 16).is_ok());
        let two = |k, w: [&Buffer; 2]| gpu.narrow_two(View::dense(&x, 2 * k), 1, w, [4, 4], k, Out::Sum(View::dense(&out, 8)));
        let [fits, short] = [32, 24].map(|n| gpu.upload(&vec![bf16::ONE; n]).unwrap());
        let twelve = gpu.upload(&[bf16::ONE; 48]).unwrap();
        assert!(two(12, [&twelve, &twelve]).is_err(), "K is no multiple of 8");
        assert!(two(8, [&fits, &short]).is_err() && two(8, [&short, &fits]).is_err(), "a W is not so large");
        assert!(two(8, [&fits, &fits]).is_ok());
        let [residual, weight, into] = [32 * 4, 16 * 4, 32 * 2].map(|bytes| poisoned(&gpu, bytes));
        let rows = |into, weight| Normed { residual: &residual, weight, eps: 1e-5, into };
        let normed = |m, rows| gpu.narrow_of(rows, m, &w, 8, 16, Out::Sum(View::dense(&out, 8)));
        let gated = |m, rows| gpu.narrow_gated(rows, m, &w, 4, 16, &out);
        for m in [1, 2] {
            assert!(normed(m, rows(&into, &weight)).is_ok() && gated(m, rows(&into, &weight)).is_ok());
            assert!(normed(m, rows(&into, &short)).is_err() && gated(m, rows(&into, &short)).is_err(), "weight is short");
        }
        assert!(normed(2, rows(&short, &weight)).is_err() && gated(2, rows(&short, &weight)).is_err(), "no room for two norms");
        assert!(normed(3, rows(&into, &weight)).is_err() && gated(3, rows(&into, &weight)).is_err(), "there are two rows");
        assert!(
            gpu.narrow_of(rows(&into, &weight), 1, &w, 8, 12, Out::Sum(View::dense(&out, 8))).is_err(),
            "K is no multiple of 8"
        );
        assert!(gpu.narrow_gated(rows(&into, &weight), 1, &w, 8, 16, &out).is_err(), "W has not two halves of 8");
        assert!(gpu.supports(&shape(1, 1, 96, 64)).is_err() && gpu.supports(&shape(1, 1, 64, 64)).is_ok());
        let refused = gpu.supports(&shape(1, 1, 96, 64)).unwrap_err().to_string();
        assert!(refused.contains("96") && refused.contains("CPU"), "{refused}");
        assert!(out.read::<f32>(16, &mut [0.0]).is_err());
        if !is_emulated(&gpu) {
            let (_, total) = gpu.memory().unwrap();
            let refused = gpu.allocate(2 * total).unwrap_err().to_string();
            assert!(refused.contains("room"), "{refused}");
        }
    }
}
