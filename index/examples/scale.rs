//! What does the index do at scale? Prints the figures of README.md.
//!
//! `cargo run --release -p palimpsest-index --example scale -- WHAT TEXT [N]`, where TEXT is a text file from which documents
//! are cut, and WHAT one of
//! - `rate`: ingest of a folder against tantivy alone on the same passages
//! - `search`: latency over N passages
//! - `unchanged`: ingest again of N files that did not change, and forgetting one of them
//! - `rounds`: bytes on disk after 100 rounds of update and forget, over those of a new index of the same documents
//! - `write`, `kill`: an ingest in a process of its own, killed N times at random moments

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use palimpsest_index::{Bounds, Document, Index, passages};
use tantivy::schema::{IndexRecordOption, STORED, Schema, TextFieldIndexing, TextOptions};

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, text, rest @ ..] = arguments.as_slice() else { return Err("say what, and name a text file".into()) };
    let n = rest.first().and_then(|n| n.parse().ok());
    match what.as_str() {
        "rate" => rate(&fs::read_to_string(text)?),
        "search" => search(&fs::read_to_string(text)?, n.unwrap_or(1_000_000)),
        "unchanged" => unchanged(&fs::read_to_string(text)?, n.unwrap_or(10_000)),
        "rounds" => rounds(&fs::read_to_string(text)?),
        "write" => write(Path::new(text), Path::new(rest.first().ok_or("a store")?)),
        "kill" => kill(&fs::read_to_string(text)?, n.unwrap_or(300)),
        other => Err(format!("{other}: unknown").into()),
    }
}

/// Pieces of about `bytes` of the text, over and over.
fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let bounds = Bounds { min_bytes: bytes / 2, max_bytes: bytes };
    let cuts: Vec<_> = passages(text, bounds).collect();
    cuts.into_iter().map(move |r| &text[r]).collect::<Vec<_>>().into_iter().cycle()
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below.max(1)
}

fn folder_of(dir: &Path, text: &str, files: usize, bytes: usize) -> Result<u64, Box<dyn Error>> {
    let mut written = 0;
    for (i, piece) in pieces(text, bytes).take(files).enumerate() {
        let folder = dir.join(format!("{:02}", i % 100));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{i}.txt")), piece)?;
        written += piece.len() as u64;
    }
    Ok(written)
}

fn disk(dir: &Path) -> Result<u64, Box<dyn Error>> {
    Ok(Index::open(dir)?.status()?.disk_bytes)
}

/// Seconds of processors that this process has used (Linux tells; elsewhere NaN).
fn processor_s() -> f64 {
    let told = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = told.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> = after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    if ticks.len() == 2 { (ticks[0] + ticks[1]) / 100.0 } else { f64::NAN }
}

fn rate(text: &str) -> Done {
    let work = tempfile::tempdir()?;
    let files = work.path().join("files");
    let bytes = folder_of(&files, text, 2_000, 40_000)?;
    let cut: Vec<String> = pieces(text, 40_000)
        .take(2_000)
        .flat_map(|file| passages(file, Bounds::default()).map(|r| file[r].to_string()))
        .collect();
    let megabytes = bytes as f64 / 1e6;
    println!("{} passages, {megabytes:.0} MB", cut.len());
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    // What each used of processors, which others that use them change little.
    let mut used = [0.0; 2];
    for round in 0..3 {
        let dir = work.path().join(format!("tantivy-{round}"));
        fs::create_dir_all(&dir)?;
        let mut schema = Schema::builder();
        let indexed = TextFieldIndexing::default().set_tokenizer("en_stem").set_index_option(IndexRecordOption::WithFreqs);
        let field = schema.add_text_field("text", TextOptions::from(STORED).set_indexing_options(indexed));
        let index = tantivy::Index::create_in_dir(&dir, schema.build())?;
        let (clock, before) = (Instant::now(), processor_s());
        let mut writer: tantivy::IndexWriter = index.writer_with_num_threads(2, 128 << 20)?;
        for passage in &cut {
            writer.add_document(tantivy::doc!(field => passage.as_str()))?;
        }
        writer.commit()?;
        writer.wait_merging_threads()?;
        alone.push(megabytes / clock.elapsed().as_secs_f64());
        used[0] += processor_s() - before;
        let index = Index::open(&work.path().join(format!("ours-{round}")))?;
        let (clock, before) = (Instant::now(), processor_s());
        let report = index.ingest(std::slice::from_ref(&files), &|_| {})?;
        ours.push(megabytes / clock.elapsed().as_secs_f64());
        used[1] += processor_s() - before;
        assert_eq!(report.added, 2_000);
        println!("tantivy alone {:.1} MB/s, ingest {:.1} MB/s", alone[round], ours[round]);
    }
    alone.sort_by(f64::total_cmp);
    ours.sort_by(f64::total_cmp);
    println!("medians: tantivy alone {:.1} MB/s, ingest {:.1} MB/s, ratio {:.2}", alone[1], ours[1], ours[1] / alone[1]);
    let [alone, ours] = used;
    println!("seconds of processors: tantivy alone {alone:.1}, ingest {ours:.1}, ratio {:.2}", alone / ours);
    Ok(())
}

