// Prefill: segments of 64 tokens, in two kernels. arXiv 2605.22791, section 3.3, for tiles of 16: with S the state before the tile, G the
// running sum of g, e_r = exp(G_r) b_r k_r, z = w v:
//
//   T = tril(e k'^T, -1)    A = (I + T)^-1    Y = A e    R = A z - Y S    O = q' S + tril(q' k'^T) R    S <- exp(G_16) S + k~^T R
//
// where k'_s = k_s exp(-G_s), q'_r = q_r exp(G_r) / sqrt(K), k~_s = k_s exp(G_16 - G_s).
// Four tiles i of a segment are put together. With D_i = exp(G_16), M_ij = e_i (D_j+1 .. D_i-1) k~_j^T for j < i:
//
//   Y_i = A_i (e_i D_0 .. D_i-1 - sum_j M_ij Y_j)    A_ij = -A_i sum_m M_im A_mj, j <= m < i    q'_i <- q'_i D_0 .. D_i-1
//   k~_i <- k~_i D_i+1 .. D_3    scores_ij = q'_i (D_j+1 .. D_i-1) k~_j^T
//
// and R, O and S are as before, with matrices of 64 tokens.
//
// gdn2_prepare: a block makes all that does not need S of one segment and key head: its *record*. Any number run side by side.
// gdn2_scan (gdn2_scan.cu) goes through a sequence's records in order.
//
// A record is laid out as the products of a warpgroup take it from shared memory (`Record` in params.cuh):
//   -Y, q', k~, each [K/64][8 groups of 8 tokens][8][64], 16-byte pieces swizzled by row; D_0 D_1 D_2 D_3 as f32 [K];
//   the scores, then A: a column j of blocks [16, 16] on and below the diagonal after the other, each as
//   [8 - 2 j groups of 8 rows][2 halves of 8 columns][8][8].
//
// exp(-G_s) would overflow: a column s of a channel with G_s < -80 is left out of a tile's products and added pair by pair, in
// differences of G. What row r becomes depends on the tokens before it alone, also in a segment cut short.
#include "ptx.cuh"

constexpr float DEEP = -80.0f * LOG2E;  // G is kept in powers of 2

// Element of a swizzled matrix [K/64][GROUPS][8][64]; a 16-byte piece's place is its number xor its row's.
template <int GROUPS> DEVICE int swizzled(int row, int channel) {
    return (channel / 64 * GROUPS + row / 8) * 1024 + row % 8 * 128 + (channel % 64 / 8 ^ row % 8) * 16 + channel % 8 * 2;
}

// What a tile needs besides its part of the record.
template <int K> struct TileShared {
    u8 k[32 * K];                    // k'; before, what q is as it was loaded, in the same places
    u8 raw[32 * K];                  // and k
    float t[TILE][20], a[TILE][20];
    float square[K / 64][2 * TILE];  // of q, of k: sums over 64 channels
    float before[K];                 // the sum of g over the first 8 tokens; then the decays of the tiles before, multiplied
    float after[K];                  // and over all 16; then of those after
    float decay[K];                  // exp of that
    float scale[2 * TILE];
    u32 far[4];                      // of each 64 channels
};
template <int K> struct PrepareShared {
    u8 record[Record<K>::BYTES];  // e lies where Y will
    u8 between[6][512];           // M: blocks (1, 0), (2, 0), (2, 1), (3, 0).. as those of a record
    TileShared<K> tile[TILES];
};
DEVICE int pair_of(int i, int j) { return i * (i - 1) / 2 + j; }

