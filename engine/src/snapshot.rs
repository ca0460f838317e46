//! State <-> bytes: when may a saved state be taken for the reader's own?
//!
//! A state after `n` tokens is a function of weights, tokenizer, state format, arithmetic and the `n` ids. The first four
//! make a [`Fingerprint`], all five a [`SnapshotKey`]. Bytes are decoded only for the fingerprint and the key they were
//! encoded with; everything else is refused, with the reason. Nothing is ever repaired or guessed.
//!
//! Version 1, little-endian, 160 bytes before the elements:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `PLMPSNAP` |
//! | 8 | 2 | version, 1 |
//! | 10 | 2 | length of this header, 160 |
//! | 12 | 1 | form of the elements: 0 f32, 1 f16, 2 int8 |
//! | 13 | 1 | layout, 1: one flat run of elements, its order given by the state format in the fingerprint |
//! | 14 | 2 | zero |
//! | 16 | 8 | tokens read |
//! | 24 | 8 | elements |
//! | 32 | 8 | bytes of elements that follow the header |
//! | 40 | 32 | fingerprint |
//! | 72 | 32 | key: the hash chain of the ids |
//! | 104 | 32 | blake3 of the bytes after the header |
//! | 136 | 24 | blake3 of the 136 bytes before, cut to 24 |
//!
//! f32 is exact. f16 rounds each element; int8 keeps a scale (f32) and 64 signed bytes for every 64 elements. Both are for
//! those who ask for them; a state that they cannot hold (beyond f16's range, not finite) is kept in f32.

mod refusal;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub use refusal::{Damage, NEAR_TOLERANCE, Refusal, Restore};

const MAGIC: [u8; 8] = *b"PLMPSNAP";
const VERSION: u16 = 1;
const LAYOUT: u8 = 1;
/// Bytes before the elements in version 1.
pub(crate) const HEADER_BYTES: usize = 160;
const HEADER_SUMMED: usize = 136;
/// Elements that share a scale in [`Form::Int8`].
const INT8_BLOCK: usize = 64;

/// Which reader a state belongs to: weights (12 bytes), tokenizer (8), state format (4) and arithmetic (8), each told apart
/// so that a refusal can say which one differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a reader: hashes of its weights and its tokenizer, the version of its state's layout, and the
    /// name of the arithmetic that it runs on (back end and element type).
    #[must_use]
    pub fn new(weights: [u8; 32], tokenizer: [u8; 32], format: u32, arithmetic: &str) -> Self {
        let mut bytes = [0; 32];
        bytes[..12].copy_from_slice(&weights[..12]);
        bytes[12..20].copy_from_slice(&tokenizer[..8]);
        bytes[20..24].copy_from_slice(&format.to_le_bytes());
        bytes[24..].copy_from_slice(&blake3::hash(arithmetic.as_bytes()).as_bytes()[..8]);
        Self(bytes)
    }

    /// The part that names the tokenizer and the form of its prompts.
    #[must_use]
    pub fn tokenizer(&self) -> Short<8> {
        Parts::of(self).tokenizer
    }

    /// Why a state of the reader `stored` is none of this reader's. `None` where the two are one.
    #[must_use]
    pub fn refuses(&self, stored: &Self) -> Option<Refusal> {
        let (wanted, stored) = (Parts::of(self), Parts::of(stored));
        if stored.weights != wanted.weights {
            Some(Refusal::OtherReader { stored: stored.weights, wanted: wanted.weights })
        } else if stored.tokenizer != wanted.tokenizer {
            Some(Refusal::OtherTokenizer { stored: stored.tokenizer, wanted: wanted.tokenizer })
        } else if stored.format != wanted.format {
            Some(Refusal::OtherFormat { stored: stored.format, wanted: wanted.format })
        } else if stored.arithmetic != wanted.arithmetic {
            Some(Refusal::OtherArithmetic { stored: stored.arithmetic, wanted: wanted.arithmetic })
        } else {
            None
        }
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hex(f, &self.0)
    }
}

struct Parts {
    weights: Short<12>,
    tokenizer: Short<8>,
    format: u32,
    arithmetic: Short<8>,
}

