// Products with up to 32 rows: out [M, N] = x [M, K] W^T, W [N, K] in bf16, sums in f32. What decoding runs on, where the bytes of W are the time.
//
// The eight warps of a block share K out among them in pieces of 32, in turn, and their sums are added in order of the warps. So a row of `out` is a
// function of its row of x alone, however many others there are. mma.m16n8k16 takes W as its A operand and 8 rows of x as B. A lane takes 16 bytes
// of a row at once, 8 consecutive k: the products' k are thereby permuted, in the same way on both sides.
//
// Each block has as many rows of W as the next, to within one. One warpgroup asks for them by bulk copies, in stages of up to 32 rows and 256 k, which wait
// in a ring in shared memory; eight warps use them up. A warp's part of x stays in registers while W passes by it; where K is too long for that,
// what was used last makes room for what comes next. So the memory is asked for W before the kernel in front has ended, and x, which all blocks read
// from the L2 cache, goes to each of them once. A single row each block makes for itself, if it is a norm. Two products may go side by side: grid (.., 2).
#include "ptx.cuh"

constexpr int RING_WARPS = 8, RING_WORKERS = 32 * RING_WARPS, RING_THREADS = RING_WORKERS + 128;
// Rows of a stage lie 64 bytes off a multiple of 128: a quarter of a warp, which reads 64 bytes of two rows, meets no bank twice.
constexpr int RING_ROWS = 32, RING_TURN = 32 * RING_WARPS, RING_PITCH = 2 * RING_TURN + 64, RING_STAGES = 10;
constexpr int RING_LONGEST = 8192;  // row that a block makes

// Of up to 8 EIGHTS rows of x.
template <int EIGHTS> struct RingShared {
    u8 stages[RING_STAGES][RING_ROWS][RING_PITCH];
    float4 part[2][RING_WARPS][EIGHTS][32];
    u64 full[RING_STAGES], empty[RING_STAGES];
    float scratch[32];
    bf16 x[EIGHTS == 1 ? RING_LONGEST : 8];
};

// A block's columns of the output, in rounds of up to two halves of 16 rows of W. Where GATED, these are the same rows of the two halves of W [2 N, K],
// and what is put out is silu of the first times the second.
template <bool GATED> struct RingShare {
    int first, count, rounds, each, turns;
    DEVICE_MEMBER RingShare(const RingParams& p) {
        constexpr int MOST = GATED ? RING_ROWS / 2 : RING_ROWS;
        first = (int)((u32)p.n * blockIdx.x / gridDim.x);
        count = (int)((u32)p.n * (blockIdx.x + 1) / gridDim.x) - first;
        rounds = (count + MOST - 1) / MOST;
        each = rounds ? (count + rounds - 1) / rounds : 0;
        turns = (p.k + RING_TURN - 1) / RING_TURN;
    }
    DEVICE_MEMBER int columns(int round) const { return min(each, count - round * each); }
};

struct RingPlace {
    int slot = 0;
    u32 parity = 0;
    DEVICE_MEMBER void next() {
        if (++slot == RING_STAGES) slot = 0, parity ^= 1;
    }
};

// By four warps, each 8 rows of every stage. No more than FLIGHT stages are on their way at once: more would only make what others ask for wait.
template <bool GATED, int FLIGHT, class Shared> DEVICE void ring_fetch(const RingParams& p, Shared& s) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, row = warp * 8 + lane;
    const RingShare<GATED> share(p);
    RingPlace place, arrived;
    int flying = 0;
    for (int round = 0; round < share.rounds; round++) {
        const int columns = share.columns(round), rows = GATED ? 2 * columns : columns, n = share.first + round * share.each;
        const bf16* from = p.w + (long)(GATED && row >= columns ? p.n + n + row - columns : n + row) * p.k;
        for (int turn = 0; turn < share.turns; turn++, place.next()) {
            const u32 bytes = 2 * min(RING_TURN, p.k - turn * RING_TURN);
            if (flying == FLIGHT) barrier_wait(&s.full[arrived.slot], arrived.parity), arrived.next();
            else flying++;
            barrier_wait(&s.empty[place.slot], place.parity ^ 1);
            // Each warp arrives, also without rows of its own: else it could be overtaken by a whole round.
            if (lane == 0) barrier_expect(&s.full[place.slot], max(0, min(8, rows - row)) * bytes);
            __syncwarp();
            if (lane < 8 && row < rows) copy_bulk(s.stages[place.slot][row], from + turn * RING_TURN, bytes, &s.full[place.slot]);
            __syncwarp();
        }
    }
}

