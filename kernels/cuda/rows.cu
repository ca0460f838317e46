// What is done to each row by itself: embedding, norms, the short convolution, SwiGLU, the gated norm, the largest logit.
#include "ptx.cuh"

constexpr int ROW_THREADS = 256;

// The sum over 256 threads of a block, the same in each.
DEVICE float block_sum(float x, float* shared) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    part_barrier(1, ROW_THREADS);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < ROW_THREADS / 32; w++) sum += shared[w];
    part_barrier(1, ROW_THREADS);
    return sum;
}

// x [M, D] = table [ids [M], D]. A block a row.
KERNEL(ROW_THREADS, embed, RowParams) {
    after_others();
    const long row = blockIdx.x;
    const bf16* from = p.x + (long)p.ids[row] * p.d;
    float* to = p.residual + row * p.d;
    for (int i = threadIdx.x; i < p.d; i += ROW_THREADS) to[i] = widen(from[i]);
}

// out [D] = x [D] / rms * weight [D], by 256 threads of a block; four elements a thread at a time where rows allow. The weights, which nobody
// writes, are asked for before `wait`, after which x is there.
template <class Wait> DEVICE void norm_row(const float* x, const float* weight, int d, float eps, float* scratch, bf16* out, Wait wait) {
    constexpr int HELD = 4;  // up to 4,096 elements stay in registers
    const float4* x4 = (const float4*)x;
    const int fours = d % 4 ? 0 : d / 4;
    float4 held[HELD], weights[HELD];
#pragma unroll
    for (int n = 0; n < HELD; n++) {
        const int i = threadIdx.x + n * ROW_THREADS;
        weights[n] = i < fours ? ((const float4*)weight)[i] : make_float4(0, 0, 0, 0);
    }
    wait();
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < HELD; n++) {
        const int i = threadIdx.x + n * ROW_THREADS;
        held[n] = i < fours ? x4[i] : make_float4(0, 0, 0, 0);
        sum += held[n].x * held[n].x + held[n].y * held[n].y + held[n].z * held[n].z + held[n].w * held[n].w;
    }
    const int rest = min(fours, HELD * ROW_THREADS) * 4 + threadIdx.x;
    for (int i = rest; i < d; i += ROW_THREADS) sum += x[i] * x[i];
    const float scale = rsqrtf(block_sum(sum, scratch) / d + eps);
#pragma unroll
    for (int n = 0; n < HELD; n++) {
        const int i = threadIdx.x + n * ROW_THREADS;
        if (i < fours) {
            const float4 w = weights[n], y = held[n];
            *(uint2*)(out + 4 * i) = make_uint2(pack(y.x * scale * w.x, y.y * scale * w.y), pack(y.z * scale * w.z, y.w * scale * w.w));
        }
    }
    for (int i = rest; i < d; i += ROW_THREADS) out[i] = narrow(x[i] * scale * weight[i]);
}

// norm_row of rows of the residual stream: M of them, or those of `ids`, which no kernel just before writes. A block a row. What follows may begin at once: products
// ask for their weights meanwhile.
KERNEL(ROW_THREADS, rms_norm, RowParams) {
    DYNAMIC_SHARED(scratch);
    const long row = blockIdx.x;
    others_may_begin();
    norm_row(p.residual + (p.ids ? (long)p.ids[row] : row) * p.d, p.weight, p.d, p.eps, (float*)scratch, p.out + row * p.out_row, [] { after_others(); });
}

DEVICE u32 swiglu_pair(u32 gate, u32 up) { return pack(silu(low(gate)) * low(up), silu(high(gate)) * high(up)); }
DEVICE uint4 swiglu_pairs(uint4 g, uint4 u) {
    return make_uint4(swiglu_pair(g.x, u.x), swiglu_pair(g.y, u.y), swiglu_pair(g.z, u.z), swiglu_pair(g.w, u.w));
}

// out [M, D] = silu(x [M, 0..D]) * x [M, D..2D]. A thread eight elements, or two where D is no multiple of 8; grid (D / (256 * them), M).
KERNEL(ROW_THREADS, swiglu, RowParams) {
    after_others();
    const long row = blockIdx.y;
    const int thread = blockIdx.x * ROW_THREADS + threadIdx.x;
    const bf16* x = p.x + row * p.x_row;
    bf16* out = p.out + row * p.out_row;
    if (p.d % 8 == 0) {
        const int i = thread * 8;
        if (i >= p.d) return;
        *(uint4*)(out + i) = swiglu_pairs(*(const uint4*)(x + i), *(const uint4*)(x + p.d + i));
    } else {
        const int i = thread * 2;
        if (i >= p.d) return;
        *(u32*)(out + i) = swiglu_pair(*(const u32*)(x + i), *(const u32*)(x + p.d + i));
    }
}

