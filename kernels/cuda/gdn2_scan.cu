// Prefill, second half: see gdn2_prepare.cu. gdn2_scan: a warpgroup goes through a sequence's records in order; it holds S^T [64 of V, K]
// in registers. Four warps beside it make z, four more fetch records and store O, so that it has little to do but products.
#include "ptx.cuh"

constexpr int SCAN_WARPS = 4, SCAN_THREADS = 3 * 32 * SCAN_WARPS;

// v and w, on their way to shared memory: a thread reads what it asked for itself.
template <int AHEAD> struct Inputs { u8 v[AHEAD][8192], w[AHEAD][8192]; };
// FIRST and SECOND: of how many records the halves are here.
template <int K, int FIRST, int SECOND, int AHEAD, int TURNS> struct ScanShared : Inputs<AHEAD> {
    // A record's parts. A column of blocks has its zeros above in front: products want all 64 rows.
    struct First { u8 rows[2 * Record<K>::ROWS], inverse[TILES][2048]; } first[FIRST];
    struct Second { u8 keys[Record<K>::ROWS], scores[TILES][2048]; } second[SECOND];
    u8 z[TURNS][8192], o[TURNS][8192];  // [64 tokens][64 of V], 16-byte pieces swizzled by row
    float decay[FIRST][K];
    u64 first_full[FIRST], first_empty[FIRST], second_full[SECOND], second_empty[SECOND], z_full[TURNS], z_empty[TURNS], o_full[TURNS], o_empty[TURNS];
};

// What a block goes through: 64 of V of one value head, a sequence's segments of the slice.
template <int K> struct ScanPart {
    int warp, lane;      // of the warpgroup, or of those beside it
    int segments;
    int begin, end;      // rows of the first token, and past the last
    int column;          // of the block, among all heads
    const u8* records;
    u64 stride;
    float* state;        // the warp's 16 of V
};

// Barriers take turns: the i-th use of one of N.
template <int N> DEVICE u64* await_full(u64* barriers, int i) {
    barrier_wait(&barriers[i % N], i / N & 1);
    return &barriers[i % N];
}
template <int N> DEVICE void await_room(u64* barriers, int i) {
    if (i >= N) barrier_wait(&barriers[i % N], (i / N - 1) & 1);
}

