// Prefill: tiles of 16 tokens, in two kernels. arXiv 2605.22791, section 3.3, with S the state before the tile, G the running
// sum of g, e_r = exp(G_r) b_r k_r, z = w v:
//
//   T = tril(e k'^T, -1)    A = (I + T)^-1    Y = A e    R = A z - Y S    O = q' S + tril(q' k'^T) R    S <- exp(G_16) S + k~^T R
//
// where k'_s = k_s exp(-G_s), q'_r = q_r exp(G_r) / sqrt(K), k~_s = k_s exp(G_16 - G_s).
//
// gdn2_prepare: a warp makes all that does not need S of one tile and key head: its *record*. Any number run side by side.
// gdn2_scan: goes through a sequence's records in order; a warp holds S^T [16 of V, K] in registers and needs no other warp.
//
// A record is laid out in fragments of mma.m16n8k16's B operand, as the lanes of gdn2_scan take them; 16 bytes a lane:
//   -Y [K/16][32], q' [K/16][32], k~ [K/16][32], A [32], tril(q' k'^T) [32]; then exp(G_16) as f32 [K].
//
// exp(-G_s) would overflow: a column s of a channel with G_s < -80 is left out of the products and added pair by pair, in
// differences of G. What row r becomes depends on the tokens before it alone, also in a tile cut short.
#include "ptx.cuh"

constexpr float DEEP = -80.0f;
constexpr int PREPARE_WARPS = 4;

template <int K> struct PrepareShared {
    static constexpr int ROW = K + 8;  // elements: rows 16 bytes apart modulo 128, so that ldmatrix meets no bank twice
    bf16 e[TILE][ROW], k[TILE][ROW], q[TILE][ROW], kt[TILE][ROW];
    float t[TILE][20], a[TILE][20];
    bf16 inverse[TILE][24];
    float scale[2 * TILE];  // of q, of k
};

template <int N> struct Words { u32 x[N]; };

// CH bf16 of a row as CH / 2 words; zeros past the tile's end.
template <int CH> DEVICE Words<CH / 2> load_words(const bf16* p, bool there) {
    Words<CH / 2> r;
    if constexpr (CH == 4) {
        uint2 u = there ? *(const uint2*)p : make_uint2(0, 0);
        r.x[0] = u.x, r.x[1] = u.y;
    } else {
        r.x[0] = there ? *(const u32*)p : 0;
    }
    return r;
}
template <int N> DEVICE float word(const Words<N>& w, int c) { return c & 1 ? high(w.x[c / 2]) : low(w.x[c / 2]); }

// The log-decay of CH channels of one token.
template <int CH> DEVICE void load_decay(float (&g)[CH], const ChunkParams& p, long row, int channel, float rate, const float (&bias)[CH], bool there) {
    if (p.gates) {
        Words<CH / 2> f = load_words<CH>((const bf16*)p.g + row * p.g_row + channel, there);
#pragma unroll
        for (int c = 0; c < CH; c++) g[c] = there ? rate * softplus(word(f, c) + bias[c]) : 0.0f;
    } else {
        const float* f = (const float*)p.g + row * p.g_row + channel;
#pragma unroll
        for (int c = 0; c < CH; c++) g[c] = there ? f[c] : 0.0f;
    }
}

// 32 sums over a warp at once: halves change places between lanes that differ in bit O, until lane l holds the whole sum l.
template <int O> DEVICE void fold(float (&sum)[32], int lane) {
    const bool upper = lane & O;
#pragma unroll
    for (int i = 0; i < O; i++) {
        const float give = upper ? sum[i] : sum[i + O], keep = upper ? sum[i + O] : sum[i];
        sum[i] = keep + __shfl_xor_sync(WARP_ALL, give, O);
    }
    if constexpr (O > 1) fold<O / 2>(sum, lane);
}