// The mixer's output of M rows and HV heads: out = x / rms over V * weight [V] * gate(gate + bias [HV, V]), where V = d. A warp a
// head, 2 or 4 elements a lane.
KERNEL(ROW_THREADS, gated_norm, GatedNormParams) {
    after_others();
    const long unit = (long)blockIdx.x * (ROW_THREADS / 32) + threadIdx.x / 32;
    const long row = unit / p.heads;
    const int head = unit % p.heads, lane = threadIdx.x % 32;
    if (row >= p.m) return;
    // Words of a lane, of x, gate and out: two where V is 128, else one.
    const int each = p.d / 64, c = lane * 2 * each;
    auto words = [&](const bf16* from) {
        if (each == 2) return *(const uint2*)(from + c);
        return make_uint2(*(const u32*)(from + c), 0);
    };
    const uint2 in = words(p.x + row * p.x_row + head * p.d), gate = words(p.gate + row * p.gate_row + head * p.d);
    const float x[4] = {low(in.x), high(in.x), low(in.y), high(in.y)}, g[4] = {low(gate.x), high(gate.x), low(gate.y), high(gate.y)};
    const float sum = warp_sum(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3]);
    const float scale = rsqrtf(sum / p.d + p.eps);
    float y[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int at = i < 2 * each ? c + i : c;
        const float a = g[i] + p.bias[head * p.d + at];
        y[i] = x[i] * scale * p.weight[at] * (p.silu ? silu(a) : sigmoid(a));
    }
    bf16* out = p.out + row * p.out_row + head * p.d + c;
    if (each == 2) *(uint2*)out = make_uint2(pack(y[0], y[1]), pack(y[2], y[3]));
    else *(u32*)out = pack(y[0], y[1]);
}

// The three carried inputs of channel d: the first of them, and how far it is to the next.
DEVICE float* carried(const ConvParams& p, int sequence, int d, long& step) {
    float* base = in_global(p.states[sequence]) + p.at;
    const int part = d < p.key_width ? 0 : d < 2 * p.key_width ? 1 : 2;
    step = part < 2 ? p.key_width : p.value_width;
    return base + 3l * part * p.key_width + (d - part * p.key_width);
}

// Causal depthwise convolution of width 4, then SiLU; taps [D, 4], the last for the current token; oldest of the carried inputs
// first. Two channels a thread, a tile of tokens; grid (D / 512, tiles). The carried inputs are replaced by conv_carry, after it.
KERNEL(ROW_THREADS, conv_silu, ConvParams) {
    const int d = (blockIdx.x * ROW_THREADS + threadIdx.x) * 2;
    if (d >= 2 * p.key_width + p.value_width) return;
    const Tile tile = p.tiles[blockIdx.y];
    float a[3], b[3];
#pragma unroll
    for (int j = 0; j < 3; j++) {
        if (tile.first) {
            long step;
            const float* state = carried(p, tile.sequence, d, step);
            a[j] = state[j * step], b[j] = state[j * step + 1];
        } else {
            const u32 u = *(const u32*)(p.x + (long)(tile.row - 3 + j) * p.x_row + d);
            a[j] = low(u), b[j] = high(u);
        }
    }
    const float4 t = *(const float4*)(p.taps + 4 * d), u = *(const float4*)(p.taps + 4 * d + 4);
    u32 in[TILE];
#pragma unroll
    for (int i = 0; i < TILE; i++) in[i] = i < tile.len ? *(const u32*)(p.x + (long)(tile.row + i) * p.x_row + d) : 0;
#pragma unroll
    for (int i = 0; i < TILE; i++) {
        const float x = low(in[i]), y = high(in[i]);
        const float c = t.x * a[0] + t.y * a[1] + t.z * a[2] + t.w * x;
        const float e = u.x * b[0] + u.y * b[1] + u.z * b[2] + u.w * y;
        a[0] = a[1], a[1] = a[2], a[2] = x;
        b[0] = b[1], b[1] = b[2], b[2] = y;
        if (i < tile.len) *(u32*)(p.out + (long)(tile.row + i) * p.out_row + d) = pack(silu(c), silu(e));
    }
}

