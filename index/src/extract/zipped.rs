//! Files within a zip archive, as DOCX and EPUB are.

use std::io::{Cursor, Read};

use zip::ZipArchive;

use super::damaged;
use crate::Unread;

/// Longest file within an archive that is read: a small archive may unpack to anything.
const ENTRY_BYTES: u64 = 64 << 20;

pub(super) struct Zipped(ZipArchive<Cursor<Vec<u8>>>);

impl Zipped {
    pub(super) fn open(bytes: Vec<u8>) -> Result<Self, Unread> {
        ZipArchive::new(Cursor::new(bytes)).map(Self).map_err(damaged)
    }

    /// The file of that name, as text.
    pub(super) fn read(&mut self, name: &str) -> Result<String, Unread> {
        let file = self.0.by_name(name).map_err(|e| damaged(format!("{name}: {e}")))?;
        let mut bytes = Vec::new();
        file.take(ENTRY_BYTES + 1).read_to_end(&mut bytes).map_err(|e| damaged(format!("{name}: {e}")))?;
        if bytes.len() as u64 > ENTRY_BYTES {
            return Err(Unread::TooLarge { bytes: bytes.len() as u64, limit: ENTRY_BYTES });
        }
        super::text::decode(bytes, None).map(|(text, _)| text)
    }
}
