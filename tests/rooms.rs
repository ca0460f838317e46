//! Do the rooms keep to themselves? The arrows of ARCHITECTURE.md, held by `cargo metadata`, and every path that the
//! maps name, opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What each of our crates may depend on among our crates, and what its tests may use besides.
const ARROWS: [(&str, &[&str], &[&str]); 7] = [
    ("palimpsest-index", &[], &[]),
    ("palimpsest-kernels", &[], &[]),
    ("palimpsest-engine", &["palimpsest-index", "palimpsest-kernels"], &[]),
    ("palimpsest-cli", &["palimpsest-engine"], &[]),
    ("palimpsest-ffi", &["palimpsest-engine"], &[]),
    // Reads the built library, knows none of us.
    ("palimpsest-bindgen", &[], &[]),
    // The root package re-exports the engine and owns examples/ and tests/, which may use anything.
    ("palimpsest-rag", &["palimpsest-engine"], &["palimpsest-index", "palimpsest-kernels", "palimpsest-cli", "palimpsest-ffi"]),
];

/// Libraries that belong to one room.
const OWNED: [(&str, &str); 8] = [
    ("tantivy", "palimpsest-index"),
    ("text-splitter", "palimpsest-index"),
    ("cudarc", "palimpsest-kernels"),
    ("candle-core", "palimpsest-engine"),
    ("tokenizers", "palimpsest-engine"),
    ("sled", "palimpsest-engine"),
    ("uniffi", "palimpsest-ffi"),
    ("uniffi_bindgen", "palimpsest-bindgen"),
];

/// Names under which code of any room ends up.
const NO_ROOM: [&str; 5] = ["common", "utils", "helpers", "types", "manager"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// (package, what it depends on, for its tests alone) for every dependency of every workspace member.
fn dependencies() -> Vec<(String, String, bool)> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).expect("cargo metadata prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_string();
    let mut all = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            all.push((text(&package["name"]), text(&dependency["name"]), dependency["kind"] == "dev"));
        }
        all.push((text(&package["name"]), String::new(), false));
    }
    all
}

/// What is wrong with the arrows, in words.
fn trespasses(dependencies: &[(String, String, bool)]) -> Vec<String> {
    let ours: BTreeMap<&str, (&[&str], &[&str])> = ARROWS.iter().map(|(n, uses, tests)| (*n, (*uses, *tests))).collect();
    let mut wrong = Vec::new();
    for (package, dependency, dev) in dependencies {
        let Some((uses, tests)) = ours.get(package.as_str()) else {
            wrong.push(format!("{package} has no room: give it one in ARROWS and in ARCHITECTURE.md"));
            continue;
        };
        let name = dependency.as_str();
        let allowed = uses.contains(&name) || (*dev && tests.contains(&name));
        if ours.contains_key(name) && !allowed {
            wrong.push(format!("{package} must not know {name}{}", if *dev { ", not even in its tests" } else { "" }));
        }
        if let Some((library, owner)) = OWNED.iter().find(|(library, _)| *library == name)
            && owner != package
            && !dev
        {
            wrong.push(format!("{package} must not know {library}: it belongs to {owner}"));
        }
    }
    wrong
}

#[test]
fn arrows_between_rooms_hold() {
    let dependencies = dependencies();
    assert_eq!(trespasses(&dependencies), Vec::<String>::new());
    // The metadata was really read: the arrows that make the engine are there.
    for room in ["palimpsest-index", "palimpsest-kernels"] {
        let arrow = ("palimpsest-engine".to_string(), room.to_string(), false);
        assert!(dependencies.contains(&arrow), "the engine no longer knows {room}");
    }
}

#[test]
fn wrong_arrows_are_seen() {
    let wrong = |package: &str, dependency: &str, dev| trespasses(&[(package.into(), dependency.into(), dev)]).len();
    assert_eq!(wrong("palimpsest-index", "palimpsest-kernels", false), 1);
    assert_eq!(wrong("palimpsest-kernels", "palimpsest-engine", true), 1);
    assert_eq!(wrong("palimpsest-cli", "palimpsest-index", false), 1);
    assert_eq!(wrong("palimpsest-engine", "tantivy", false), 1);
    assert_eq!(wrong("palimpsest-shed", "serde", false), 1);
    assert_eq!(wrong("palimpsest-rag", "palimpsest-kernels", true), 0);
    assert_eq!(wrong("palimpsest-engine", "palimpsest-kernels", false), 0);
}

/// Source files of the rooms, relative to the root.
fn sources() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() {
                below(&entry, found);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                found.push(entry.strip_prefix(root()).expect("below the root").to_path_buf());
            }
        }
    }
    let mut found = Vec::new();
    for room in ["src", "index", "kernels", "engine", "bindings", "examples", "tests"] {
        below(&root().join(room), &mut found);
    }
    assert!(found.contains(&PathBuf::from("tests/rooms.rs")));
    found
}