template <int K> DEVICE void prepare(const ChunkParams& p, PrepareShared<K>& s, int tile, int index, int h, int lane) {
    constexpr int CH = K / 32;
    const Tile at = p.tiles[tile];
    const int channel = h * K + lane * CH;
    float rate = 0.0f, bias[CH];
#pragma unroll
    for (int c = 0; c < CH; c++) bias[c] = p.gates ? p.dt_bias[channel + c] : 0.0f;
    if (p.gates) rate = -exp_(p.a_log[h]);

    // Everything a lane needs of 16 tokens, in flight at once.
    Words<CH / 2> q[TILE], k[TILE], b[TILE];
    float g[TILE][CH];
#pragma unroll
    for (int t = 0; t < TILE; t++) {
        const bool there = t < at.len;
        const long row = at.row + (there ? t : 0);
        q[t] = load_words<CH>(p.q + row * p.q_row + channel, there);
        k[t] = load_words<CH>(p.k + row * p.k_row + channel, there);
        b[t] = load_words<CH>(p.b + row * p.b_row + channel, there);
        load_decay<CH>(g[t], p, row, channel, rate, bias, there);
    }
    // Sums of squares, of 32 rows at once.
    if (p.gates) {
        float sum[32];
#pragma unroll
        for (int t = 0; t < TILE; t++) {
            sum[t] = sum[t + TILE] = 0.0f;
#pragma unroll
            for (int c = 0; c < CH; c++) {
                sum[t] += word(q[t], c) * word(q[t], c);
                sum[t + TILE] += word(k[t], c) * word(k[t], c);
            }
        }
        fold<16>(sum, lane);
        // Lane l holds the whole sum of row l.
        s.scale[lane] = rsqrtf(sum[0] + 1e-6f) * (lane < TILE ? p.q_scale : 1.0f);
    } else {
        s.scale[lane] = lane < TILE ? p.q_scale : 1.0f;
    }
    __syncwarp();
#pragma unroll
    for (int t = 1; t < TILE; t++)
#pragma unroll
        for (int c = 0; c < CH; c++) g[t][c] += g[t - 1][c];
    bool deep = false;
    float last[CH];
#pragma unroll
    for (int c = 0; c < CH; c++) {
        last[c] = exp_(g[TILE - 1][c]);
        deep |= g[TILE - 1][c] < DEEP;
    }
#pragma unroll
    for (int t = 0; t < TILE; t++) {
        const float rq = s.scale[t], rk = s.scale[TILE + t];
        float e[CH], kp[CH], qp[CH], kt[CH];
#pragma unroll
        for (int c = 0; c < CH; c++) {
            const float gamma = exp_(g[t][c]);
            const float kk = word(k[t], c) * rk;
            const float bb = p.gates ? p.b_scale * sigmoid(word(b[t], c)) : word(b[t], c);
            e[c] = gamma * bb * kk;
            qp[c] = gamma * word(q[t], c) * rq;
            kp[c] = g[t][c] < DEEP ? 0.0f : kk * exp_(-g[t][c]);
            kt[c] = kk * exp_(g[TILE - 1][c] - g[t][c]);
        }
#pragma unroll
        for (int c = 0; c < CH; c += 2) {
            *(u32*)&s.e[t][lane * CH + c] = pack(e[c], e[c + 1]);
            *(u32*)&s.k[t][lane * CH + c] = pack(kp[c], kp[c + 1]);
            *(u32*)&s.q[t][lane * CH + c] = pack(qp[c], qp[c + 1]);
            *(u32*)&s.kt[t][lane * CH + c] = pack(kt[c], kt[c + 1]);
        }
    }
    __syncwarp();

    u8* record = p.records + (u64)(index * p.heads + h) * Record<K>::BYTES;
    uint4* out = (uint4*)record + lane;
    const int row = lane % 8 + 8 * (lane / 8 % 2), column = 8 * (lane / 16);
    const int r0 = lane / 4, c0 = lane % 4 * 2;
    // T and q' k'^T, both [r, s].
    float t[2][4] = {}, a[2][4] = {};
#pragma unroll
    for (int kk = 0; kk < K / 16; kk++) {
        u32 fe[4], fk[4], fq[4], ft[4];
        load_matrices(fe, &s.e[row][kk * 16 + column]);
        load_matrices(fk, &s.k[row][kk * 16 + column]);
        load_matrices(fq, &s.q[row][kk * 16 + column]);
        load_matrices_transposed(ft, &s.kt[row][kk * 16 + column]);
        mma(t[0], fe[0], fe[1], fe[2], fe[3], fk[0], fk[2]);
        mma(t[1], fe[0], fe[1], fe[2], fe[3], fk[1], fk[3]);
        mma(a[0], fq[0], fq[1], fq[2], fq[3], fk[0], fk[2]);
        mma(a[1], fq[0], fq[1], fq[2], fq[3], fk[1], fk[3]);
        out[(K / 16 + kk) * 32] = make_uint4(fq[0], fq[2], fq[1], fq[3]);
        out[(2 * (K / 16) + kk) * 32] = make_uint4(ft[0], ft[1], ft[2], ft[3]);
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = r0 + 8 * (i / 2), c = n * 8 + c0 + i % 2;
            s.t[r][c] = c < r ? t[n][i] : 0.0f;
            s.a[r][c] = c <= r ? a[n][i] : 0.0f;
        }
    __syncwarp();

    if (__any_sync(WARP_ALL, deep)) {
        float sum[CH] = {};
        for (int c = 0; c < at.len; c++) {
            float gs[CH];
            load_decay<CH>(gs, p, at.row + c, channel, rate, bias, true);
            bool mine = false;
#pragma unroll
            for (int i = 0; i < CH; i++) sum[i] += gs[i], mine |= sum[i] < DEEP;
            if (!__any_sync(WARP_ALL, mine)) continue;
            const Words<CH / 2> ks = load_words<CH>(p.k + (long)(at.row + c) * p.k_row + channel, true);
            float fall[CH] = {};
            for (int r = c; r < at.len; r++) {
                const long there = at.row + r;
                if (r > c) {
                    load_decay<CH>(gs, p, there, channel, rate, bias, true);
#pragma unroll
                    for (int i = 0; i < CH; i++) fall[i] += gs[i];
                }
                const Words<CH / 2> kr = load_words<CH>(p.k + there * p.k_row + channel, true);
                const Words<CH / 2> qr = load_words<CH>(p.q + there * p.q_row + channel, true);
                const Words<CH / 2> br = load_words<CH>(p.b + there * p.b_row + channel, true);
                float erase = 0.0f, ask = 0.0f;
#pragma unroll
                for (int i = 0; i < CH; i++) {
                    const float x = sum[i] < DEEP ? exp_(fall[i]) * word(ks, i) * s.scale[TILE + c] : 0.0f;
                    const float bb = p.gates ? p.b_scale * sigmoid(word(br, i)) : word(br, i);
                    erase += x * bb * word(kr, i) * s.scale[TILE + r];
                    ask += x * word(qr, i) * s.scale[r];
                }
                erase = warp_sum(erase), ask = warp_sum(ask);
                if (lane == 0) {
                    if (r > c) s.t[r][c] += erase;
                    s.a[r][c] += ask;
                }
            }
        }
        __syncwarp();
    }

    // A by forward substitution in f32; lane j has column j. (Powers of T grow past all bounds where keys repeat.)
    float x[TILE];
    const int j = lane % 16;
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
        if (lane < 16) s.inverse[r][j] = narrow(sum);
    }
    __syncwarp();
    u32 f[4];
    load_matrices(f, &s.inverse[row][column]);
    out[(3 * (K / 16)) * 32] = make_uint4(f[0], f[2], f[1], f[3]);
    const float *u = &s.a[r0][c0], *v = &s.a[r0 + 8][c0];
    out[(3 * (K / 16) + 1) * 32] = make_uint4(pack(u[0], u[1]), pack(u[8], u[9]), pack(v[0], v[1]), pack(v[8], v[9]));
