// Products with one row, as decoding one sequence has them: the bits of `narrow`, with what makes the row done by each block for itself, while
// the first rows of W are on their way.
#include "ptx.cuh"

constexpr int ONE_WARPS = 8, ONE_LONGEST = 8192;

struct OneShared {
    float part[2][ONE_WARPS][32];  // two, in turn
    float scratch[32];
    bf16 x[ONE_LONGEST];
};

// A block goes over tiles of up to 8 GROUPS rows of W, as many as spread N evenly over the blocks. Otherwise as narrow_block, which see.
template <int GROUPS, int AHEAD> DEVICE void one_block(const OneParams& p) {
    DYNAMIC_SHARED(memory);
    OneShared& s = *(OneShared*)memory;
    constexpr int STEP = 32 * ONE_WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, r = lane / 4, c = lane % 4 * 8;
    const int tiles = (p.n + p.rows - 1) / p.rows, groups = (p.k + STEP * AHEAD - 1) / (STEP * AHEAD);
    const uint4 nothing = make_uint4(0, 0, 0, 0);
    uint4 w[AHEAD][GROUPS];
    auto fetch = [&](int i, int tile, int k) {
        const int at = k + i * STEP + c, n = tile * p.rows;
        const bf16* from = p.w + (long)(n + r) * p.k + at;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            const int row = g * 8 + r;
            w[i][g] = at < p.k && row < p.rows && n + row < p.n && tile < tiles ? load_once(from + (long)g * 8 * p.k) : nothing;
        }
    };
    const int k0 = warp * 32;
#pragma unroll
    for (int i = 0; i < AHEAD; i++) fetch(i, blockIdx.x, k0);
    after_others();
    if (p.residual) {
        norm_row(p.residual, p.weight, p.k, p.eps, s.scratch, s.x);
    } else if (p.gate_up) {
        for (int i = threadIdx.x * 8; i < p.k; i += 8 * 32 * ONE_WARPS)
            *(uint4*)(s.x + i) = swiglu_pairs(*(const uint4*)(p.gate_up + i), *(const uint4*)(p.gate_up + p.k + i));
    } else {
        for (int i = threadIdx.x * 8; i < p.k; i += 8 * 32 * ONE_WARPS) *(uint4*)(s.x + i) = *(const uint4*)(p.x + i);
    }
    __syncthreads();
    int turn = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, turn ^= 1) {
        const bf16* x = s.x + c;
        const int row = threadIdx.x, out = tile * p.rows + row;
        const bool writes = row < p.rows && out < p.n;
        const float old = writes && p.sum && p.add ? p.sum[out] : 0.0f;
        float sum[(GROUPS + 1) / 2][4] = {};
        for (int g = 1; g <= groups; g++) {
            const bool more = g < groups;
            const int next = more ? tile : tile + gridDim.x, k = more ? k0 + g * STEP * AHEAD : k0;
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                const int at = k0 + ((g - 1) * AHEAD + i) * STEP;
                const uint4 y = r == 0 && at + c < p.k ? *(const uint4*)(x + at) : nothing;
#pragma unroll
                for (int n = 0; n < GROUPS; n += 2) {
                    const uint4 a = w[i][n], b = n + 1 < GROUPS ? w[i][n + 1 < GROUPS ? n + 1 : n] : nothing;
                    mma(sum[n / 2], a.x, b.x, a.y, b.y, y.x, y.y);
                    mma(sum[n / 2], a.z, b.z, a.w, b.w, y.z, y.w);
                }
                fetch(i, next, k);
            }
        }
        if (lane % 4 == 0) {
#pragma unroll
            for (int n = 0; n < GROUPS; n++) s.part[turn][warp][n * 8 + r] = sum[n / 2][n % 2 * 2];
        }
        __syncthreads();
        if (writes) {
            float total = 0.0f;
#pragma unroll
            for (int v = 0; v < ONE_WARPS; v++) total += s.part[turn][v][row];
            if (p.out) p.out[out] = narrow(total);
            if (p.sum) p.sum[out] = p.add ? old + total : total;
        }
    }
}

// Three blocks a processor, so that the next product's first rows are on their way while the last one ends: GPU.md has the times.
KERNEL_OF(32 * ONE_WARPS, 3, one_1, OneParams) { one_block<1, 9>(p); }
KERNEL_OF(32 * ONE_WARPS, 3, one_2, OneParams) { one_block<2, 3>(p); }
KERNEL_OF(32 * ONE_WARPS, 3, one_3, OneParams) { one_block<3, 2>(p); }