impl Parts {
    fn of(fingerprint: &Fingerprint) -> Self {
        let b = &fingerprint.0;
        Self {
            weights: Short(taken(b, 0)),
            tokenizer: Short(taken(b, 12)),
            format: u32::from_le_bytes(taken(b, 20)),
            arithmetic: Short(taken(b, 24)),
        }
    }
}

/// The first bytes of a hash, printed in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short<const N: usize>(pub [u8; N]);

impl<const N: usize> std::fmt::Display for Short<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hex(f, &self.0)
    }
}

fn hex(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// `N` bytes of `bytes` from `at`; zeros where there are fewer (callers have checked the length).
fn taken<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|b| b.first_chunk::<N>()).copied().unwrap_or([0; N])
}

/// Names one state: blake3 over the fingerprint and the ids of the prefix.
///
/// Bytes 0..4 are taken from the hash of the first 64 ids (zero for shorter prefixes), 4..16 from the hash of all ids, 16..32
/// from the hash of fingerprint, ids and their number. So the first half says which text, the second half which reader's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotKey(pub [u8; 32]);

impl SnapshotKey {
    /// The part that depends on the ids alone.
    pub(crate) fn text(&self) -> [u8; 16] {
        taken(&self.0, 0)
    }

    /// The part that depends on the first 64 ids alone.
    pub(crate) fn root(&self) -> [u8; 4] {
        taken(&self.0, 0)
    }
}

impl std::fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        hex(f, &self.0)
    }
}

/// A hash that grows with the ids, so that the key of every prefix costs one pass.
#[derive(Debug, Clone)]
pub struct Chain {
    fingerprint: Fingerprint,
    ids: blake3::Hasher,
    root: [u8; 4],
    tokens: u64,
}

impl Chain {
    /// Ids whose hash is a part of every longer prefix's key.
    pub(crate) const ROOT_TOKENS: usize = 64;

    /// The chain of no ids at all, for this reader.
    #[must_use]
    pub fn new(fingerprint: &Fingerprint) -> Self {
        Self { fingerprint: *fingerprint, ids: blake3::Hasher::new(), root: [0; 4], tokens: 0 }
    }

    /// Appends one id.
    pub fn push(&mut self, id: u32) {
        self.extend(&[id]);
    }

    /// Appends ids, in order.
    pub fn extend(&mut self, ids: &[u32]) {
        let to_root = (Self::ROOT_TOKENS as u64).saturating_sub(self.tokens) as usize;
        if to_root > 0 && ids.len() >= to_root {
            let (before, after) = ids.split_at(to_root);
            self.update(before);
            self.root = taken(self.ids.finalize().as_bytes(), 0);
            if self.root == [0; 4] {
                self.root[0] = 1;
            }
            self.update(after);
        } else {
            self.update(ids);
        }
    }

    fn update(&mut self, ids: &[u32]) {
        let mut bytes = [0; 4096];
        for ids in ids.chunks(bytes.len() / 4) {
            for (id, b) in ids.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *b = id.to_le_bytes();
            }
            self.ids.update(&bytes[..ids.len() * 4]);
        }
        self.tokens += ids.len() as u64;
    }

    /// The key of what was appended so far.
    #[must_use]
    pub fn key(&self) -> SnapshotKey {
        let ids = self.ids.finalize();
        let mut bound = blake3::Hasher::new();
        bound.update(&self.fingerprint.0).update(ids.as_bytes()).update(&self.tokens.to_le_bytes());
        let mut key = [0; 32];
        key[..4].copy_from_slice(&self.root);
        key[4..16].copy_from_slice(&ids.as_bytes()[..12]);
        key[16..].copy_from_slice(&bound.finalize().as_bytes()[..16]);
        SnapshotKey(key)
    }

    /// How many ids were appended.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
}

/// How the elements of a state are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// 4 bytes an element, bit for bit.
    #[default]
    F32,
    /// 2 bytes an element, rounded.
    F16,
    /// 1.0625 bytes an element: 64 of them share a scale.
    Int8,
}

impl Form {
    fn code(self) -> u8 {
        match self {
            Form::F32 => 0,
            Form::F16 => 1,
            Form::Int8 => 2,
        }
    }

    fn of_code(code: u8) -> Option<Self> {
        [Form::F32, Form::F16, Form::Int8].into_iter().find(|f| f.code() == code)
    }

