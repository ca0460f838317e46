//! Which passages mean something near to a text? Feature `dense`.
//!
//! A vector a passage, made by an [`Encoder`] of the caller's (this crate knows no model), in usearch's graph (HNSW, bf16,
//! cosine). Vectors are derived: the index is the truth, [`Vectors::sync`] follows it document by document, and a vector
//! whose document changed meanwhile is passed over. One folder an encoder; in it a catalogue with a checksum, written last,
//! that names the graph's file and its hash. What does not match is made anew.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use usearch::ffi::{IndexOptions, MetricKind, ScalarKind};

use crate::checked::{seal, unseal};
use crate::{DocumentSummary, Index, IndexError, Progress};

/// Format of the catalogue.
const FORMAT: u32 = 1;

/// Passages encoded together.
const BATCH: usize = 64;

/// Between two saves: what a kill can cost.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Of so few vectors all are compared.
const EXACT: u64 = 4_096;

/// What a text is to be encoded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What is looked for.
    Question,
    /// What may be found.
    Passage,
}

/// Makes vectors of texts: a model that the caller brings.
pub trait Encoder: Send + Sync {
    /// A file name that stands for the model and all else that changes its vectors.
    fn fingerprint(&self) -> &str;

    /// Length of its vectors.
    fn dimensions(&self) -> usize;

    /// A vector a text, in order; compared by their cosine.
    ///
    /// # Errors
    /// [`IndexError::Encoder`], in the encoder's words.
    fn encode(&self, texts: &[&str], role: Role) -> Result<Vec<Vec<f32>>, IndexError>;
}

/// What a document was when its passages were encoded, and the keys of their vectors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Encoded {
    title: String,
    text_sha256: String,
    first: u64,
    passages: u64,
}

impl Encoded {
    fn is_of(&self, document: &DocumentSummary) -> bool {
        self.title == document.title && self.text_sha256 == document.text_sha256
    }
}

/// The graph's file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Graph {
    file: String,
    blake3: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Catalogue {
    format: u32,
    encoder: String,
    dimensions: usize,
    /// Keys below were given out.
    next: u64,
    graph: Option<Graph>,
    documents: BTreeMap<String, Encoded>,
}

struct State {
    catalogue: Catalogue,
    /// Documents by their first key.
    by_key: BTreeMap<u64, String>,
    graph: usearch::Index,
}

/// The vectors of an index's passages by one encoder. Shared between threads by reference.
pub struct Vectors {
    dir: Option<PathBuf>,
    state: RwLock<State>,
}

/// A passage that lies near.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Near {
    pub(crate) document: String,
    pub(crate) passage: u64,
    pub(crate) cosine: f32,
    /// The document's text and title when it was encoded.
    pub(crate) text_sha256: String,
    pub(crate) title: String,
}

fn refused(doing: &'static str) -> impl Fn(cxx::Exception) -> IndexError {
    move |e| IndexError::Vectors { doing, what: e.what().to_string() }
}

impl State {
    fn new(encoder: &dyn Encoder) -> Result<Self, IndexError> {
        let catalogue = Catalogue {
            format: FORMAT,
            encoder: encoder.fingerprint().to_string(),
            dimensions: encoder.dimensions(),
            next: 0,
            graph: None,
            documents: BTreeMap::new(),
        };
        Ok(Self { graph: graph(encoder.dimensions())?, by_key: BTreeMap::new(), catalogue })
    }

    /// What lies in `dir`; `None` where nothing does that is whole and of this encoder.
    fn load(dir: &Path, encoder: &dyn Encoder) -> Result<Option<Self>, IndexError> {
        let Some(catalogue) = catalogue(dir) else { return Ok(None) };
        if (catalogue.format, catalogue.dimensions) != (FORMAT, encoder.dimensions())
            || catalogue.encoder != encoder.fingerprint()
        {
            return Ok(None);
        }
        let graph = graph(catalogue.dimensions)?;
        if let Some(kept) = &catalogue.graph {
            let path = dir.join(&kept.file);
            if hash(&path).ok().as_ref() != Some(&kept.blake3) {
                return Ok(None);
            }
            graph.load(&path.display().to_string()).map_err(refused("open its graph"))?;
        }
        let by_key = catalogue.documents.iter().map(|(id, encoded)| (encoded.first, id.clone())).collect();
        Ok(Some(Self { catalogue, by_key, graph }))
    }