// The warps beside: four make z, of v and w that are asked for AHEAD segments early; the others do the rest.
template <int K, int FIRST, int SECOND, int AHEAD, int TURNS>
DEVICE void scan_beside(const ChunkParams& p, ScanShared<K, FIRST, SECOND, AHEAD, TURNS>& s, const ScanPart<K>& part) {
    const int warp = part.warp % SCAN_WARPS, lane = part.lane;
    const bool rest = part.warp >= SCAN_WARPS, fetches = warp == 0 && rest;
    using R = Record<K>;
    // The halves of a record, by a warp: six and five copies.
    auto fetch_first = [&](int i) {
        if (!fetches || i >= part.segments) return;
        const u8* record = part.records + i * part.stride;
        auto& to = s.first[i % FIRST];
        u64* full = &s.first_full[i % FIRST];
        if (lane == 0) await_room<FIRST>(s.first_empty, i), barrier_expect(full, 2 * R::ROWS + 4 * K + R::BLOCKS);
        __syncwarp();
        if (lane < TILES) copy_bulk(to.inverse[lane] + lane * 512, record + R::INVERSE + block_column(lane), 2048 - lane * 512, full);
        else if (lane == TILES) copy_bulk(to.rows, record, 2 * R::ROWS, full);
        else if (lane == TILES + 1) copy_bulk(s.decay[i % FIRST], record + R::DECAY, 4 * K, full);
        __syncwarp();
    };
    auto fetch_second = [&](int i) {
        if (!fetches || i >= part.segments) return;
        const u8* record = part.records + i * part.stride;
        auto& to = s.second[i % SECOND];
        u64* full = &s.second_full[i % SECOND];
        if (lane == 0) await_room<SECOND>(s.second_empty, i), barrier_expect(full, R::ROWS + R::BLOCKS);
        __syncwarp();
        if (lane < TILES) copy_bulk(to.scores[lane] + lane * 512, record + R::SCORES + block_column(lane), 2048 - lane * 512, full);
        else if (lane == TILES) copy_bulk(to.keys, record + R::KEYS, R::ROWS, full);
        __syncwarp();
    };
    // A lane has the 16-byte piece `piece` of V of tokens t0, t0 + 16, ..
    const int t0 = warp * 4 + lane / 8, piece = lane % 8;
    const int at = t0 * 128 + (piece ^ t0 % 8) * 16;  // of the first; the others are 2,048 apart
    auto there = [&](int i, int n) { return i < part.segments && part.begin + i * SEGMENT + n * 16 + t0 < part.end; };
    auto row = [&](int i, int n) { return (long)(there(i, n) ? part.begin + i * SEGMENT + n * 16 + t0 : part.begin); };
    auto make = [&](int i, int n, uint4 v, uint4 w) {
        auto gated = [&](u32 v, u32 w) {
            return p.gates ? pack(low(v) * sigmoid(low(w)), high(v) * sigmoid(high(w))) : pack(low(v) * low(w), high(v) * high(w));
        };
        *(uint4*)(s.z[i % TURNS] + at + n * 2048) = make_uint4(gated(v.x, w.x), gated(v.y, w.y), gated(v.z, w.z), gated(v.w, w.w));
    };
    auto store = [&](int i) {
        if (i < 0 || i >= part.segments) return;
        await_full<TURNS>(s.o_full, i);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const uint4 o = *(const uint4*)(s.o[i % TURNS] + at + n * 2048);
            if (there(i, n)) *(uint4*)(p.out + row(i, n) * p.out_row + part.column + piece * 8) = o;
        }
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.o_empty[i % TURNS]);
    };
    auto z_made = [&](int i) {
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.z_full[i % TURNS]);
    };
    // In the order in which the warpgroup makes room: it is done with one half of a record, then with the other.
    auto after = [&](int i) {
        fetch_first(i + FIRST), fetch_second(i + SECOND);
    };
    for (int i = 0; i < FIRST; i++) {
        fetch_first(i);
        if (i < SECOND) fetch_second(i);
    }
    if (rest) {
        for (int i = 0; i < part.segments; i++) after(i), store(i);
        return;
    }
    auto load = [&](int i) {
        if (i < part.segments) {
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const long t = row(i, n);
                const int slot = n * 2048 + warp * 512 + lane * 16, bytes = there(i, n) ? 16 : 0;
                copy16_async(s.v[i % AHEAD] + slot, p.v + t * p.v_row + part.column + piece * 8, bytes);
                copy16_async(s.w[i % AHEAD] + slot, p.w + t * p.w_row + part.column + piece * 8, bytes);
            }
        }
        copies_commit();
    };
    for (int i = 0; i < AHEAD; i++) load(i);
    for (int i = 0; i < part.segments; i++) {
        copies_wait<AHEAD - 1>();
        await_room<TURNS>(s.z_empty, i);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const int slot = n * 2048 + warp * 512 + lane * 16;
            make(i, n, *(const uint4*)(s.v[i % AHEAD] + slot), *(const uint4*)(s.w[i % AHEAD] + slot));
        }
        z_made(i);
        load(i + AHEAD);
    }
}

