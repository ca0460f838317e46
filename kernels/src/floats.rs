//! Where do activations and states lie? On cache lines.
//!
//! A register of AVX-512 is a cache line. Where numbers begin within a line, as an allocator's do, every load and store of a
//! register touches two.

use std::ops::{Deref, DerefMut};

/// Numbers of a cache line.
const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(dead_code)] // read as f32 one after the other
struct Line([f32; LINE]);

/// f32 that begin with a cache line. Used as a slice.
#[derive(Clone, Default)]
pub struct Floats {
    lines: Vec<Line>,
    len: usize,
}

impl Floats {
    /// `n` zeros.
    #[must_use]
    pub fn zeros(n: usize) -> Self {
        Self { lines: vec![Line([0.0; LINE]); n.div_ceil(LINE)], len: n }
    }

    /// The first `n`; where there were fewer, there are now as many, and what is new is zero. So a buffer that is asked for the
    /// same sizes again allocates nothing.
    pub fn first(&mut self, n: usize) -> &mut [f32] {
        if self.len < n {
            self.lines.resize(n.div_ceil(LINE), Line([0.0; LINE]));
            self.len = n;
        }
        &mut self[..n]
    }
}

impl From<&[f32]> for Floats {
    fn from(numbers: &[f32]) -> Self {
        let mut floats = Self::zeros(numbers.len());
        floats.copy_from_slice(numbers);
        floats
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is 16 f32 without padding; there are at least `len` of them in all.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl std::fmt::Debug for Floats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_with_a_line_and_are_what_was_given() {
        for n in [0, 1, 15, 16, 17, 1000] {
            let given: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let floats = Floats::from(&given[..]);
            assert_eq!(floats[..], given);
            assert_eq!(floats.clone()[..], given);
            assert!(floats.as_ptr().addr().is_multiple_of(64));
            assert!(Floats::zeros(n).iter().all(|x| *x == 0.0));
        }
        let mut floats = Floats::default();
        floats.first(3).fill(7.0);
        assert_eq!(floats.first(20)[..4], [7.0, 7.0, 7.0, 0.0]);
        assert_eq!(floats.first(2), [7.0, 7.0]);
        assert_eq!(floats.len(), 20);
    }
}
