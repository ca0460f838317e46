//! What was read, on disk: the text, the log of ids, the index over it, and the seal that proves all three.
//!
//! `text` is the text, byte for byte. `log` has 12 bytes a token: its id (u32) and the byte of the text after it (u64; 0 for the
//! form around the text). `spans` says where each id stands, so that an answer of a long text is held to what the text says
//! without a copy of the log in memory:
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `PLMPSPAN` |
//! | 8 | how many different ids stand in the text |
//! | 8 for each of them, ascending | id (u32), how often (u32) |
//! | 4 for each token of the text | positions in the log, ascending within an id (u32) |
//!
//! `seal.json` names them, with their sums; its second line is its own. What a later version of the text is written to has
//! names with a number, and counts from the moment the new seal is in place: a kill leaves the old context or the new one.

use std::fs;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::sealed::{Sealed, Sealing, Sums};
use super::sections::Sections;
use super::write_whole;
use crate::error::{Error, Result};
use crate::hints::{HintWeights, Hints};
use crate::prompt::Origin;
use crate::read::Reader;
use crate::snapshot::Chain;
use crate::spans::Spans;

pub(super) const SEAL: &str = "seal.json";
const RECORD_BYTES: u64 = 12;
const SPANS_MAGIC: &[u8; 8] = b"PLMPSPAN";
/// Longest text whose words are looked at for an answer: each question passes over all of them once.
pub(super) const HINTED_TOKENS: u64 = 1 << 16;
/// Positions that are sorted in memory at once: 1 MiB.
const POSITIONS_AT_ONCE: u64 = 1 << 18;

/// What `seal.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    pub(super) title: String,
    /// Hash of title and text: the same document has the same.
    pub(super) content: String,
    /// The tokenizer that made the ids.
    pub(super) tokenizer: String,
    /// 0 for the first text in this folder, one more for each that took its place.
    pub(super) version: u64,
    /// Tokens at the ends of sections.
    pub(super) sections: Vec<u64>,
    pub(super) text: Sums,
    pub(super) log: Sums,
    pub(super) spans: Sums,
}

impl Seal {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SEAL);
        let bytes = fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::Input(format!("{} holds no context", folder.display())),
            _ => Error::io(&path, e),
        })?;
        Self::parse(&bytes).ok_or_else(|| Error::damaged(folder, format!("{SEAL} is not as it was written")))
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (json, sum) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
        (sum == blake3::hash(json.as_bytes()).to_hex().as_str()).then(|| serde_json::from_str(json).ok()).flatten()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let json = serde_json::to_string(self).unwrap_or_default();
        let sum = blake3::hash(json.as_bytes()).to_hex();
        format!("{json}\n{sum}").into_bytes()
    }

    /// The file called `part` of this version.
    pub(super) fn path(&self, folder: &Path, part: &str) -> PathBuf {
        folder.join(if self.version == 0 { part.to_string() } else { format!("{part}-{}", self.version) })
    }
}

/// The hash that a document is known by.
pub(super) fn content_hash(title: &str, source: &mut dyn Read) -> std::io::Result<String> {
    let mut hash = content_of(title);
    hash.update_reader(source)?;
    Ok(hash.finalize().to_hex().to_string())
}

fn content_of(title: &str) -> blake3::Hasher {
    let mut hash = blake3::Hasher::new();
    hash.update(&(title.len() as u64).to_le_bytes()).update(title.as_bytes());
    hash
}

/// The text and its ids, open for reading.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    pub(super) seal: Seal,
    text: Sealed,
    records: Sealed,
}

