// Prefill: tiles of 16 tokens, in two kernels. arXiv 2605.22791, section 3.3, with S the state before the tile, G the running
// sum of g, e_r = exp(G_r) b_r k_r, z = w v:
//
//   T = tril(e k'^T, -1)    A = (I + T)^-1    Y = A e    R = A z - Y S    O = q' S + tril(q' k'^T) R    S <- exp(G_16) S + k~^T R
//
// where k'_s = k_s exp(-G_s), q'_r = q_r exp(G_r) / sqrt(K), k~_s = k_s exp(G_16 - G_s).
//
// gdn2_prepare: a block makes all that does not need S of one tile and key head: its *record*. Any number run side by side.
// gdn2_scan (gdn2_scan.cu) goes through a sequence's records in order.
//
// A record is laid out as the products of a warpgroup take it from shared memory (`Record` in params.cuh):
//   rows: -Y and q', [K/64][4 groups of 8 rows][8][64]; k~: [K/64][2 groups][8][64]; both with 16-byte pieces swizzled by row;
//   exp(G_16) as f32 [K]; tril(q' k'^T), then A: [2 groups of 8 rows][2 halves of 8 columns][8][8].
//
// exp(-G_s) would overflow: a column s of a channel with G_s < -80 is left out of the products and added pair by pair, in
// differences of G. What row r becomes depends on the tokens before it alone, also in a tile cut short.
#include "ptx.cuh"

constexpr float DEEP = -80.0f * LOG2E;  // G is kept in powers of 2

// Element of a swizzled matrix [K/64][GROUPS][8][64]; a 16-byte piece's place is its number xor its row's.
template <int GROUPS> DEVICE int swizzled(int row, int channel) {
    return (channel / 64 * GROUPS + row / 8) * 1024 + row % 8 * 128 + (channel % 64 / 8 ^ row % 8) * 16 + channel % 8 * 2;
}

template <int K> struct PrepareShared {
    u8 record[Record<K>::BYTES];  // e lies where Y will
    u8 k[32 * K];
    float t[TILE][20], a[TILE][20];
    float square[K / 64][2 * TILE];  // of q, of k: sums over 64 channels
    float total[K];                  // of g over the first 8 tokens
    float rest[K];                   // and over all 16
    float scale[2 * TILE];
    u32 far[K / 32];
};

// The log-decay of two channels of a token, in powers of 2: `f` as it was loaded, bf16 inputs of the gate.
DEVICE float2 decay_of(u32 f, float rate, float2 bias) {
    return make_float2(rate * softplus2(low(f) + bias.x), rate * softplus2(high(f) + bias.y));
}
template <bool GATES> DEVICE float2 load_decay(const ChunkParams& p, long row, int channel, float rate, float2 bias) {
    if constexpr (GATES) return decay_of(*(const u32*)((const bf16*)p.g + row * p.g_row + channel), rate, bias);
    const float2 g = *(const float2*)((const float*)p.g + row * p.g_row + channel);
    return make_float2(g.x * LOG2E, g.y * LOG2E);
}
template <bool GATES> DEVICE float2 erase_gates(const ChunkParams& p, u32 b) {
    return GATES ? make_float2(p.b_scale * sigmoid(low(b)), p.b_scale * sigmoid(high(b))) : make_float2(low(b), high(b));
}

// 2 O sums over a warp at once: halves change places between lanes that differ in bit O, until lane l holds the sum l % (2 O) of those
// lanes that agree with it beyond.
template <int O, int N> DEVICE void fold(float (&sum)[N], int lane) {
    const bool upper = lane & O;
#pragma unroll
    for (int i = 0; i < O; i++) {
        const float give = upper ? sum[i] : sum[i + O], keep = upper ? sum[i + O] : sum[i];
        sum[i] = keep + __shfl_xor_sync(WARP_ALL, give, O);
    }
    if constexpr (O > 1) fold<O / 2>(sum, lane);
}

