//! Plain text: in UTF-8 the file byte for byte.

use super::Extracted;
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>) -> Result<Extracted, Unread> {
    let text = decode(bytes)?;
    Ok(Extracted { format: Format::Text, title: None, text, decoded: false })
}

/// Bytes as text.
pub(super) fn decode(bytes: Vec<u8>) -> Result<String, Unread> {
    String::from_utf8(bytes).map_err(|e| Unread::NotText { at: e.utf8_error().valid_up_to() as u64 })
}