    /// Bytes of so many elements. `None` where no such number exists.
    fn bytes(self, elements: u64) -> Option<u64> {
        match self {
            Form::F32 => elements.checked_mul(4),
            Form::F16 => elements.checked_mul(2),
            Form::Int8 => elements.checked_add(elements.div_ceil(INT8_BLOCK as u64).checked_mul(4)?),
        }
    }

    /// Whether this form can hold these elements.
    fn holds(self, data: &[f32]) -> bool {
        match self {
            Form::F32 => true,
            Form::F16 => data.iter().all(|x| !x.is_finite() || x.abs() <= f16::MAX.to_f32()),
            Form::Int8 => data.iter().all(|x| x.is_finite()),
        }
    }

    fn write(self, data: &[f32], out: &mut [u8]) {
        match self {
            Form::F32 => {
                for (x, b) in data.iter().zip(out.as_chunks_mut::<4>().0) {
                    *b = x.to_le_bytes();
                }
            }
            Form::F16 => {
                for (x, b) in data.iter().zip(out.as_chunks_mut::<2>().0) {
                    *b = f16::from_f32(*x).to_le_bytes();
                }
            }
            Form::Int8 => {
                for (block, out) in data.chunks(INT8_BLOCK).zip(out.chunks_mut(INT8_BLOCK + 4)) {
                    let scale = block.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                    let Some((head, codes)) = out.split_first_chunk_mut::<4>() else { continue };
                    *head = scale.to_le_bytes();
                    for (x, b) in block.iter().zip(codes) {
                        // A scale that underflowed to zero makes NaN, which casts to 0.
                        *b = ((x / scale).round() as i8).to_le_bytes()[0];
                    }
                }
            }
        }
    }

    fn read(self, bytes: &[u8], elements: usize) -> Vec<f32> {
        match self {
            Form::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Form::F16 => {
                let halves: Vec<f16> = bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b)).collect();
                let mut data = vec![0.0; elements];
                halves.convert_to_f32_slice(&mut data);
                data
            }
            Form::Int8 => {
                let mut data = Vec::with_capacity(elements);
                for block in bytes.chunks(INT8_BLOCK + 4) {
                    let scale = f32::from_le_bytes(taken(block, 0));
                    data.extend(block.iter().skip(4).map(|b| f32::from(i8::from_le_bytes([*b])) * scale));
                }
                data
            }
        }
    }
}

/// The exact state after `tokens` tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Tokens read since the state was empty.
    pub tokens: u64,
    /// The raw elements, in the layout of the state format.
    pub data: Vec<f32>,
}

impl Snapshot {
    /// Bytes that [`Snapshot::decode`] takes back for the same fingerprint and key, and for no other.
    #[must_use]
    pub fn encode(tokens: u64, data: &[f32], fingerprint: &Fingerprint, key: &SnapshotKey, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        Self::encode_into(&mut out, tokens, data, fingerprint, key, form);
        out
    }

