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

use std::sync::{Mutex, PoisonError};

use crate::matrix::{Line, PANEL, TILE_LINES};
use crate::parallel::split;
use crate::slab::{Plain, Slab};

/// Lines of a unit.
const LINES: usize = 2;
/// Units of a step: 16 lines.
pub(crate) const UNITS: usize = TILE_LINES / LINES;
/// There are no more exceptions than one in so many weights, or a matrix stays as it is: each keeps a unit of four panels, 512 weights,
/// from the fast way.
const RARE: usize = 1024;
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

// SAFETY: integers.
unsafe impl Plain for Unit {}

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
    units: Slab<Unit>,
    steps: usize,
    /// `[panel]`: what the codes stand for.
    high: Vec<[u8; 16]>,
    /// `[panel][step]`: a bit for each unit that has exceptions.
    marks: Vec<u8>,
    /// `[panel][step]`: where its exceptions begin; and one more, where the last ones end.
    starts: Vec<u32>,
    /// Within a step in order.
    exceptions: Vec<Exception>,
    exponents: Exponents,
}

/// The least and the greatest exponent (biased, as bf16 and f32 have it) of numbers that are not 0; 255 and 0 where all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exponents {
    pub(crate) least: u8,
    pub(crate) greatest: u8,
}

impl Exponents {
    pub(crate) const NONE: Self = Self { least: u8::MAX, greatest: 0 };

    fn and(self, other: Self) -> Self {
        Self { least: self.least.min(other.least), greatest: self.greatest.max(other.greatest) }
    }
}

impl Folded {
    /// Folds panels of `lines_per_panel` lines, a multiple of 16, into which `fill` writes what is not zeros; `None` where exceptions are not rare.
    pub(crate) fn of(panels: usize, lines_per_panel: usize, fill: &(dyn Fn(usize, &mut [Line]) + Sync)) -> Option<Self> {
        let (steps, weights) = (lines_per_panel / TILE_LINES, panels * lines_per_panel * PANEL * 2);
        let mut units = Slab::<Unit>::zeros(panels * steps * UNITS);
        let of_panels: Vec<_> = units.chunks_exact_mut(steps * UNITS).map(|units| Mutex::new((units, None))).collect();
        split(panels, lines_per_panel * PANEL * 2, &|some| {
            for p in some {
                let lines = &mut vec![Line([0; PANEL]); lines_per_panel][..];
                fill(p, lines);
                let (survey, mut exceptions) = (Survey::of(lines), Vec::new());
                let (units, found) = &mut *of_panels[p].lock().unwrap_or_else(PoisonError::into_inner);
                // A panel may have several times its share, but not all that a large matrix may have.
                if survey.exceptions * RARE <= 8 * lines.len() * PANEL * 2 {
                    let steps = lines.chunks_exact(TILE_LINES).zip(units.chunks_exact_mut(UNITS));
                    exceptions.extend(steps.map(|(lines, units)| fold(&survey, lines, units)));
                }
                *found = Some((survey, exceptions));
            }
        });
        let found = of_panels.into_iter().filter_map(|panel| panel.into_inner().unwrap_or_else(PoisonError::into_inner).1);
        let panels: Vec<(Survey, Vec<Vec<Exception>>)> = found.collect();
        let exceptions: usize = panels.iter().map(|(survey, _)| survey.exceptions).sum();
        if exceptions * RARE > weights || panels.iter().any(|(_, of_steps)| of_steps.is_empty()) {
            return None;
        }
        let mut folding = Self {
            units,
            steps,
            high: panels.iter().map(|(survey, _)| survey.high()).collect(),
            marks: Vec::with_capacity(panels.len() * steps),
            starts: Vec::with_capacity(panels.len() * steps + 1),
            exceptions: Vec::with_capacity(exceptions),
            exponents: panels.iter().fold(Exponents::NONE, |all, (survey, _)| all.and(survey.exponents)),
        };
        for exceptions in panels.iter().flat_map(|(_, of_steps)| of_steps) {
            folding.starts.push(folding.exceptions.len() as u32);
            folding.exceptions.extend(exceptions);
            folding.marks.push(exceptions.iter().fold(0, |marks, exception| marks | 1 << exception.unit()));
        }
        folding.starts.push(folding.exceptions.len() as u32);
        Some(folding)
    }

    /// Bytes that one product reads.
    pub(crate) fn bytes(&self) -> usize {
        let exceptions = size_of_val(self.starts.as_slice()) + size_of_val(self.exceptions.as_slice());
        size_of_val(&*self.units) + size_of_val(self.high.as_slice()) + self.marks.len() + exceptions
    }

    /// Those of all weights.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub(crate) fn exponents(&self) -> Exponents {
        self.exponents
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

