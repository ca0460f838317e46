// The instructions that C++ has no name for. `emulate.h` has the same functions for a host without a GPU.
#pragma once
#include "params.cuh"

#define WARP_ALL 0xffffffffu

#ifdef PALIMPSEST_EMULATE
#include "emulate.h"
#else
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) u8 name[]
#define KERNEL(THREADS, NAME, PARAMS) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(const __grid_constant__ PARAMS p)
// So many blocks of it a processor, at least.
#define KERNEL_OF(THREADS, BLOCKS, NAME, PARAMS) \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ PARAMS p)

// Two floats -> two bf16, rounded to nearest even; `lo` in the lower half.
DEVICE u32 pack(float lo, float hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
DEVICE float exp2_(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
DEVICE float log2_(float x) {
    float r;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
DEVICE float reciprocal(float x) {
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}
// Waits for the kernel before this one, which may run still; then the next one may begin.
DEVICE void after_others() { asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory"); }
// The next one may begin before.
DEVICE void others_may_begin() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// A pointer that was loaded: the compiler does not see where to.
template <class T> DEVICE T* in_global(T* p) {
    __builtin_assume(__isGlobal(p));
    return p;
}
// 16 bytes at once: the compiler takes them apart where it knows that they are global.
DEVICE void store16(float* p, float4 x) {
    asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(p), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w) : "memory");
}
// Barrier `id` of `threads` of the block.
DEVICE void part_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
// 32 bytes into the L2 cache.
DEVICE void fetch_soon(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// c [16, 8] += a [16, 16] b [16, 8]; fragments as in the PTX manual, mma.m16n8k16.
DEVICE void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Four 8x8 matrices; lane i names the row of matrix i / 8, row i % 8.
DEVICE void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
DEVICE void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// The other way.
DEVICE void store_matrices_transposed(void* row, const u32 (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_address(row)), "r"(r[0]), "r"(r[1]),
                 "r"(r[2]), "r"(r[3]) : "memory");
}
DEVICE u32 transpose8(u32 x) {
    u32 r;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(x));
    return r;
}
// 16 bytes, or zeros where `bytes` is 0.
DEVICE void copy16_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Barriers in shared memory, and copies that complete on them.
DEVICE void barrier_init(u64* b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
DEVICE void barrier_init_visible() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_expect(u64* b, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u64* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
DEVICE void barrier_wait(u64* b, u32 parity) {
    asm volatile(
        "{\n.reg .pred p;\nwait:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra wait;\ndone:\n}\n" ::"r"(
            shared_address(b)),
        "r"(parity)
        : "memory");
}
// The copy's bytes arrive on the barrier, which expects them.
DEVICE void copy_bulk(void* to, const void* from, u32 bytes, u64* b) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(b))
                 : "memory");
}
// What the block wrote to shared memory is seen by bulk copies and products of a warpgroup, after a barrier; and what it read was read before
// a bulk copy that a barrier lets go writes there.
DEVICE void copies_see_writes() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// `from` may be used again after copies_out_read, by the same thread.
DEVICE void copy_bulk_out(void* to, const void* from, u32 bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;\ncp.async.bulk.commit_group;" ::"l"(to), "r"(shared_address(from)),
                 "r"(bytes)
                 : "memory");
}
DEVICE void copies_out_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// c [64, 8 BLOCKS] (+)= a [64, 16] b, by a warpgroup, of which each warp has 16 rows: fragments as those of mma. `b` describes a matrix
// in shared memory: address, distances and swizzle as in the PTX manual, "Matrix descriptor". It is asynchronous: see group_wait.
template <int BLOCKS, int ADD, int TRANSPOSED> DEVICE void group_mma(float (&c)[BLOCKS][4], const u32 (&a)[4], u64 b) {
    static_assert(BLOCKS == 8 || BLOCKS == 16, "");
    if constexpr (BLOCKS == 8) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32,%33,%34,%35}, %36, p, 1, 1, %38;\n}\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD), "n"(TRANSPOSED));
    } else {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64,%65,%66,%67}, %68, p, 1, 1, %70;\n}\n"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]), "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]), "+f"(c[3][2]), "+f"(c[3][3]), "+f"(c[4][0]), "+f"(c[4][1]), "+f"(c[4][2]), "+f"(c[4][3]), "+f"(c[5][0]), "+f"(c[5][1]), "+f"(c[5][2]), "+f"(c[5][3]), "+f"(c[6][0]), "+f"(c[6][1]), "+f"(c[6][2]), "+f"(c[6][3]), "+f"(c[7][0]), "+f"(c[7][1]), "+f"(c[7][2]), "+f"(c[7][3]), "+f"(c[8][0]), "+f"(c[8][1]), "+f"(c[8][2]), "+f"(c[8][3]), "+f"(c[9][0]), "+f"(c[9][1]), "+f"(c[9][2]), "+f"(c[9][3]), "+f"(c[10][0]), "+f"(c[10][1]), "+f"(c[10][2]), "+f"(c[10][3]), "+f"(c[11][0]), "+f"(c[11][1]), "+f"(c[11][2]), "+f"(c[11][3]), "+f"(c[12][0]), "+f"(c[12][1]), "+f"(c[12][2]), "+f"(c[12][3]), "+f"(c[13][0]), "+f"(c[13][1]), "+f"(c[13][2]), "+f"(c[13][3]), "+f"(c[14][0]), "+f"(c[14][1]), "+f"(c[14][2]), "+f"(c[14][3]), "+f"(c[15][0]), "+f"(c[15][1]), "+f"(c[15][2]), "+f"(c[15][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD), "n"(TRANSPOSED));
    }
}
DEVICE u64 matrix_at(const u8* p, u32 leading, u32 stride, u64 swizzle) {
    return (u64)(shared_address(p) >> 4 & 0x3fff) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | swizzle << 62;
}
// B^T is rows of a record, [K/64][8 groups of 8 tokens][8][64] swizzled: channels 16 n..; or a column of its blocks, [8 groups][2][8][8].
template <int ADD> DEVICE void group_rows(float (&c)[8][4], const u32 (&a)[4], const u8* rows, int n) {
    group_mma<8, ADD, 0>(c, a, matrix_at(rows + n / 4 * 8192 + n % 4 * 32, 16, 1024, 1));
}
template <int ADD> DEVICE void group_pieces(float (&c)[8][4], const u32 (&a)[4], const u8* pieces) {
    group_mma<8, ADD, 0>(c, a, matrix_at(pieces, 128, 256, 0));
}
// B is tokens 16 j.. of such rows.
template <int K> DEVICE void group_outer(float (&c)[K / 8][4], const u32 (&a)[4], const u8* keys, int j) {
    group_mma<K / 8, 1, 1>(c, a, matrix_at(keys + j * 2048, 8192, 1024, 1));
}
// Registers of each thread of a warpgroup, taken from or given to those of the block that none has.
template <int N> DEVICE void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEVICE void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
// What was written to registers before is what the products see.
DEVICE void group_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void group_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> DEVICE void group_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Accumulators change, and operands must stay, until they were waited for: the compiler sees neither.
template <int BLOCKS> DEVICE void group_hold(float (&c)[BLOCKS][4]) {
#pragma unroll
    for (int i = 0; i < BLOCKS; i++) asm volatile("" : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])::"memory");
}
DEVICE void group_keep(u32 (&a)[4]) { asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory"); }
#endif
#endif

#ifndef __CUDA_ARCH_FEAT_SM90_ALL
// The same, each warp for itself, where there are no products of a warpgroup.
template <int ADD> DEVICE void group_rows(float (&c)[8][4], const u32 (&a)[4], const u8* rows, int n) {
    const int lane = threadIdx.x % 32, row = lane % 8, piece = n % 4 * 2 + lane / 8 % 2;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        u32 f[4];
        load_matrices(f, rows + n / 4 * 8192 + (i + lane / 16) * 1024 + row * 128 + (piece ^ row) * 16);
#pragma unroll
        for (int m = 0; m < 4; m++)
            if (!ADD) c[i][m] = c[i + 1][m] = 0.0f;
        mma(c[i], a[0], a[1], a[2], a[3], f[0], f[1]);
        mma(c[i + 1], a[0], a[1], a[2], a[3], f[2], f[3]);
    }
}
template <int ADD> DEVICE void group_pieces(float (&c)[8][4], const u32 (&a)[4], const u8* pieces) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
        u32 f[4];
        load_matrices(f, pieces + i * 256 + lane / 8 * 128 + lane % 8 * 16);