    /// Appends the bytes of [`Snapshot::encode`] to `out`.
    pub(crate) fn encode_into(
        out: &mut Vec<u8>,
        tokens: u64,
        data: &[f32],
        fingerprint: &Fingerprint,
        key: &SnapshotKey,
        form: Form,
    ) {
        let form = if form.holds(data) { form } else { Form::F32 };
        let elements = data.len() as u64;
        // As many bytes as there are in memory at most, so the count exists.
        let payload_bytes = form.bytes(elements).unwrap_or(0);
        let begin = out.len();
        out.resize(begin + HEADER_BYTES + payload_bytes as usize, 0);
        let Some((header, payload)) = out[begin..].split_first_chunk_mut::<HEADER_BYTES>() else { return };
        form.write(data, payload);
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_le_bytes());
        header[10..12].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        header[12] = form.code();
        header[13] = LAYOUT;
        header[16..24].copy_from_slice(&tokens.to_le_bytes());
        header[24..32].copy_from_slice(&elements.to_le_bytes());
        header[32..40].copy_from_slice(&payload_bytes.to_le_bytes());
        header[40..72].copy_from_slice(&fingerprint.0);
        header[72..104].copy_from_slice(&key.0);
        header[104..136].copy_from_slice(blake3::hash(payload).as_bytes());
        let sum = blake3::hash(&header[..HEADER_SUMMED]);
        header[HEADER_SUMMED..].copy_from_slice(&sum.as_bytes()[..HEADER_BYTES - HEADER_SUMMED]);
    }

    /// The state in `bytes`, if it is the one that `fingerprint` and `key` name, whole and undamaged.
    ///
    /// # Errors
    /// A [`Refusal`] that says which of these it is not.
    pub fn decode(bytes: &[u8], fingerprint: &Fingerprint, key: &SnapshotKey) -> Result<Self, Refusal> {
        let header = Header::decode(bytes)?;
        header.check(fingerprint, key)?;
        let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
        if payload.len() as u64 != header.payload_bytes {
            let expected_bytes = header.payload_bytes.saturating_add(HEADER_BYTES as u64);
            return Err(Damage::Length { expected_bytes, found_bytes: bytes.len() as u64 }.into());
        }
        if blake3::hash(payload).as_bytes() != &header.payload_sum {
            return Err(Damage::Elements.into());
        }
        let data = header.form.read(payload, usize::try_from(header.elements).unwrap_or(0));
        if data.len() as u64 != header.elements {
            return Err(Damage::Header("elements").into());
        }
        Ok(Self { tokens: header.tokens, data })
    }

    /// Whether `bytes` are a whole snapshot, whoever's.
    ///
    /// # Errors
    /// As [`Snapshot::decode`], but for what names another reader or text.
    pub fn check(bytes: &[u8]) -> Result<(), Refusal> {
        let header = Header::decode(bytes)?;
        Self::decode(bytes, &header.fingerprint, &header.key).map(|_| ())
    }

    /// How many tokens the state in `bytes` has read, from its header alone.
    ///
    /// # Errors
    /// [`Refusal::Damaged`] and [`Refusal::OtherVersion`].
    pub fn tokens_of(bytes: &[u8]) -> Result<u64, Refusal> {
        Ok(Header::decode(bytes)?.tokens)
    }

    /// How the elements in `bytes` are written down, from its header alone.
    ///
    /// # Errors
    /// [`Refusal::Damaged`] and [`Refusal::OtherVersion`].
    pub fn form_of(bytes: &[u8]) -> Result<Form, Refusal> {
        Ok(Header::decode(bytes)?.form)
    }
}

/// What stands before the elements.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) form: Form,
    pub(crate) tokens: u64,
    pub(crate) elements: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) key: SnapshotKey,
    payload_sum: [u8; 32],
}

impl Header {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Damage::Magic.into());
        }
        let version = u16::from_le_bytes(taken(bytes, 8));
        if version > VERSION {
            return Err(Refusal::OtherVersion { stored: version, newest: VERSION });
        }
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(Damage::Length { expected_bytes: HEADER_BYTES as u64, found_bytes: bytes.len() as u64 }.into());
        };
        let (summed, sum) = header.split_at(HEADER_SUMMED);
        if !blake3::hash(summed).as_bytes().starts_with(sum) {
            return Err(Damage::Header("checksum").into());
        }
        // From here on the header is as it was written: by another writer, if a field is out of range.
        if version != VERSION {
            return Err(Damage::Header("version").into());
        }
        if u16::from_le_bytes(taken(summed, 10)) as usize != HEADER_BYTES {
            return Err(Damage::Header("header length").into());
        }
        let form = Form::of_code(header[12]).ok_or(Damage::Header("form"))?;
        if header[13] != LAYOUT || header[14..16] != [0; 2] {
            return Err(Damage::Header("layout").into());
        }
        let (elements, payload_bytes) = (u64::from_le_bytes(taken(summed, 24)), u64::from_le_bytes(taken(summed, 32)));
        if form.bytes(elements) != Some(payload_bytes) {
            return Err(Damage::Header("elements").into());
        }
        Ok(Self {
            form,
            tokens: u64::from_le_bytes(taken(summed, 16)),
            elements,
            payload_bytes,
            fingerprint: Fingerprint(taken(summed, 40)),
            key: SnapshotKey(taken(summed, 72)),
            payload_sum: taken(summed, 104),
        })
    }

    pub(crate) fn check(&self, fingerprint: &Fingerprint, key: &SnapshotKey) -> Result<(), Refusal> {
        if let Some(refusal) = fingerprint.refuses(&self.fingerprint) {
            return Err(refusal);
        }
        if self.key != *key {
            return Err(Refusal::OtherText { stored: self.key, wanted: *key });
        }
        Ok(())
    }
}