#pragma unroll
    for (int kk = 0; kk < K / 16; kk++) {
        u32 fe[4];
        load_matrices_transposed(fe, &s.e[row][kk * 16 + column]);
        float y0[4] = {}, y1[4] = {};
        mma(y0, f[0], f[1], f[2], f[3], fe[0], fe[1]);
        mma(y1, f[0], f[1], f[2], f[3], fe[2], fe[3]);
        out[kk * 32] = make_uint4(pack(-y0[0], -y0[1]), pack(-y1[0], -y1[1]), pack(-y0[2], -y0[3]), pack(-y1[2], -y1[3]));
    }
    float* decay = (float*)(record + Record<K>::DECAY) + lane * CH;
#pragma unroll
    for (int c = 0; c < CH; c++) decay[c] = last[c];
}

// Grid: warps for slice * sequences tiles times heads; heads change fastest, so that neighbours read neighbouring rows.
template <int K> DEVICE void prepare_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int unit = blockIdx.x * PREPARE_WARPS + warp;
    const int h = unit % p.heads, index = unit / p.heads;
    const int sequence = index / p.slice, n = p.from_tile + index % p.slice;
    if (sequence >= p.sequences || n >= p.to_tile) return;
    const int tile = p.first_tile[sequence] + n;
    if (tile >= p.first_tile[sequence + 1]) return;
    prepare<K>(p, ((PrepareShared<K>*)memory)[warp], tile, index, h, lane);
}