#pragma unroll
        for (int m = 0; m < 4; m++)
            if (!ADD) c[i][m] = c[i + 1][m] = 0.0f;
        mma(c[i], a[0], a[1], a[2], a[3], f[0], f[1]);
        mma(c[i + 1], a[0], a[1], a[2], a[3], f[2], f[3]);
    }
}
template <int K> DEVICE void group_outer(float (&c)[K / 8][4], const u32 (&a)[4], const u8* keys, int j) {
    const int lane = threadIdx.x % 32, row = lane % 8;
#pragma unroll
    for (int i = 0; i < K / 8; i += 2) {
        u32 f[4];
        load_matrices_transposed(f, keys + (i / 8 * 8 + j * 2 + lane / 8 % 2) * 1024 + row * 128 + ((i % 8 + lane / 16) ^ row) * 16);
        mma(c[i], a[0], a[1], a[2], a[3], f[0], f[1]);
        mma(c[i + 1], a[0], a[1], a[2], a[3], f[2], f[3]);
    }
}
template <int N> DEVICE void more_registers() {}
template <int N> DEVICE void fewer_registers() {}
DEVICE void group_begin() {}
DEVICE void group_commit() {}
template <int N> DEVICE void group_wait() { copies_see_writes(), __syncwarp(); }  // before it tells others what it has read
template <int BLOCKS> DEVICE void group_hold(float (&)[BLOCKS][4]) {}
DEVICE void group_keep(u32 (&)[4]) {}
#endif

