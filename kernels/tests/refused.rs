//! What does not fit is refused, with the values, and nothing is written.
#![allow(clippy::unwrap_used)] // a panic is the report

use std::process::Command;

use palimpsest_kernels::{Dtype, Gdn2Shape, Isa, KernelError, Kernels, Matrix, OutputGate, ShapeError};

fn kernels() -> Kernels {
    Kernels::new(Isa::Scalar).unwrap()
}

fn message<T: std::fmt::Debug>(result: Result<T, ShapeError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn lengths_that_do_not_fit() {
    let k = kernels();
    let w = Matrix::pack(3, 4, &[1.0; 12], Dtype::F32).unwrap();
    let mut out = [7.0; 6];
    assert_eq!(message(k.matmul(&[0.0; 9], &w, &mut out)), "matmul: the caller's x has 9 elements, no multiple of 4");
    let too_short = message(k.matmul_add(&[0.0; 12], &w, &mut out));
    assert_eq!(too_short, "matmul_add: the caller's out has 6 elements where the other arguments make it 9");
    let narrow = Matrix::pack(3, 2, &[1.0; 6], Dtype::F32).unwrap();
    let (one, two) = out.split_at_mut(3);
    assert!(message(k.matmul_each(&[0.0; 4], [&w, &narrow], [one, two])).contains("W (its K)"));
    assert_eq!(out, [7.0; 6]);
    assert!(message(Matrix::pack(3, 4, &[1.0; 11], Dtype::F32)).contains("11 elements"));
    assert!(message(Matrix::pack(0, 4, &[], Dtype::F32)).contains("n is 0"));
    assert!(message(Matrix::pack(1, 1 << 20, &vec![0.0; 1 << 20], Dtype::F32)).contains("1048576"));

    assert!(k.rms_norm(&[1.0; 7], &[1.0; 3], 1e-5, &mut [0.0; 7]).is_err());
    assert!(k.rms_norm(&[1.0; 6], &[1.0; 3], 1e-5, &mut [0.0; 7]).is_err());
    assert!(k.rms_norm(&[1.0; 6], &[], 1e-5, &mut [0.0; 6]).is_err());
    assert!(k.l2_norm(&mut [1.0; 6], 0).is_err());
    assert!(k.l2_norm(&mut [1.0; 6], 4).is_err());
    assert!(k.swiglu(&[1.0; 6], &[1.0; 5], &mut [0.0; 6]).is_err());
    assert!(k.log_decay(&mut [1.0; 6], &[1.0; 2], &[1.0; 3]).is_err());
    assert!(k.log_decay(&mut [1.0; 6], &[], &[]).is_err());
    assert!(k.gated_rms_norm(&[1.0; 6], &[1.0; 5], &[1.0; 3], 1e-5, OutputGate::Silu, &mut [0.0; 6]).is_err());
}

#[test]
fn states_that_do_not_fit() {
    let k = kernels();
    let shape = Gdn2Shape { heads: 1, value_heads: 2, key_dim: 2, value_dim: 3 };
    let (key, value) = ([0.5f32; 4], [0.5f32; 12]);
    let mut out = [7.0f32; 12];
    let mut run = |shape: &Gdn2Shape, lens: &[usize], state: usize, at: usize| {
        let mut states = vec![vec![7.0f32; state]; 2];
        let result = k.gdn2(shape, lens, &key, &key, &value, &key, &key, &value, &mut states, at, &mut out);
        if result.is_err() {
            assert!(states.concat().iter().chain(&out).all(|x| *x == 7.0), "something was written");
        }
        result
    };
    assert!(message(run(&shape, &[1, 1], 11, 0)).contains("state (at least) has 11"));
    assert!(message(run(&shape, &[1, 1], 12, 1)).contains("make it 13"));
    assert!(message(run(&shape, &[1, 2], 12, 0)).contains("lens"));
    assert!(message(run(&shape, &[2], 12, 0)).contains("states"));
    assert!(run(&Gdn2Shape { heads: 2, value_heads: 3, ..shape }, &[1, 1], 12, 0).is_err());
    assert!(run(&Gdn2Shape { heads: 0, ..shape }, &[1, 1], 12, 0).is_err());
    assert!(run(&shape, &[1, 1], 12, 0).is_ok());

    let mut states = vec![vec![7.0f32; 5]];
    assert!(k.conv_silu(&[1], &[1.0; 2], &[1.0; 8], &mut states, 0, &mut [0.0; 2]).is_err());
    assert!(k.conv_silu(&[1], &[1.0; 2], &[1.0; 7], &mut states, 0, &mut [0.0; 2]).is_err());
    assert_eq!(states[0], [7.0; 5]);
}

#[test]
fn instruction_sets_by_name() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
        match Kernels::new(isa) {
            Ok(kernels) => assert_eq!(kernels.isa(), isa),
            Err(error) => {
                assert_eq!(error, KernelError::Missing { isa });
                assert!(error.to_string().contains("scalar"), "{error}");
            }
        }
    }
    let error = "sse9".parse::<Isa>().unwrap_err().to_string();
    assert!(error.contains("\"sse9\"") && error.contains("avx512") && error.contains("PALIMPSEST_ISA"), "{error}");
}

/// These tests as a program to start; through the runner that Cargo was given where they run under an emulator, since the system
/// starts no program of another processor.
fn these_tests() -> Command {
    let tests = std::env::current_exe().unwrap();
    let runner = std::env::var("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace().filter(|_| cfg!(target_arch = "aarch64"));
    match words.next() {
        None => Command::new(tests),
        Some(program) => {
            let mut command = Command::new(program);
            command.args(words).arg(tests);
            command
        }
    }
}

/// Runs the test below in a process of its own, with the variable set.
fn detected(isa: &str) -> String {
    let child =
        these_tests().args(["--exact", "says_what_is_detected", "--nocapture"]).env("PALIMPSEST_ISA", isa).output().unwrap();
    let text = String::from_utf8(child.stdout).unwrap();
    let line = text.lines().find_map(|line| line.split_once("detected: ")).expect("the child says");
    line.1.to_owned()
}

#[test]
fn says_what_is_detected() {
    match Kernels::detect() {
        Ok(kernels) => println!("detected: {}", kernels.isa()),
        Err(error) => println!("detected: {error}"),
    }
}

#[test]
fn the_variable_forces_an_instruction_set() {
    for isa in Isa::ALL {
        if isa.is_available() {
            assert_eq!(detected(&isa.to_string()), isa.to_string());
        } else {
            assert!(detected(&isa.to_string()).starts_with(&format!("this processor has no {isa}")));
        }
    }
    assert!(detected("sse9").contains("\"sse9\" is no instruction set"));
    assert_eq!(detected(""), Isa::available().last().unwrap().to_string());
}
