//! Kimi Delta Attention and Gated DeltaNet checkpoints -> the tensors of the Gated DeltaNet-2 that computes the same.
//!
//! With erase and write gate tied to one number a head Gated DeltaNet-2 is KDA, with one decay a head as well it is Gated
//! DeltaNet (arXiv 2605.22791, section 3). Told apart by tensor names in flash-linear-attention's words: KDA has no `w_proj`,
//! Gated DeltaNet has an `a_proj`. A gate's row is repeated for every channel of its head; Gated DeltaNet's decay goes through
//! two linears of which the second only repeats, its full-rank output gate through two of which the first does nothing, and
//! with grouped value heads its queries and keys are repeated, since decay and gates are there one a value head.

use crate::error::Result;
use crate::weights::WeightFiles;

/// Which tied form a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// One gate a head, one decay a channel.
    Kda,
    /// One gate and one decay a head.
    GatedDelta,
}

/// A tied form with its shape in the checkpoint's own words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tied {
    pub(crate) tie: Tie,
    /// D
    pub(crate) width: usize,
    /// Heads of queries and keys.
    pub(crate) heads: usize,
    /// HV
    pub(crate) value_heads: usize,
    /// K
    pub(crate) key_dim: usize,
    /// V
    pub(crate) value_dim: usize,
}

/// Which of the forms the first block is of; `None` for Gated DeltaNet-2 itself.
pub(crate) fn tie(weights: &WeightFiles, in_first: impl Fn(&str) -> String) -> Option<Tie> {
    let holds = |part: &str| weights.holds(&in_first(part));
    if holds("attn.w_proj.weight") {
        None
    } else if holds("attn.a_proj.weight") {
        Some(Tie::GatedDelta)
    } else if holds("attn.b_proj.weight") {
        Some(Tie::Kda)
    } else {
        None
    }
}

impl Tied {
    /// Heads of queries, keys, decay and erase gate in the network that computes the same.
    pub(crate) fn heads(&self) -> usize {
        match self.tie {
            Tie::Kda => self.heads,
            Tie::GatedDelta => self.value_heads,
        }
    }

    /// The tensor `part` of a block, made from what the checkpoint holds; `None` where it is there as it is. `read` gives the
    /// checkpoint's own, checked for its shape.
    pub(crate) fn tensor(&self, part: &str, read: impl Fn(&str, &[usize]) -> Result<Vec<f32>>) -> Option<Result<Vec<f32>>> {
        let Self { width: d, heads, value_heads: hv, key_dim: k, value_dim: v, .. } = *self;
        let grouped = hv / heads;
        Some(match (self.tie, part) {
            (Tie::Kda, "attn.b_proj.weight") => read(part, &[heads, d]).map(|x| each_repeated(&x, d, k)),
            (Tie::Kda, "attn.w_proj.weight") => {
                read("attn.b_proj.weight", &[heads, d]).map(|x| each_repeated(&x, d, grouped * v))
            }
            (Tie::GatedDelta, "attn.b_proj.weight") => read(part, &[hv, d]).map(|x| each_repeated(&x, d, k)),
            (Tie::GatedDelta, "attn.w_proj.weight") => read("attn.b_proj.weight", &[hv, d]).map(|x| each_repeated(&x, d, v)),
            (Tie::GatedDelta, "attn.q_proj.weight" | "attn.k_proj.weight") => {
                read(part, &[heads * k, d]).map(|x| each_repeated(&x, k * d, grouped))
            }
            (Tie::GatedDelta, "attn.q_conv1d.weight" | "attn.k_conv1d.weight") => {
                read(part, &[heads * k, 1, 4]).map(|x| each_repeated(&x, k * 4, grouped))
            }
            (Tie::GatedDelta, "attn.f_proj.0.weight") => read("attn.a_proj.weight", &[hv, d]),
            (Tie::GatedDelta, "attn.f_proj.1.weight") => Ok(each_repeated(&identity(hv), hv, k)),
            (Tie::GatedDelta, "attn.dt_bias") => read(part, &[hv]).map(|x| each_repeated(&x, 1, k)),
            (Tie::GatedDelta, "attn.g_proj.0.weight") => Ok(identity(d)),
            (Tie::GatedDelta, "attn.g_proj.1.weight") => read("attn.g_proj.weight", &[hv * v, d]),
            (Tie::GatedDelta, "attn.g_proj.1.bias") => Ok(vec![0.0; hv * v]),
            _ => return None,
        })
    }
}

/// Every stretch of `length` elements `times` over, one after another.
fn each_repeated(x: &[f32], length: usize, times: usize) -> Vec<f32> {
    x.chunks(length.max(1)).flat_map(|part| std::iter::repeat_n(part, times)).flatten().copied().collect()
}

/// `[n, n]`
fn identity(n: usize) -> Vec<f32> {
    (0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_repeated_in_place() {
        assert_eq!(each_repeated(&[1.0, 2.0, 3.0, 4.0], 2, 2), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
        assert_eq!(each_repeated(&identity(2), 2, 2), [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        assert!(each_repeated(&[], 3, 2).is_empty());
    }
}
