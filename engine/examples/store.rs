//! How fast is the snapshot store, and how much disk does it take?
//!
//!     cargo run --release -p palimpsest-engine --example store -- slots|durable|sled STATES ELEMENTS FOLDER [KEPT]
//!
//! Puts STATES states of ELEMENTS f32 into a fresh store in FOLDER (which is removed before and after), reads 2,000 of them
//! back in a scattered order, from the store and from memory, and prints what each took. `durable`: each put has reached the
//! disk when it returns. `sled`: the same bytes as values of a sled tree instead, for comparison. With KEPT, the budget has
//! room for so many. `STORE.md` beside this crate's manifest has the figures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use palimpsest_engine::snapshot::{Chain, Fingerprint, Form, Snapshot, SnapshotKey};
use palimpsest_engine::store::{Store, StoreOptions};

type Failure = Box<dyn std::error::Error>;

struct Plan {
    states: u64,
    elements: usize,
    folder: PathBuf,
    kept: u64,
}

impl Plan {
    fn options(&self, durable: bool, memory_bytes: u64) -> StoreOptions {
        // As the store counts: a slot is 224 bytes more than the elements, a file of one slot ends with a block of the disk.
        let slot = (4 * self.elements as u64 + 224).next_multiple_of(if self.elements > 1 << 17 { 4096 } else { 64 });
        let budget_bytes = ((self.kept + 1) * slot + (1 << 20)) * 25 / 24;
        StoreOptions { budget_bytes, memory_bytes, durable, ..StoreOptions::default() }
    }

    fn state(&self, number: u64) -> Vec<f32> {
        let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let draw = |_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 40) as f32 - 8_388_608.0
        };
        (0..self.elements).map(draw).collect()
    }

    /// Numbers of states that are kept, scattered.
    fn sample(&self) -> impl Iterator<Item = u64> {
        let kept = self.kept.min(self.states);
        let first = self.states - kept;
        (0..2000).map(move |i| first + (i * 7919) % kept)
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, states, elements, folder, kept @ ..] = &args[..] else {
        return Err("store slots|durable|sled STATES ELEMENTS FOLDER [KEPT]".into());
    };
    let states = states.parse()?;
    let kept = kept.first().map_or(Ok(states), |k| k.parse())?;
    let plan = Plan { states, elements: elements.parse()?, folder: folder.into(), kept };
    if plan.folder.exists() {
        std::fs::remove_dir_all(&plan.folder)?;
    }
    println!("{mode}: {states} states of {} bytes, {kept} kept", 4 * plan.elements);
    match mode.as_str() {
        "slots" => slots(&plan, false)?,
        "durable" => slots(&plan, true)?,
        "sled" => in_sled(&plan)?,
        other => return Err(format!("{other} is none of slots, durable, sled").into()),
    }
    std::fs::remove_dir_all(&plan.folder)?;
    Ok(())
}

fn reader() -> Fingerprint {
    Fingerprint::new([1; 32], [2; 32], 1, "bench")
}

fn ids(number: u64) -> Vec<u32> {
    (0..200).map(|i| (number as u32).wrapping_mul(200) + i).collect()
}

fn key(number: u64) -> SnapshotKey {
    let mut chain = Chain::new(&reader());
    chain.extend(&ids(number));
    chain.key()
}

