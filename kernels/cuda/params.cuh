// What the host hands to each kernel. Mirrored by `#[repr(C)]` structs in `src/cuda/params.rs`; sizes are asserted on both sides.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u16 bf16;  // bits

// Tokens of a tile; tiles of a segment. A sequence's tiles and segments are counted from its first token of the call.
constexpr int TILE = 16, TILES = 4, SEGMENT = TILES * TILE;

struct Tile {
    int row;       // of its first token
    int len;       // 1..TILE tokens
    int sequence;
    int first;     // its sequence begins here
};

// gdn2_prepare and gdn2_scan. Rows are tokens; `*_row` is the number of elements from one token to the next.
struct ChunkParams {
    const bf16* q;         // [M, H, K]
    const bf16* k;         // [M, H, K]
    const bf16* v;         // [M, HV, V]
    const void* g;         // [M, H, K]: bf16 inputs of the gate where `gates`, else f32 log-decay
    const bf16* b;         // [M, H, K]
    const bf16* w;         // [M, HV, V]
    const float* a_log;    // [H], where `gates`
    const float* dt_bias;  // [H, K], where `gates`
    bf16* out;             // [M, HV, V]
    u8* records;           // [sequences, segments of the slice, H] of Record<K>::BYTES
    const Tile* tiles;     // of all sequences, one after the other
    const int* first_tile; // [sequences + 1]
    float* const* states;  // [sequences]
    u64 at;                // where a layer's S [HV, K, V] begins in a state, in elements
    int q_row, k_row, v_row, g_row, b_row, w_row, out_row;
    int heads, value_heads, value_dim;
    int from, to;          // the slice: segments of each sequence, counted from its first
    int slice;             // segments of a sequence that `records` has room for
    int sequences;
    int gates;             // compute softplus, sigmoid and the L2 norm inside
    float b_scale;         // 1, or 2 with negative eigenvalues
    float q_scale;         // 1 / sqrt(K)
    int unused;
};
static_assert(sizeof(ChunkParams) == 14 * 8 + 18 * 4, "params.rs has the same");

// gdn2_step: one token of each sequence. Rows are sequences.
struct StepParams {
    const bf16* q;         // [B, H, K], before the convolution
    const bf16* k;
    const bf16* v;         // [B, HV, V]
    const bf16* f;         // [B, H, K]
    const bf16* b;         // [B, H, K]
    const bf16* w;         // [B, HV, V]
    const bf16* gate;      // [B, HV, V]
    const float* gate_bias; // [HV, V]
    const float* q_taps;   // [H * K, 4]
    const float* k_taps;
    const float* v_taps;   // [HV * V, 4]
    const float* a_log;    // [H]
    const float* dt_bias;  // [H, K]
    const float* o_norm;   // [V]
    bf16* out;             // [B, HV, V]
    float* const* states;  // [B]
    u64 at;                // of S; the convolutions' inputs [3, H*K], [3, H*K], [3, HV*V] follow it
    int q_row, k_row, v_row, f_row, b_row, w_row, gate_row, out_row;
    int heads, value_heads;
    int silu;              // the output gate: SiLU, else sigmoid
    float b_scale, q_scale, eps;
    const bf16* f_up;      // [H * K, rank] and
    const bf16* g_up;      // [HV * V, rank], where `f` and `gate` are what these are applied to, [B, rank]
    int rank, unused;
};
static_assert(sizeof(StepParams) == 19 * 8 + 16 * 4, "params.rs has the same");

// out = x W^T of up to 32 rows, in bf16 to `out`, in f32 to `sum` (or added to it), where they are given: ring.cu.
struct RingParams {
    const bf16* x;          // [M, K]
    const bf16* w;          // [N, K]; where `split`, [split, K]; [2 N, K] where GATED
    const bf16* w_behind;   // [N - split, K], which take the K columns of x behind those of the others
    bf16* out;              // [M, N]
    float* sum;             // [M, N]
    const float* residual;  // [K], where M is 1 and the row is its norm times `weight`
    const float* weight;    // [K]
    int m, n, k, x_row, out_row, add;
    int split;              // 0: none
    float eps;
};
static_assert(sizeof(RingParams) == 7 * 8 + 8 * 4, "params.rs has the same");

struct RowParams {
    const bf16* x;
    float* residual;
    const float* weight;
    const u32* ids;
    bf16* out;
    u32* ids_out;
    float* values_out;
    int d, x_row, out_row;
    float eps;
};
static_assert(sizeof(RowParams) == 7 * 8 + 4 * 4, "params.rs has the same");

struct GatedNormParams {
    const bf16* x;
    const bf16* gate;
    const float* bias;
    const float* weight;
    bf16* out;
    int m, heads, d, x_row, gate_row, out_row, silu;
    float eps;
};
static_assert(sizeof(GatedNormParams) == 5 * 8 + 8 * 4, "params.rs has the same");

// conv_silu and conv_carry: q, k and v side by side, D = 2 * key_width + value_width. Their carried inputs, [3, key_width] twice and
// [3, value_width], lie one after the other from `states[s] + at`.
struct ConvParams {
    const bf16* x;   // [M, D]
    bf16* out;       // [M, D]
    const float* taps;  // [D, 4]
    const Tile* tiles;
    const int* first_tile;
    float* const* states;
    u64 at;
    int key_width, value_width, x_row, out_row;
};
static_assert(sizeof(ConvParams) == 7 * 8 + 4 * 4, "params.rs has the same");

// Where the parts of a segment's record lie, in bytes: see gdn2_prepare.cu.
template <int K> struct Record {
    static constexpr int ROWS = 2 * SEGMENT * K;           // bytes of a matrix [64 tokens, K]: -Y, then q', then k~
    static constexpr int BLOCKS = 10 * 2 * TILE * TILE;    // and of the blocks of [64, 64] on and below the diagonal
    static constexpr int ASK = ROWS, KEYS = 2 * ROWS, DECAY = 3 * ROWS, SCORES = DECAY + 4 * K, INVERSE = SCORES + BLOCKS,
                         BYTES = INVERSE + BLOCKS;
};
