//! Plain text, source code and tables as they are: in UTF-8 the file byte for byte, a byte order mark included.
//!
//! Another encoding is found by its byte order mark, by what the file says of itself, or by its bytes (chardetng, the
//! browsers' way), and decoded.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use encoding_rs_io::DecodeReaderBytesBuilder;

use super::Extracted;
use crate::{Format, Unread};

pub(super) fn extract(bytes: Vec<u8>, format: Format) -> Result<Extracted, Unread> {
    let (text, decoded) = decode(bytes, None)?;
    Ok(Extracted { decoded, ..Extracted::new(format, text) })
}

/// Bytes as text, and whether they had to be decoded. `declared` is the encoding that the file claims, if it claims one.
pub(super) fn decode(bytes: Vec<u8>, declared: Option<&'static Encoding>) -> Result<(String, bool), Unread> {
    let utf16 = match bytes.as_slice() {
        [0xff, 0xfe, ..] => Some(UTF_16LE),
        [0xfe, 0xff, ..] => Some(UTF_16BE),
        _ => utf16_without_mark(&bytes),
    };
    if let Some(encoding) = utf16 {
        return strictly(encoding, &bytes);
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Ok((text, false)),
        Err(e) => e,
    };
    let at = bytes.utf8_error().valid_up_to() as u64;
    let bytes = bytes.into_bytes();
    if is_binary(&bytes) {
        return Err(Unread::NotText { at });
    }
    if let Some(encoding) = declared.filter(|&e| e != UTF_8)
        && let Ok(text) = strictly(encoding, &bytes)
    {
        return Ok(text);
    }
    let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
    detector.feed(&bytes, true);
    let encoding = detector.guess(None, chardetng::Utf8Detection::Deny);
    let (text, _, _) = encoding.decode(&bytes);
    // A few bytes that mean nothing are a blemish, many are no text.
    let blemishes = text.chars().filter(|&c| c == '\u{fffd}').count();
    if blemishes * 50 > text.len() { Err(Unread::NotText { at }) } else { Ok((text.into_owned(), true)) }
}

/// How a file of any length becomes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// `None` for UTF-8, which is the text byte for byte.
    encoding: Option<&'static Encoding>,
}

impl Decoded {
    /// Reads the file through, in blocks.
    ///
    /// # Errors
    /// [`Unread::NotText`], as for a file that is read whole.
    pub(crate) fn of(path: &Path) -> Result<Self, Unread> {
        let (mut at, mut first) = (0u64, Vec::new());
        // A character may lie across two blocks.
        let mut broken = None;
        let mut detector = chardetng::EncodingDetector::new(chardetng::Iso2022JpDetection::Allow);
        let mut held = Vec::new();
        blocks(File::open(path)?, |block| {
            if first.is_empty() {
                first = block[..block.len().min(8192)].to_vec();
            }
            detector.feed(block, false);
            if broken.is_none() {
                held.extend_from_slice(block);
                let valid = match std::str::from_utf8(&held) {
                    Ok(text) => text.len(),
                    Err(e) => {
                        broken = e.error_len().map(|_| at + e.valid_up_to() as u64);
                        e.valid_up_to()
                    }
                };
                held.drain(..valid);
                at += valid as u64;
            }
        })?;
        detector.feed(&[], true);
        let utf16 = match first.as_slice() {
            [0xff, 0xfe, ..] => Some(UTF_16LE),
            [0xfe, 0xff, ..] => Some(UTF_16BE),
            sample => utf16_without_mark(&sample[..sample.len() & !1]),
        };
        let broken = broken.or((!held.is_empty()).then_some(at));
        let encoding = match (utf16, broken) {
            (Some(utf16), _) => utf16,
            (None, None) => return Ok(Self { encoding: None }),
            (None, Some(at)) if is_binary(&first) => return Err(Unread::NotText { at }),
            (None, Some(_)) => detector.guess(None, chardetng::Utf8Detection::Deny),
        };
        let decoded = Self { encoding: Some(encoding) };
        // A few bytes that mean nothing are a blemish, many are no text.
        let (mut blemishes, mut bytes) = (0, 0);
        blocks(decoded.read(path)?, |block| {
            blemishes += memchr::memmem::find_iter(block, "\u{fffd}").count();
            bytes += block.len();
        })?;
        if blemishes * 50 > bytes { Err(Unread::NotText { at: broken.unwrap_or(0) }) } else { Ok(decoded) }
    }

    /// Whether the text is another than the file's bytes.
    pub(crate) fn is_decoded(self) -> bool {
        self.encoding.is_some()
    }

