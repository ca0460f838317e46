//! A context as one blob, and back.
//!
//! Magic `PLMPCTX2`; then seal, text, log, turns and state, each as its length (u64, little-endian) and its bytes (none where
//! there is no such file); then blake3 of all before. `PLMPCTX1`, which was never released, had no seal.

use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use super::log::{Log, SEAL, Seal, write_spans};
use super::{refuse_taken, write_whole};
use crate::error::{Error, Result};

const MAGIC: &[u8; 8] = b"PLMPCTX2";

pub(super) fn pack(folder: &Path, log: &Log) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    let seal = Seal { version: 0, ..log.seal.clone() };
    let mut add = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    add(&seal.bytes());
    add(log.text(0..seal.text.bytes)?);
    add(log.records(0..seal.log.bytes)?);
    for name in ["turns.json", "state"] {
        let path = folder.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => add(&bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => add(&[]),
            Err(e) => return Err(Error::io(&path, e)),
        }
    }
    let sum = *blake3::hash(&out).as_bytes();
    out.extend_from_slice(&sum);
    Ok(out)
}

/// Ids of the log must be below `vocabulary`.
pub(super) fn unpack(blob: &mut dyn Read, folder: &Path, vocabulary: usize) -> Result<()> {
    let damaged = |what: &str| Error::Input(format!("this is no whole exported context: {what}"));
    refuse_taken(folder)?;
    let mut bytes = Vec::new();
    BufReader::new(blob).read_to_end(&mut bytes).map_err(|e| damaged(&e.to_string()))?;
    let body_len = bytes.len().checked_sub(32).ok_or_else(|| damaged("it is too short"))?;
    let (body, sum) = bytes.split_at(body_len);
    if !body.starts_with(MAGIC) {
        return Err(damaged(if body.starts_with(b"PLMPCTX") { "it is of another version" } else { "it does not begin as one" }));
    }
    if blake3::hash(body).as_bytes() != sum {
        return Err(damaged("its checksum does not hold"));
    }
    let mut rest = &body[MAGIC.len()..];
    let mut part = || {
        let (len, after) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("a length is missing"))?;
        let len = usize::try_from(u64::from_le_bytes(*len)).map_err(|_| damaged("a length is too large"))?;
        let (part, after) = after.split_at_checked(len).ok_or_else(|| damaged("a part is cut short"))?;
        rest = after;
        Ok::<&[u8], Error>(part)
    };
    let (seal, text, log, turns, state) = (part()?, part()?, part()?, part()?, part()?);
    let mut seal = Seal::parse(seal).ok_or_else(|| damaged("its seal is damaged"))?;
    if seal.version != 0 || (seal.text.bytes, seal.log.bytes) != (text.len() as u64, log.len() as u64) {
        return Err(damaged("its seal is another text's"));
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    for (name, bytes) in [("text", text), ("log", log), ("turns.json", turns), ("state", state)] {
        if !bytes.is_empty() || name == "text" || name == "log" {
            write_whole(&folder.join(name), bytes)?;
        }
    }
    seal.spans = write_spans(folder, &seal, vocabulary)?;
    // The seal last: with it the folder is a context.
    write_whole(&folder.join(SEAL), &seal.bytes())
}