    fn remove(&mut self, id: &str) -> Result<(), IndexError> {
        let Some(old) = self.catalogue.documents.remove(id) else { return Ok(()) };
        self.by_key.remove(&old.first);
        for key in old.first..old.first + old.passages {
            self.graph.remove(key).map_err(refused("remove a vector"))?;
        }
        Ok(())
    }

    /// The document that a key belongs to.
    fn document(&self, key: u64) -> Option<(&String, &Encoded)> {
        let id = self.by_key.range(..=key).next_back()?.1;
        let encoded = self.catalogue.documents.get(id)?;
        (key < encoded.first + encoded.passages).then_some((id, encoded))
    }

    /// Writes the graph under a name of its own, then the catalogue that names it.
    fn save(&mut self, dir: &Path) -> Result<(), IndexError> {
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| IndexError::Io { path, source }
        };
        let old = self.catalogue.graph.take();
        let file = format!("graph-{}.usearch", self.catalogue.next);
        let file = if old.as_ref().is_some_and(|old| old.file == file) { format!("{file}.2") } else { file };
        let path = dir.join(&file);
        self.graph.save(&path.display().to_string()).map_err(refused("write its graph"))?;
        File::open(&path).and_then(|f| f.sync_all()).map_err(failed(&path))?;
        self.catalogue.graph = Some(Graph { blake3: hash(&path).map_err(failed(&path))?, file });
        let sealed = seal(&serde_json::to_vec(&self.catalogue).unwrap_or_default());
        let (new, path) = (dir.join("catalogue.new"), dir.join("catalogue.json"));
        let mut written = File::create(&new).map_err(failed(&new))?;
        written.write_all(&sealed).and_then(|()| written.sync_all()).map_err(failed(&new))?;
        fs::rename(&new, &path).map_err(failed(&path))?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(failed(dir))?;
        // Graphs that no catalogue names any more, from kills as well.
        let kept = self.catalogue.graph.as_ref().map(|g| g.file.clone());
        for entry in fs::read_dir(dir).map_err(failed(dir))?.flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with("graph-") && Some(&name) != kept.as_ref() {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

fn graph(dimensions: usize) -> Result<usearch::Index, IndexError> {
    let options = IndexOptions {
        dimensions,
        metric: MetricKind::Cos,
        quantization: ScalarKind::BF16,
        connectivity: 16,
        expansion_add: 128,
        expansion_search: 128,
        multi: false,
    };
    usearch::Index::new(&options).map_err(refused("make its graph"))
}

fn catalogue(dir: &Path) -> Option<Catalogue> {
    serde_json::from_slice(unseal(&fs::read(dir.join("catalogue.json")).ok()?)?).ok()
}

fn hash(path: &Path) -> io::Result<String> {
    let mut hash = blake3::Hasher::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.finalize().to_hex().to_string())
}

impl Vectors {
    /// Vectors that are gone with the process.
    ///
    /// # Errors
    /// [`IndexError::Vectors`].
    pub fn in_memory(encoder: &dyn Encoder) -> Result<Self, IndexError> {
        Ok(Self { dir: None, state: RwLock::new(State::new(encoder)?) })
    }

    /// The vectors of that encoder in `dir`; none where they are not whole: [`Vectors::sync`] makes them anew.
    ///
    /// # Errors
    /// [`IndexError::Io`], [`IndexError::Vectors`].
    pub fn open(dir: &Path, encoder: &dyn Encoder) -> Result<Self, IndexError> {
        let dir = dir.join(encoder.fingerprint());
        fs::create_dir_all(&dir).map_err(|source| IndexError::Io { path: dir.clone(), source })?;
        let state = match State::load(&dir, encoder)? {
            Some(state) => state,
            None => State::new(encoder)?,
        };
        Ok(Self { dir: Some(dir), state: RwLock::new(state) })
    }

