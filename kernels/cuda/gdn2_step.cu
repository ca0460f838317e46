// Decode: one token of each of B sequences, from the projections' outputs to the mixer's gated output, in one kernel.
//
// A block takes one key head of one sequence, with its value heads in turn: the short convolutions (their carried inputs move up by
// one), L2 norms and gates; then S, read once and written once. With u = w v - S'^T (b k), where S' is the decayed state,
//
//   S <- S' + k u^T        o = S^T q = S'^T q + (q k) u
//
// so that both sums over K come from one pass, while S stays in registers: V / 4 lanes have a row, 4 of its columns each. Where a product is
// added it is written down whether they are rounded once or twice: left to the compiler, the kernels with gates inside came out differently.
#include "ptx.cuh"

constexpr int STEP_THREADS = 256;

template <int K, int V> struct StepShared {
    float q[K], k[K], erase[K], decay[K];  // q and k normalised, q scaled; erase is b k
    float z[V], u[V], o[V];
    float y_part[STEP_THREADS / 32][V], o_part[STEP_THREADS / 32][V];
    float sums[STEP_THREADS / 32][3];
    float mean[STEP_THREADS / 32];
};

DEVICE float4 fused(float a, float4 b, float4 c) { return make_float4(fused(a, b.x, c.x), fused(a, b.y, c.y), fused(a, b.z, c.z), fused(a, b.w, c.w)); }

// One channel's convolution of width 4: what it has before its input is there; then `carried` [3, D] moves up by one.
struct Convolution {
    float4 taps;
    float a, b, c;
    float* at;
};
DEVICE Convolution convolution(float* carried, long width, int d, const float* taps) {
    float* at = carried + d;
    return {*(const float4*)(taps + 4 * d), at[0], at[width], at[2 * width], at};
}
DEVICE float convolve(const Convolution& v, long width, float x) {
    v.at[0] = v.b, v.at[width] = v.c, v.at[2 * width] = x;
    return silu(fused(v.taps.w, x, fused(v.taps.z, v.c, fused(v.taps.y, v.b, product(v.taps.x, v.a)))));
}

// The up-projections of the decay's and the output gate's inputs, where the step makes them itself: W of N rows on its way, each lane its own
// 16 bytes of 32 k; then their products with x [rank], in ring.cu's order of sums, rounded as it rounds them.
constexpr int GATE_PIECES = 4;
struct GateShared {
    uint4 w[2][GATE_PIECES][2][STEP_THREADS];
    float out[2][128];
};
template <int N> DEVICE void gate_fetch(uint4 (&to)[GATE_PIECES][2][STEP_THREADS], const bf16* w, int rank) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 8;
    if (row >= N) return;
#pragma unroll
    for (int i = 0; i < GATE_PIECES; i++)
#pragma unroll
        for (int g = 0; g < 2; g++) {
            const bool there = i * 32 + c < rank;
            copy16_async(&to[i][g][threadIdx.x], there ? w + (long)(row + 8 * g) * rank + i * 32 + c : w, there ? 16 : 0);
        }
}
template <int N> DEVICE void gate_product(float* out, const uint4 (&w)[GATE_PIECES][2][STEP_THREADS], const bf16* x, int rank) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 8;
    if (row >= N) return;  // whole warps
    float first = 0.0f, second = 0.0f;
#pragma unroll
    for (int i = 0; i < GATE_PIECES; i++) {
        const bool there = threadIdx.x % 32 < 4 && i * 32 + c < rank;
        const uint4 y = there ? *(const uint4*)(x + i * 32 + c) : make_uint4(0, 0, 0, 0), a = w[i][0][threadIdx.x], b = w[i][1][threadIdx.x];
        float sum[4] = {};
        mma(sum, a.x, b.x, a.y, b.y, y.x, y.y);
        mma(sum, a.z, b.z, a.w, b.w, y.z, y.w);
        first += sum[0], second += sum[2];
    }
    if (threadIdx.x % 4 == 0) out[row] = widen(narrow(first)), out[row + 8] = widen(narrow(second));
}