template <int K, int WARPS, int STAGES> struct ScanShared {
    u8 record[STAGES][Record<K>::BYTES];
    bf16 v[STAGES][WARPS][TILE][24], w[STAGES][WARPS][TILE][24];  // rows of 48 bytes: eight of them meet all banks once
    u64 full[STAGES], empty[STAGES];
};

// Grid: (value heads * V / (16 * WARPS), sequences). Each warp has 16 of V, all of K.
template <int K, int WARPS, int STAGES> DEVICE void scan_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    ScanShared<K, WARPS, STAGES>& s = *(ScanShared<K, WARPS, STAGES>*)memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int parts = p.value_dim / (16 * WARPS);
    const int sequence = blockIdx.y, j = blockIdx.x / parts;
    const int h = j / (p.value_heads / p.heads);
    const int v0 = (blockIdx.x % parts * WARPS + warp) * 16;  // within the head
    const int begin = p.first_tile[sequence] + p.from_tile;
    const int tiles = min(p.first_tile[sequence + 1] - begin, p.to_tile - p.from_tile);
    if (tiles <= 0) return;
    const u8* records = p.records + ((u64)sequence * p.slice * p.heads + h) * Record<K>::BYTES;
    const u64 stride = (u64)p.heads * Record<K>::BYTES;

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(&s.full[i], 1), barrier_init(&s.empty[i], WARPS);
        barrier_init_visible();
    }
    __syncthreads();
    // A lane fetches half of a token's 16 values and gates.
    auto fetch = [&](int i) {
        if (i < tiles) {
            const int stage = i % STAGES;
            if (threadIdx.x == 0) {
                if (i >= STAGES) barrier_wait(&s.empty[stage], (i / STAGES - 1) & 1);
                barrier_expect(&s.full[stage], Record<K>::BYTES);
                copy_bulk(s.record[stage], records + i * stride, Record<K>::BYTES, &s.full[stage]);
            }
            __syncwarp();
            const Tile at = p.tiles[begin + i];
            const int t = lane / 2, half = lane % 2 * 8, there = t < at.len ? 16 : 0;
            const long row = at.row + (there ? t : 0);
            const int column = j * p.value_dim + v0 + half;
            copy16_async(&s.v[stage][warp][t][half], p.v + row * p.v_row + column, there);
            copy16_async(&s.w[stage][warp][t][half], p.w + row * p.w_row + column, there);
        }
        copies_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch(i);

    // S^T: block n has channels 8n.. of K; rows lane/4 and lane/4 + 8 of V.
    float x[K / 8][4];
    u32 xa[K / 16][4];
    float* state = p.states[sequence] + p.at + (u64)j * K * p.value_dim + v0 + lane / 4;
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)];

    for (int i = 0; i < tiles; i++) {
        const int stage = i % STAGES;
        const Tile at = p.tiles[begin + i];
        copies_wait<STAGES - 2>();
        __syncwarp();
        // z^T as an A operand [V 16, tokens 16].
        u32 fv[4], fw[4], z[4];
        const int row = lane % 8 + 8 * (lane / 16), column = 8 * (lane / 8 % 2);
        load_matrices_transposed(fv, &s.v[stage][warp][row][column]);
        load_matrices_transposed(fw, &s.w[stage][warp][row][column]);
#pragma unroll
        for (int r = 0; r < 4; r++)
            z[r] = p.gates ? pack(low(fv[r]) * sigmoid(low(fw[r])), high(fv[r]) * sigmoid(high(fw[r])))
                           : pack(low(fv[r]) * low(fw[r]), high(fv[r]) * high(fw[r]));
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            xa[n][0] = pack(x[2 * n][0], x[2 * n][1]);
            xa[n][1] = pack(x[2 * n][2], x[2 * n][3]);
            xa[n][2] = pack(x[2 * n + 1][0], x[2 * n + 1][1]);
            xa[n][3] = pack(x[2 * n + 1][2], x[2 * n + 1][3]);
        }
        barrier_wait(&s.full[stage], (i / STAGES) & 1);
        const uint4* record = (const uint4*)s.record[stage] + lane;
        // R^T [V 16, tokens 8 + 8] = z^T A^T - S^T Y^T, in two chains.
        float r[2][4] = {}, rr[2][4] = {}, o[2][4] = {};
        {
            const uint4 f = record[3 * (K / 16) * 32];
            mma(r[0], z[0], z[1], z[2], z[3], f.x, f.y);
            mma(r[1], z[0], z[1], z[2], z[3], f.z, f.w);
        }
