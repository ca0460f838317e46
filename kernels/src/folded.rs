//! bf16 in 12 bits, without loss: so that a decode step, which reads every weight once, has a quarter less to read.
//!
//! The 16 bits of a bf16 are a sign, 8 of an exponent and 7 of a mantissa. Weights of one panel lie within few binades: their
//! upper bytes (the sign, and the exponent without its last bit: a *pair* of binades) are 16 with hardly an exception. So a
//! weight is its lower byte as it is, and 4 bits that say which of the panel's 16 upper bytes goes before it: the sign and one
//! of the 8 pairs that are most frequent. What is left (1.2 of 10,000 weights of the pilot reader: those near 0) is an
//! *exception*: its lower byte is in place, but its upper one must be mended once it is unfolded.
//!
//! Two lines of a panel are a [`Unit`] of three cache lines, eight units are what a step of AMX takes. Bytes stand so that
//! each quarter of a unit (16 bytes of codes, 16 of lower bytes) is unfolded by what every instruction set has: a lookup in
//! 16 bytes and the interleaving of two registers.

use rayon::prelude::*;

use crate::matrix::{Line, PANEL, TILE_LINES};

/// Lines of a unit.
const LINES: usize = 2;
/// Units of a step: 16 lines.
pub(crate) const UNITS: usize = TILE_LINES / LINES;
/// Weights of a unit.
const WEIGHTS: usize = LINES * PANEL * 2;
/// There are no more exceptions than one in so many weights, or a matrix stays as it is: each keeps a unit from the fast way.
const RARE: usize = 256;
/// Codes of a panel, without the sign's bit.
const CODES: usize = 8;

/// Two lines: for each weight of both 4 bits, those of the second line the upper ones of a byte; then the lower bytes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Unit {
    codes: [u8; 64],
    low: [[u8; 64]; LINES],
}

const _: () = assert!(size_of::<Unit>() == 192);

/// The upper byte of one weight, where it is none of its panel's.
#[derive(Clone, Copy)]
struct Exception {
    /// Which byte of its step, as lines in memory.
    at: u16,
    high: u8,
}

/// All panels of a matrix.
pub(crate) struct Folded {
    /// `[panel][step][UNITS]`
    units: Vec<Unit>,
    steps: usize,
    /// `[panel]`: what the codes stand for.
    high: Vec<[u8; 16]>,
    /// `[panel][step]`: a bit for each unit that has exceptions.
    marks: Vec<u8>,
    /// `[panel][step]`: where its exceptions begin; and one more, where the last ones end.
    starts: Vec<u32>,
    exceptions: Vec<Exception>,
    is_moderate: bool,
}

impl Folded {
    /// Folds panels of `lines_per_panel` lines, a multiple of 16; `None` where exceptions are not rare.
    pub(crate) fn of(lines: &[Line], lines_per_panel: usize) -> Option<Self> {
        let steps = lines_per_panel / TILE_LINES;
        let panels = lines.len() / lines_per_panel;
        let mut units = vec![Unit { codes: [0; 64], low: [[0; 64]; LINES] }; panels * steps * UNITS];
        let panel = |(lines, units): (&[Line], &mut [Unit])| fold(lines, units);
        let folded: Vec<_> =
            lines.par_chunks_exact(lines_per_panel).zip(units.par_chunks_exact_mut(steps * UNITS)).map(panel).collect();
        let exceptions: usize = folded.iter().map(|panel| panel.exceptions.len()).sum();
        if exceptions * RARE > units.len() * WEIGHTS {
            return None;
        }
        let (mut starts, mut marks) = (Vec::with_capacity(panels * steps + 1), vec![0; panels * steps]);
        let mut all = Vec::with_capacity(exceptions);
        for (panel, marks) in folded.iter().zip(marks.chunks_exact_mut(steps)) {
            let mut of_panel = panel.exceptions.iter().peekable();
            for (step, marks) in marks.iter_mut().enumerate() {
                starts.push(all.len() as u32);
                while let Some((_, exception)) = of_panel.next_if(|(at, _)| *at == step) {
                    *marks |= 1 << exception.unit();
                    all.push(*exception);
                }
            }
        }
        starts.push(all.len() as u32);
        let is_moderate = folded.iter().all(|panel| panel.is_moderate);
        Some(Self {
            units,
            steps,
            high: folded.iter().map(|panel| panel.high).collect(),
            marks,
            starts,
            exceptions: all,
            is_moderate,
        })
    }

    /// Bytes that one product reads.
    pub(crate) fn bytes(&self) -> usize {
        let exceptions = size_of_val(self.starts.as_slice()) + size_of_val(self.exceptions.as_slice());
        size_of_val(self.units.as_slice()) + size_of_val(self.high.as_slice()) + self.marks.len() + exceptions
    }

    /// Is every weight 0, or of a magnitude from 2^-50 to 2^51? Then no sum of products with such inputs is too small for
    /// a normal f32, nor too large.
    pub(crate) fn is_moderate(&self) -> bool {
        self.is_moderate
    }