impl Log {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let seal = Seal::read(folder)?;
        let open = |part: &str, sums: &Sums| {
            Sealed::open(&seal.path(folder, part), sums.clone()).map_err(|reason| Error::damaged(folder, reason))
        };
        let (text, records) = (open("text", &seal.text)?, open("log", &seal.log)?);
        Ok(Self { folder: folder.to_path_buf(), seal, text, records })
    }

    /// Writes text, log and index of `source`, and last the seal: with it they are the context in `folder`.
    pub(super) fn write(reader: &Reader, folder: &Path, title: &str, version: u64, source: &mut dyn Read) -> Result<Seal> {
        let mut seal = Seal {
            title: title.to_string(),
            content: String::new(),
            tokenizer: reader.fingerprint().tokenizer().to_string(),
            version,
            sections: Vec::new(),
            text: Sums::default(),
            log: Sums::default(),
            spans: Sums::default(),
        };
        let (text_file, log_file) = (seal.path(folder, "text"), seal.path(folder, "log"));
        let create = |path: &Path| Sealing::create(path).map_err(|e| Error::io(path, e));
        let (mut text, mut log) = (create(&text_file)?, create(&log_file)?);
        let mut tokens = 0;
        let mut record = |id: u32, end: u64| {
            tokens += 1;
            log.write_all(&id.to_le_bytes())
                .and_then(|()| log.write_all(&end.to_le_bytes()))
                .map_err(|e| Error::io(&log_file, e))?;
            Ok::<u64, Error>(tokens)
        };
        for &id in &reader.prompt().passage(title, "")?.ids {
            record(id, 0)?;
        }
        let (mut content, mut sections) = (content_of(title), Sections::new());
        let mut bytes = 0;
        let mut stream = reader.prompt().stream(source);
        while let Some(piece) = stream.next_piece()? {
            text.write_all(piece.text.as_bytes()).map_err(|e| Error::io(&text_file, e))?;
            content.update(piece.text.as_bytes());
            sections.text(&piece.text);
            for (&id, &end) in piece.ids.iter().zip(&piece.ends) {
                let end = bytes + end as u64;
                sections.token(record(id, end)?, end);
            }
            bytes += piece.text.len() as u64;
        }
        if u32::try_from(tokens).is_err() {
            return Err(Error::Input(format!("a context of {tokens} tokens is beyond the {} that can be told apart", u32::MAX)));
        }
        seal.content = content.finalize().to_hex().to_string();
        seal.sections = sections.ends();
        seal.text = text.finish().map_err(|e| Error::io(&text_file, e))?;
        seal.log = log.finish().map_err(|e| Error::io(&log_file, e))?;
        seal.spans = write_spans(folder, &seal, reader.config().vocabulary)?;
        write_whole(&folder.join(SEAL), &seal.bytes())?;
        Ok(seal)
    }

    pub(super) fn tokens(&self) -> u64 {
        self.records.len() / RECORD_BYTES
    }

    fn damaged(&self, reason: String) -> Error {
        Error::damaged(&self.folder, reason)
    }

    /// Hands each id of `range` and the byte after it to `each`.
    fn each(&self, range: Range<u64>, each: &mut dyn FnMut(u32, u64)) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let to = range.end.min(at + 4096);
            let bytes = self.records.get(at * RECORD_BYTES..to * RECORD_BYTES).map_err(|reason| self.damaged(reason))?;
            bytes.as_chunks::<{ RECORD_BYTES as usize }>().0.iter().map(decode).for_each(|(id, end)| each(id, end));
            at = to;
        }
        Ok(())
    }

    pub(super) fn ids(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity((range.end - range.start) as usize);
        self.each(range, &mut |id, _| ids.push(id))?;
        Ok(ids)
    }

    /// Appends the ids of `range` to a chain, a few at a time.
    pub(super) fn hash(&self, chain: &mut Chain, range: Range<u64>) -> Result<()> {
        self.each(range, &mut |id, _| chain.push(id))
    }

    /// The bytes of the text that the tokens at these positions stand for.
    pub(super) fn bytes_of(&self, place: Range<usize>) -> Result<Range<u64>> {
        let mut end = 0;
        let mut start = 0;
        if let Some(before) = (place.start as u64).checked_sub(1) {
            self.each(before..before + 1, &mut |_, at| start = at)?;
        }
        self.each(place.end as u64 - 1..place.end as u64, &mut |_, at| end = at)?;
        Ok(start..end)
    }

    /// What the words of the text say about spans of it; `None` for a text of more than [`HINTED_TOKENS`], or
    /// where the weights count nothing.
    pub(super) fn hints(&self, question: &str, weights: HintWeights) -> Result<Option<Hints>> {
        if !weights.any() || self.tokens() > HINTED_TOKENS {
            return Ok(None);
        }
        let mut origins = Vec::with_capacity(self.tokens() as usize);
        let mut before = 0;
        self.each(0..self.tokens(), &mut |_, end| {
            origins.push(if end == 0 { Origin::Mark } else { Origin::Text(before..end as usize) });
            before = end as usize;
        })?;
        let text = self.text(0..self.seal.text.bytes)?;
        let text = std::str::from_utf8(text).map_err(|e| self.damaged(format!("the text is no UTF-8: {e}")))?;
        Ok(Hints::of(question, &origins, text, weights))
    }

    /// Bytes of the log itself.
    pub(super) fn records(&self, range: Range<u64>) -> Result<&[u8]> {
        self.records.get(range).map_err(|reason| self.damaged(reason))
    }

    pub(super) fn text(&self, range: Range<u64>) -> Result<&[u8]> {
        self.text.get(range).map_err(|reason| self.damaged(reason))
    }

    /// The index, every byte of it and of the log proven.
    pub(super) fn spans(log: &Arc<Self>) -> Result<LogSpans> {
        let this = log.as_ref();
        let path = this.seal.path(&this.folder, "spans");
        let open = || {
            let file = Sealed::open(&path, this.seal.spans.clone())?;
            file.prove_all()?;
            this.records.prove_all()?;
            let not = || format!("{} is no index", path.display());
            let head = file.get(0..16)?;
            let count = head[8..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
            let table = file.get(16..count.checked_mul(8).and_then(|n| n.checked_add(16)).ok_or_else(not)?)?;
            let mut distinct = Vec::with_capacity(count as usize);
            let mut first = 16 + count * 8;
            for entry in table.as_chunks::<8>().0 {
                let [a, b, c, d, e, f, g, h] = *entry;
                let often = u32::from_le_bytes([e, f, g, h]);
                distinct.push((u32::from_le_bytes([a, b, c, d]), first, often));
                first += 4 * u64::from(often);
            }
            if !head.starts_with(SPANS_MAGIC) || first != file.len() {
                return Err(not());
            }
            Ok((file, distinct))
        };
        let (file, distinct) = open().map_err(|reason| this.damaged(reason))?;
        Ok(LogSpans { log: log.clone(), file, distinct })
    }

    /// Proves every byte; what is wrong, a sentence each.
    pub(super) fn verify(&self) -> Vec<String> {
        let spans = Sealed::open(&self.seal.path(&self.folder, "spans"), self.seal.spans.clone());
        let whole = [self.text.prove_all(), self.records.prove_all(), spans.and_then(|s| s.prove_all())];
        whole.into_iter().filter_map(std::result::Result::err).collect()
    }
}

