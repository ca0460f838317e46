//! Are the bytes of a file those that were written? Proven block by block, so that a look costs the blocks that it touches.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use palimpsest_kernels::Mapped;
use serde::{Deserialize, Serialize};

/// Bytes that share a sum.
const BLOCK_BYTES: usize = 1 << 16;

/// The length of a file and a sum of each of its blocks: blake3, cut to 16 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sums {
    pub(super) bytes: u64,
    blocks: Vec<[u64; 2]>,
}

fn sum(block: &[u8]) -> [u64; 2] {
    let hash = blake3::hash(block);
    let half = |at: usize| hash.as_bytes()[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    [half(0), half(8)]
}

impl Sums {
    /// Of bytes in memory: the slow twin of [`Sealing`].
    #[cfg(test)]
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, blocks: bytes.chunks(BLOCK_BYTES).map(sum).collect() }
    }
}

/// A file that is being written, and its sums.
pub(super) struct Sealing {
    out: BufWriter<File>,
    block: Vec<u8>,
    sums: Sums,
}

impl Sealing {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let out = BufWriter::new(File::create(path)?);
        Ok(Self { out, block: Vec::with_capacity(BLOCK_BYTES), sums: Sums::default() })
    }

    fn close_block(&mut self) -> io::Result<()> {
        self.sums.bytes += self.block.len() as u64;
        self.sums.blocks.push(sum(&self.block));
        self.out.write_all(&self.block)?;
        self.block.clear();
        Ok(())
    }

    /// All has reached the disk on return.
    pub(super) fn finish(mut self) -> io::Result<Sums> {
        if !self.block.is_empty() {
            self.close_block()?;
        }
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(self.sums)
    }
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        if self.block.len() == BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file with its sums, mapped.
#[derive(Debug)]
pub(super) struct Sealed {
    path: PathBuf,
    map: Mapped,
    sums: Sums,
    proven: Vec<AtomicBool>,
}

impl Sealed {
    /// The file at `path`, none of it looked at yet.
    ///
    /// # Errors
    /// A sentence: it cannot be opened, or has another length than when it was sealed.
    pub(super) fn open(path: &Path, sums: Sums) -> Result<Self, String> {
        let map = Mapped::open(path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        if map.len() as u64 != sums.bytes || sums.blocks.len() != map.len().div_ceil(BLOCK_BYTES) {
            return Err(format!("{} has {} bytes where {} belong", path.display(), map.len(), sums.bytes));
        }
        let proven = sums.blocks.iter().map(|_| AtomicBool::new(false)).collect();
        Ok(Self { path: path.to_path_buf(), map, sums, proven })
    }

    pub(super) fn len(&self) -> u64 {
        self.sums.bytes
    }

    /// The bytes at `range`, proven.
    ///
    /// # Errors
    /// A sentence that names the file and the first byte of the block that is not as it was written.
    pub(super) fn get(&self, range: Range<u64>) -> Result<&[u8], String> {
        let (start, end) = (range.start as usize, range.end as usize);
        let bytes = self.map.get(start..end).ok_or_else(|| format!("{} ends before byte {}", self.path.display(), range.end))?;
        if !bytes.is_empty() {
            (start / BLOCK_BYTES..=(end - 1) / BLOCK_BYTES).try_for_each(|block| self.prove(block))?;
        }
        Ok(bytes)
    }

    #[inline]
    fn prove(&self, block: usize) -> Result<(), String> {
        // Relaxed: whoever sees `true` needs nothing else from the thread that wrote it; two may prove the same block.
        if !self.proven[block].load(Ordering::Relaxed) {
            let begin = block * BLOCK_BYTES;
            let bytes = &self.map[begin..self.map.len().min(begin + BLOCK_BYTES)];
            if sum(bytes) != self.sums.blocks[block] {
                return Err(format!(
                    "{} is not as it was written, in the {} bytes from {begin} on",
                    self.path.display(),
                    bytes.len()
                ));
            }
            self.proven[block].store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Proves all of it.
    ///
    /// # Errors
    /// As [`Sealed::get`].
    pub(super) fn prove_all(&self) -> Result<(), String> {
        (0..self.proven.len()).try_for_each(|block| self.prove(block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_held_and_only_the_blocks_touched_are_looked_at() {
        let path = std::env::temp_dir().join(format!("palimpsest-sealed-{}", std::process::id()));
        let bytes: Vec<u8> = (0..2 * BLOCK_BYTES + 77).map(|i| (i * 31 % 251) as u8).collect();
        let mut sealing = Sealing::create(&path).expect("created");
        bytes.chunks(1000).for_each(|piece| sealing.write_all(piece).expect("written"));
        let sums = sealing.finish().expect("finished");
        assert_eq!(sums, Sums::of(&bytes));
        assert_eq!(Sealed::open(&path, sums.clone()).expect("opens").get(0..bytes.len() as u64), Ok(&bytes[..]));
        let mut flipped = bytes.clone();
        flipped[BLOCK_BYTES + 5] ^= 1;
        std::fs::write(&path, &flipped).expect("written");
        let damaged = Sealed::open(&path, sums.clone()).expect("opens");
        assert!(damaged.get(0..BLOCK_BYTES as u64).is_ok(), "the first block is whole");
        assert!(damaged.get(BLOCK_BYTES as u64 - 1..BLOCK_BYTES as u64 + 1).is_err());
        assert!(damaged.prove_all().is_err());
        std::fs::write(&path, &bytes[1..]).expect("written");
        assert!(Sealed::open(&path, sums).is_err(), "cut short");
        std::fs::remove_file(&path).expect("removed");
    }
}