    /// Puts right what unfolding made of unit `unit` of a step. Never inlined: it is rare, and would keep loops around it from being unrolled.
    #[inline(never)]
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
            let Some(at) = usize::from(exception.at).checked_sub(first) else { continue };
            let Some(word) = words.get_mut(at / 4) else { break };
            let shift = at % 4 * 8;
            *word = *word & !(0xff << shift) | u32::from(exception.high) << shift;
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

/// What a panel is made of.
struct Survey {
    /// The pairs that have a code, and of each its code.
    pairs: [u8; CODES],
    codes: [Option<u8>; 128],
    /// Weights that are of no such pair.
    exceptions: usize,
    exponents: Exponents,
}

impl Survey {
    fn of(lines: &[Line]) -> Self {
        let mut of_pair = [0usize; 128];
        let mut exponents = Exponents::NONE;
        for word in lines.iter().flat_map(|line| line.0) {
            for half in [word as u16, (word >> 16) as u16] {
                of_pair[usize::from(half >> 8 & 0x7f)] += 1;
                let exponent = (half >> 7) as u8;
                if half & 0x7fff != 0 {
                    exponents = exponents.and(Exponents { least: exponent, greatest: exponent });
                }
            }
        }
        let (mut pairs, mut codes) = ([0; CODES], [None; 128]);
        for (code, pair) in pairs.iter_mut().enumerate() {
            let most = (0..128).filter(|pair| codes[*pair].is_none()).max_by_key(|pair| (of_pair[*pair], 127 - pair));
            let most = most.unwrap_or_default();
            (*pair, codes[most]) = (most as u8, Some(code as u8));
            of_pair[most] = 0;
        }
        let exceptions = of_pair.iter().sum();
        Self { pairs, codes, exceptions, exponents }
    }

    /// What the codes stand for: with the sign's bit, a negative one's byte.
    fn high(&self) -> [u8; 16] {
        std::array::from_fn(|code| self.pairs[code % CODES] | (code / CODES * 0x80) as u8)
    }
}

/// Folds a step of a panel, and returns its exceptions.
fn fold(survey: &Survey, lines: &[Line], units: &mut [Unit]) -> Vec<Exception> {
    let mut exceptions = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let unit = &mut units[i / LINES];
        for (column, word) in line.0.iter().enumerate() {
            for half in 0..2 {
                let (at, [low, high]) = (place(column, half), ((word >> (16 * half)) as u16).to_le_bytes());
                unit.low[i % LINES][at] = low;
                match survey.codes[usize::from(high & 0x7f)] {
                    Some(code) => unit.codes[at] |= (code | high >> 7 << 3) << (4 * (i % LINES)),
                    None => exceptions.push(Exception { at: (i * size_of::<Line>() + 4 * column + 2 * half + 1) as u16, high }),
                }
            }
        }
    }
    exceptions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panels whose words are those of `half`, one after another.
    fn panels(lines: usize, mut half: impl FnMut(usize) -> u16) -> Vec<Line> {
        let mut i = 0;
        let mut word = || {
            i += 2;
            u32::from(half(i - 2)) | u32::from(half(i - 1)) << 16
        };
        (0..lines).map(|_| Line(std::array::from_fn(|_| word()))).collect()
    }

    fn of(lines: &[Line], lines_per_panel: usize) -> Option<Folded> {
        let panels: Vec<_> = lines.chunks_exact(lines_per_panel).collect();
        Folded::of(panels.len(), lines_per_panel, &|p, lines| lines.copy_from_slice(panels[p]))
    }

    #[test]
    fn what_is_unfolded_is_what_was_folded() {
        // All lower bytes, signs and eight pairs; in some places zeros of both signs, infinities, NaN, and what is smallest.
        let rare = [0x0000, 0x8000, 0x7f80, 0xff80, 0x7fc1, 0x0001, 0x8001, 0x0080, 0x1234];
        for (lines_per_panel, one_in) in [(16, 1_500), (48, 1_100), (64, 100_000)] {
            let usual = |i: usize| ((i % 2) << 15 | (0x38 + i / 2 % 8) << 8 | (i / 16 % 256)) as u16;
            let lines =
                panels(3 * lines_per_panel, |i| if i % one_in == one_in - 1 { rare[i / one_in % rare.len()] } else { usual(i) });
            let folded = of(&lines, lines_per_panel).expect("exceptions are rare");
            assert_eq!(folded.exceptions.is_empty(), one_in > 3 * lines_per_panel * 64);
            let mut unfolded = vec![[0; PANEL]; lines_per_panel];
            for (p, lines) in lines.chunks(lines_per_panel).enumerate() {
                folded.unfold(p, &mut unfolded);
                assert!(lines.iter().zip(&unfolded).all(|(a, b)| a.0 == *b), "panel {p}, one in {one_in}");
            }
        }
    }

    #[test]
    fn what_is_not_rare_is_not_folded() {
        let lines = panels(32, |i| if i % 500 == 0 { 0x0123 } else { (0x3000 + (i % 8) * 0x100) as u16 });
        assert!(of(&lines, 16).is_none());
    }
}
