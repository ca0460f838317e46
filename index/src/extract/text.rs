//! Plain text, source code and tables as they are: in UTF-8 the file byte for byte, a byte order mark included.
//!
//! Another encoding is found by its byte order mark, by what the file says of itself, or by its bytes (chardetng, the
//! browsers' way), and decoded.

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

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
    fn what_is_no_text_is_refused() {
        let noise: Vec<u8> = (0..4_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for bytes in [noise, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\xff".to_vec(), vec![0xff, 0xfe, 0x00, 0xd8]] {
            assert!(matches!(decode(bytes.clone(), None), Err(Unread::NotText { .. })), "{bytes:?}");
        }
    }
}
