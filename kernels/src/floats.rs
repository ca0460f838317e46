//! Where do activations and states lie? On cache lines.
//!
//! A register of AVX-512 is a cache line. Where numbers begin within a line, as an allocator's do, every load and store of a
//! register touches two.

use std::ops::{Deref, DerefMut};

/// Numbers of a cache line.
const LINE: usize = 16;

/// f32 that begin with a cache line. Used as a slice.
///
/// They lie in an ordinary allocation with room to spare: with aligned ones a text of 930,668 tokens took 23 MiB more than one of
/// 1,000 (`bench memory`, glibc 2.36), now 4.
#[derive(Default)]
pub struct Floats {
    numbers: Vec<f32>,
    start: usize,
    len: usize,
}

impl Floats {
    /// None.
    pub(crate) const EMPTY: Self = Self { numbers: Vec::new(), start: 0, len: 0 };

    /// `n` zeros.
    #[must_use]
    pub fn zeros(n: usize) -> Self {
        let numbers = vec![0.0; n + LINE - 1];
        let start = numbers.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        Self { numbers, start, len: n }
    }

    /// The first `n`; where there were fewer, there are now as many, and what is new is zero. So a buffer that is asked for the
    /// same sizes again allocates nothing.
    pub fn at_least(&mut self, n: usize) -> &mut [f32] {
        if self.len < n {
            let mut more = Self::zeros(n);
            more[..self.len].copy_from_slice(self);
            *self = more;
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

impl Clone for Floats {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers[self.start..self.start + self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.numbers[self.start..self.start + self.len]
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
        floats.at_least(3).fill(7.0);
        assert_eq!(floats.at_least(20)[..4], [7.0, 7.0, 7.0, 0.0]);
        assert_eq!(floats.at_least(2), [7.0, 7.0]);
        assert_eq!(floats.len(), 20);
    }
}
