//! A checkpoint that cannot be read is refused in one sentence that names the tensor and the file.

mod tiny;

use std::path::Path;

use palimpsest::calibration::Calibration;
use palimpsest::checkpoint::Checkpoint;
use palimpsest::{Error, Reader, ReaderOptions};
use safetensors::Dtype;
use tiny::{Tiny, write_tensors, write_word_tokenizer};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn refusal(folder: &Path) -> String {
    match Reader::open(folder, &ReaderOptions::default()) {
        Err(Error::Reader { file, reason }) => format!("{}: {reason}", file.display()),
        Err(other) => panic!("refused for another reason: {other}"),
        Ok(_) => panic!("not refused"),
    }
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
    assert!(!text.contains('\n'), "one line: {text:?}");
}

fn ready(tiny: &Tiny) -> tempfile::TempDir {
    let f = folder();
    tiny.write_fla(f.path(), Dtype::F32);
    write_word_tokenizer(f.path(), &[]);
    f
}

#[test]
fn a_whole_reader_opens() {
    let f = ready(&Tiny::odd());
    Reader::open(f.path(), &ReaderOptions::default()).expect("opens");
}

#[test]
fn a_missing_tensor_is_named() {
    let f = ready(&Tiny::odd());
    let mut tensors = Tiny::odd().tensors();
    tensors.remove("model.layers.1.attn.k_conv1d.weight");
    write_tensors(&f.path().join("model.safetensors"), &tensors, Dtype::F32);
    holds(&refusal(f.path()), &["model.layers.1.attn.k_conv1d.weight", "missing", "model.safetensors"]);
}

#[test]
fn a_wrong_shape_is_named() {
    let f = ready(&Tiny::odd());
    let mut tensors = Tiny::odd().tensors();
    tensors.insert("model.layers.0.attn.o_proj.weight".into(), (vec![40, 95], vec![0.5; 40 * 95]));
    write_tensors(&f.path().join("model.safetensors"), &tensors, Dtype::F32);
    holds(&refusal(f.path()), &["model.layers.0.attn.o_proj.weight", "[40, 95]", "[40, 96]", "model.safetensors"]);
}

#[test]
fn a_file_cut_short_is_named() {
    let f = ready(&Tiny::odd());
    let file = f.path().join("model.safetensors");
    let bytes = std::fs::read(&file).expect("written");
    for keep in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..keep]).expect("cut");
        holds(&refusal(f.path()), &["model.safetensors", "cut short"]);
    }
}

#[test]
fn numbers_that_are_none_are_named() {
    let f = ready(&Tiny::odd());
    let mut tensors = Tiny::odd().tensors();
    tensors.get_mut("model.norm.weight").expect("there").1[3] = f32::NAN;
    write_tensors(&f.path().join("model.safetensors"), &tensors, Dtype::F32);
    holds(&refusal(f.path()), &["model.norm.weight", "element 3"]);
}

#[test]
fn an_unknown_dialect_lists_what_it_saw() {
    let f = ready(&Tiny::odd());
    let tensors = [("gpt.weight".to_string(), (vec![2], vec![1.0, 2.0]))].into();
    write_tensors(&f.path().join("model.safetensors"), &tensors, Dtype::F32);
    holds(&refusal(f.path()), &["unknown dialect", "gpt.weight"]);
}

#[test]
fn hybrids_are_refused_by_the_name_of_their_attention() {
    let f = ready(&Tiny::odd());
    let mut tensors: std::collections::BTreeMap<_, _> =
        Tiny::odd().tensors().into_iter().map(|(n, t)| (tiny::nvidia(&n), t)).collect();
    tensors.insert("transformer.h.1.attn.attn.weight".into(), (vec![2, 2], vec![1.0; 4]));
    write_tensors(&f.path().join("model.safetensors"), &tensors, Dtype::F32);
    holds(&refusal(f.path()), &["hybrid", "transformer.h.1.attn.attn.weight"]);
}

#[test]
fn configurations_that_ask_for_the_impossible_are_refused() {
    let with = |key: &str, value: serde_json::Value| {
        let f = ready(&Tiny::odd());
        let mut config = Tiny::odd().config_json();
        config[key] = value;
        std::fs::write(f.path().join("config.json"), config.to_string()).expect("config");
        refusal(f.path())
    };
    holds(&with("conv_size", 3.into()), &["conv_size 3"]);
    holds(&with("num_v_heads", 3.into()), &["num_v_heads 3"]);
    holds(&with("num_heads", 0.into()), &["heads is 0"]);
    holds(&with("output_gate", "tanh".into()), &["tanh"]);
    holds(&with("expand_v", serde_json::json!(0.3)), &["0.3"]);
    holds(&with("hidden_size", "forty".into()), &["config.json"]);
    holds(&with("vocab_size", 200.into()), &["[300, 40]", "[200, 40]"]);
}