    /// Steps of a panel.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Units of panel `p`: `[step][UNITS]`.
    pub(crate) fn units(&self, p: usize) -> &[Unit] {
        let units = self.steps * UNITS;
        &self.units[p * units..(p + 1) * units]
    }

    /// What the codes of panel `p` stand for.
    pub(crate) fn high(&self, p: usize) -> &[u8; 16] {
        &self.high[p]
    }

    /// A bit for each unit of a step that has exceptions.
    pub(crate) fn marks(&self, p: usize, step: usize) -> u8 {
        self.marks[p * self.steps + step]
    }

    /// Puts right what unfolding made of unit `unit` of a step.
    pub(crate) fn mend_unit(&self, p: usize, step: usize, unit: usize, lines: &mut [[u32; PANEL]; LINES]) {
        let first = unit * size_of_val(lines);
        self.mend_from(p, step, first, lines.as_flattened_mut());
    }

    /// Puts right what unfolding made of a step.
    pub(crate) fn mend(&self, p: usize, step: usize, lines: &mut [[u32; PANEL]]) {
        if self.marks(p, step) != 0 {
            self.mend_from(p, step, 0, lines.as_flattened_mut());
        }
    }

    /// `words` begin with byte `first` of the step.
    fn mend_from(&self, p: usize, step: usize, first: usize, words: &mut [u32]) {
        let at = p * self.steps + step;
        for exception in &self.exceptions[self.starts[at] as usize..self.starts[at + 1] as usize] {
            let at = usize::from(exception.at).wrapping_sub(first);
            if let Some(word) = words.get_mut(at / 4) {
                let shift = at % 4 * 8;
                *word = *word & !(0xff << shift) | u32::from(exception.high) << shift;
            }
        }
    }

    /// Unfolds panel `p` into its lines: the definition of what instruction sets do.
    pub(crate) fn unfold(&self, p: usize, lines: &mut [[u32; PANEL]]) {
        let high = self.high(p);
        for (unit, lines) in self.units(p).iter().zip(lines.chunks_exact_mut(LINES)) {
            for (i, line) in lines.iter_mut().enumerate() {
                for (column, word) in line.iter_mut().enumerate() {
                    let half = |half: usize| {
                        let at = place(column, half);
                        [unit.low[i][at], high[usize::from(unit.codes[at] >> (4 * i) & 15)]]
                    };
                    let ([a, b], [c, d]) = (half(0), half(1));
                    *word = u32::from_le_bytes([a, b, c, d]);
                }
            }
        }
        for (step, lines) in lines.chunks_exact_mut(TILE_LINES).enumerate() {
            self.mend(p, step, lines);
        }
    }
}

impl Exception {
    fn unit(&self) -> usize {
        usize::from(self.at) / (LINES * size_of::<Line>())
    }
}

/// Where in 64 bytes the byte of half `half` (the earlier k is 0) of a column's word stands: within a quarter of 16 bytes, 8 are of
/// four columns of the first half of the panel, and 8 of the four that are 16 further.
fn place(column: usize, half: usize) -> usize {
    column % 16 / 4 * 16 + column / 16 * 8 + column % 4 * 2 + half
}

/// A panel on its way.
struct Panel {
    high: [u8; 16],
    /// With the step that each is in; in order.
    exceptions: Vec<(usize, Exception)>,
    is_moderate: bool,
}

fn fold(lines: &[Line], units: &mut [Unit]) -> Panel {
    // How often each pair of binades occurs.
    let mut counts = [(0u32, 0u8); 128];
    counts.iter_mut().enumerate().for_each(|(pair, count)| count.1 = pair as u8);
    let mut is_moderate = true;
    for word in lines.iter().flat_map(|line| line.0) {
        for half in [word as u16, (word >> 16) as u16] {
            counts[usize::from(half >> 8 & 0x7f)].0 += 1;
            // Exponents 77 to 177 are 2^-50 to 2^50.
            is_moderate &= half & 0x7fff == 0 || (77..=177).contains(&(half >> 7 & 0xff));
        }
    }
    counts.sort_unstable_by_key(|(count, pair)| (std::cmp::Reverse(*count), *pair));
    let (mut high, mut codes) = ([0; 16], [None; 128]);
    for (code, (_, pair)) in counts.iter().take(CODES).enumerate() {
        (high[code], high[CODES + code]) = (*pair, 0x80 | pair);
        codes[usize::from(*pair)] = Some(code as u8);
    }
    let mut exceptions = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let unit = &mut units[i / LINES];
        for (column, word) in line.0.iter().enumerate() {
            for half in 0..2 {
                let (at, [low, high]) = (place(column, half), ((word >> (16 * half)) as u16).to_le_bytes());
                unit.low[i % LINES][at] = low;
                match codes[usize::from(high & 0x7f)] {
                    Some(code) => unit.codes[at] |= (code | high >> 7 << 3) << (4 * (i % LINES)),
                    None => {
                        let at = i % TILE_LINES * size_of::<Line>() + 4 * column + 2 * half + 1;
                        exceptions.push((i / TILE_LINES, Exception { at: at as u16, high }));
                    }
                }
            }
        }
    }
    Panel { high, exceptions, is_moderate }
}