// The warpgroup. While one group of products runs, what the next needs is made of the one before; twice a segment none is queued for a moment.
template <int K, int FIRST, int SECOND, int TURNS, class Shared> DEVICE void scan_group(const ChunkParams& p, Shared& s, const ScanPart<K>& part) {
    const int warp = part.warp, lane = part.lane;
    using R = Record<K>;
    // S^T: block n has channels 8n.. of K; rows lane/4 and lane/4 + 8 of V.
    float x[K / 8][4];
    float* state = part.state + lane / 4;
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) x[n][i] = state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)];

    // z^T as A operands [V 16, tokens 16]; R^T and O^T [V 16, tokens 64], R^T as A operands, O^T as words.
    u32 z[TILES][4], r[TILES][4], o[TILES][4], xa[K / 16][4];
    float ro[8][4], oo[8][4];
    // Of [tokens][V] in shared memory: the lane's row of the matrices (tokens lower, upper) x (V lower, upper).
    const int t_z = lane % 8 + lane / 16 * 8, at_z = t_z * 128 + ((warp * 2 + lane / 8 % 2) ^ t_z % 8) * 16;
    auto load_z = [&](int i) {
        await_full<TURNS>(s.z_full, i);
#pragma unroll
        for (int j = 0; j < TILES; j++) load_matrices_transposed(z[j], s.z[i % TURNS] + j * 2048 + at_z);
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.z_empty[i % TURNS]);
        await_full<FIRST>(s.first_full, i);
    };
    auto values = [&](int i) {
        group_pieces<0>(ro, z[0], s.first[i % FIRST].inverse[0]);
#pragma unroll
        for (int j = 1; j < TILES; j++) group_pieces<1>(ro, z[j], s.first[i % FIRST].inverse[j]);
    };
    // S^T as an A operand.
    auto pack_state = [&] {
#pragma unroll
        for (int n = 0; n < K / 16; n++) {
            xa[n][0] = pack(x[2 * n][0], x[2 * n][1]);
            xa[n][1] = pack(x[2 * n][2], x[2 * n][3]);
            xa[n][2] = pack(x[2 * n + 1][0], x[2 * n + 1][1]);
            xa[n][3] = pack(x[2 * n + 1][2], x[2 * n + 1][3]);
        }
    };
    auto pack_tokens = [&](u32 (&to)[TILES][4], const float (&from)[8][4]) {
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            to[j][0] = pack(from[2 * j][0], from[2 * j][1]), to[j][1] = pack(from[2 * j][2], from[2 * j][3]);
            to[j][2] = pack(from[2 * j + 1][0], from[2 * j + 1][1]), to[j][3] = pack(from[2 * j + 1][2], from[2 * j + 1][3]);
        }
    };
    auto store = [&](int i) {
        await_room<TURNS>(s.o_empty, i);
#pragma unroll
        for (int j = 0; j < TILES; j++) store_matrices_transposed(s.o[i % TURNS] + j * 2048 + at_z, o[j]);
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.o_full[i % TURNS]);
    };
    load_z(0);
    pack_state();
    group_begin();
    values(0);
    group_commit();
    group_wait<0>();
    group_hold(ro);

    for (int i = 0; i < part.segments; i++) {
        const u8* rows = s.first[i % FIRST].rows;
        const auto& second = s.second[i % SECOND];
        // R^T [V 16, tokens 64] = z^T A^T + S^T (-Y^T), O^T = S^T q'^T
        group_begin();
#pragma unroll
        for (int n = 0; n < K / 16; n++) group_rows<1>(ro, xa[n], rows, n);
        group_commit();
        group_rows<0>(oo, xa[0], rows + R::ASK, 0);
#pragma unroll
        for (int n = 1; n < K / 16; n++) group_rows<1>(oo, xa[n], rows + R::ASK, n);
        group_commit();
        // Beside them: the last segment's output, S^T Diag(D), the next one's z.
        if (i > 0) store(i - 1);
        const float2* decay = (const float2*)s.decay[i % FIRST] + lane % 4;
#pragma unroll
        for (int n = 0; n < K / 8; n++) {
            const float2 d = decay[n * 4];
            x[n][0] *= d.x, x[n][1] *= d.y, x[n][2] *= d.x, x[n][3] *= d.y;
        }
        group_hold(x);
        group_wait<1>();
        group_hold(ro);
        pack_tokens(r, ro);
        if (i + 1 < part.segments) load_z(i + 1);
        group_wait<0>();
        group_hold(oo);
#pragma unroll
        for (int n = 0; n < K / 16; n++) group_keep(xa[n]);
        copies_see_writes();  // and come after the reads of D, which an arrival alone does not wait for
        __syncwarp();
        if (lane == 0) barrier_arrive(&s.first_empty[i % FIRST]);
        await_full<SECOND>(s.second_full, i);
        // S^T += R^T k~, O^T += R^T scores^T; z^T A^T of the next segment (after the last one of what lies there, which nothing reads).
        group_begin();
#pragma unroll
        for (int j = 0; j < TILES; j++) group_outer<K>(x, r[j], second.keys, j);
        group_commit();
#pragma unroll
        for (int j = 0; j < TILES; j++) group_pieces<1>(oo, r[j], second.scores[j]);
        group_commit();
        values(i + 1);
        group_commit();
        group_wait<2>();
        group_hold(x);
        pack_state();
#pragma unroll
        for (int n = 0; n < K / 16; n++) group_keep(xa[n]);
        group_wait<1>();
        group_hold(oo);
        pack_tokens(o, oo);
        if (lane == 0) barrier_arrive(&s.second_empty[i % SECOND]);
        group_wait<0>();
        group_hold(ro);
#pragma unroll
        for (int j = 0; j < TILES; j++) group_keep(r[j]), group_keep(z[j]);
    }
    store(part.segments - 1);