    /// Vectors that are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().graph.size()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Encodes the documents of `index` that are new or changed, and drops those that are gone. `progress` counts documents as
    /// files. What was encoded when `stop` is set, or in the last minute before a kill, stays.
    ///
    /// # Errors
    /// [`IndexError::Locked`] while another process does it, [`IndexError::Stopped`], and those of index and encoder.
    pub fn sync(
        &self,
        index: &Index,
        encoder: &dyn Encoder,
        stop: &AtomicBool,
        progress: &(dyn Fn(&Progress) + Sync),
    ) -> Result<(), IndexError> {
        let _lock = self.lock()?;
        if let Some(dir) = &self.dir {
            // Another process may have gone on meanwhile.
            let theirs = catalogue(dir).filter(|c| *c != self.read().catalogue);
            if let Some(state) = theirs.map(|_| State::load(dir, encoder)).transpose()?.flatten() {
                *self.write() = state;
            }
        }
        let documents = index.documents()?;
        let there: HashSet<&str> = documents.iter().map(|d| d.id.as_str()).collect();
        let mut changed = false;
        let gone: Vec<String> =
            self.read().catalogue.documents.keys().filter(|id| !there.contains(id.as_str())).cloned().collect();
        for id in gone {
            self.write().remove(&id)?;
            changed = true;
        }
        let new = |d: &&DocumentSummary| self.read().catalogue.documents.get(&d.id).is_none_or(|encoded| !encoded.is_of(d));
        let new: Vec<&DocumentSummary> = documents.iter().filter(new).collect();
        let (began, mut saved) = (Instant::now(), Instant::now());
        let mut done =
            Progress { files_total: new.len(), bytes_total: new.iter().map(|d| d.text_bytes).sum(), ..Progress::default() };
        let mut outcome = Ok(());
        for some in runs(&new) {
            if stop.load(Ordering::Acquire) {
                outcome = Err(IndexError::Stopped);
                break;
            }
            self.encode(index, encoder, some)?;
            changed = true;
            done.files_done += some.len();
            done.bytes_done += some.iter().map(|d| d.text_bytes).sum::<u64>();
            done.seconds = began.elapsed().as_secs_f64();
            progress(&done);
            if saved.elapsed() > SAVE_EVERY {
                self.save()?;
                saved = Instant::now();
            }
        }
        if changed {
            self.save()?;
        }
        outcome
    }

