// Prefill, second half: see gdn2_prepare.cu. gdn2_scan: a warpgroup goes through a sequence's records in order; it holds S^T [64 of V, K]
// in registers and needs no other.
#include "ptx.cuh"

constexpr int SCAN_WARPS = 4;

template <int K, int STAGES> struct ScanShared {
    // A record and, behind A, 16 rows of zeros; products want multiples of 1,024 bytes.
    static constexpr int STAGE = (Record<K>::BYTES + 512 + 1023) / 1024 * 1024;
    u8 record[STAGES][STAGE];
    bf16 v[STAGES][SCAN_WARPS][TILE][24], w[STAGES][SCAN_WARPS][TILE][24];  // rows of 48 bytes: eight of them meet all banks once
    u64 full[STAGES], empty[STAGES];
};

// Grid: (value heads * V / 64, sequences). A warp has 16 of V, all of K. What it goes through is fetched by a fifth warp where
// FETCHER, which is faster where a processor has one block, else by all of them, which leaves room for more blocks.
template <int K, int STAGES, bool FETCHER> DEVICE void scan_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    ScanShared<K, STAGES>& s = *(ScanShared<K, STAGES>*)memory;
    constexpr int THREADS = 32 * (SCAN_WARPS + FETCHER);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int parts = p.value_dim / 64;
    const int sequence = blockIdx.y, j = blockIdx.x / parts;
    const int h = j / (p.value_heads / p.heads);
    const int column = j * p.value_dim + blockIdx.x % parts * 64;  // of the block, among all heads
    const int first = p.first_tile[sequence], all = p.first_tile[sequence + 1] - first;
    const int tiles = min(all, p.to_tile) - p.from_tile;
    if (tiles <= 0) return;
    // A sequence's rows follow each other.
    const Tile ending = p.tiles[first + all - 1];
    const int begin = p.tiles[first].row + p.from_tile * TILE, end = ending.row + ending.len;
    const u8* records = p.records + ((u64)sequence * p.slice * p.heads + h) * Record<K>::BYTES;
    const u64 stride = (u64)p.heads * Record<K>::BYTES;

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) barrier_init(&s.full[i], FETCHER ? 33 : 1), barrier_init(&s.empty[i], SCAN_WARPS);
        barrier_init_visible();
    }
    for (int i = threadIdx.x; i < STAGES * 32; i += THREADS)
        *(uint4*)(s.record[i / 32] + Record<K>::BYTES + i % 32 * 16) = make_uint4(0, 0, 0, 0);
    copies_see_writes();
    __syncthreads();
    auto await_room = [&](int i) {
        if (i >= STAGES) barrier_wait(&s.empty[i % STAGES], (i / STAGES - 1) & 1);
    };
    // A record, by one lane; values and gates of 16 columns, a lane half of a token's.
    auto fetch_record = [&](int i) {
        const int stage = i % STAGES;
        barrier_expect(&s.full[stage], Record<K>::BYTES);
        copy_bulk(s.record[stage], records + i * stride, Record<K>::BYTES, &s.full[stage]);
    };
    auto fetch_values = [&](int i, int of, int t, int c) {
        const int stage = i % STAGES;
        const bool there = begin + i * TILE + t < end;
        const long row = begin + i * TILE + (there ? t : 0);
        const int from = column + of * 16 + c;
        copy16_async(&s.v[stage][of][t][c], p.v + row * p.v_row + from, there ? 16 : 0);
        copy16_async(&s.w[stage][of][t][c], p.w + row * p.w_row + from, there ? 16 : 0);
    };
    auto fetch = [&](int i) {
        if (i < tiles) {
            if (threadIdx.x == 0) await_room(i), fetch_record(i);
            __syncwarp();
            fetch_values(i, warp, lane / 2, lane % 2 * 8);
        }
        copies_commit();
    };
    if constexpr (FETCHER) {
        if (warp == SCAN_WARPS) {
            for (int i = 0; i < tiles; i++) {
                await_room(i);
                if (lane == 0) fetch_record(i);
                __syncwarp();
#pragma unroll
                for (int n = 0; n < 4; n++) fetch_values(i, lane % 8 / 2, n * 4 + lane / 8, lane % 2 * 8);
                copies_arrive(&s.full[i % STAGES]);
            }
            copies_commit();
            copies_wait<0>();
            return;
        }
    } else {
#pragma unroll
        for (int i = 0; i < STAGES - 1; i++) fetch(i);
    }

    // S^T: block n has channels 8n.. of K; rows lane/4 and lane/4 + 8 of V.
    float x[K / 8][4];
    float* state = in_global(p.states[sequence]) + p.at + (u64)j * K * p.value_dim + blockIdx.x % parts * 64 + warp * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)];

    // z^T as an A operand [V 16, tokens 16].
    u32 z[4];
    auto load_z = [&](int i) {
        const int stage = i % STAGES;
        u32 fv[4], fw[4];
        const int row = lane % 8 + 8 * (lane / 16), column = 8 * (lane / 8 % 2);
        load_matrices_transposed(fv, &s.v[stage][warp][row][column]);
        load_matrices_transposed(fw, &s.w[stage][warp][row][column]);
        if (p.gates) {
#pragma unroll
            for (int r = 0; r < 4; r++) z[r] = pack(low(fv[r]) * sigmoid(low(fw[r])), high(fv[r]) * sigmoid(high(fw[r])));
        } else {
#pragma unroll
            for (int r = 0; r < 4; r++) z[r] = pack(low(fv[r]) * low(fw[r]), high(fv[r]) * high(fw[r]));
        }
    };
    // O of a tile as words: two tokens of the lane's two rows of V.
    u32 o[4];
    auto store = [&](int i) {
        bf16* out = p.out + (long)(begin + i * TILE) * p.out_row + column + warp * 16 + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const u32 a = transpose8(o[2 * n]), b = transpose8(o[2 * n + 1]);
            const int t = n * 8 + lane / 4;
            if (begin + i * TILE + t < end) {
                *(u32*)(out + (long)t * p.out_row) = a;
                *(u32*)(out + (long)t * p.out_row + 8) = b;
            }
        }
    };
    // exp(G_16) of the lane's channels.
    float2 decay[K / 8];
    auto load_decay = [&](int i) {
        barrier_wait(&s.full[i % STAGES], (i / STAGES) & 1);
        const float2* from = (const float2*)(s.record[i % STAGES] + Record<K>::DECAY) + lane % 4;
#pragma unroll
        for (int n = 0; n < K / 8; n++) decay[n] = from[n * 4];
    };
    if constexpr (FETCHER) {
        barrier_wait(&s.full[0], 0);
    } else {
        copies_wait<STAGES - 2>();
        __syncwarp();
    }
    load_z(0);
    load_decay(0);

    for (int i = 0; i < tiles; i++) {
        const int stage = i % STAGES;
        const u8* record = s.record[stage];
        // S^T as an A operand; then S^T Diag(exp G_16).
        u32 xa[K / 16][4];
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            xa[n][0] = pack(x[2 * n][0], x[2 * n][1]);
            xa[n][1] = pack(x[2 * n][2], x[2 * n][3]);
            xa[n][2] = pack(x[2 * n + 1][0], x[2 * n + 1][1]);
            xa[n][3] = pack(x[2 * n + 1][2], x[2 * n + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < K / 8; n++)
            x[n][0] *= decay[n].x, x[n][1] *= decay[n].y, x[n][2] *= decay[n].x, x[n][3] *= decay[n].y;
        group_hold(x);
        // [R^T, O^T] [V 16, tokens 16 + 16] = z^T [A^T, 0] + S^T [-Y^T, q'^T]
        float ro[4][4];
        group_begin();
        group_pieces<4, 0>(ro, z, record + Record<K>::INVERSE);
#pragma unroll
        for (int n = 0; n < K / 16; n++) group_rows<4>(ro, xa[n], record, n);
        group_commit();
        // Beside them: the last tile's output, the next one's z, more records.
        u32 z_now[4] = {z[0], z[1], z[2], z[3]};
        if (i > 0) store(i - 1);
        if constexpr (FETCHER) {
            if (i + 1 < tiles) {
                barrier_wait(&s.full[(i + 1) % STAGES], ((i + 1) / STAGES) & 1);
                load_z(i + 1);
            }
        } else {
            copies_wait<STAGES - 3>();
            __syncwarp();
            if (i + 1 < tiles) load_z(i + 1);
            fetch(i + STAGES - 1);
        }
        group_wait<0>();
        group_hold(ro);
        group_keep(z_now);
#pragma unroll
        for (int n = 0; n < K / 16; n++) group_keep(xa[n]);

        // O^T += R^T scores^T, S^T += R^T k~
        u32 r[4] = {pack(ro[0][0], ro[0][1]), pack(ro[0][2], ro[0][3]), pack(ro[1][0], ro[1][1]), pack(ro[1][2], ro[1][3])};
        float oo[2][4];
#pragma unroll
        for (int n = 0; n < 4; n++) oo[0][n] = ro[2][n], oo[1][n] = ro[3][n];
        group_hold(oo);
        group_begin();
        group_pieces<2, 1>(oo, r, record + Record<K>::SCORES);
        group_outer<K>(x, r, record + Record<K>::KEYS);
        group_commit();
        if (i + 1 < tiles) load_decay(i + 1);
        group_wait<0>();
        group_hold(x);
        group_hold(oo);
        group_keep(r);
        o[0] = pack(oo[0][0], oo[0][1]), o[1] = pack(oo[0][2], oo[0][3]);
        o[2] = pack(oo[1][0], oo[1][1]), o[3] = pack(oo[1][2], oo[1][3]);
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.empty[stage]);
    }
    store(tiles - 1);
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)] = x[n][i];
}

constexpr int SCAN_STAGES = 4;
#define SCAN(K) \
    KERNEL(32 * SCAN_WARPS + 32, gdn2_scan_k##K, ChunkParams) { scan_block<K, SCAN_STAGES, true>(p); } \
    KERNEL_OF(32 * SCAN_WARPS, 3, gdn2_scan_many_k##K, ChunkParams) { scan_block<K, SCAN_STAGES, false>(p); }
SCAN(64)
SCAN(128)