fn slots(plan: &Plan, durable: bool) -> Result<(), Failure> {
    let reader = reader();
    let (store, _) = Store::open(&plan.folder, plan.options(durable, 0))?;
    let mut took = Took::default();
    for number in 0..plan.states {
        let (key, state) = (key(number), plan.state(number));
        took.time(|| store.put(&key, &reader, 200, &state, 1.0))?;
    }
    took.print("put");
    let mut took = Took::default();
    for number in plan.sample() {
        let key = key(number);
        took.time(|| store.get(&key, &reader)).map_err(|e| e.to_string())?;
    }
    took.print("get, from disk");
    let mut took = Took::default();
    for number in plan.sample() {
        let ids = [&ids(number)[..], &[7, 7, 7]].concat();
        took.time(|| store.longest(&reader, &ids).0).ok_or("it is kept")?;
    }
    took.print("longest prefix, from disk");
    Took::once("flush", || store.flush())?;
    Took::once("flush again, one put later", || {
        store.put(&key(plan.states), &reader, 200, &plan.state(plan.states), 1.0)?;
        store.flush()
    })?;
    let stats = store.stats();
    let files = disk_bytes(&plan.folder)?;
    println!(
        "  {} kept, {} evicted; disk {files} bytes ({} told), {:.3} times the bytes kept, {:.3} of the budget",
        stats.entries,
        stats.evictions,
        stats.disk_bytes,
        files as f64 / (stats.entries as f64 * 4.0 * plan.elements as f64),
        files as f64 / stats.budget_bytes as f64
    );
    Took::once("close", || drop(store));
    println!("  catalogue {} bytes", disk_bytes(&plan.folder)? - disk_bytes(&plan.folder.join("slots"))?);
    let (store, events) = Took::once("open, with its catalogue", || Store::open(&plan.folder, plan.options(durable, 64 << 20)))?;
    println!("  {events:?}, {} entries", store.stats().entries);
    let mut took = Took::default();
    for round in 0..2000 {
        let key = key(plan.states - 1 - round % 8);
        let got = took.time(|| store.get(&key, &reader)).map_err(|e| e.to_string())?;
        // The first eight came from disk.
        if round == 7 {
            took = Took::default();
        }
        drop(got);
    }
    took.print("get, from memory");
    drop(store);
    if let Err(e) = std::fs::remove_file(plan.folder.join("catalogue.seal")) {
        println!("  no catalogue: {e}");
    }
    let (store, _) = Took::once("open, looking at every slot", || Store::open(&plan.folder, plan.options(durable, 0)))?;
    println!("  {} entries", store.stats().entries);
    Ok(())
}

fn in_sled(plan: &Plan) -> Result<(), Failure> {
    let reader = reader();
    let config = || sled::Config::new().path(&plan.folder).cache_capacity(64 << 20);
    let db = config().open()?;
    let mut took = Took::default();
    for number in 0..plan.states {
        let (key, state) = (key(number), plan.state(number));
        took.time(|| {
            db.insert(key.0, Snapshot::encode(200, &state, &reader, &key, Form::F32))?;
            if number >= plan.kept {
                db.remove(self::key(number - plan.kept).0)?;
            }
            Ok::<_, sled::Error>(())
        })?;
    }
    took.print("put");
    Took::once("flush", || db.flush())?;
    let kept = plan.kept.min(plan.states) as f64 * 4.0 * plan.elements as f64;
    println!("  disk {:.3} times the bytes kept", disk_bytes(&plan.folder)? as f64 / kept);
    let mut took = Took::default();
    for number in plan.sample() {
        let key = key(number);
        took.time(|| db.get(key.0).ok().flatten().map(|v| Snapshot::decode(&v, &reader, &key))).ok_or("it is kept")??;
    }
    took.print("get");
    Took::once("close", || drop(db));
    Took::once("open", || config().open())?;
    Ok(())
}

/// Blocks that the files take, as the disk counts.
fn disk_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() { disk_bytes(&entry.path())? } else { allocated(&entry.metadata()?) };
    }
    Ok(bytes)
}

#[cfg(unix)]
fn allocated(file: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    file.blocks() * 512
}

#[cfg(not(unix))]
fn allocated(file: &std::fs::Metadata) -> u64 {
    file.len().next_multiple_of(4096)
}

/// Milliseconds of many calls, and of each what it was ready to run and waited for a processor.
#[derive(Default)]
struct Took(Vec<(f64, f64)>);

impl Took {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let waited = waited_ms();
        let begun = Instant::now();
        let out = work();
        let took = begun.elapsed().as_secs_f64() * 1e3;
        self.0.push((took, (waited_ms() - waited).clamp(0.0, took)));
        out
    }

    fn once<T>(what: &str, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let out = work();
        println!("  {what}: {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
        out
    }

    fn print(self, what: &str) {
        let sorted = |of: fn(&(f64, f64)) -> f64| {
            let mut ms: Vec<f64> = self.0.iter().map(of).collect();
            ms.sort_by(f64::total_cmp);
            ms
        };
        let at = |ms: &[f64], part: f64| ms.get(((ms.len() - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN);
        let (all, running) = (sorted(|t| t.0), sorted(|t| t.0 - t.1));
        println!(
            "  {what}: p50 {:.3} ms, p99 {:.3} ms, most {:.3} ms; without waiting for a processor p99 {:.3} ms, most {:.3} ms ({} calls)",
            at(&all, 0.5),
            at(&all, 0.99),
            at(&all, 1.0),
            at(&running, 0.99),
            at(&running, 1.0),
            all.len()
        );
    }
}

/// Milliseconds that this thread has waited for a processor (Linux tells; elsewhere 0).
fn waited_ms() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    told.split_whitespace().nth(1).and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e6
}