fn decode(record: &[u8; RECORD_BYTES as usize]) -> (u32, u64) {
    let [a, b, c, d, end @ ..] = *record;
    (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(end))
}

/// Where each id of a text stands, read from its file.
pub(crate) struct LogSpans {
    log: Arc<Log>,
    file: Sealed,
    /// Id, where its positions begin in the file, how many they are; ascending.
    distinct: Vec<(u32, u64, u32)>,
}

impl Spans for LogSpans {
    fn distinct(&self, each: &mut dyn FnMut(u32)) {
        self.distinct.iter().for_each(|(id, ..)| each(*id));
    }

    fn occurrences(&self, id: u32, into: &mut Vec<u32>) {
        let Ok(at) = self.distinct.binary_search_by_key(&id, |(id, ..)| *id) else { return };
        let (_, first, often) = self.distinct[at];
        // Proven when it was opened.
        let bytes = self.file.get(first..first + 4 * u64::from(often)).unwrap_or_default();
        into.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
    }

    fn tokens(&self) -> usize {
        self.log.tokens() as usize
    }

    fn at(&self, position: u32) -> Option<u32> {
        let at = u64::from(position) * RECORD_BYTES;
        let record = self.log.records.get(at..at + RECORD_BYTES).ok()?.first_chunk()?;
        let (id, end) = decode(record);
        (end > 0).then_some(id)
    }
}

/// Writes the index over the log that `seal` describes: the positions of as many ids at once as fit into a few MiB.
pub(super) fn write_spans(folder: &Path, seal: &Seal, vocabulary: usize) -> Result<Sums> {
    let path = seal.path(folder, "spans");
    let log = Sealed::open(&seal.path(folder, "log"), seal.log.clone()).map_err(|reason| Error::damaged(folder, reason))?;
    let whole = |reason| Error::damaged(folder, reason);
    log.prove_all().map_err(whole)?;
    let bytes = log.get(0..log.len()).map_err(whole)?;
    let records = || (0u32..).zip(bytes.as_chunks().0.iter().map(decode)).filter(|(_, (_, end))| *end > 0);
    let mut often = vec![0u32; vocabulary];
    for (_, (id, _)) in records() {
        let known = often.get_mut(id as usize);
        *known.ok_or_else(|| Error::damaged(folder, format!("id {id} is outside the reader's vocabulary")))? += 1;
    }
    let distinct: Vec<(u32, u32)> = (0u32..).zip(often.iter().copied()).filter(|(_, n)| *n > 0).collect();
    let write = || {
        let mut out = Sealing::create(&path)?;
        out.write_all(SPANS_MAGIC)?;
        out.write_all(&(distinct.len() as u64).to_le_bytes())?;
        for (id, often) in &distinct {
            out.write_all(&id.to_le_bytes())?;
            out.write_all(&often.to_le_bytes())?;
        }
        let mut from = 0;
        while from < distinct.len() {
            let mut total = 0;
            let group = distinct[from..]
                .iter()
                .take_while(|(_, often)| {
                    total += u64::from(*often);
                    total <= POSITIONS_AT_ONCE
                })
                .count()
                .max(1);
            let ids = &distinct[from..from + group];
            let (first, last) = (ids[0].0, ids[group - 1].0);
            // Where the next position of each id goes.
            let mut next = vec![0usize; (last - first) as usize + 1];
            let mut all = 0;
            for (id, often) in ids {
                next[(id - first) as usize] = all;
                all += *often as usize;
            }
            let mut positions = vec![0u32; all];
            for (at, (id, _)) in records().filter(|(_, (id, _))| (first..=last).contains(id)) {
                let slot = &mut next[(id - first) as usize];
                positions[*slot] = at;
                *slot += 1;
            }
            positions.iter().try_for_each(|p| out.write_all(&p.to_le_bytes()))?;
            from += group;
        }
        out.finish()
    };
    write().map_err(|e| Error::io(&path, e))
}