// HELD: turns of which x is held, 4 EIGHTS registers each.
template <int EIGHTS, int HELD, bool GATED> DEVICE void ring_use(const RingParams& p, RingShared<EIGHTS>& s) {
    const RingShare<GATED> share(p);
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, r = lane / 4, at = warp * 32 + lane % 4 * 8, k = p.k, m = p.m, turns = share.turns;
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    uint4 x[HELD][EIGHTS];
    const bf16* x_from = p.x + (long)r * p.x_row + at;
    if (EIGHTS == 1 && p.residual) {
        norm_row(p.residual, p.weight, k, p.eps, s.scratch, s.x, [] { after_others(); });
        part_barrier(1, RING_WORKERS);
        x_from = s.x + at;
    } else {
        after_others();
    }
    auto ask = [&](int i, int turn) {
#pragma unroll
        for (int n = 0; n < EIGHTS; n++)
            x[i][n] = turn * RING_TURN + at < k && n * 8 + r < m ? *(const uint4*)(x_from + (long)n * 8 * p.x_row + turn * RING_TURN) : nothing;
    };
#pragma unroll
    for (int i = 0; i < HELD; i++) ask(i, i);
    RingPlace place;
    for (int round = 0; round < share.rounds; round++) {
        const int columns = share.columns(round), half = GATED ? columns : (columns + 1) / 2;
        float sum[2][EIGHTS][4] = {};
        for (int from = 0; from < turns; from += HELD) {
#pragma unroll
            for (int i = 0; i < HELD; i++) {
                const int turn = from + i;
                if (turn >= turns) break;
                const bool some = turn * RING_TURN + at < k;
                const u8* stage = s.stages[place.slot][r] + 2 * at;
                barrier_wait(&s.full[place.slot], place.parity);
                uint4 a[2], b[2];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const u8* w = stage + h * half * RING_PITCH;
                    a[h] = some ? *(const uint4*)w : nothing, b[h] = some ? *(const uint4*)(w + 8 * RING_PITCH) : nothing;
                }
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++) mma(sum[h][n], a[h].x, b[h].x, a[h].y, b[h].y, x[i][n].x, x[i][n].y);
#pragma unroll
                for (int h = 0; h < 2; h++)
#pragma unroll
                    for (int n = 0; n < EIGHTS; n++) mma(sum[h][n], a[h].z, b[h].z, a[h].w, b[h].w, x[i][n].z, x[i][n].w);
                copies_see_writes();  // and come after these reads, which an arrival alone does not wait for
                __syncwarp();
                if (lane == 0) barrier_arrive(&s.empty[place.slot]);
                place.next();
                // Then its part of x makes room for that of a later turn, of the next round in the end.
                if (turns > HELD) ask(i, turn + HELD < turns ? turn + HELD : i);
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int n = 0; n < EIGHTS; n++) s.part[h][warp][n][lane] = *(const float4*)sum[h][n];
        part_barrier(1, RING_WORKERS);
        // A thread adds up four outputs: rows 2 c and 2 c + 1 of an eight of x, columns r and r + 8 of a half.
        auto total = [&](int h, float (&t)[4]) {
            t[0] = t[1] = t[2] = t[3] = 0.0f;
#pragma unroll
            for (int v = 0; v < RING_WARPS; v++) {
                const float4 y = s.part[h][v][warp % EIGHTS][lane];
                t[0] += y.x, t[1] += y.y, t[2] += y.z, t[3] += y.w;
            }
        };
        const int h = GATED ? 0 : warp / EIGHTS, row = warp % EIGHTS * 8 + lane % 4 * 2;
        if (warp < (GATED ? 1 : 2) * EIGHTS) {
            float t[4], u[4];
            total(h, t);
            if (GATED) total(1, u);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int column = r + i / 2 * 8;
                if (row + i % 2 >= m || column >= (h ? columns - half : half)) continue;
                const long to = (long)(row + i % 2) * p.out_row + share.first + round * share.each + h * half + column;
                if (GATED) p.out[to] = narrow(silu(widen(narrow(t[i]))) * widen(narrow(u[i])));
                else if (p.out) p.out[to] = narrow(t[i]);
                if (!GATED && p.sum) p.sum[to] = p.add ? p.sum[to] + t[i] : t[i];
            }
        }
        part_barrier(1, RING_WORKERS);
    }
}

template <int EIGHTS, int HELD, bool GATED, int FLIGHT> DEVICE void ring_block(RingParams p) {
    DYNAMIC_SHARED(memory);
    if (p.split && blockIdx.y == 0) p.n = p.split;
    if (blockIdx.y == 1) {
        p.n -= p.split, p.w = p.w_behind, p.x += p.k;
        if (p.out) p.out += p.split;
        if (p.sum) p.sum += p.split;
    }
    auto& s = *(RingShared<EIGHTS>*)memory;
    if (threadIdx.x == 0) {
        for (int n = 0; n < RING_STAGES; n++) barrier_init(&s.full[n], 4), barrier_init(&s.empty[n], RING_WARPS);
        barrier_init_visible();
    }
    __syncthreads();
    if (threadIdx.x >= RING_WORKERS) {
        fewer_registers<24>();
        ring_fetch<GATED, FLIGHT>(p, s);
    } else {
        more_registers<240>();
        ring_use<EIGHTS, HELD, GATED>(p, s);
    }
}

// Turns of x held, as registers allow: all of K up to 6,400 for 8 rows, of 2,304 for 32; stages on their way, as measured to be best: GPU.md.
KERNEL_OF(RING_THREADS, 1, ring_1, RingParams) { ring_block<1, 25, false, 5>(p); }
KERNEL_OF(RING_THREADS, 1, ring_4, RingParams) { ring_block<4, 9, false, 3>(p); }
KERNEL_OF(RING_THREADS, 1, ring_1_gated, RingParams) { ring_block<1, 9, true, 5>(p); }
KERNEL_OF(RING_THREADS, 1, ring_4_gated, RingParams) { ring_block<4, 9, true, 3>(p); }