fn search(text: &str, n: usize) -> Done {
    let work = tempfile::tempdir()?;
    let index = Index::open(work.path())?;
    let clock = Instant::now();
    let mut seed = 1;
    let pieces: Vec<&str> = pieces(text, 1_000).take(n.min(text.len() / 500)).collect();
    let (mut added, mut committed) = (0, 0);
    // Each document is ten pieces from anywhere, so that no two are the same.
    for id in 0.. {
        if added >= n {
            break;
        }
        let body: String = (0..10).map(|_| pieces[random(&mut seed, pieces.len() as u64) as usize]).collect();
        added += passages(&body, Bounds::default()).count();
        index.add(Document::new(id.to_string(), "", body))?;
        if added - committed >= 200_000 {
            index.commit()?;
            committed = added;
        }
    }
    index.commit()?;
    index.ingest(&[], &|_| {})?;
    let status = index.status()?;
    println!(
        "{} passages, {:.0} MB of text, {:.0} MB on disk, ingested in {:.0} s",
        status.passages,
        status.text_bytes as f64 / 1e6,
        status.disk_bytes as f64 / 1e6,
        clock.elapsed().as_secs_f64()
    );
    drop(index);
    let clock = Instant::now();
    let index = Index::open(work.path())?;
    println!("opened and checked in {:.0} ms", clock.elapsed().as_secs_f64() * 1e3);
    for (kind, frame) in [("words of a passage", ""), ("a question", "What is the ")] {
        let mut times = Vec::new();
        for round in 0..550 {
            let piece = pieces[random(&mut seed, pieces.len() as u64) as usize];
            let words: Vec<&str> = piece.split_whitespace().collect();
            let from = random(&mut seed, words.len() as u64 / 2) as usize;
            let question = format!("{frame}{}?", words[from..(from + 6).min(words.len())].join(" "));
            let clock = Instant::now();
            let hits = index.search(&question, 50)?;
            let took = clock.elapsed().as_secs_f64() * 1e3;
            assert!(!hits.is_empty(), "{question}");
            if round >= 50 {
                times.push(took);
            }
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{kind}, 50 hits with their texts: p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms",
            times[250], times[495], times[499]
        );
    }
    Ok(())
}

fn unchanged(text: &str, n: usize) -> Done {
    let work = tempfile::tempdir()?;
    let (files, store) = (work.path().join("files"), work.path().join("store"));
    folder_of(&files, text, n, 4_000)?;
    // Files younger than a second are read again rather than believed.
    std::thread::sleep(Duration::from_millis(1_500));
    let index = Index::open(&store)?;
    let timed = |what: &str| -> Done {
        let clock = Instant::now();
        let report = index.ingest(std::slice::from_ref(&files), &|_| {})?;
        println!(
            "{what}: {:.3} s, {} added, {} updated, {} unchanged",
            clock.elapsed().as_secs_f64(),
            report.added,
            report.updated,
            report.unchanged
        );
        Ok(())
    };
    timed("first")?;
    timed("again")?;
    fs::write(files.join("00/0.txt"), "another text")?;
    timed("one changed")?;
    let documents = index.documents()?;
    let mut times = Vec::new();
    for i in 0..210 {
        let clock = Instant::now();
        index.forget(&documents[i * 37 % documents.len()].id)?;
        times.push(clock.elapsed().as_secs_f64() * 1e3);
    }
    println!("forgetting one of {n}: first {:.1} ms", times[0]);
    times.sort_by(f64::total_cmp);
    println!("forgetting one of {n}, {} times: median {:.1} ms, most {:.1} ms", times.len(), times[105], times[209]);
    Ok(())
}