    /// The file's text, in UTF-8.
    pub(crate) fn read(self, path: &Path) -> io::Result<Box<dyn Read>> {
        let file = File::open(path)?;
        Ok(match self.encoding {
            None => Box::new(file),
            Some(encoding) => Box::new(DecodeReaderBytesBuilder::new().encoding(Some(encoding)).build(file)),
        })
    }
}

fn blocks(mut reader: impl Read, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut block = vec![0; 256 << 10];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(()),
            read => each(&block[..read]),
        }
    }
}

fn strictly(encoding: &'static Encoding, bytes: &[u8]) -> Result<(String, bool), Unread> {
    let (text, _, malformed) = encoding.decode(bytes);
    if malformed { Err(Unread::NotText { at: 0 }) } else { Ok((text.into_owned(), true)) }
}

/// UTF-16 of a script with ASCII spaces: every other byte is mostly zero.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = &bytes[..bytes.len().min(4096) & !1];
    if sample.len() < 8 || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let zeros = |offset: usize| sample.iter().skip(offset).step_by(2).filter(|&&b| b == 0).count();
    let (even, odd, half) = (zeros(0), zeros(1), sample.len() / 2);
    match (even * 10 > half * 7, odd * 10 > half * 7) {
        (false, true) if even == 0 => Some(UTF_16LE),
        (true, false) if odd == 0 => Some(UTF_16BE),
        _ => None,
    }
}

/// Control characters that no text has.
fn is_binary(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(8192)];
    let odd = sample.iter().filter(|&&b| b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0c | 0x1b)).count();
    odd * 100 > sample.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_is_the_file() {
        for text in ["", "plain", "\u{feff}with a mark", "ÄÖ\u{0}日本\r\n"] {
            assert_eq!(decode(text.as_bytes().to_vec(), None).expect("text"), (text.to_string(), false));
        }
    }

    #[test]
    fn other_encodings_are_found() {
        let german = "Die Königin trägt schöne Schuhe, und der Fluß fließt über große Wiesen. ";
        let utf16: Vec<u8> = german.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big: Vec<u8> = german.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for bytes in
            [utf16.clone(), [&[0xff, 0xfe], utf16.as_slice()].concat(), big.clone(), [&[0xfe, 0xff], big.as_slice()].concat()]
        {
            assert_eq!(decode(bytes, None).expect("text"), (german.to_string(), true));
        }
        let latin: Vec<u8> = german.chars().map(|c| c as u8).collect();
        assert_eq!(decode(latin, None).expect("text"), (german.to_string(), true));
        let japanese = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。";
        let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode(japanese);
        assert_eq!(decode(shift_jis.into_owned(), None).expect("text").0, japanese);
        let (koi8, _, _) = encoding_rs::KOI8_R.encode("да");
        assert_eq!(decode(koi8.into_owned(), Some(encoding_rs::KOI8_R)).expect("text").0, "да");
    }

    #[test]
    fn a_long_file_is_decoded_as_a_short_one_is() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("a.txt");
        // A character lies across any two blocks.
        let german = "Die Königin trägt schöne Schuhe, und der Fluß fließt über große Wiesen. ".repeat(9_000);
        let latin: Vec<u8> = german.chars().map(|c| c as u8).collect();
        let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(german.encode_utf16().flat_map(u16::to_le_bytes)).collect();
        let mut late = german.clone().into_bytes();
        late.extend([b' ', 0xfc, b'b', b'e', b'r']);
        for bytes in
            [german.clone().into_bytes(), format!(" {german}").into_bytes(), latin, utf16, late, vec![], vec![0xe4, b'h']]
        {
            std::fs::write(&path, &bytes).expect("written");
            let decoded = Decoded::of(&path).expect("text");
            let mut text = String::new();
            decoded.read(&path).expect("opened").read_to_string(&mut text).expect("UTF-8");
            assert!((text, decoded.is_decoded()) == decode(bytes, None).expect("text"));
        }
        std::fs::write(&path, [0x89, b'P', b'N', b'G', 0, 1, 2, 3, 0xff]).expect("written");
        assert!(matches!(Decoded::of(&path), Err(Unread::NotText { .. })));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let noise: Vec<u8> = (0..4_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [noise, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\xff".to_vec(), vec![0xff, 0xfe, 0x00, 0xd8]] {
            assert!(matches!(decode(bytes.clone(), None), Err(Unread::NotText { .. })), "{bytes:?}");
        }
    }
}
