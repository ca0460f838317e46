//! Which instruction sets are there, and which does this processor have?

use std::fmt;
use std::str::FromStr;

use crate::cpu::MOST_SIDE_BY_SIDE;

/// The variable that forces an instruction set.
pub(crate) const VARIABLE: &str = "PALIMPSEST_ISA";

/// An instruction set with kernels of its own, from the plainest to the fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// Plain Rust: runs everywhere, and is the definition of correct.
    Scalar,
    /// aarch64 with NEON.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512: F, BW, DQ, VL, BF16 and VNNI (AMD from Zen 4, Intel from Sapphire Rapids).
    Avx512,
    /// x86-64 with AVX-512 and AMX for bf16 and int8 (Intel from Sapphire Rapids), where the system permits it.
    Amx,
}

/// Why there are no kernels to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// This processor lacks the instruction set that was asked for.
    #[error("this processor has no {isa}; it has {}", names(&Isa::available()))]
    Missing {
        /// What was asked for.
        isa: Isa,
    },
    /// A name that is no instruction set's.
    #[error("{name:?} is no instruction set: expected one of {} (set by the caller or by {VARIABLE})", names(&Isa::ALL))]
    Unknown {
        /// The name as given.
        name: String,
    },
}

impl Isa {
    /// All of them, on any machine, from the plainest to the fastest.
    pub const ALL: [Isa; 5] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// Those that this processor has, from the plainest to the fastest; never empty.
    #[must_use]
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Does this processor have it?
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_available() && crate::cpu::amx::is_available(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// Which bits its results have: one more each time that a change of the kernels changes them.
    pub(crate) fn generation(self) -> u32 {
        match self {
            // 2: quotients by reciprocals.
            Isa::Avx512 | Isa::Amx => 2,
            Isa::Scalar | Isa::Neon | Isa::Avx2 => 1,
        }
    }

    /// Who made the processor, where an instruction is only said to be near enough, and makers may differ: VRCP14PS.
    pub(crate) fn maker(self) -> Option<String> {
        match self {
            Isa::Avx512 | Isa::Amx => maker(),
            _ => None,
        }
    }

    /// The fastest that this processor has.
    pub(crate) fn best() -> Isa {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }
}

/// Who made this processor, where that is known.
fn maker() -> Option<String> {
    #[cfg(target_arch = "x86_64")]
    {
        let leaf = std::arch::x86_64::__cpuid(0);
        let name: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx].iter().flat_map(|part| part.to_le_bytes()).collect();
        Some(String::from_utf8_lossy(&name).into_owned())
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

/// Panels that one row goes through side by side: many streams from memory come faster than one, but not to AMD's processors, which foresee
/// one alone (`one_row.rs`).
pub(crate) fn side_by_side() -> usize {
    match maker().as_deref() {
        Some("AuthenticAMD" | "HygonGenuine") => 1,
        _ => MOST_SIDE_BY_SIDE,
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        })
    }
}

impl FromStr for Isa {
    type Err = KernelError;

    fn from_str(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|isa| isa.to_string() == name);
        found.ok_or_else(|| KernelError::Unknown { name: name.to_owned() })
    }
}

fn names(isas: &[Isa]) -> String {
    isas.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ")
}