// GATES: with those, where there is a value head a key head.
template <int K, int V, bool GATES> DEVICE void step_block(const StepParams& p) {
    DYNAMIC_SHARED(memory);
    GateShared& gates = *(GateShared*)(memory + sizeof(StepShared<K, V>));
    StepShared<K, V>& s = *(StepShared<K, V>*)memory;
    constexpr int WARPS = STEP_THREADS / 32, LANES = V / 4, ROWS = STEP_THREADS / LANES, HELD = K / ROWS;
    const int h = blockIdx.x, sequence = blockIdx.y, group = p.value_heads / p.heads;
    const int i = threadIdx.x, warp = i / 32, lane = i % 32;
    const int first = i / LANES, column = i % LANES * 4;
    float* base = in_global(p.states[sequence]) + p.at;
    const long key_width = (long)p.heads * K, value_width = (long)p.value_heads * V;
    float* carried_q = base + value_width * K;
    float* carried_k = carried_q + 3 * key_width;
    float* carried_v = carried_k + 3 * key_width;

    // S of the first value head is on its way while the rest is computed.
    float4 x[HELD];
    auto fetch = [&](int j) {
        const float* state = base + (long)j * K * V + column;
#pragma unroll
        for (int r = 0; r < HELD; r++) x[r] = *(const float4*)(state + (first + r * ROWS) * V);
    };
    fetch(h * group);
    if constexpr (GATES) {
        gate_fetch<K>(gates.w[0], p.f_up + (long)h * K * p.rank, p.rank);
        gate_fetch<V>(gates.w[1], p.g_up + (long)h * V * p.rank, p.rank);
        copies_commit();
    }
    // Half of the threads have a channel of q and k, the others one of the first value head: all of it is asked for at once.
    const int value = i - STEP_THREADS / 2, key_channel = h * K + i, value_channel = h * group * V + value;
    const bool has_key = i < K, has_value = value >= 0 && value < V;
    Convolution first_in = {}, second_in = {};
    float a_log = 0.0f, dt_bias = 0.0f;
    if (has_key) {
        first_in = convolution(carried_q, key_width, key_channel, p.q_taps);
        second_in = convolution(carried_k, key_width, key_channel, p.k_taps);
        a_log = p.a_log[h], dt_bias = p.dt_bias[key_channel];
    } else if (has_value) {
        first_in = convolution(carried_v, value_width, value_channel, p.v_taps);
    }
    after_others();
    bf16 first_x = 0, second_x = 0, f_x = 0, b_x = 0;
    if (has_key) {
        first_x = p.q[(long)sequence * p.q_row + key_channel], second_x = p.k[(long)sequence * p.k_row + key_channel];
        b_x = p.b[(long)sequence * p.b_row + key_channel];
        if (!GATES) f_x = p.f[(long)sequence * p.f_row + key_channel];
    } else if (has_value) {
        first_x = p.v[(long)sequence * p.v_row + value_channel], second_x = p.w[(long)sequence * p.w_row + value_channel];
    }
    if constexpr (GATES) {
        copies_wait<0>();
        gate_product<K>(gates.out[0], gates.w[0], p.f + (long)sequence * p.f_row, p.rank);
        gate_product<V>(gates.out[1], gates.w[1], p.gate + (long)sequence * p.gate_row, p.rank);
        __syncthreads();
    }

    float qq = 0.0f, kk = 0.0f;
    if (has_key) {
        qq = convolve(first_in, key_width, widen(first_x));
        kk = convolve(second_in, key_width, widen(second_x));
        s.decay[i] = exp2_(-exp_(a_log) * softplus2((GATES ? gates.out[0][i] : widen(f_x)) + dt_bias));
        s.erase[i] = p.b_scale * sigmoid(widen(b_x));
    } else if (has_value) {
        s.z[value] = convolve(first_in, value_width, widen(first_x)) * sigmoid(widen(second_x));
    }
    {
        const float a = warp_sum(product(qq, qq)), b = warp_sum(product(kk, kk)), c = warp_sum(product(qq, kk));
        if (lane == 0) s.sums[warp][0] = a, s.sums[warp][1] = b, s.sums[warp][2] = c;
    }
    __syncthreads();
    float sums[3] = {};
#pragma unroll
    for (int w = 0; w < K / 32; w++)
#pragma unroll
        for (int n = 0; n < 3; n++) sums[n] += s.sums[w][n];
    const float scale_q = rsqrtf(sums[0] + 1e-6f) * p.q_scale, scale_k = rsqrtf(sums[1] + 1e-6f);
    const float dot = sums[2] * scale_q * scale_k;
    if (i < K) {
        s.q[i] = qq * scale_q;
        s.k[i] = kk * scale_k;
        s.erase[i] *= kk * scale_k;
    }
    for (int j = h * group; j < (h + 1) * group; j++) {
        if (j > h * group) {
            fetch(j);
            if (i < V) {
                const int c = j * V + i;
                const float v = convolve(convolution(carried_v, value_width, c, p.v_taps), value_width, widen(p.v[(long)sequence * p.v_row + c]));
                s.z[i] = v * sigmoid(widen(p.w[(long)sequence * p.w_row + c]));
            }
        }
        float bias = 0.0f, o_norm = 0.0f;
        bf16 gate_x = 0;
        if (i < V) {
            bias = p.gate_bias[j * V + i], o_norm = p.o_norm[i];
            if (!GATES) gate_x = p.gate[(long)sequence * p.gate_row + j * V + i];
        }
        __syncthreads();
        float4 y = make_float4(0, 0, 0, 0), o = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int r = 0; r < HELD; r++) {
            const int c = first + r * ROWS;
            const float decay = s.decay[c], erase = s.erase[c], q = s.q[c];
            x[r] = make_float4(product(x[r].x, decay), product(x[r].y, decay), product(x[r].z, decay), product(x[r].w, decay));
            y = fused(erase, x[r], y);
            o = fused(q, x[r], o);
        }
        // Rows that share a warp, then the warps.
#pragma unroll
        for (int n = LANES; n < 32; n *= 2) {
            y.x += __shfl_xor_sync(WARP_ALL, y.x, n), y.y += __shfl_xor_sync(WARP_ALL, y.y, n);
            y.z += __shfl_xor_sync(WARP_ALL, y.z, n), y.w += __shfl_xor_sync(WARP_ALL, y.w, n);
            o.x += __shfl_xor_sync(WARP_ALL, o.x, n), o.y += __shfl_xor_sync(WARP_ALL, o.y, n);
            o.z += __shfl_xor_sync(WARP_ALL, o.z, n), o.w += __shfl_xor_sync(WARP_ALL, o.w, n);
        }
        if (lane < LANES) {
            *(float4*)&s.y_part[warp][column] = y;
            *(float4*)&s.o_part[warp][column] = o;
        }
        __syncthreads();
        float square = 0.0f;
        if (i < V) {
            float erased = 0.0f, read = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) erased += s.y_part[w][i], read += s.o_part[w][i];
            const float u = s.z[i] - erased, out = fused(dot, u, read);
            s.u[i] = u;
            s.o[i] = out;
            square = product(out, out);
        }
        square = warp_sum(square);
        if (lane == 0) s.mean[warp] = square;
        __syncthreads();
        const float4 u = *(const float4*)&s.u[column];
        float* state = base + (long)j * K * V + column;
#pragma unroll
        for (int r = 0; r < HELD; r++) {
            const int c = first + r * ROWS;
            const float k = s.k[c];
            store16(state + c * V, fused(k, u, x[r]));
        }
        if (i < V) {
            const int c = j * V + i;
            float mean = 0.0f;
#pragma unroll
            for (int w = 0; w < V / 32; w++) mean += s.mean[w];
            const float gate = (GATES ? gates.out[1][i] : widen(gate_x)) + bias;
            const float y = s.o[i] * rsqrtf(mean / V + p.eps) * o_norm;
            p.out[(long)sequence * p.out_row + c] = narrow(y * (p.silu ? silu(gate) : sigmoid(gate)));
        }
        __syncthreads();
    }
}

#define STEP(K, V) \
    KERNEL_OF(STEP_THREADS, 2, gdn2_step_k##K##_v##V, StepParams) { step_block<K, V, false>(p); } \
    KERNEL_OF(STEP_THREADS, 2, gdn2_step_gates_k##K##_v##V, StepParams) { step_block<K, V, true>(p); }
STEP(64, 64)
STEP(64, 128)
STEP(128, 64)
STEP(128, 128)
