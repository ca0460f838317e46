// A GPU of one block, on the host: every thread of a block is a coroutine, and instructions that threads carry out together
// wait for all of them. Enough of CUDA to run the kernels of this folder as they stand, slowly, under a test. It is stricter than
// the hardware where it can be: shared memory begins as NaN, and a cp.async arrives only when it is waited for. Bulk copies
// arrive at once, and products of a warpgroup are done at once: that they are waited for only the hardware can show.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cassert>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define __syncwarp() emulate::warp_barrier()
#define __syncthreads() emulate::block_barrier()
#define __restrict__
#define KERNEL(THREADS, NAME, PARAMS)     \
    static constexpr int NAME##_threads = THREADS; \
    static void NAME(const PARAMS& p)
#define KERNEL_OF(THREADS, BLOCKS, NAME, PARAMS) KERNEL(THREADS, NAME, PARAMS)
#define DYNAMIC_SHARED(name) u8* name = emulate::block->shared.data()

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

namespace emulate {
struct Dim { int x = 0, y = 0, z = 0; };
struct Copy { void* to; const void* from; int bytes; };
struct Thread {
    ucontext_t context;  // to begin with; then `place`, which asks nothing of the operating system
    jmp_buf place;
    bool begun = false;
    Dim index;
    bool done = false;
    u64 collectives = 0;
    std::vector<std::vector<Copy>> groups{1};
};
struct Slot { u32 x[4]; const void* p; };
struct Warp {
    u64 arrived = 0;
    int live = 32;
    Slot slots[2][32];
};
struct Block {
    std::vector<Thread> threads;
    std::vector<Warp> warps;
    std::vector<u8> shared;
    Dim index, grid;
    u64 arrived = 0, parts[16] = {};
    int live = 0;
    int current = 0;
    jmp_buf scheduler;
    std::function<void()> body;
};
static Block* block = nullptr;  // not inline: two libraries in one process would share it
inline Thread& self() { return block->threads[block->current]; }
inline Warp& warp() { return block->warps[block->current / 32]; }
inline void yield() {
    if (_setjmp(self().place) == 0) _longjmp(block->scheduler, 1);
}
inline void entry() {
    block->body();
    self().done = true;
    block->live--;
    _longjmp(block->scheduler, 1);
}
// All 32 lanes hand in a slot; each then reads all of them. Two sets take turns, so that one barrier is enough.
inline const Slot* exchange(Slot slot) {
    Warp& w = warp();
    Thread& t = self();
    Slot* slots = w.slots[t.collectives & 1];
    slots[block->current % 32] = slot;
    u64 turn = ++t.collectives;
    w.arrived++;
    while (w.arrived < turn * 32) yield();
    return slots;
}
inline void warp_barrier() { exchange({}); }
inline void block_barrier() {
    u64 n = block->threads.size(), turn = block->arrived / n + 1;
    block->arrived++;
    while (block->arrived < turn * n) yield();
}
inline int lane() { return block->current % 32; }

constexpr int STACK = 96 << 10;
static std::vector<std::unique_ptr<char[]>> stacks;

// Runs `kernel` over a grid, block after block.
template <class P> void launch(void (*kernel)(const P&), const P& p, Dim grid, int threads, size_t shared) {
    for (int y = 0; y < grid.y; y++)
        for (int x = 0; x < grid.x; x++) {
            Block b;
            b.threads.resize(threads);
            b.warps.resize(threads / 32);
            b.shared.assign(shared + 16, 0xff);
            b.index = {x, y, 0}, b.grid = grid, b.live = threads;
            b.body = [&] { kernel(p); };
            block = &b;
            for (int i = 0; i < threads; i++) {
                Thread& t = b.threads[i];
                t.index = {i, 0, 0};
                if ((int)stacks.size() <= i) stacks.emplace_back(new char[STACK]);
                getcontext(&t.context);
                t.context.uc_stack.ss_sp = stacks[i].get();
                t.context.uc_stack.ss_size = STACK;
                t.context.uc_link = nullptr;
                makecontext(&t.context, entry, 0);
            }
            for (long idle = 0; b.live > 0; idle++) {
                for (int i = 0; i < threads; i++)
                    if (!b.threads[i].done) {
                        b.current = i;
                        if (_setjmp(b.scheduler) == 0) {
                            if (b.threads[i].begun) _longjmp(b.threads[i].place, 1);
                            b.threads[i].begun = true;
                            setcontext(&b.threads[i].context);
                        }
                    }
                if (idle > 10000000) fprintf(stderr, "deadlock\n"), abort();
            }
        }
    block = nullptr;
}
}  // namespace emulate