// The pairs of tokens that were left out, by one warp: channels 2 lane + 64 n.
template <int K, bool GATES>
DEVICE void far_pairs(const ChunkParams& p, PrepareShared<K>& s, const Tile& at, int h, float rate, int lane) {
    for (int c = 0; c < at.len; c++)
        for (int n = 0; n < K / 64; n++) {
            const int i = n * 64 + lane * 2, channel = h * K + i;
            const float2 bias = GATES ? *(const float2*)(p.dt_bias + channel) : make_float2(0, 0);
            const u32 kept = *(const u32*)(s.k + swizzled<2>(c, i));
            const bool mine = (kept & 0x7fff) == 0, other = (kept & 0x7fff0000) == 0;
            if (!__any_sync(WARP_ALL, mine || other)) continue;
            const u32 ks = *(const u32*)(p.k + (long)(at.row + c) * p.k_row + channel);
            float2 fall = make_float2(0, 0);
            for (int r = c; r < at.len; r++) {
                const long row = at.row + r;
                if (r > c) {
                    const float2 g = load_decay<GATES>(p, row, channel, rate, bias);
                    fall.x += g.x, fall.y += g.y;
                }
                const u32 kr = *(const u32*)(p.k + row * p.k_row + channel);
                const u32 qr = *(const u32*)(p.q + row * p.q_row + channel);
                const float2 b = erase_gates<GATES>(p, *(const u32*)(p.b + row * p.b_row + channel));
                const float x = mine ? exp2_(fall.x) * low(ks) * s.scale[TILE + c] : 0.0f;
                const float y = other ? exp2_(fall.y) * high(ks) * s.scale[TILE + c] : 0.0f;
                const float erase = warp_sum(x * b.x * low(kr) + y * b.y * high(kr)) * s.scale[TILE + r];
                const float ask = warp_sum(x * low(qr) + y * high(qr)) * s.scale[r];
                if (lane == 0) {
                    if (r > c) s.t[r][c] += erase;
                    s.a[r][c] += ask;
                }
            }
        }
}

// A by forward substitution in f32; lane j has column j. (Powers of T grow past all bounds where keys repeat.)
template <int K> DEVICE void invert(PrepareShared<K>& s, int lane) {
    float x[TILE];
    const int j = lane % 16;
    u8* to = s.record + Record<K>::INVERSE + j / 8 * 128 + j % 8 * 2;
#pragma unroll
    for (int r = 0; r < TILE; r++) {
        float sum = r == j ? 1.0f : 0.0f;
#pragma unroll
        for (int c = 0; c < r; c += 4) {
            const float4 y = *(const float4*)&s.t[r][c];
            sum -= y.x * x[c];
            if (c + 1 < r) sum -= y.y * x[c + 1];
            if (c + 2 < r) sum -= y.z * x[c + 2];
            if (c + 3 < r) sum -= y.w * x[c + 3];
        }
        x[r] = sum;
        if (lane < 16) *(bf16*)(to + r / 8 * 256 + r % 8 * 16) = narrow(sum);
    }
}

struct No { static constexpr bool IS = false; };
struct Yes { static constexpr bool IS = true; };