    fn lock(&self) -> Result<Option<File>, IndexError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let path = dir.join("lock");
        let failed = |source| IndexError::Io { path: path.clone(), source };
        let file = File::create(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Err(IndexError::Locked { path: dir.clone() }),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    fn save(&self) -> Result<(), IndexError> {
        match &self.dir {
            Some(dir) => self.write().save(dir),
            None => Ok(()),
        }
    }

    /// Encodes the passages of some documents, all in all about a batch or one long document.
    fn encode(&self, index: &Index, encoder: &dyn Encoder, documents: &[&DocumentSummary]) -> Result<(), IndexError> {
        let searcher = index.reader.searcher();
        let mut keys = Vec::new();
        let mut places = Vec::new();
        for document in documents {
            let passages = index.addresses_of(&searcher, &document.id)?;
            let mut state = self.write();
            state.remove(&document.id)?;
            let first = state.catalogue.next;
            state.catalogue.next += passages.len() as u64;
            keys.push((first, passages.len() as u64));
            places.extend(passages.into_iter().map(|(_, address)| (document.title.as_str(), address)));
        }
        let mut key = keys.first().map_or(0, |&(first, _)| first);
        for batch in places.chunks(BATCH) {
            let mut texts = Vec::with_capacity(batch.len());
            for (title, address) in batch {
                let mut text = if title.is_empty() { String::new() } else { format!("{title}\n") };
                index.append(&searcher, *address, &mut text)?;
                texts.push(text);
            }
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let vectors = encoder.encode(&texts, Role::Passage)?;
            let state = self.write();
            let wanted = state.graph.size() + vectors.len();
            if wanted > state.graph.capacity() {
                state.graph.reserve(wanted + wanted / 2).map_err(refused("make room"))?;
            }
            for vector in vectors {
                state.graph.add(key, &vector).map_err(refused("add a vector"))?;
                key += 1;
            }
        }
        let mut state = self.write();
        for (document, (first, passages)) in documents.iter().zip(keys) {
            let (title, text_sha256) = (document.title.clone(), document.text_sha256.clone());
            state.by_key.insert(first, document.id.clone());
            state.catalogue.documents.insert(document.id.clone(), Encoded { title, text_sha256, first, passages });
        }
        Ok(())
    }

    /// The `limit` passages nearest to a vector, nearest first, of the documents in `allowed`, or of all.
    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        limit: usize,
        allowed: Option<&HashSet<String>>,
    ) -> Result<Vec<Near>, IndexError> {
        let state = self.read();
        let of = |encoded: &Encoded| encoded.first..encoded.first + encoded.passages;
        let allowed = allowed.map(|ids| {
            let mut keys: Vec<_> = ids.iter().filter_map(|id| state.catalogue.documents.get(id)).map(of).collect();
            keys.sort_unstable_by_key(|keys| keys.start);
            keys
        });
        let found: Vec<(u64, f32)> = match &allowed {
            Some(keys) if keys.iter().map(|k| k.end - k.start).sum::<u64>() <= EXACT => {
                compare(&state.graph, vector, keys.iter().cloned().flatten(), limit)?
            }
            Some(keys) => {
                let holds = |key: u64| {
                    let at = keys.partition_point(|k| k.start <= key);
                    at > 0 && keys[at - 1].contains(&key)
                };
                pairs(state.graph.filtered_search(vector, limit, holds).map_err(refused("search"))?)
            }
            None if state.graph.size() == 0 => Vec::new(),
            None => pairs(state.graph.search(vector, limit).map_err(refused("search"))?),
        };
        let near = found.into_iter().filter_map(|(key, cosine)| {
            let (id, encoded) = state.document(key)?;
            Some(Near {
                document: id.clone(),
                passage: key - encoded.first,
                cosine,
                text_sha256: encoded.text_sha256.clone(),
                title: encoded.title.clone(),
            })
        });
        Ok(near.collect())
    }
}

fn pairs(matches: usearch::ffi::Matches) -> Vec<(u64, f32)> {
    matches.keys.into_iter().zip(matches.distances.into_iter().map(|d| 1.0 - d)).collect()
}

/// All of `keys`, compared one by one: what the graph's search is held to.
fn compare(
    graph: &usearch::Index,
    vector: &[f32],
    keys: impl Iterator<Item = u64>,
    limit: usize,
) -> Result<Vec<(u64, f32)>, IndexError> {
    let length = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
    let mut held = vec![0.0f32; vector.len()];
    let mut all = Vec::new();
    for key in keys {
        if graph.get(key, &mut held).map_err(refused("read a vector"))? > 0 {
            let dot: f32 = held.iter().zip(vector).map(|(a, b)| a * b).sum();
            all.push((key, dot / (length(&held) * length(vector)).max(f32::MIN_POSITIVE)));
        }
    }
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(limit);
    Ok(all)
}

/// Documents in their order, in runs of about a batch of passages.
fn runs<'a, 'd>(documents: &'a [&'d DocumentSummary]) -> impl Iterator<Item = &'a [&'d DocumentSummary]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let begin = at;
        let mut passages = 0;
        while at < documents.len() && passages < BATCH {
            passages += documents[at].passages as usize;
            at += 1;
        }
        (begin < at).then(|| &documents[begin..at])
    })
}
