//! What kernels are handed: the structs of `kernels/cuda/params.cuh`, whose sizes are asserted on both sides.

#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tile {
    pub(super) row: i32,
    pub(super) len: i32,
    pub(super) sequence: i32,
    pub(super) first: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ChunkParams {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) g: u64,
    pub(super) b: u64,
    pub(super) w: u64,
    pub(super) a_log: u64,
    pub(super) dt_bias: u64,
    pub(super) out: u64,
    pub(super) records: u64,
    pub(super) tiles: u64,
    pub(super) first_tile: u64,
    pub(super) states: u64,
    pub(super) at: u64,
    pub(super) q_row: i32,
    pub(super) k_row: i32,
    pub(super) v_row: i32,
    pub(super) g_row: i32,
    pub(super) b_row: i32,
    pub(super) w_row: i32,
    pub(super) out_row: i32,
    pub(super) heads: i32,
    pub(super) value_heads: i32,
    pub(super) value_dim: i32,
    pub(super) from: i32,
    pub(super) to: i32,
    pub(super) slice: i32,
    pub(super) sequences: i32,
    pub(super) gates: i32,
    pub(super) b_scale: f32,
    pub(super) q_scale: f32,
    pub(super) unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct StepParams {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) f: u64,
    pub(super) b: u64,
    pub(super) w: u64,
    pub(super) gate: u64,
    pub(super) gate_bias: u64,
    pub(super) q_taps: u64,
    pub(super) k_taps: u64,
    pub(super) v_taps: u64,
    pub(super) a_log: u64,
    pub(super) dt_bias: u64,
    pub(super) o_norm: u64,
    pub(super) out: u64,
    pub(super) states: u64,
    pub(super) at: u64,
    pub(super) q_row: i32,
    pub(super) k_row: i32,
    pub(super) v_row: i32,
    pub(super) f_row: i32,
    pub(super) b_row: i32,
    pub(super) w_row: i32,
    pub(super) gate_row: i32,
    pub(super) out_row: i32,
    pub(super) heads: i32,
    pub(super) value_heads: i32,
    pub(super) silu: i32,
    pub(super) b_scale: f32,
    pub(super) q_scale: f32,
    pub(super) eps: f32,
    pub(super) f_up: u64,
    pub(super) g_up: u64,
    pub(super) rank: i32,
    pub(super) unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RingParams {
    pub(super) x: u64,
    pub(super) w: u64,
    pub(super) w_behind: u64,
    pub(super) out: u64,
    pub(super) sum: u64,
    pub(super) residual: u64,
    pub(super) weight: u64,
    pub(super) m: i32,
    pub(super) n: i32,
    pub(super) k: i32,
    pub(super) x_row: i32,
    pub(super) out_row: i32,
    pub(super) add: i32,
    pub(super) split: i32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct RowParams {
    pub(super) x: u64,
    pub(super) residual: u64,
    pub(super) weight: u64,
    pub(super) ids: u64,
    pub(super) out: u64,
    pub(super) ids_out: u64,
    pub(super) values_out: u64,
    pub(super) d: i32,
    pub(super) x_row: i32,
    pub(super) out_row: i32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct GatedNormParams {
    pub(super) x: u64,
    pub(super) gate: u64,
    pub(super) bias: u64,
    pub(super) weight: u64,
    pub(super) out: u64,
    pub(super) m: i32,
    pub(super) heads: i32,
    pub(super) d: i32,
    pub(super) x_row: i32,
    pub(super) gate_row: i32,
    pub(super) out_row: i32,
    pub(super) silu: i32,
    pub(super) eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct ConvParams {
    pub(super) x: u64,
    pub(super) out: u64,
    pub(super) taps: u64,
    pub(super) tiles: u64,
    pub(super) first_tile: u64,
    pub(super) states: u64,
    pub(super) at: u64,
    pub(super) key_width: i32,
    pub(super) value_width: i32,
    pub(super) x_row: i32,
    pub(super) out_row: i32,
}

const _: () = {
    assert!(size_of::<Tile>() == 16);
    assert!(size_of::<ChunkParams>() == 14 * 8 + 18 * 4);
    assert!(size_of::<StepParams>() == 19 * 8 + 16 * 4);
    assert!(size_of::<RingParams>() == 7 * 8 + 8 * 4);
    assert!(size_of::<RowParams>() == 7 * 8 + 4 * 4);
    assert!(size_of::<GatedNormParams>() == 5 * 8 + 8 * 4);
    assert!(size_of::<ConvParams>() == 7 * 8 + 4 * 4);
};

/// The bytes of a kernel's parameter.
pub(super) trait Params: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: the structs above have no padding (their sizes, asserted above, are the sums of their fields).
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
impl Params for ChunkParams {}
impl Params for StepParams {}
impl Params for RingParams {}
impl Params for RowParams {}
impl Params for GatedNormParams {}
impl Params for ConvParams {}