// The log-decay of two channels of a token, in powers of 2: `f` as it was loaded, bf16 inputs of the gate. `bias` is in powers of 2 too.
DEVICE float2 decay_of(u32 f, float rate, float2 bias) {
    return make_float2(rate * softplus2_of(fmaf(low(f), LOG2E, bias.x)), rate * softplus2_of(fmaf(high(f), LOG2E, bias.y)));
}
template <bool GATES> DEVICE float2 load_bias(const ChunkParams& p, int channel) {
    if (!GATES) return make_float2(0, 0);
    const float2 bias = *(const float2*)(p.dt_bias + channel);
    return make_float2(bias.x * LOG2E, bias.y * LOG2E);
}
template <bool GATES> DEVICE float2 load_decay(const ChunkParams& p, long row, int channel, float rate, float2 bias) {
    if constexpr (GATES) return decay_of(*(const u32*)((const bf16*)p.g + row * p.g_row + channel), rate, bias);
    const float2 g = *(const float2*)((const float*)p.g + row * p.g_row + channel);
    return make_float2(g.x * LOG2E, g.y * LOG2E);
}
// The erase gates. `unscaled` is 1 / b_scale.
template <bool GATES> DEVICE float2 erase_gates(float unscaled, u32 b) {
    if (!GATES) return make_float2(low(b), high(b));
    return make_float2(reciprocal(fmaf(exp_(-low(b)), unscaled, unscaled)), reciprocal(fmaf(exp_(-high(b)), unscaled, unscaled)));
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
DEVICE void far_pairs(const ChunkParams& p, TileShared<K>& s, const Tile& at, int h, float rate, int lane) {
    const float unscaled = GATES ? reciprocal(p.b_scale) : 1.0f;
    for (int c = 0; c < at.len; c++)
        for (int n = 0; n < K / 64; n++) {
            const int i = n * 64 + lane * 2, channel = h * K + i;
            const float2 bias = load_bias<GATES>(p, channel);
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
                const float2 b = erase_gates<GATES>(unscaled, *(const u32*)(p.b + row * p.b_row + channel));
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
template <int K> DEVICE void invert(const TileShared<K>& s, u8* to, int lane) {
    float x[TILE];
    const int j = lane % 16;
    to += j / 8 * 128 + j % 8 * 2;
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

// A quarter of the block makes a tile: a thread has 2 channels of 8 tokens, a warp 64 channels. 4 K threads.
template <int K, bool GATES> DEVICE void prepare_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    PrepareShared<K>& all = *(PrepareShared<K>*)memory;
    using R = Record<K>;
    constexpr int HALVES = K / 64, WARPS = 2 * HALVES, TOKENS = TILE / 2;
    const int tile = threadIdx.x / K, warp = threadIdx.x % K / 32, lane = threadIdx.x % 32;
    TileShared<K>& s = all.tile[tile];
    auto tile_barrier = [&] { part_barrier(1 + tile, K); };
    const int half = warp % HALVES, late = warp / HALVES;  // which channels, which tokens
    const int i = half * 64 + lane * 2, t0 = late * TOKENS;
    const float unscaled = GATES ? reciprocal(p.b_scale) : 1.0f;
    // slice * sequences segments times heads; heads change fastest, so that neighbours read neighbouring rows. A block may have some that follow
    // each other, the next one's inputs being asked for early; one each is faster (GPU.md), so that only bench.cu launches fewer.
    const int units = p.slice * p.sequences * p.heads, each = (units + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * each;
    int left = min(each, units - begin), unit = begin;
    bool there = false;
    Tile at;
    // A tile that is not there is one of no tokens.
    auto find = [&] {
        const int index = unit / p.heads, sequence = index / p.slice, n = p.from + index % p.slice;
        there = false;
        if (left <= 0 || n >= p.to) return;
        const int first = p.first_tile[sequence] + n * TILES, tiles = p.first_tile[sequence + 1] - first;
        if (tiles <= 0) return;
        there = true;
        at = p.tiles[first + (tile < tiles ? tile : 0)];
        if (tile >= tiles) at.len = 0;
    };
    auto ask = [&] {
        if (!there) return;
        const int h = unit % p.heads, c = threadIdx.x % K;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const int t = n * 8 + c / (K / 8), piece = c % (K / 8);
            const long row = at.row + (t < at.len ? t : 0);
            const int to = (piece / 8 * 2 + n) * 1024 + t % 8 * 128 + (piece % 8 ^ t % 8) * 16;
            copy16_async(s.k + to, p.q + row * p.q_row + h * K + piece * 8, t < at.len ? 16 : 0);
            copy16_async(s.raw + to, p.k + row * p.k_row + h * K + piece * 8, t < at.len ? 16 : 0);
        }
        copies_commit();
        const int t = c / (K / 16);
        if (t < at.len) {
            const long row = at.row + t;
            const int channel = h * K + c % (K / 16) * 16;
            fetch_soon(p.b + row * p.b_row + channel);
            if (GATES) fetch_soon((const bf16*)p.g + row * p.g_row + channel);
        }
    };
    find();
    ask();
    for (bool again = false; left > 0;) {
    if (!there) {
        unit++, left--;
        find();
        ask();
        continue;
    }
    const int h = unit % p.heads, index = unit / p.heads, channel = h * K + i;
    const float rate = GATES ? -exp_(p.a_log[h]) : 0.0f;
    const float2 bias = load_bias<GATES>(p, channel);
    // What is past the tile's end is loaded from elsewhere and thrown away.
    u32 q[TOKENS], k[TOKENS], b[TOKENS], f[TOKENS];
    float2 g[TOKENS];
    const bf16* b0 = p.b + (long)(at.row + (t0 < at.len ? t0 : 0)) * p.b_row + channel;
    const bool whole = at.len == TILE;
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        const long row = at.row + (t0 + t < at.len ? t0 + t : 0);
        if constexpr (GATES) f[t] = *(const u32*)((const bf16*)p.g + row * p.g_row + channel);
        else g[t] = load_decay<false>(p, row, channel, rate, bias);
    }
    copies_wait<0>();
    tile_barrier();
    u8* const kp = s.k + (half * 2 + late) * 1024;
    auto place = [&](int t) { return t * 128 + (lane * 4 ^ t * 16); };
#pragma unroll
    for (int t = 0; t < TOKENS; t++) q[t] = *(const u32*)(kp + place(t)), k[t] = *(const u32*)(kp + 32 * K + place(t));
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
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        if constexpr (GATES) g[t] = decay_of(f[t], rate, bias);
        if (t0 + t >= at.len) g[t] = make_float2(0, 0);
        b[t] = *(const u32*)(b0 + (whole || t0 + t < at.len ? t : 0) * p.b_row);
    }
    if (!late) {
        float2 G = g[0];
#pragma unroll
        for (int t = 1; t < TOKENS; t++) G.x += g[t].x, G.y += g[t].y;
        *(float2*)&s.before[i] = G;
    }
    tile_barrier();
    if (late) {
        float2 G = *(const float2*)&s.before[i];
#pragma unroll
        for (int t = 0; t < TOKENS; t++) G.x += g[t].x, G.y += g[t].y;
        *(float2*)&s.after[i] = G;
        const u32 far = __any_sync(WARP_ALL, G.x < DEEP || G.y < DEEP);
        if (lane == 0) s.far[half] = far;
    } else if (warp == 0) {
        float sum = 1.0f;
        if constexpr (GATES) {
            sum = 1e-6f;
#pragma unroll
            for (int n = 0; n < HALVES; n++) sum += s.square[n][lane];
            sum = rsqrtf(sum);
        }
        s.scale[lane] = sum * (lane < TILE ? p.q_scale : 1.0f);
    }
    // What is written next may be on its way to memory still.
    if (again) {
        copies_out_read();
        __syncthreads();
    } else {
        tile_barrier();
    }
    again = true;
    bool far = false;
#pragma unroll
    for (int n = 0; n < HALVES; n++) far |= s.far[n] != 0;

    const float2 end = *(const float2*)&s.after[i];
    const float2 last = make_float2(exp2_(end.x), exp2_(end.y));
    if (!late) *(float2*)&s.decay[i] = last;
    auto write_rows = [&](auto beyond) {
        float2 G = late ? *(const float2*)&s.before[i] : make_float2(0, 0);
        u8* rows = all.record + (half * 8 + tile * 2 + late) * 1024;
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            G.x += g[t].x, G.y += g[t].y;
            const float rq = s.scale[t0 + t], rk = s.scale[TILE + t0 + t];
            const u32 q = *(const u32*)(kp + place(t)), k = *(const u32*)(kp + 32 * K + place(t));
            const float kx = low(k) * rk, ky = high(k) * rk;
            const float2 e = erase_gates<GATES>(unscaled, b[t]);
            const float x = exp2_(G.x), y = exp2_(G.y);
            float dx = exp2_(-G.x), dy = exp2_(-G.y);
            float ex = last.x * dx, ey = last.y * dy;
            if constexpr (decltype(beyond)::IS) {
                if (end.x < DEEP) ex = exp2_(end.x - G.x);
                if (end.y < DEEP) ey = exp2_(end.y - G.y);
                if (G.x < DEEP) dx = 0.0f;
                if (G.y < DEEP) dy = 0.0f;
            }
            const int at = place(t);
            *(u32*)(rows + at) = pack(x * e.x * kx, y * e.y * ky);
            *(u32*)(rows + R::ASK + at) = pack(x * low(q) * rq, y * high(q) * rq);
            *(u32*)(rows + R::KEYS + at) = pack(kx * ex, ky * ey);
            *(u32*)(kp + at) = pack(kx * dx, ky * dy);
        }
    };
    if (far) write_rows(Yes{});
    else write_rows(No{});
    tile_barrier();

    // T and q' k'^T, [r, s]: a warp 8 columns of either.
    const int r0 = lane / 4, c0 = lane % 4 * 2;
#pragma unroll
    for (int task = warp; task < 4; task += WARPS) {
        const int which = task / 2, group = task % 2;
        float c[2][4] = {};
#pragma unroll
        for (int kk = 0; kk < K / 16; kk += 2) {
            u32 f[4], g[4], fk[4];
            const int piece = kk % 4 * 32, row = lane % 8, m = lane / 8;
            const u8* a = all.record + which * R::ASK + (kk / 4 * 8 + tile * 2 + m % 2) * 1024 + row * 128;
            load_matrices(f, a + ((m / 2 ^ row) * 16 ^ piece));
            load_matrices(g, a + ((m / 2 ^ row) * 16 ^ piece ^ 32));
            load_matrices(fk, s.k + (kk / 4 * 2 + group) * 1024 + row * 128 + ((m ^ row) * 16 ^ piece));
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
    // Decays over the tiles before and after this one.
    {
        const int c = threadIdx.x % K;
        float before = 1.0f, after = 1.0f;
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            const float d = all.tile[m].decay[c];
            if (m < tile) before *= d;
            if (m > tile) after *= d;
        }
        s.before[c] = before, s.after[c] = after;
        if (tile == TILES - 1) *(float*)(all.record + R::DECAY + c * 4) = before * s.decay[c];
    }
    // The next one.
    const Tile now = at;
    unit++, left--;
    find();
    if (!far) ask();
    const int mine = threadIdx.x / 32, m = lane / 8, row = lane % 8;
    // A warp of each tile inverts, on different quarters of the processor; the others have the pairs of tiles.
    const int helper = (warp + WARPS - 1 - tile % WARPS) % WARPS;
    if (helper == WARPS - 1) {
        if (far) {
            far_pairs<K, GATES>(p, s, now, h, rate, lane);
            __syncwarp();
        }
        invert<K>(s, all.record + R::INVERSE + block_column(tile), lane);
        // Rows of the scores, as pairs.
        const int row = lane / 2, col = lane % 2 * 8;
        const float4 x = *(const float4*)&s.a[row][col], y = *(const float4*)&s.a[row][col + 4];
        *(uint4*)(all.record + R::SCORES + block_column(tile) + (row / 8 * 2 + lane % 2) * 128 + row % 8 * 16) =
            make_uint4(pack(x.x, x.y), pack(x.z, x.w), pack(y.x, y.y), pack(y.z, y.w));
    } else {
        // M and the scores of the pairs, 8 columns of a block [16, 16] of both at a time.
        for (int task = tile * (WARPS - 1) + helper; task < 12; task += TILES * (WARPS - 1)) {
            const int pair = task / 2, group = task % 2;
            const int t = pair < 1 ? 1 : pair < 3 ? 2 : 3, j = pair - pair_of(t, 0);
            float c[2][4] = {};
#pragma unroll
            for (int kk = 0; kk < K / 16; kk += 2) {
                u32 fk[4];
                const int piece = kk % 4 * 32;
                const u8* a = all.record + (kk / 4 * 8 + t * 2 + m % 2) * 1024 + row * 128;
                load_matrices(fk, all.record + R::KEYS + (kk / 4 * 8 + j * 2 + group) * 1024 + row * 128 + ((m ^ row) * 16 ^ piece));
                if (t - j > 1) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        float2 x = *(const float2*)&all.tile[j + 1].decay[kk * 16 + i * 8 + c0];
                        if (t - j > 2) {
                            const float2 y = *(const float2*)&all.tile[j + 2].decay[kk * 16 + i * 8 + c0];
                            x.x *= y.x, x.y *= y.y;
                        }
                        fk[i] = pack(low(fk[i]) * x.x, high(fk[i]) * x.y);
                    }
                }
#pragma unroll
                for (int which = 0; which < 2; which++) {
                    u32 f[4];
                    load_matrices(f, a + which * R::ASK + ((m / 2 ^ row) * 16 ^ piece));
                    mma(c[which], f[0], f[1], f[2], f[3], fk[0], fk[1]);
                    load_matrices(f, a + which * R::ASK + ((m / 2 ^ row) * 16 ^ piece ^ 32));
                    mma(c[which], f[0], f[1], f[2], f[3], fk[2], fk[3]);
                }
            }
#pragma unroll
            for (int which = 0; which < 2; which++) {
                u8* block = (which ? all.record + R::SCORES + block_column(j) + (t - j) * 512 : all.between[pair]) + group * 128 + r0 * 16 + c0 * 2;
                *(u32*)block = pack(c[which][0], c[which][1]);
                *(u32*)(block + 256) = pack(c[which][2], c[which][3]);
            }
        }
    }
    __syncthreads();
    if (far) ask();

    // The substitution: a warp 8 channels of -Y in the place of e, one 16-byte piece of each row; then 8 columns of A.
    u8* to = all.record + mine / 8 * 8192 + r0 * 128 + (mine % 8 ^ r0) * 16 + c0 * 2;
    auto load_block = [&](u32 (&f)[4], const u8* block) { load_matrices(f, block + (m % 2 * 2 + m / 2) * 128 + row * 16); };
    // -A_t x, a block [16, 8] of f32, as it is written and as an operand.
    auto solve = [&](int t, const float (&x)[4], u32& upper, u32& lower, u32 (&done)[2]) {
        u32 f[4];
        float y[4] = {};
        load_block(f, all.record + R::INVERSE + block_column(t));
        mma(y, f[0], f[1], f[2], f[3], transpose8(pack(x[0], x[1])), transpose8(pack(x[2], x[3])));
        upper = pack(-y[0], -y[1]), lower = pack(-y[2], -y[3]);
        done[0] = transpose8(upper), done[1] = transpose8(lower);
    };
    {
        u32 done[TILES][2];
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            const float2 before = *(const float2*)&all.tile[t].before[mine * 8 + c0];
            u32 a = *(const u32*)(to + t * 2048), b = *(const u32*)(to + t * 2048 + 1024);
            float x[4] = {low(a) * before.x, high(a) * before.y, low(b) * before.x, high(b) * before.y};
#pragma unroll
            for (int j = 0; j < t; j++) {
                u32 f[4];
                load_block(f, all.between[pair_of(t, j)]);
                mma(x, f[0], f[1], f[2], f[3], done[j][0], done[j][1]);
            }
            solve(t, x, a, b, done[t]);
            *(u32*)(to + t * 2048) = a;
            *(u32*)(to + t * 2048 + 1024) = b;
        }
    }
    if (mine < 6) {
        const int j = mine / 2;
        u32 done[TILES][2];
        u32 f[4];
        u8* column = all.record + R::INVERSE + block_column(j) + mine % 2 * 128;
        load_matrices_transposed(f, column + m % 2 * 256 + row * 16);
        done[0][0] = f[0], done[0][1] = f[1];
#pragma unroll
        for (int d = 1; d < TILES; d++) {
            if (j + d < TILES) {
                float x[4] = {};
#pragma unroll
                for (int e = 0; e < d; e++) {
                    load_block(f, all.between[pair_of(j + d, j + e)]);
                    mma(x, f[0], f[1], f[2], f[3], done[e][0], done[e][1]);
                }
                u32 a, b;
                solve(j + d, x, a, b, done[d]);
                *(u32*)(column + d * 512 + r0 * 16 + c0 * 2) = a;
                *(u32*)(column + d * 512 + r0 * 16 + c0 * 2 + 256) = b;
            }
        }
    }
    // q' from the segment's beginning, k~ to its end: a thread a 16-byte piece of every 32nd row.
    {
        constexpr int PIECES = K / 8;
        const int piece = threadIdx.x % PIECES, from = threadIdx.x / PIECES;
        auto scale = [&](u8* rows, int t, const float* by) {
            uint4* at = (uint4*)(rows + piece / 8 * 8192 + t * 128 + (piece % 8 ^ t % 8) * 16);
            const float4 x = *(const float4*)by, y = *(const float4*)(by + 4);
            const uint4 old = *at;
            *at = make_uint4(pack(low(old.x) * x.x, high(old.x) * x.y), pack(low(old.y) * x.z, high(old.y) * x.w),
                             pack(low(old.z) * y.x, high(old.z) * y.y), pack(low(old.w) * y.z, high(old.w) * y.w));
        };
#pragma unroll
        for (int t = from; t < SEGMENT; t += 32) {
            scale(all.record + R::ASK, t, all.tile[t / TILE].before + piece * 8);
            scale(all.record + R::KEYS, t, all.tile[t / TILE].after + piece * 8);
        }
    }
    copies_see_writes();
    __syncthreads();
    if (threadIdx.x == 0) copy_bulk_out(p.records + (u64)(index * p.heads + h) * R::BYTES, all.record, R::BYTES);
    }
    copies_out_read();
}

#define PREPARE(K) \
    KERNEL_OF(4 * K, 1024 / (4 * K), gdn2_prepare_k##K, ChunkParams) { p.gates ? prepare_block<K, true>(p) : prepare_block<K, false>(p); }
PREPARE(64)
PREPARE(128)