#define threadIdx (emulate::self().index)
#define blockIdx (emulate::block->index)
#define gridDim (emulate::block->grid)

inline float __uint_as_float(u32 x) { float f; memcpy(&f, &x, 4); return f; }
inline u32 __float_as_uint(float f) { u32 x; memcpy(&x, &f, 4); return x; }
inline float reciprocal(float x) { return 1.0f / x; }
inline float log2_(float x) { return log2f(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline u32 round_bf16(float f) {
    u32 x = __float_as_uint(f);
    if (f != f) return 0x7fff;
    return (x + 0x7fff + (x >> 16 & 1)) >> 16;
}
inline u32 pack(float lo, float hi) { return round_bf16(lo) | round_bf16(hi) << 16; }
inline float exp2_(float x) { float y = exp2f(x); return y < 1.17549435e-38f ? 0.0f : y; }
inline float bf(u32 x, int half) { return __uint_as_float(half ? x & 0xffff0000u : x << 16); }

inline float __shfl_xor_sync(u32, float x, int o) {
    u32 bits = __float_as_uint(x);
    return __uint_as_float(emulate::exchange({{bits}, nullptr})[emulate::lane() ^ o].x[0]);
}
inline u32 __shfl_xor_sync(u32, u32 x, int o) { return emulate::exchange({{x}, nullptr})[emulate::lane() ^ o].x[0]; }
inline bool __any_sync(u32, bool x) {
    const emulate::Slot* s = emulate::exchange({{x}, nullptr});
    for (int i = 0; i < 32; i++)
        if (s[i].x[0]) return true;
    return false;
}
inline void mma(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    using namespace emulate;
    int me = lane(), r = me / 4, n = me % 4 * 2;
    u32 a[32][4], b[32][2];
    const Slot* s = exchange({{a0, a1, a2, a3}, nullptr});
    for (int i = 0; i < 32; i++) memcpy(a[i], s[i].x, 16);
    s = exchange({{b0, b1}, nullptr});
    for (int i = 0; i < 32; i++) memcpy(b[i], s[i].x, 8);
    for (int i = 0; i < 4; i++) {
        int row = r + 8 * (i / 2), col = n + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; k++) {
            float x = bf(a[row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], k % 2);
            float y = bf(b[col * 4 + k % 8 / 2][k / 8], k % 2);
            sum += (double)x * y;
        }
        c[i] = (float)sum;
    }
}
inline void load_matrices(u32 (&r)[4], const void* row) {
    using namespace emulate;
    assert((size_t)row % 16 == 0);
    const Slot* s = exchange({{}, row});
    for (int m = 0; m < 4; m++) r[m] = ((const u32*)s[m * 8 + lane() / 4].p)[lane() % 4];
}
inline void load_matrices_transposed(u32 (&r)[4], const void* row) {
    using namespace emulate;
    assert((size_t)row % 16 == 0);
    const Slot* s = exchange({{}, row});
    for (int m = 0; m < 4; m++) {
        u32 lo = ((const u16*)s[m * 8 + lane() % 4 * 2].p)[lane() / 4], hi = ((const u16*)s[m * 8 + lane() % 4 * 2 + 1].p)[lane() / 4];
        r[m] = lo | hi << 16;
    }
}
inline void store_matrices_transposed(void* row, const u32 (&r)[4]) {
    using namespace emulate;
    assert((size_t)row % 16 == 0);
    const Slot* s = exchange({{r[0], r[1], r[2], r[3]}, row});
    int me = lane();
    // The lane writes what it named: column me % 8 of matrix me / 8.
    for (int i = 0; i < 8; i++) ((u16*)row)[i] = (u16)(s[i * 4 + me % 8 / 2].x[me / 8] >> (me % 2 * 16));
}
inline u32 transpose8(u32 x) {
    using namespace emulate;
    const Slot* s = exchange({{x}, nullptr});
    int r = lane() / 4, c = lane() % 4 * 2;
    auto at = [&](int row, int col) { return s[row * 4 + col / 2].x[0] >> (col % 2 * 16) & 0xffff; };
    return at(c, r) | at(c + 1, r) << 16;
}
inline void copy16_async(void* to, const void* from, int bytes) {
    const u8* begin = emulate::block->shared.data();
    assert((size_t)to % 16 == 0 && (size_t)from % 16 == 0);
    assert((u8*)to >= begin && (u8*)to + 16 <= begin + emulate::block->shared.size());
    emulate::self().groups.back().push_back({to, from, bytes});
}
inline void copies_commit() { emulate::self().groups.emplace_back(); }
template <int N> void copies_wait() {
    auto& groups = emulate::self().groups;
    while (groups.size() > N + 1) {
        for (auto& c : groups.front()) memset(c.to, 0, 16), memcpy(c.to, c.from, c.bytes);
        groups.erase(groups.begin());
    }
}
// A barrier is 8 bytes: phase 16, pending arrivals 8, arrivals a phase 8, bytes that are to come 32.
struct BarrierBits { u16 phase; u8 pending, arrivals; int bytes; };
inline BarrierBits& bits(u64* b) { return *(BarrierBits*)b; }
inline void barrier_init(u64* b, int n) { bits(b) = {0, (u8)n, (u8)n, 0}; }
inline void barrier_init_visible() {}
inline void barrier_turn(u64* b) {
    if (bits(b).pending == 0 && bits(b).bytes == 0) bits(b).phase++, bits(b).pending = bits(b).arrivals;
}
inline void barrier_arrive(u64* b) {
    assert(bits(b).pending > 0);
    bits(b).pending--;
    barrier_turn(b);
}
inline void barrier_expect(u64* b, u32 bytes) {
    bits(b).bytes += bytes;
    barrier_arrive(b);
}
inline void barrier_wait(u64* b, u32 parity) {
    while ((bits(b).phase & 1) == parity) emulate::yield();
}
inline void copy_bulk(void* to, const void* from, u32 bytes, u64* b) {
    const u8* begin = emulate::block->shared.data();
    assert((size_t)to % 16 == 0 && (size_t)from % 16 == 0 && bytes % 16 == 0);
    assert((u8*)to >= begin && (u8*)to + bytes <= begin + emulate::block->shared.size());
    memcpy(to, from, bytes);
    bits(b).bytes -= bytes;
    barrier_turn(b);
}
inline void copies_see_writes() {}
inline void copy_bulk_out(void* to, const void* from, u32 bytes) {
    assert((size_t)to % 16 == 0 && (size_t)from % 16 == 0 && bytes % 16 == 0);
    memcpy(to, from, bytes);
}
inline void copies_out_read() {}
inline void part_barrier(int id, int threads) {
    u64& arrived = emulate::block->parts[id];
    const u64 n = threads, turn = arrived / n + 1;
    arrived++;
    while (arrived < turn * n) emulate::yield();
}
inline void fetch_soon(const void*) {}
inline void after_others() {}
inline void others_may_begin() {}
inline void store16(float* p, float4 x) { *(float4*)p = x; }
template <class T> T* in_global(T* p) { return p; }
