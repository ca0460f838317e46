// Products with few rows: out [M, N] = x [M, K] W^T, W [N, K] in bf16, sums in f32. What decoding runs on, where the bytes of W are
// the time.
//
// A block goes over tiles of 16 rows of W; its warps share K out among them in pieces of 32, in turn, and their sums are added in
// order of the warps. So a row of `out` is a function of its row of x alone, however many others there are. mma.m16n8k16 takes W as its A operand
// and 8 rows of x as B. A lane takes 16 bytes of a row at once, 8 consecutive k: the products' k are thereby permuted, in
// the same way on both sides.
#include "ptx.cuh"

constexpr int NARROW_WARPS = 8;

// 8 BLOCKS rows of x; AHEAD pieces are on their way, of the next tile too, and those of W do not wait for the kernel before. Grid: (as
// many blocks as run at once, or tiles if there are fewer, M / (8 BLOCKS)).
template <int BLOCKS, int AHEAD> DEVICE void narrow_block(const NarrowParams& p) {
    DYNAMIC_SHARED(memory);
    float(*part)[NARROW_WARPS][BLOCKS][32][4] = (float(*)[NARROW_WARPS][BLOCKS][32][4])memory;  // two, in turn
    constexpr int STEP = 32 * NARROW_WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, c = lane % 4 * 8;
    const int m0 = blockIdx.y * 8 * BLOCKS, tiles = (p.n + 15) / 16, groups = (p.k + STEP * AHEAD - 1) / (STEP * AHEAD);
    const bf16* x = p.x + (long)(m0 + r) * p.x_row + c;
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    uint4 a[AHEAD], b[AHEAD], y[AHEAD][BLOCKS];
    auto fetch_w = [&](int i, int tile, int k) {
        const int at = k + i * STEP, n = tile * 16 + r;
        const bf16* w = p.w + (long)n * p.k + at + c;
        const bool there = at + c < p.k;
        a[i] = there && n < p.n ? load_once(w) : nothing;
        b[i] = there && n + 8 < p.n ? load_once(w + 8l * p.k) : nothing;
    };
    auto fetch_x = [&](int i, int k) {
        const int at = k + i * STEP;
#pragma unroll
        for (int n = 0; n < BLOCKS; n++)
            y[i][n] = at + c < p.k && m0 + n * 8 + r < p.m ? *(const uint4*)(x + (long)n * 8 * p.x_row + at) : nothing;
    };
    const int k0 = warp * 32;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch_w(i, blockIdx.x, k0);
    after_others();
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch_x(i, k0);
    int turn = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
        float sum[BLOCKS][4] = {};
        for (int g = 1; g <= groups; g++) {
            const bool more = g < groups;
            const int next = more ? tile : tile + gridDim.x, k = more ? k0 + g * STEP * AHEAD : k0;
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
#pragma unroll
                for (int n = 0; n < BLOCKS; n++) {
                    mma(sum[n], a[i].x, b[i].x, a[i].y, b[i].y, y[i][n].x, y[i][n].y);
                    mma(sum[n], a[i].z, b[i].z, a[i].w, b[i].w, y[i][n].z, y[i][n].w);
                }
                fetch_w(i, next, k);
                fetch_x(i, k);
            }
        }
#pragma unroll
        for (int n = 0; n < BLOCKS; n++) *(float4*)part[turn][warp][n][lane] = *(float4*)sum[n];
        __syncthreads();
        for (int i = threadIdx.x; i < 128 * BLOCKS; i += 32 * NARROW_WARPS) {
            const int row = i % 16, m = i / 16;
            const int from = row % 8 * 4 + m % 8 / 2, element = row / 8 * 2 + m % 2;
            float total = 0.0f;
#pragma unroll
            for (int v = 0; v < NARROW_WARPS; v++) total += part[turn][v][m / 8][from][element];
            if (m0 + m < p.m && tile * 16 + row < p.n) {
                const long at = (long)(m0 + m) * p.out_row + tile * 16 + row;
                if (p.out) p.out[at] = narrow(total);
                if (p.sum) p.sum[at] = p.add ? p.sum[at] + total : total;
            }
        }
    }
}

// AHEAD and blocks a processor as measured to be best: GPU.md.
#define NARROW(NAME, BLOCKS, AHEAD, EACH) \
    KERNEL_OF(32 * NARROW_WARPS, EACH, NAME, NarrowParams) { narrow_block<BLOCKS, AHEAD>(p); }
NARROW(narrow_1, 1, 9, 1)
NARROW(narrow_2, 2, 4, 2)
NARROW(narrow_4, 4, 5, 1)
NARROW(narrow_4_pairs, 4, 2, 2)  // where tiles are more than processors and at most twice as many: one round instead of two
NARROW(narrow_8, 8, 3, 1)
