//! Rows of activations as bf16 or int8. Written so that the compiler turns each loop into the instructions of whatever it is
//! inlined into; every instruction set gives the same bits.

/// Rounds to the nearest bf16, ties to even; NaN stays NaN. What `to` has beyond `x` becomes 0.
#[inline(always)]
pub(super) fn to_bf16(x: &[f32], to: &mut [u16]) {
    for (to, x) in to.iter_mut().zip(x) {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        let quiet = bits | 0x0040_0000;
        *to = (if bits & 0x7fff_ffff > 0x7f80_0000 { quiet } else { rounded } >> 16) as u16;
    }
    to[x.len()..].fill(0);
}

/// The scale that the largest element sets: its magnitude / 127. Not finite where an element is not.
#[inline(always)]
pub(super) fn int8_scale(x: &[f32]) -> f32 {
    // As integers, magnitudes have the order of the numbers, and NaN is the largest.
    let largest = x.iter().fold(0, |m: u32, x| m.max(x.to_bits() & 0x7fff_ffff));
    f32::from_bits(largest) / 127.0
}

/// Rounds `x / scale` to the nearest int8, ties to even, and adds `offset` (0 or -128) with wrap-around. What `to` has beyond
/// `x` becomes 0: weights there are 0 as well.
#[inline(always)]
pub(super) fn to_int8(x: &[f32], scale: f32, offset: i8, to: &mut [i8]) {
    // 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let per_unit = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    for (to, x) in to.iter_mut().zip(x) {
        *to = ((x * per_unit + ROUND).to_bits() as i8).wrapping_add(offset);
    }
    to[x.len()..].fill(0);
}
