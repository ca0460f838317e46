//! Does memory grow with what is read?

use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::cancel::Cancel;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::read::Reader;

/// Most anonymous memory in residence (`RssAnon`) while a text was tokenised and read.
#[derive(Debug, Clone, Serialize)]
pub struct MemoryBench {
    /// Tokens of the long text.
    pub tokens: u64,
    /// While a text of 1,000 tokens was read, bytes.
    pub short_bytes: u64,
    /// While the long one was, bytes.
    pub long_bytes: u64,
    /// How much more that is, MiB.
    pub more_mib: f64,
    /// Bytes of the state after either.
    pub state_bytes: u64,
    /// Bytes on disk of text, log and index of the long one.
    pub disk_bytes: u64,
}

/// Reads a text of 1,000 tokens and one of `tokens` in contexts below `work`. `progress` gets tokens read and all of them.
///
/// # Errors
/// Those of [`Context`]; [`Error::Input`] where the system does not tell (`/proc/self/status` of Linux does).
pub fn bench_memory(
    reader: &Arc<Reader>,
    work: &Path,
    tokens: u64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<MemoryBench> {
    // Once before, so that buffers have their sizes.
    read(reader, &work.join("warm"), 1000, &mut |_, _| {})?;
    let (short_bytes, _) = read(reader, &work.join("short"), 1000, &mut |_, _| {})?;
    let (long_bytes, long) = read(reader, &work.join("long"), tokens, progress)?;
    let status = long.status();
    Ok(MemoryBench {
        tokens: status.tokens,
        short_bytes,
        long_bytes,
        more_mib: (long_bytes as f64 - short_bytes as f64) / f64::from(1 << 20),
        state_bytes: status.state_bytes,
        disk_bytes: status.text_bytes + status.log_bytes + status.index_bytes,
    })
}

fn read(reader: &Arc<Reader>, folder: &Path, tokens: u64, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<(u64, Context)> {
    let mut most = anonymous_bytes()?;
    let mut text = Text { left: tokens / 2, line: Cursor::new(Vec::new()), most: 0 };
    let mut context = Context::begin(reader, folder, "", &mut text)?;
    most = most.max(text.most);
    let mut failed = None;
    context.advance(&Cancel::new(), &mut |read, all| {
        match anonymous_bytes() {
            Ok(bytes) => most = most.max(bytes),
            Err(e) => failed = Some(e),
        }
        progress(read, all);
    })?;
    failed.map_or(Ok((most, context)), Err)
}

/// A long text of short words and numbers, made as it is read: about two tokens a word. Looks at the memory now and then.
struct Text {
    left: u64,
    line: Cursor<Vec<u8>>,
    most: u64,
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.line.position() == self.line.get_ref().len() as u64 {
            let mut line = String::new();
            for _ in 0..self.left.min(1000) {
                self.left -= 1;
                line.push_str(["the ", "river ", "and ", "of ", "a ", "town "][(self.left % 6) as usize]);
                if self.left.is_multiple_of(5) {
                    line.push_str(&(self.left % 1000).to_string());
                    line.push_str(if self.left.is_multiple_of(40) { ".\n\n" } else { " " });
                }
            }
            self.line = Cursor::new(line.into_bytes());
            self.most = self.most.max(anonymous_bytes().map_err(std::io::Error::other)?);
        }
        self.line.read(buffer)
    }
}

fn anonymous_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| Error::io("/proc/self/status", e))?;
    let kib = status.lines().find_map(|l| l.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10)
        .ok_or_else(|| Error::Input("this system does not say how much anonymous memory is in residence".into()))
}
