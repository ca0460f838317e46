//! Does a writer that is killed leave a store that opens, and everything that it flushed?
//!
//! `PALIMPSEST_KILLS=500 cargo test --release --test kills` kills it that often (20 times by default). Alone in its process: a
//! child that is being started holds a copy of every open lock for a moment.

#[path = "store/states.rs"]
mod states;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use palimpsest::snapshot::Refusal;
use palimpsest::store::Store;
use states::*;
use tempfile::tempdir;

const WRITER: &str = "PALIMPSEST_STORE_WRITER";

fn killed_elements(text: u64) -> usize {
    [1000, 300_000, 30_000][text as usize % 3]
}

/// Writes without end, and says what has reached the disk. Runs only where [`killed_writers_lose_nothing_they_flushed`]
/// starts it.
#[test]
fn writer_to_be_killed() {
    let Ok(work) = std::env::var(WRITER) else { return };
    let (from, folder) = work.split_once(' ').expect("a number and a folder");
    let (store, events) = Store::open(Path::new(folder), options(24 * MIB)).expect("opens");
    println!("\nopened {events:?}");
    let from: u64 = from.parse().expect("a number");
    for text in from.. {
        put(&store, text, killed_elements(text), 5.0);
        let _ = get(&store, text.saturating_sub(text % 17), killed_elements(text.saturating_sub(text % 17)));
        if text % 5 == 0 {
            store.flush().expect("flushed");
            println!("flushed {text}");
        }
    }
}

#[test]
fn killed_writers_lose_nothing_they_flushed() {
    let kills: u64 = std::env::var("PALIMPSEST_KILLS").ok().map_or(20, |n| n.parse().expect("a number"));
    let folder = tempdir().expect("folder");
    let mut draw = Draw(std::process::id().into());
    let (mut acknowledged, mut missing, mut next) = (0u64, 0u64, 0);
    let mut flushed: Vec<u64> = Vec::new();
    for round in 0..kills {
        let mut writer = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env(WRITER, format!("{next} {}", folder.path().display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a writer");
        let mut said = BufReader::new(writer.stdout.take().expect("its output")).lines().map_while(Result::ok);
        let opened = said.find(|line| line.starts_with("opened")).expect("it opens the store");
        assert_eq!(opened, "opened []", "round {round}: a kill is no damage");
        std::thread::sleep(Duration::from_micros(draw.below(120_000)));
        writer.kill().expect("killed");
        if let Some(last) = said.filter_map(|l| l.strip_prefix("flushed ").and_then(|n| n.parse::<u64>().ok())).last() {
            // The last ones are within the budget whatever was written after them.
            flushed.extend(last.saturating_sub(5).max(next)..=last);
        }
        writer.wait().expect("gone");
        next += 1000;
        if round % 2 == 0 && round + 1 < kills {
            // The next writer finds what the kill left, not what a look at it made of it.
            continue;
        }
        let store = open(folder.path(), cold(24 * MIB));
        let report = store.verify(false).expect("verified");
        assert!(report.damaged.is_empty(), "round {round}: {:?}", report.damaged);
        for text in flushed.drain(..) {
            acknowledged += 1;
            match get(&store, text, killed_elements(text)) {
                Ok(()) => {}
                Err(Refusal::Evicted | Refusal::NeverSeen) => missing += 1,
                Err(other) => panic!("round {round}, text {text}: {other}"),
            }
        }
        assert!(on_disk(folder.path()) <= 24 * MIB + 24 * MIB / 20);
    }
    println!("{kills} kills, {acknowledged} flushed snapshots looked at, {missing} of them evicted since");
    assert!(acknowledged >= kills / 2 && missing * 2 <= acknowledged, "{missing} of {acknowledged} are gone");
}
