// Products with few rows: out [M, N] = x [M, K] W^T, W [N, K] in bf16, sums in f32. What decoding runs on, where the bytes of W are
// the time.
//
// A block has 16 rows of W; its warps share K out among them in pieces of 32, in turn, and their sums are added in order of the
// warps. So a row of `out` is a function of its row of x alone, however many others there are. mma.m16n8k16 takes W as its A operand
// and 8 rows of x as B. A lane takes 16 bytes of a row at once, 8 consecutive k: the products' k are thereby permuted, in
// the same way on both sides.
#include "ptx.cuh"

constexpr int NARROW_WARPS = 8;

template <int BLOCKS> DEVICE void narrow_block(const NarrowParams& p) {
    DYNAMIC_SHARED(memory);
    float(*part)[BLOCKS][32][4] = (float(*)[BLOCKS][32][4])memory;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int n0 = blockIdx.x * 16, m0 = blockIdx.y * 8 * BLOCKS;
    const int r = lane / 4, c = lane % 4 * 8;
    const bool low_there = n0 + r < p.n, high_there = n0 + r + 8 < p.n;
    const bf16* w = p.w + (long)(low_there ? n0 + r : 0) * p.k + c;
    const bf16* w8 = p.w + (long)(high_there ? n0 + r + 8 : 0) * p.k + c;
    float sum[BLOCKS][4] = {};
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    constexpr int AHEAD = BLOCKS <= 2 ? 4 : 2;  // pieces in flight
    for (int k = warp * 32; k < p.k; k += 32 * NARROW_WARPS * AHEAD) {
        uint4 a[AHEAD], b[AHEAD], x[AHEAD][BLOCKS];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = k + i * 32 * NARROW_WARPS;
            const bool there = at + c < p.k;
            a[i] = there && low_there ? *(const uint4*)(w + at) : nothing;
            b[i] = there && high_there ? *(const uint4*)(w8 + at) : nothing;
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                const int m = m0 + n * 8 + r;
                x[i][n] = there && m < p.m ? *(const uint4*)(p.x + (long)m * p.x_row + at + c) : nothing;
            }
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
#pragma unroll
            for (int n = 0; n < BLOCKS; n++) {
                mma(sum[n], a[i].x, b[i].x, a[i].y, b[i].y, x[i][n].x, x[i][n].y);
                mma(sum[n], a[i].z, b[i].z, a[i].w, b[i].w, x[i][n].z, x[i][n].w);
            }
    }
#pragma unroll
    for (int n = 0; n < BLOCKS; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) part[warp][n][lane][i] = sum[n][i];
    __syncthreads();
    // Thread -> (row of x, row of W): 8 * BLOCKS rows of x by 16 of W.
    for (int i = threadIdx.x; i < 128 * BLOCKS; i += 32 * NARROW_WARPS) {
        const int row = i % 16, m = i / 16;
        const int from = row % 8 * 4 + m % 8 / 2, element = row / 8 * 2 + m % 2;
        float total = 0.0f;
#pragma unroll
        for (int v = 0; v < NARROW_WARPS; v++) total += part[v][m / 8][from][element];
        if (m0 + m < p.m && n0 + row < p.n) {
            const long at = (long)(m0 + m) * p.out_row + n0 + row;
            if (p.out) p.out[at] = narrow(total);
            if (p.sum) p.sum[at] = p.add ? p.sum[at] + total : total;
        }
    }
}

#define NARROW(BLOCKS) \
    KERNEL(32 * NARROW_WARPS, narrow_##BLOCKS, NarrowParams) { narrow_block<BLOCKS>(p); }
NARROW(1)
NARROW(2)
NARROW(4)
NARROW(8)