#[test]
fn a_folder_without_its_parts_says_which() {
    let f = folder();
    holds(&refusal(f.path()), &["model.safetensors"]);
    let f = ready(&Tiny::odd());
    std::fs::remove_file(f.path().join("tokenizer.json")).expect("removed");
    holds(&refusal(f.path()), &["tokenizer.json"]);
    let f = ready(&Tiny::odd());
    std::fs::remove_file(f.path().join("config.json")).expect("removed");
    holds(&refusal(f.path()), &["config.json"]);
    let f = ready(&Tiny::odd());
    std::fs::write(f.path().join("reader.json"), "{\"prompt\": {\"passage\": 3}}").expect("written");
    holds(&refusal(f.path()), &["reader.json"]);
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() {
    let f = ready(&Tiny { vocabulary: 60, ..Tiny::odd() });
    holds(&refusal(f.path()), &["tokenizer.json", "60 rows"]);
}

#[test]
fn shards_are_read_through_their_index() {
    let f = ready(&Tiny::odd());
    let tensors = Tiny::odd().tensors();
    let (a, b): (std::collections::BTreeMap<_, _>, _) = tensors.clone().into_iter().partition(|(n, _)| n.contains("layers.0"));
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", &a), ("b.safetensors", &b)] {
        write_tensors(&f.path().join(file), part, Dtype::F32);
        map.extend(part.keys().map(|k| (k.clone(), file.into())));
    }
    std::fs::remove_file(f.path().join("model.safetensors")).expect("removed");
    std::fs::write(f.path().join("model.safetensors.index.json"), serde_json::json!({ "weight_map": map }).to_string())
        .expect("index");
    let whole = Checkpoint::open(f.path()).expect("shards");
    let name = "model.layers.1.attn.o_norm.weight";
    assert_eq!(whole.tensor(name, &[24]).expect("tensor"), tensors[name].1);
}

/// Files that PyTorch wrote (tests/golden/make_pytorch.py), with the weights of nvidia_small.
#[test]
fn pytorch_files_hold_the_same_tensors() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let want = Checkpoint::open(&golden.join("nvidia_small")).expect("safetensors");
    for (name, exact) in [("trainer.pth", true), ("plain.bin", false)] {
        let f = folder();
        std::fs::copy(golden.join("pytorch").join(name), f.path().join(name)).expect("copied");
        let got = Checkpoint::open(f.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(got.config(), want.config(), "{name}");
        for (tensor, shape) in [("transformer.h.1.attn.o_proj.weight", &[24, 48][..]), ("transformer.ln_f.weight", &[24])] {
            assert_eq!(got.tensor(tensor, shape).expect(tensor), want.tensor(tensor, shape).expect(tensor), "{name}");
        }
        let head = |c: &Checkpoint| c.tensor("lm_head.weight", &[120, 24]).expect("lm_head");
        let worst = head(&got).iter().zip(head(&want)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(if exact { worst == 0.0 } else { worst > 0.0 && worst < 0.01 }, "{name}: {worst}");
        let whole = std::fs::read(f.path().join(name)).expect("read");
        for keep in [0, 10, whole.len() / 2, whole.len() - 30] {
            std::fs::write(f.path().join(name), &whole[..keep]).expect("cut");
            let error = Checkpoint::open(f.path()).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains(name) && error.contains("cut short"), "{name} cut to {keep}: {error:?}");
        }
    }
}

#[test]
fn an_int8_tensor_without_its_scales_is_named() {
    let f = ready(&Tiny::odd());
    let mut tensors = Tiny::odd().tensors();
    let (shape, _) = tensors.remove("lm_head.weight").expect("there");
    let head = tiny::int8("lm_head.weight", &shape);
    tiny::write_with_int8(&f.path().join("model.safetensors"), &tensors, &head, false);
    holds(&refusal(f.path()), &["lm_head.weight_scale", "missing"]);
    tiny::write_with_int8(&f.path().join("model.safetensors"), &tensors, &head, true);
    let read = Checkpoint::open(f.path()).expect("opens").tensor("lm_head.weight", &shape).expect("scaled");
    assert_eq!(read[..3], [0.0, 0.5, 1.0], "int8 0, 1, 2 times the first row's scale of 0.5");
}

#[test]
fn a_converted_reader_holds_nearly_the_same_weights_in_fewer_bytes() {
    use palimpsest::convert::{Stored, convert};
    for (stored, bound, factor) in [(Stored::Bf16, 4e-3, 0.65), (Stored::Int8, 9e-3, 0.5)] {
        let f = ready(&Tiny::odd());
        let calibration = Calibration { worth_reading: 0.75, ..Calibration::default() };
        calibration.save(f.path()).expect("saved");
        let to = folder();
        let converted = convert(f.path(), &to.path().join("out"), stored).expect("converted");
        assert!((converted.bytes_after as f64) < factor * converted.bytes_before as f64, "{converted:?}");
        let reader = Reader::open(&to.path().join("out"), &ReaderOptions::default()).expect("opens with its tokenizer");
        assert_eq!(reader.calibration(), &calibration);
        let [before, after] = [f.path(), &to.path().join("out")].map(|p| Checkpoint::open(p).expect("opens"));
        assert_eq!(before.config(), after.config());
        assert_eq!(before.tensors(), after.tensors());
        for (name, shape) in before.tensors() {
            let (a, b) = (before.tensor(&name, &shape).expect("before"), after.tensor(&name, &shape).expect("after"));
            let off: f32 = a.iter().zip(&b).map(|(a, b)| (a - b).powi(2)).sum();
            let norm: f32 = a.iter().map(|a| a * a).sum();
            assert!((off / norm).sqrt() < bound, "{name}: {}", (off / norm).sqrt());
        }
        assert!(convert(f.path(), &to.path().join("out"), stored).is_err(), "nothing is written over");
    }
}
