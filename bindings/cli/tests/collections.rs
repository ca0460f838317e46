//! Do collections hold through the program: filters and places, two processes at once, a disk that is full?

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_palimpsest");

fn run(arguments: &[&str], store: &Path) -> Output {
    Command::new(PROGRAM).args(arguments).arg("--json").arg("--store").arg(store).output().expect("the program runs")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

fn done(arguments: &[&str], store: &Path) -> Value {
    let output = run(arguments, store);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    json(&output)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("Unicode")
}

#[test]
fn tables_filters_and_places() {
    let dir = tempfile::tempdir().expect("a folder");
    let (files, store) = (dir.path().join("files"), dir.path().join("store"));
    fs::create_dir(&files).expect("made");
    fs::write(files.join("stock.csv"), "sku;name;about;price\n1;Apple;a round fruit;0.5\n2;Pear;a green fruit;2\n")
        .expect("written");
    fs::write(files.join("notes.md"), "# Fruit\n\nIntro.\n\n## Storing\n\nA fruit is kept cool.\n").expect("written");
    fs::write(files.join("broken.pdf"), "%PDF-1.7 no").expect("written");
    let map = "id=sku title=name text=about metadata=price";
    let report = done(&["ingest", path(&files), "--fields", map, "--set", "year=2020"], &store);
    assert_eq!((&report["added"], report["failed"].as_array().map(Vec::len)), (&3.into(), Some(1)), "{report}");
    let titles = |filter: &str| {
        let found = done(&["search", "fruit", "--where", filter], &store);
        let hits = found["hits"].as_array().expect("hits").iter();
        let mut titles: Vec<String> = hits.map(|h| h["title"].as_str().expect("a title").to_string()).collect();
        titles.sort();
        titles.concat()
    };
    for (filter, expected) in [
        ("year = 2020", "AppleFruitPear"),
        ("price >= 1", "Pear"),
        ("not price", "Fruit"),
        ("price < 1 or not (price)", "AppleFruit"),
        ("price = \"2\"", ""),
    ] {
        assert_eq!(titles(filter), expected, "{filter}");
    }
    let found = done(&["search", "kept cool"], &store);
    assert_eq!(found["hits"][0]["place"], serde_json::json!({ "heading": "Fruit", "line": 1 }));
    let found = done(&["search", "green"], &store);
    assert_eq!(found["hits"][0]["place"]["line"], 3);
    // Wrong usage is told from bad input.
    let refused = run(&["search", "fruit", "--where", "price >"], &store);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a value was expected"), "{refused:?}");
    // Ingested again the map and what was set are remembered; another language is told.
    let report = done(&["ingest", path(&files), "--language", "german"], &store);
    assert_eq!((&report["unchanged"], &report["updated"]), (&3.into(), &0.into()), "{report}");
    assert!(report["notices"][0].as_str().expect("a notice").contains("german"), "{report}");
    let report = done(&["ingest", path(&files), "--language", "klingon"], &dir.path().join("other"));
    assert!(report["notices"][0].as_str().expect("a notice").contains("klingon"), "{report}");
}

/// Text that no two files share, so much that it takes a while.
fn many(files: &Path, count: usize) {
    fs::create_dir_all(files).expect("made");
    for n in 0..count {
        let text: String = (0..2_000).map(|i| format!("word{} fruit{} ", i * 7919 % 5000, n * i % 977)).collect();
        fs::write(files.join(format!("{n}.txt")), text).expect("written");
    }
}

#[test]
fn a_second_process_is_told_and_may_search() {
    let dir = tempfile::tempdir().expect("a folder");
    let (files, store) = (dir.path().join("files"), dir.path().join("store"));
    many(&files, 4);
    done(&["ingest", path(&files)], &store);
    many(&files, 600);
    let mut first = Command::new(PROGRAM)
        .args(["ingest", path(&files), "--store", path(&store)])
        .stdout(Stdio::null())
        .spawn()
        .expect("the program runs");
    let (mut refused, mut searched) = (0, 0);
    // A second writer: another value is to be kept with a document.
    let mut round = 0;
    let began = Instant::now();
    while first.try_wait().expect("waited").is_none() && began.elapsed() < Duration::from_secs(120) {
        round += 1;
        let second = run(&["ingest", path(&files.join("0.txt")), "--set", &format!("round={round}")], &store);
        match second.status.code() {
            Some(5) => {
                assert!(json(&second)["error"]["message"].as_str().expect("words").contains("another process"), "{second:?}");
                refused += 1;
            }
            Some(0) => {}
            _ => panic!("{second:?}"),
        }
        let found = done(&["search", "fruit1"], &store);
        searched += usize::from(!found["hits"].as_array().expect("hits").is_empty());
    }
    let first = first.wait().expect("waited");
    // Whoever came first wrote; nobody spoilt anything.
    assert!(first.success() || first.code() == Some(5), "{first:?}");
    assert!(searched > 0 && (refused > 0 || !first.success()), "{refused} refused, {searched} searched");
    done(&["ingest", path(&files)], &store);
    assert_eq!(done(&["status"], &store)["index"]["documents"], 600);
    assert_eq!(done(&["verify"], &store)["whole"], true);
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (files, disk) = (dir.path().join("files"), dir.path().join("disk"));
    many(&files, 200);
    fs::create_dir(&disk).expect("made");
    // A disk of 4 MB in a namespace of its own, which is gone with the shell.
    let script = format!(
        "mount -t tmpfs -o size=4m none {disk} || exit 99
         p='{PROGRAM}'; s='--json --store {disk}/store'
         $p ingest {files}/0.txt $s || exit 98
         $p ingest {files} $s; echo code $?
         $p search fruit1 $s || exit 97
         $p show {files}/0.txt --store {disk}/store | cmp - {files}/0.txt || exit 96
         mount -o remount,size=400m {disk} || exit 95
         $p ingest {files} $s || exit 94
         $p status $s",
        disk = path(&disk),
        files = path(&files),
    );
    let shell = Command::new("unshare").args(["--mount", "--map-root-user", "sh", "-c", &script]).output();
    let output = match shell {
        Ok(output) if output.status.code() != Some(99) && !output.stdout.is_empty() => output,
        other => {
            eprintln!("SKIPPED: no file system can be mounted here: {other:?}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("code 5"), "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("\"documents\":200"), "{said}");
}