// Where the blocks (j, j), (j + 1, j).. of a record's scores begin, and of its A.
DEVICE int block_column(int j) { return 256 * j * (9 - j); }

// A product rounded by itself, and one that is rounded with its sum alone.
#ifdef PALIMPSEST_EMULATE
DEVICE float product(float a, float b) { return a * b; }
#else
DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
#endif
DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }

DEVICE float low(u32 x) { return __uint_as_float(x << 16); }
DEVICE float high(u32 x) { return __uint_as_float(x & 0xffff0000u); }
DEVICE float widen(bf16 x) { return __uint_as_float((u32)x << 16); }
DEVICE bf16 narrow(float x) { return (bf16)pack(x, 0.0f); }

constexpr float LOG2E = 1.44269504088896341f;
DEVICE float exp_(float x) { return exp2_(x * LOG2E); }
DEVICE float sigmoid(float x) { return reciprocal(1.0f + exp_(-x)); }
DEVICE float silu(float x) { return x * sigmoid(x); }
// log2(1 + 2^y). Where 2^y is small, the series, where 1 + 2^y would round most of it away.
DEVICE float softplus2_of(float y) {
    const float e = exp2_(-fabsf(y));
    return fmaxf(y, 0.0f) + (e < 1e-3f ? e * (LOG2E - e * (0.5f * LOG2E)) : log2_(1.0f + e));
}
// log2(1 + e^x).
DEVICE float softplus2(float x) { return softplus2_of(x * LOG2E); }
DEVICE float warp_sum(float x) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) x += __shfl_xor_sync(WARP_ALL, x, o);
    return x;
}