#[test]
fn no_file_is_a_drawer() {
    for path in sources() {
        let named = |part: &Path| NO_ROOM.iter().any(|n| part.file_stem().is_some_and(|s| s == *n));
        assert!(!path.iter().any(|part| named(Path::new(part))), "{}: whose room is this?", path.display());
    }
}

#[test]
fn sled_and_unsafe_stay_where_they_belong() {
    for path in sources().iter().filter(|p| !p.starts_with("tests")) {
        let name = path.display().to_string();
        let source = read(&name);
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            // The store's room, and the harness that measures sled beside it.
            let rooms = ["engine/src/store.rs", "engine/examples/store.rs"];
            let store = rooms.contains(&name.as_str()) || name.starts_with("engine/src/store/");
            assert!(!line.contains("sled::") || store, "{name} names sled: {line}");
            let lifts_the_lint = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
            let may = name.starts_with("kernels/") || name.starts_with("bindings/ffi/");
            assert!(!lifts_the_lint || may, "{name} allows unsafe: {line}");
        }
    }
}

/// Extensions by which a word without a slash is known for a file.
const EXTENSIONS: [&str; 7] = ["rs", "md", "toml", "json", "jsonl", "py", "safetensors"];

/// The paths a document names: in backticks or as the target of a link, or in a code block as a word that begins
/// with one of the root's folders.
fn paths_named(document: &str, folders: &BTreeSet<String>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let mut in_block = false;
    for line in document.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block || line.starts_with("    ") {
            for word in line.split(|c: char| c.is_whitespace() || "\"',;()".contains(c)) {
                if word.split_once('/').is_some_and(|(first, _)| folders.contains(first)) && is_plain(word) {
                    named.insert(word.to_string());
                }
            }
        } else {
            let quoted = line.split('`').skip(1).step_by(2);
            let linked = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            for word in quoted.chain(linked.filter(|target| !target.contains("://") && !target.starts_with('#'))) {
                let known = word.contains('/') || Path::new(word).extension().is_some_and(|e| EXTENSIONS.iter().any(|x| e == *x));
                if known && is_plain(word) {
                    named.insert(word.to_string());
                }
            }
        }
    }
    named
}

/// Not a pattern, a command, a placeholder, or a place outside the repository.
fn is_plain(word: &str) -> bool {
    !word.starts_with(['/', '~', '-', '$']) && !word.contains(|c: char| c.is_whitespace() || "*{}<>$:|=…".contains(c))
}

fn folders() -> BTreeSet<String> {
    let entries = fs::read_dir(root()).expect("the root").map(|e| e.expect("an entry"));
    entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Files that a folder of a reader or of a collection holds: named without one, they are no paths.
const IN_ANY_FOLDER: [&str; 10] = [
    "calibration.json",
    "config.json",
    "reader.json",
    "tokenizer.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "MODEL_CARD.md",
    "corpus.jsonl",
    "queries.jsonl",
    "qrels.tsv",
];

fn assert_paths_open(document: &str, at_least: usize) {
    let mut named = paths_named(&read(document), &folders());
    named.retain(|path| !IN_ANY_FOLDER.contains(&path.as_str()));
    assert!(named.len() >= at_least, "{document} names only {named:?}");
    let dead: Vec<_> = named.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(dead.is_empty(), "{document} names what is not there: {dead:?}");
}

#[test]
fn architecture_names_only_paths_that_exist() {
    assert_paths_open("ARCHITECTURE.md", 25);
}

#[test]
fn readme_names_only_paths_that_exist() {
    assert_paths_open("README.md", 5);
    assert_paths_open("CONTRIBUTING.md", 3);
    assert_paths_open("models/README.md", 1);
}

#[test]
fn paths_are_recognised() {
    let folders = BTreeSet::from(["engine".to_string(), "examples".to_string()]);
    let named = |text: &str| paths_named(text, &folders).into_iter().collect::<Vec<_>>();
    assert_eq!(named("see `engine/src/no.rs` and `Cargo.toml`, not `State`"), ["Cargo.toml", "engine/src/no.rs"]);
    assert_eq!(named("[map](ARCHITECTURE.md), [site](https://example.org/a.md)"), ["ARCHITECTURE.md"]);
    assert_eq!(named("```sh\nask \"why?\" examples/documents\n```"), ["examples/documents"]);
    assert_eq!(named("    ask \"why?\" examples/none --store /tmp/x"), ["examples/none"]);
    assert_eq!(named("`question -> a/b`, `tests/*.rs`, `~/x/y`"), Vec::<String>::new());
}