#pragma unroll
        for (int n = 0; n < K / 16; n += 2) {
            const uint4 f = record[n * 32], g = record[(n + 1) * 32];
            mma(r[0], xa[n][0], xa[n][1], xa[n][2], xa[n][3], f.x, f.y);
            mma(r[1], xa[n][0], xa[n][1], xa[n][2], xa[n][3], f.z, f.w);
            mma(rr[0], xa[n + 1][0], xa[n + 1][1], xa[n + 1][2], xa[n + 1][3], g.x, g.y);
            mma(rr[1], xa[n + 1][0], xa[n + 1][1], xa[n + 1][2], xa[n + 1][3], g.z, g.w);
        }
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            const uint4 f = record[(K / 16 + n) * 32];
            mma(o[0], xa[n][0], xa[n][1], xa[n][2], xa[n][3], f.x, f.y);
            mma(o[1], xa[n][0], xa[n][1], xa[n][2], xa[n][3], f.z, f.w);
        }
        const u32 ra[4] = {pack(r[0][0] + rr[0][0], r[0][1] + rr[0][1]), pack(r[0][2] + rr[0][2], r[0][3] + rr[0][3]),
                           pack(r[1][0] + rr[1][0], r[1][1] + rr[1][1]), pack(r[1][2] + rr[1][2], r[1][3] + rr[1][3])};
        // S^T <- S^T Diag(exp G_16) + R^T k~
        const float2* decay = (const float2*)(s.record[stage] + Record<K>::DECAY) + lane % 4;
#pragma unroll
        for (int n = 0; n < K / 8; n++) {
            const float2 d = decay[n * 4];
            x[n][0] *= d.x, x[n][1] *= d.y, x[n][2] *= d.x, x[n][3] *= d.y;
        }
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            const uint4 f = record[(2 * (K / 16) + n) * 32];
            mma(x[2 * n], ra[0], ra[1], ra[2], ra[3], f.x, f.y);
            mma(x[2 * n + 1], ra[0], ra[1], ra[2], ra[3], f.z, f.w);
        }
        {
            const uint4 f = record[(3 * (K / 16) + 1) * 32];
            mma(o[0], ra[0], ra[1], ra[2], ra[3], f.x, f.y);
            mma(o[1], ra[0], ra[1], ra[2], ra[3], f.z, f.w);
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.empty[stage]);
        bf16* out = p.out + (long)at.row * p.out_row + j * p.value_dim + v0 + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const u32 a = transpose8(pack(o[n][0], o[n][1])), b = transpose8(pack(o[n][2], o[n][3]));
            const int t = n * 8 + lane / 4;
            if (t < at.len) {
                *(u32*)(out + (long)t * p.out_row) = a;
                *(u32*)(out + (long)t * p.out_row + 8) = b;
            }
        }
        fetch(i + STAGES - 1);
    }
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)] = x[n][i];
}

#define PREPARE(K) \
    KERNEL(32 * PREPARE_WARPS, gdn2_prepare_k##K, ChunkParams) { prepare_block<K>(p); }
#define SCAN(K, WARPS, STAGES) \
    KERNEL(32 * WARPS, gdn2_scan_k##K##_w##WARPS, ChunkParams) { scan_block<K, WARPS, STAGES>(p); }
PREPARE(64)
PREPARE(128)
SCAN(64, 2, 4)
SCAN(64, 4, 4)
SCAN(128, 2, 4)
SCAN(128, 4, 4)