// A thread has 2 channels of 8 tokens; a warp 64 channels. K threads.
template <int K, bool GATES> DEVICE void prepare_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    PrepareShared<K>& s = *(PrepareShared<K>*)memory;
    constexpr int HALVES = K / 64, WARPS = 2 * HALVES, TOKENS = TILE / 2;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    // Grid: slice * sequences tiles times heads; heads change fastest, so that neighbours read neighbouring rows.
    const int h = blockIdx.x % p.heads, index = blockIdx.x / p.heads;
    const int sequence = index / p.slice, n = p.from_tile + index % p.slice;
    if (n >= p.to_tile) return;
    const int tile = p.first_tile[sequence] + n;
    if (tile >= p.first_tile[sequence + 1]) return;
    const Tile at = p.tiles[tile];

    const int half = warp % HALVES, late = warp / HALVES;  // which channels, which tokens
    const int i = half * 64 + lane * 2, channel = h * K + i, t0 = late * TOKENS;
    const float rate = GATES ? -exp_(p.a_log[h]) : 0.0f;
    const float2 bias = GATES ? *(const float2*)(p.dt_bias + channel) : make_float2(0, 0);
    // Everything a thread needs, in flight at once. What is past the tile's end is loaded from elsewhere and thrown away.
    u32 q[TOKENS], k[TOKENS], b[TOKENS], f[TOKENS];
    float2 g[TOKENS];
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const long row = at.row + (t0 + t < at.len ? t0 + t : 0);
        q[t] = *(const u32*)(p.q + row * p.q_row + channel);
        k[t] = *(const u32*)(p.k + row * p.k_row + channel);
        b[t] = *(const u32*)(p.b + row * p.b_row + channel);
        if constexpr (GATES) f[t] = *(const u32*)((const bf16*)p.g + row * p.g_row + channel);
        else g[t] = load_decay<false>(p, row, channel, rate, bias);
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if constexpr (GATES) g[t] = decay_of(f[t], rate, bias);
    }
    if (at.len < TILE) {
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
            if (t0 + t >= at.len) q[t] = k[t] = b[t] = 0, g[t] = make_float2(0, 0);
    }
    if constexpr (GATES) {
        float sum[TILE];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            sum[t] = low(q[t]) * low(q[t]) + high(q[t]) * high(q[t]);
            sum[t + TOKENS] = low(k[t]) * low(k[t]) + high(k[t]) * high(k[t]);
        }
        fold<TOKENS>(sum, lane);
        const float all = sum[0] + __shfl_xor_sync(WARP_ALL, sum[0], 16);
        if (lane < 16) s.square[half][lane / 8 * TILE + t0 + lane % 8] = all;
    }
    if (!late) {
        float2 G = g[0];
#pragma unroll
        for (int t = 1; t < TOKENS; t++) G.x += g[t].x, G.y += g[t].y;
        *(float2*)&s.total[i] = G;
    }
    __syncthreads();
    if (late) {
        float2 G = *(const float2*)&s.total[i];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) G.x += g[t].x, G.y += g[t].y;
        *(float2*)&s.rest[i] = G;
        const u32 far = __any_sync(WARP_ALL, G.x < DEEP || G.y < DEEP);
        if (lane == 0) s.far[half] = far;
    } else if (threadIdx.x < 32) {
        float sum = 1.0f;
        if constexpr (GATES) {
            sum = 1e-6f;
#pragma unroll
            for (int n = 0; n < HALVES; n++) sum += s.square[n][lane];
            sum = rsqrtf(sum);
        }
        s.scale[lane] = sum * (lane < TILE ? p.q_scale : 1.0f);
    }
    __syncthreads();
    bool far = false;
#pragma unroll
    for (int n = 0; n < HALVES; n++) far |= s.far[n] != 0;

    const float2 end = *(const float2*)&s.rest[i];
    const float2 last = make_float2(exp2_(end.x), exp2_(end.y));
    if (!late) *(float2*)(s.record + Record<K>::DECAY + i * 4) = last;
    auto write_rows = [&](auto beyond) {
        float2 G = late ? *(const float2*)&s.total[i] : make_float2(0, 0);
        u8* rows = s.record + (half * 4 + late) * 1024;
        u8* kt = s.record + Record<K>::KEYS + (half * 2 + late) * 1024;
        u8* kp = s.k + (half * 2 + late) * 1024;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            G.x += g[t].x, G.y += g[t].y;
            const float rq = s.scale[t0 + t], rk = s.scale[TILE + t0 + t];
            const float kx = low(k[t]) * rk, ky = high(k[t]) * rk;
            const float2 e = erase_gates<GATES>(p, b[t]);
            const float x = exp2_(G.x), y = exp2_(G.y);
            float dx = exp2_(-G.x), dy = exp2_(-G.y);
            float ex = last.x * dx, ey = last.y * dy;
            if constexpr (decltype(beyond)::IS) {
                if (end.x < DEEP) ex = exp2_(end.x - G.x);
                if (end.y < DEEP) ey = exp2_(end.y - G.y);
                if (G.x < DEEP) dx = 0.0f;
                if (G.y < DEEP) dy = 0.0f;
            }
            const int at = t * 128 + (lane * 4 ^ t * 16);
            *(u32*)(rows + at) = pack(x * e.x * kx, y * e.y * ky);
            *(u32*)(rows + 2048 + at) = pack(x * low(q[t]) * rq, y * high(q[t]) * rq);
            *(u32*)(kp + at) = pack(kx * dx, ky * dy);
            *(u32*)(kt + at) = pack(kx * ex, ky * ey);
        }
    };
    if (far) write_rows(Yes{});
    else write_rows(No{});
    __syncthreads();

    // T and q' k'^T, [r, s]: a warp 8 columns of either.
    const int r0 = lane / 4, c0 = lane % 4 * 2;