fn rounds(text: &str) -> Done {
    let work = tempfile::tempdir()?;
    let store = work.path().join("store");
    let all: Vec<&str> = pieces(text, 8_000).take(4_000).collect();
    let mut held: Vec<Option<usize>> = (0..1_000).map(Some).collect();
    let mut seed = 1;
    let index = Index::open(&store)?;
    for (id, piece) in held.iter().enumerate().filter_map(|(id, p)| Some((id, (*p)?))) {
        index.add(Document::new(id.to_string(), "", all[piece]))?;
    }
    index.commit()?;
    for round in 0..100 {
        for _ in 0..50 {
            let (id, piece) = (random(&mut seed, 1_000) as usize, random(&mut seed, 4_000) as usize);
            if held[id].is_some() && random(&mut seed, 3) == 0 {
                index.forget(&id.to_string())?;
                held[id] = None;
            } else {
                index.add(Document::new(id.to_string(), "", all[piece]))?;
                held[id] = Some(piece);
            }
        }
        index.commit()?;
        if round % 25 == 24 {
            println!("after {} rounds: {} bytes", round + 1, index.status()?.disk_bytes);
        }
    }
    drop(index);
    let used = disk(&store)?;
    let fresh = work.path().join("fresh");
    let index = Index::open(&fresh)?;
    for (id, piece) in held.iter().enumerate().filter_map(|(id, p)| Some((id, (*p)?))) {
        index.add(Document::new(id.to_string(), "", all[piece]))?;
    }
    index.commit()?;
    index.ingest(&[], &|_| {})?;
    drop(index);
    println!("{used} bytes, a new index {}: {:.2}", disk(&fresh)?, used as f64 / disk(&fresh)? as f64);
    Ok(())
}

/// Ingests a folder, committing after every few documents, and says which are in after each commit.
fn write(files: &Path, store: &Path) -> Done {
    let index = Index::open(store)?;
    let mut names: Vec<PathBuf> = walk(files)?;
    names.sort();
    for some in names.chunks(20) {
        index.ingest(some, &|_| {})?;
        // Acknowledged: from here on they must be there.
        for name in some {
            println!("{}", name.display());
        }
    }
    Ok(())
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { names.extend(walk(&path)?) } else { names.push(path) }
    }
    Ok(names)
}

fn kill(text: &str, n: usize) -> Done {
    let work = tempfile::tempdir()?;
    let work = work.path().canonicalize()?;
    let (files, log) = (work.join("files"), work.join("log"));
    folder_of(&files, text, 400, 6_000)?;
    let mut seed = 7;
    let (mut killed, mut acknowledged_all, mut store) = (0, 0usize, work.join("store-0"));
    for round in 0.. {
        if killed == n {
            break;
        }
        let out = fs::File::create(&log)?;
        let mut child = Command::new(std::env::current_exe()?).arg("write").arg(&files).arg(&store).stdout(out).spawn()?;
        std::thread::sleep(Duration::from_millis(5 + random(&mut seed, 600)));
        let ended = child.try_wait()?.is_some();
        child.kill()?;
        child.wait()?;
        killed += usize::from(!ended);
        // Every document that was acknowledged is there, byte for byte.
        let index = Index::open(&store)?;
        let lines = fs::read_to_string(&log)?;
        for name in lines.lines().filter(|_| lines.ends_with('\n') || lines.is_empty()) {
            let document = index.document(name)?.ok_or_else(|| format!("{name} was acknowledged and is gone"))?;
            assert_eq!(document.text, fs::read_to_string(name)?);
            acknowledged_all += 1;
        }
        drop(index);
        if ended || round % 10 == 9 {
            // Running again finishes the work.
            let index = Index::open(&store)?;
            let report = index.ingest(std::slice::from_ref(&files), &|_| {})?;
            assert_eq!((report.failed.len(), index.documents()?.len()), (0, 400));
            drop(index);
            fs::remove_dir_all(&store)?;
            store = work.join(format!("store-{round}"));
        }
    }
    println!("{killed} kills, {acknowledged_all} acknowledged documents looked for, none lost, none wrong");
    Ok(())
}
