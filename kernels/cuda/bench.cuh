// What the benchmarks share.
#pragma once
#include "all.cu"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <string>
#include <vector>
#define CK(x)                                                                                                                    \
    do {                                                                                                                         \
        cudaError_t e = (x);                                                                                                     \
        if (e != cudaSuccess) {                                                                                                  \
            printf("CUDA %s at %s:%d\n", cudaGetErrorString(e), __FILE__, __LINE__);                                             \
            exit(1);                                                                                                             \
        }                                                                                                                        \
    } while (0)
// As the engine launches: a kernel may begin while the one before it runs.
template <class P> void launch_early(void (*f)(P), dim3 grid, int threads, int shared, cudaStream_t st, P p, bool early = true) {
    cudaLaunchAttribute a;
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c{};
    c.gridDim = grid, c.blockDim = dim3(threads), c.dynamicSmemBytes = shared, c.stream = st, c.attrs = &a, c.numAttrs = early;
    CK(cudaLaunchKernelEx(&c, f, p));
}
__device__ u32 hash_(u64 x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    x ^= x >> 33;
    return (u32)x;
}
__device__ float uni(u64 i, u64 seed) { return (hash_(i + (seed << 40)) >> 8) * (1.0f / 16777216.0f) * 2 - 1; }
__global__ void fill(bf16* x, long n, u64 seed, float scale) {
    for (long i = blockIdx.x * 256l + threadIdx.x; i < n; i += gridDim.x * 256l) x[i] = narrow(uni(i, seed) * scale);
}
__global__ void fillf(float* x, long n, u64 seed, float scale, float off) {
    for (long i = blockIdx.x * 256l + threadIdx.x; i < n; i += gridDim.x * 256l) x[i] = uni(i, seed) * scale + off;
}
template <class T> T* dev(long n) {
    T* p;
    CK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}
// Tells results of one program from those of another.
static u64 sum_of(const float* x, long n) {
    u64 h = 14695981039346656037ull;
    for (long i = 0; i < n; i++) {
        u32 b;
        memcpy(&b, x + i, 4);
        h = (h ^ b) * 1099511628211ull;
    }
    return h;
}
static cudaStream_t st0, st1;
static cudaEvent_t e0, e1, ea, eb;
template <class F> float timed(F f, int n = 20) {
    f();
    f();
    CK(cudaStreamSynchronize(st0));
    std::vector<float> t;
    for (int i = 0; i < n; i++) {
        CK(cudaEventRecord(e0, st0));
        f();
        CK(cudaEventRecord(e1, st0));
        CK(cudaEventSynchronize(e1));
        float ms;
        CK(cudaEventElapsedTime(&ms, e0, e1));
        t.push_back(ms);
    }
    CK(cudaGetLastError());
    std::sort(t.begin(), t.end());
    return t[n / 2];
}
static double copy_rate;
static int processors;
// Streams of two priorities, or of one where `flat`.
void open_streams(bool flat) {
    int least = 0, most = 0;
    CK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, 0));
    CK(cudaDeviceGetStreamPriorityRange(&least, &most));
    CK(cudaStreamCreateWithPriority(&st0, cudaStreamNonBlocking, flat ? least : most));
    CK(cudaStreamCreateWithPriority(&st1, cudaStreamNonBlocking, least));
    cudaEventCreate(&e0);
    cudaEventCreate(&e1);
    cudaEventCreateWithFlags(&ea, cudaEventDisableTiming);
    cudaEventCreateWithFlags(&eb, cudaEventDisableTiming);
}
void measure_copies() {
    long n = 4l << 30;
    u8 *a = dev<u8>(n), *b = dev<u8>(n);
    CK(cudaMemset(a, 1, n));
    CK(cudaMemset(b, 1, n));
    float t = timed([&] { CK(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, st0)); }, 5);
    copy_rate = 2.0 * n / t * 1e-6;
    printf("copy %.0f GB/s\n", copy_rate);
    cudaFree(a);
    cudaFree(b);
}