#pragma unroll
    for (int n = 0; n < K / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) state[(n * 8 + lane % 4 * 2 + i % 2) * p.value_dim + 8 * (i / 2)] = x[n][i];
}

// Grid: (value heads * V / 64, sequences).
template <int K, int FIRST, int SECOND, int AHEAD, int TURNS> DEVICE void scan_block(const ChunkParams& p) {
    DYNAMIC_SHARED(memory);
    using Shared = ScanShared<K, FIRST, SECOND, AHEAD, TURNS>;
    Shared& s = *(Shared*)memory;
    const int warp = threadIdx.x / 32;
    const int parts = p.value_dim / 64;
    const int sequence = blockIdx.y, j = blockIdx.x / parts;
    const int h = j / (p.value_heads / p.heads);
    const int first = p.first_tile[sequence], all = p.first_tile[sequence + 1] - first;
    ScanPart<K> part;
    part.warp = warp < SCAN_WARPS ? warp : warp - SCAN_WARPS, part.lane = threadIdx.x % 32;
    part.column = j * p.value_dim + blockIdx.x % parts * 64;
    part.segments = min((all + TILES - 1) / TILES, p.to) - p.from;
    if (part.segments <= 0) return;
    // A sequence's rows follow each other.
    const Tile ending = p.tiles[first + all - 1];
    part.begin = p.tiles[first].row + p.from * SEGMENT, part.end = ending.row + ending.len;
    part.records = p.records + ((u64)sequence * p.slice * p.heads + h) * Record<K>::BYTES;
    part.stride = (u64)p.heads * Record<K>::BYTES;
    part.state = in_global(p.states[sequence]) + p.at + (u64)j * K * p.value_dim + blockIdx.x % parts * 64 + part.warp * 16;

    if (threadIdx.x == 0) {
        for (int i = 0; i < FIRST; i++) barrier_init(&s.first_full[i], 1), barrier_init(&s.first_empty[i], SCAN_WARPS);
        for (int i = 0; i < SECOND; i++) barrier_init(&s.second_full[i], 1), barrier_init(&s.second_empty[i], SCAN_WARPS);
        for (int i = 0; i < TURNS; i++) {
            barrier_init(&s.z_full[i], SCAN_WARPS), barrier_init(&s.z_empty[i], SCAN_WARPS);
            barrier_init(&s.o_full[i], SCAN_WARPS), barrier_init(&s.o_empty[i], SCAN_WARPS);
        }
        barrier_init_visible();
    }
    // What lies above the blocks of a column.
    for (int i = threadIdx.x; i < TILES * 128; i += SCAN_THREADS) {
        const int column = i / 128, at = i % 128 * 16;
        if (at >= column * 512) continue;
        for (auto& half : s.first) *(uint4*)(half.inverse[column] + at) = make_uint4(0, 0, 0, 0);
        for (auto& half : s.second) *(uint4*)(half.scores[column] + at) = make_uint4(0, 0, 0, 0);
    }
    copies_see_writes();
    __syncthreads();
    if (warp < SCAN_WARPS) {
        more_registers<240>();
        scan_group<K, FIRST, SECOND, TURNS>(p, s, part);
    } else {
        fewer_registers<128>();
        scan_beside<K, FIRST, SECOND, AHEAD, TURNS>(p, s, part);
    }
}

constexpr int SCAN_FIRST = 3, SCAN_SECOND = 2, SCAN_AHEAD = 2, SCAN_TURNS = 1;
#define SCAN(K) \
    KERNEL_OF(SCAN_THREADS, 1, gdn2_scan_k##K, ChunkParams) { scan_block<K, SCAN_FIRST, SCAN_SECOND, SCAN_AHEAD, SCAN_TURNS>(p); }
SCAN(64)
SCAN(128)