// The last three inputs of each sequence into its state. Grid (D / 256, sequences).
KERNEL(ROW_THREADS, conv_carry, ConvParams) {
    const int d = blockIdx.x * ROW_THREADS + threadIdx.x, s = blockIdx.y;
    if (d >= 2 * p.key_width + p.value_width || p.first_tile[s] == p.first_tile[s + 1]) return;
    const int first = p.tiles[p.first_tile[s]].row;
    const Tile last = p.tiles[p.first_tile[s + 1] - 1];
    const int end = last.row + last.len;
    long step;
    float* state = carried(p, s, d, step);
    float x[3];
#pragma unroll
    for (int j = 0; j < 3; j++) {
        const int row = end - 3 + j;
        x[j] = row >= first ? widen(p.x[(long)row * p.x_row + d]) : state[(row - first + 3) * step];
    }
#pragma unroll
    for (int j = 0; j < 3; j++) state[j * step] = x[j];
}

// Orders as (x, -i) do: by x, of equals the lower i first.
DEVICE u64 ordered(float x, int i) {
    const u32 bits = __float_as_uint(x);
    return (u64)(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | (0xffffffffu - (u32)i);
}
DEVICE u64 warp_most(u64 x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) {
        const u32 hi = __shfl_xor_sync(WARP_ALL, (u32)(x >> 32), o), lo = __shfl_xor_sync(WARP_ALL, (u32)x, o);
        const u64 other = (u64)hi << 32 | lo;
        x = other > x ? other : x;
    }
    return x;
}

// As `top` with N of 1, where D is a multiple of 4. A block a row; a thread has 8 loads on their way at once.
constexpr int LARGEST_THREADS = 1024;
KERNEL(LARGEST_THREADS, largest, RowParams) {
    DYNAMIC_SHARED(scratch);
    u64* best = (u64*)scratch;
    after_others();
    const float4* x = (const float4*)(p.residual + (long)blockIdx.x * p.d);
    u64 mine = 0;
#pragma unroll 8
    for (int i = threadIdx.x; i < p.d / 4; i += LARGEST_THREADS) {
        const float4 y = x[i];
        const u64 a = ordered(y.x, 4 * i), b = ordered(y.y, 4 * i + 1), c = ordered(y.z, 4 * i + 2), d = ordered(y.w, 4 * i + 3);
        const u64 ab = a > b ? a : b, cd = c > d ? c : d, four = ab > cd ? ab : cd;
        mine = four > mine ? four : mine;
    }
    mine = warp_most(mine);
    if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    mine = warp_most(best[threadIdx.x]);
    if (threadIdx.x) return;
    const u32 id = 0xffffffffu - (u32)mine;
    p.ids_out[blockIdx.x] = id;
    if (p.values_out) p.values_out[blockIdx.x] = ((const float*)x)[id];
}

// The largest of each row of logits [M, D] (f32), in order, the lowest id first among equals: ids [M, N] and their logits, where
// N is `out_row`. A block a row; each of N passes takes the largest below the last.
KERNEL(ROW_THREADS, top, RowParams) {
    after_others();
    DYNAMIC_SHARED(scratch);
    u64* best = (u64*)scratch;
    const float* x = p.residual + (long)blockIdx.x * p.d;
    u64 last = ~0ull;
    for (int n = 0; n < p.out_row; n++) {
        u64 mine = 0;
        for (int i = threadIdx.x; i < p.d; i += ROW_THREADS) {
            const u64 pair = ordered(x[i], i);
            if (pair < last && pair > mine) mine = pair;
        }
        mine = warp_most(mine);
        if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = mine;
        __syncthreads();
        last = best[0];
        for (int w = 1; w < ROW_THREADS / 32; w++) last = best[w] > last ? best[w] : last;
        if (threadIdx.x == 0) {
            const u32 id = 0xffffffffu - (u32)last;
            p.ids_out[(long)blockIdx.x * p.out_row + n] = id;
            if (p.values_out) p.values_out[(long)blockIdx.x * p.out_row + n] = x[id];
        }
        __syncthreads();
    }
}