#pragma unroll
    for (int task = warp; task < 4; task += WARPS) {
        const int which = task / 2, group = task % 2;
        float c[2][4] = {};
#pragma unroll
        for (int kk = 0; kk < K / 16; kk += 2) {
            u32 f[4], g[4], fk[4];
            const int piece = kk % 4 * 2, row = lane % 8, m = lane / 8;
            const u8* a = s.record + (kk / 4 * 4 + which * 2 + m % 2) * 1024 + row * 128;
            load_matrices(f, a + ((piece + m / 2) ^ row) * 16);
            load_matrices(g, a + ((piece + 2 + m / 2) ^ row) * 16);
            load_matrices(fk, s.k + (kk / 4 * 2 + group) * 1024 + row * 128 + ((piece + m) ^ row) * 16);
            mma(c[0], f[0], f[1], f[2], f[3], fk[0], fk[1]);
            mma(c[1], g[0], g[1], g[2], g[3], fk[2], fk[3]);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = r0 + 8 * (i / 2), col = group * 8 + c0 + i % 2;
            const float x = c[0][i] + c[1][i];
            if (which) s.a[r][col] = col <= r ? x : 0.0f;
            else s.t[r][col] = col < r ? x : 0.0f;
        }
    }
    __syncthreads();
    if (far) {
        if (warp == 0) far_pairs<K, GATES>(p, s, at, h, rate, lane);
        __syncthreads();
    }
    if (warp == 0) {
        invert<K>(s, lane);
    } else if (warp == 1) {
        // Rows of the scores, as pairs.
        const int row = lane / 2, col = lane % 2 * 8;
        const float4 x = *(const float4*)&s.a[row][col], y = *(const float4*)&s.a[row][col + 4];
        *(uint4*)(s.record + Record<K>::SCORES + (row / 8 * 2 + lane % 2) * 128 + row % 8 * 16) =
            make_uint4(pack(x.x, x.y), pack(x.z, x.w), pack(y.x, y.y), pack(y.z, y.w));
    }
    __syncthreads();

    // -Y in the place of e: a warp 32 channels.
    {
        u32 f[4];
        const int m = lane / 8, row = lane % 8;
        load_matrices(f, s.record + Record<K>::INVERSE + (m % 2 * 2 + m / 2) * 128 + row * 16);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int kk = warp * 2 + n, piece = kk % 4 * 2;
            u8* rows = s.record + kk / 4 * 4096;
            u32 fe[4];
            load_matrices_transposed(fe, rows + m % 2 * 1024 + row * 128 + ((piece + m / 2) ^ row) * 16);
            float y0[4] = {}, y1[4] = {};
            mma(y0, f[0], f[1], f[2], f[3], fe[0], fe[1]);
            mma(y1, f[0], f[1], f[2], f[3], fe[2], fe[3]);
            u8* to = rows + r0 * 128 + c0 * 2;
            __syncwarp();
            *(u32*)(to + (piece ^ r0) * 16) = pack(-y0[0], -y0[1]);
            *(u32*)(to + ((piece + 1) ^ r0) * 16) = pack(-y1[0], -y1[1]);
            *(u32*)(to + 1024 + (piece ^ r0) * 16) = pack(-y0[2], -y0[3]);
            *(u32*)(to + 1024 + ((piece + 1) ^ r0) * 16) = pack(-y1[2], -y1[3]);
        }
    }
    copies_see_writes();
    __syncthreads();
    if (threadIdx.x == 0) copy_bulk_out(p.records + (u64)(index * p.heads + h) * Record<K>::BYTES, s.record, Record<K>::BYTES);
}

#define PREPARE(K) \
    KERNEL(K, gdn2_prepare_k##K, ChunkParams) { p.gates ? prepare_block<K, true>(p) : prepare_block<K, false>(p); }
PREPARE(64)
PREPARE(128)
