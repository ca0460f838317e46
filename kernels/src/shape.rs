//! What is refused: lengths that do not fit together.

/// Lengths or shapes that do not fit: the mistake is the caller's, and nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// A slice of the wrong length.
    #[error("{op}: the caller's {name} has {got} elements where the other arguments make it {expected}")]
    Length {
        /// The function that refused.
        op: &'static str,
        /// The argument, as the documentation calls it.
        name: &'static str,
        /// Its length.
        got: usize,
        /// The length it should have.
        expected: usize,
    },
    /// A slice that does not divide into rows.
    #[error("{op}: the caller's {name} has {got} elements, no multiple of {unit}")]
    Ragged {
        /// The function that refused.
        op: &'static str,
        /// The argument, as the documentation calls it.
        name: &'static str,
        /// Its length.
        got: usize,
        /// What it should be a multiple of.
        unit: usize,
    },
    /// A size beyond what the kernels take.
    #[error("{op}: the caller's {name} is {got}, more than the {most} that the kernels take")]
    TooLong {
        /// The function that refused.
        op: &'static str,
        /// The size, as the documentation calls it.
        name: &'static str,
        /// Its value.
        got: usize,
        /// The largest that is taken.
        most: usize,
    },
    /// Two places that must not share elements, do.
    #[error("{op}: {name} begins at {at}, before another one ends: the caller's offsets overlap")]
    Overlap {
        /// The function that refused.
        op: &'static str,
        /// What overlaps.
        name: &'static str,
        /// Where the second one begins.
        at: usize,
    },
    /// A size that must not be zero, is.
    #[error("{op}: the caller's {name} is 0")]
    Zero {
        /// The function that refused.
        op: &'static str,
        /// The size, as the documentation calls it.
        name: &'static str,
    },
}

/// `got` elements are the `expected` ones, or the error that says they are not.
pub(crate) fn length(op: &'static str, name: &'static str, got: usize, expected: usize) -> Result<(), ShapeError> {
    if got == expected { Ok(()) } else { Err(ShapeError::Length { op, name, got, expected }) }
}

/// How many rows of `unit` elements `slice` has, or the error that says why that is no number.
pub(crate) fn rows_of(op: &'static str, name: &'static str, slice: &[f32], unit: usize) -> Result<usize, ShapeError> {
    let got = slice.len();
    if unit == 0 {
        return Err(ShapeError::Zero { op, name: "row width" });
    }
    if got.is_multiple_of(unit) { Ok(got / unit) } else { Err(ShapeError::Ragged { op, name, got, unit }) }
}

/// Rows of all sequences; the largest number where there is none.
pub(crate) fn rows_in(lens: &[usize]) -> usize {
    lens.iter().fold(0, |rows: usize, len| rows.saturating_add(*len))
}

/// `lens` sums to `rows`, and every state holds `end` elements.
pub(crate) fn sequences<S: AsMut<[f32]>>(
    op: &'static str,
    lens: &[usize],
    rows: usize,
    states: &mut [S],
    end: usize,
) -> Result<(), ShapeError> {
    let got = rows_in(lens);
    if got != rows {
        return Err(ShapeError::Length { op, name: "lens (their sum)", got, expected: rows });
    }
    if states.len() != lens.len() {
        return Err(ShapeError::Length { op, name: "states", got: states.len(), expected: lens.len() });
    }
    for state in states {
        let got = state.as_mut().len();
        if got < end {
            return Err(ShapeError::Length { op, name: "state (at least)", got, expected: end });
        }
    }
    Ok(())
}
