// Times of decoding's products on a GPU, one by one and as a whole step of the 1.3B configuration. Built as bench.cu is.
// ./a.out [products|step|top]
#include "bench.cuh"
template <class F> float graph_us(F f) {
    cudaGraph_t gr;
    cudaGraphExec_t ge;
    CK(cudaStreamBeginCapture(st0, cudaStreamCaptureModeGlobal));
    f();
    CK(cudaStreamEndCapture(st0, &gr));
    CK(cudaGraphInstantiate(&ge, gr, 0));
    float t = timed([&] { CK(cudaGraphLaunch(ge, st0)); });
    CK(cudaGraphExecDestroy(ge));
    return t * 1e3;
}
void products() {
    struct S {
        int n, k;
    };
    for (S s : {S{10496, 2304}, S{2304, 2048}, S{12416, 2304}, S{2304, 6208}, S{32000, 2304}, S{2048, 128}}) {
        int sets = std::max<long>(2, 200000000l / ((long)s.n * s.k * 2));
        bf16* w = dev<bf16>((long)s.n * s.k * sets);
        fill<<<1024, 256>>>(w, (long)s.n * s.k * sets, 5, 1);
        bf16 *x = dev<bf16>(32l * s.k), *out = dev<bf16>(32l * s.n);
        fill<<<256, 256>>>(x, 32l * s.k, 6, 1);
        CK(cudaDeviceSynchronize());
        printf("N%d K%d:", s.n, s.k);
        for (int m : {1, 8, 16, 32}) {
            auto f = m <= 8 ? ring_1 : ring_4;
            const int shared = m <= 8 ? sizeof(RingShared<1>) : sizeof(RingShared<4>);
            CK(cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
            float t = graph_us([&] {
                          for (int i = 0; i < sets; i++) {
                              RingParams p{};
                              p.x = x, p.w = w + (long)i * s.n * s.k, p.out = out, p.m = m, p.n = s.n, p.k = p.x_row = s.k, p.out_row = s.n;
                              launch_early(f, dim3(std::min((s.n + 31) / 32, processors)), RING_THREADS, shared, st0, p);
                          }
                      }) / sets;
            printf(" %d rows %.2f us %.0f%%", m, t, 200.0 * s.n * s.k / copy_rate / t * 1e-3);
        }
        printf("\n");
        cudaFree(w), cudaFree(x), cudaFree(out);
    }
}
// A decode step of M sequences, up to 32, in several ways: the same bits.
struct WayOfMany {
    const char* name;
    bool inside;    // of one sequence: norms within `ring`, gates within the step
    int flight = 3; // stages on their way
    int blocks = 0; // of [2304, ..], or a processor each
};
template <int EIGHTS, int HELD, bool GATED, int FLIGHT> __global__ void __launch_bounds__(RING_THREADS, 1) ring_v(const __grid_constant__ RingParams p) { ring_block<EIGHTS, HELD, GATED, FLIGHT>(p); }
void steps_of(int m) {
    const int D = 2304, F = 6208, H = 16, HK = 2048, ALL = 10496, LAYERS = 18, VOCABULARY = 32000;
    const long layer = (long)ALL * D + 2l * HK * 128 + (long)D * HK + 3l * F * D, state_layer = H * 16384l + 9 * HK, state_all = LAYERS * state_layer;
    bf16* w = dev<bf16>(layer * LAYERS + (long)VOCABULARY * D);
    fill<<<2048, 256>>>(w, layer * LAYERS + (long)VOCABULARY * D, 3, 0.03f);
    float *f = dev<float>(32768), *residual = dev<float>(m * D), *logits = dev<float>((long)m * VOCABULARY), *state = dev<float>(m * state_all);
    fillf<<<64, 256>>>(f, 32768, 4, 0.1f, 1);
    bf16 *normed = dev<bf16>(m * D), *projected = dev<bf16>(m * ALL), *gates = dev<bf16>(2 * m * HK), *mixed = dev<bf16>(m * HK),
         *hidden = dev<bf16>(m * F);
    u32* ids = dev<u32>(m);
    std::vector<u32> some(m);
    for (int i = 0; i < m; i++) some[i] = 17 * i + 5;
    CK(cudaMemcpy(ids, some.data(), 4 * m, cudaMemcpyHostToDevice));
    float** table = dev<float*>(m);
    std::vector<float*> at(m);
    for (int i = 0; i < m; i++) at[i] = state + i * state_all;
    CK(cudaMemcpy(table, at.data(), 8 * m, cudaMemcpyHostToDevice));
    const bf16* head = w + layer * LAYERS;
    struct Form {
        int flight;
        void (*one)(RingParams);
        void (*one_gated)(RingParams);
        void (*four)(RingParams);
        void (*four_gated)(RingParams);
    };
    auto form = [](auto flight) {
        constexpr int F = decltype(flight)::value;
        Form f{F, ring_v<1, 25, false, F>, ring_v<1, 9, true, F>, ring_v<4, 9, false, F>, ring_v<4, 9, true, F>};
        for (auto k : {f.one, f.one_gated}) CK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(RingShared<1>)));
        for (auto k : {f.four, f.four_gated}) CK(cudaFuncSetAttribute(k, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(RingShared<4>)));
        return f;
    };
    const Form forms[] = {form(std::integral_constant<int, 3>()), form(std::integral_constant<int, 5>()), form(std::integral_constant<int, 7>())};
    CK(cudaFuncSetAttribute(gdn2_step_gates_k128_v128, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(StepShared<128, 128>) + sizeof(GateShared)));
    auto step = [&](const WayOfMany& way) {
        RowParams e{}, norm{};
        e.ids = ids, e.x = head, e.residual = residual, e.d = D;
        norm.residual = residual, norm.weight = f, norm.out = normed, norm.d = D, norm.out_row = D, norm.eps = 1e-5f;
        const Form* ring = nullptr;
        for (auto& f : forms)
            if (f.flight == way.flight) ring = &f;
        auto product = [&](const bf16* x, const bf16* w, int n, int k, int x_row, bf16* out, float* sum, bool add, bool normed_first, bool gated = false) {
            RingParams p{};
            p.x = x, p.w = w, p.out = out, p.sum = sum, p.m = m, p.n = n, p.k = k, p.x_row = x_row, p.out_row = n, p.add = add, p.eps = 1e-5f;
            if (normed_first) {
                if (way.inside) p.residual = residual, p.weight = f;
                else launch_early(rms_norm, dim3(m), 256, 64, st0, norm);
            }
            const bool two = k == 128;  // the gates' up-projections, side by side
            if (two) p.out_row = p.n = 2 * n, p.split = n, p.w_behind = w + (long)n * k;
            launch_early(m <= 8 ? (gated ? ring->one_gated : ring->one) : gated ? ring->four_gated : ring->four,
                         dim3(n == D && way.blocks ? way.blocks : std::min((n + 31) / 32, processors), two ? 2 : 1), RING_THREADS,
                         m <= 8 ? sizeof(RingShared<1>) : sizeof(RingShared<4>), st0, p);
        };
        launch_early(embed, dim3(m), 256, 0, st0, e);
        for (int l = 0; l < LAYERS; l++) {
            const bf16 *into = w + l * layer, *f_up = into + (long)ALL * D, *g_up = f_up + HK * 128, *out = g_up + HK * 128,
                       *up = out + (long)D * HK, *down = up + 2l * F * D;
            product(normed, into, ALL, D, D, projected, nullptr, false, true);
            StepParams p{};
            p.q = projected, p.k = projected + HK, p.v = projected + 2 * HK, p.f = gates, p.b = projected + 3 * HK, p.w = projected + 4 * HK;
            p.gate = gates + HK, p.gate_bias = p.q_taps = p.k_taps = p.v_taps = p.a_log = p.dt_bias = p.o_norm = f;
            p.out = mixed, p.states = table, p.at = l * state_layer;
            p.q_row = p.k_row = p.v_row = p.b_row = p.w_row = ALL, p.f_row = p.gate_row = 2 * HK, p.out_row = HK;
            p.heads = p.value_heads = H, p.b_scale = 1, p.q_scale = 0.088f, p.eps = 1e-5f;
            if (way.inside) {
                p.f = projected + ALL - 256, p.gate = projected + ALL - 128, p.f_up = f_up, p.g_up = g_up, p.rank = 128, p.f_row = p.gate_row = ALL;
                launch_early(gdn2_step_gates_k128_v128, dim3(H, m), STEP_THREADS, sizeof(StepShared<128, 128>) + sizeof(GateShared), st0, p);
            } else {
                product(projected + ALL - 256, f_up, HK, 128, ALL, gates, nullptr, false, false);
                launch_early(gdn2_step_k128_v128, dim3(H, m), STEP_THREADS, sizeof(StepShared<128, 128>), st0, p);
            }
            product(mixed, out, D, HK, HK, nullptr, residual, true, false);
            product(normed, up, F, D, D, hidden, nullptr, false, true, true);
            product(hidden, down, D, F, F, nullptr, residual, true, false);
        }
        product(normed, head, VOCABULARY, D, D, nullptr, logits, false, true);
    };
    const double bytes = (layer * LAYERS + (double)VOCABULARY * D) * 2 + 2.0 * m * state_all * 4;
    std::vector<float> first, now((long)m * VOCABULARY);
    for (const WayOfMany& way : {WayOfMany{"3 stages on their way", false, 3, 72}, {"5", false, 5, 72}, {"3, a block a processor", false, 3, 132}, {"norms and gates inside, 3", true, 3, 72},
                             {"inside, 5", true, 5, 72}, {"inside, 7", true, 7, 72}, {"inside, 5, a block a processor", true, 5, 132}}) {
        if (way.inside && m > 1) continue;
        CK(cudaMemset(state, 0, m * state_all * 4));
        CK(cudaDeviceSynchronize());
        step(way), step(way);
        CK(cudaStreamSynchronize(st0));
        CK(cudaMemcpy(now.data(), logits, now.size() * 4, cudaMemcpyDeviceToHost));
        if (first.empty()) first = now;
        float us = graph_us([&] { step(way); });
        printf("step of %d, %s: %.1f us, %.0f tokens/s, %.0f%% of copies; logits %s\n", m, way.name, us, 1e6 * m / us, bytes / copy_rate / us * 0.1,
               memcmp(now.data(), first.data(), now.size() * 4) ? "DIFFER" : "the same");
    }
    cudaFree(w), cudaFree(state), cudaFree(logits);
}
// The largest logits of 1 and of 32 rows: `top` and `largest`.
void tops() {
    float *x = dev<float>(32 * 32000), *value = dev<float>(32);
    u32* id = dev<u32>(32);
    fillf<<<256, 256>>>(x, 32 * 32000, 4, 1, 0);
    CK(cudaDeviceSynchronize());
    for (int m : {1, 32})
        for (bool one : {false, true}) {
            RowParams p{};
            p.residual = x, p.ids_out = id, p.values_out = value, p.d = 32000, p.out_row = 1;
            float us = graph_us([&] {
                           for (int i = 0; i < 20; i++) launch_early(one ? largest : top, dim3(m), one ? LARGEST_THREADS : ROW_THREADS, 256, st0, p);
                       }) / 20;
            u32 found;
            CK(cudaMemcpy(&found, id, 4, cudaMemcpyDeviceToHost));
            printf("%s of %d rows: %.2f us, id %u\n", one ? "largest" : "top", m, us, found);
        }
}
int main(int argc, char** argv) {
    open_streams(false);
    measure_copies();
    std::string what = argc > 1 ? argv[1] : "all";
    if (what == "all" || what == "step")
        for (int m : {1, 8, 16, 32}) steps_of(m);
    if (what == "all" || what == "products") products();
    if (what == "all" || what == "top") tops();
}
