// Times of decoding's products on a GPU, one by one and as a whole step of the 1.3B configuration. Built as bench.cu is.
// ./a.out [narrow|one|step|top]
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
template <int B, int A, int E> __global__ void __launch_bounds__(256, E) narrow_v(const __grid_constant__ NarrowParams p) { narrow_block<B, A>(p); }
void narrows() {
    struct S {
        int n, k;
    };
    for (S s : {S{10496, 2304}, S{2304, 2048}, S{12416, 2304}, S{2304, 6208}, S{32000, 2304}, S{2048, 128}}) {
        int sets = std::max<long>(2, 200000000l / ((long)s.n * s.k * 2));
        bf16* w = dev<bf16>((long)s.n * s.k * sets);
        fill<<<1024, 256>>>(w, (long)s.n * s.k * sets, 5, 1);
        bf16* x = dev<bf16>(256l * s.k);
        fill<<<256, 256>>>(x, 256l * s.k, 6, 1);
        bf16* out = dev<bf16>(256l * s.n);
        CK(cudaDeviceSynchronize());
        printf("narrow N%d K%d:", s.n, s.k);
        struct Form {
            const char* name;
            void (*f)(NarrowParams);
            int m, blocks, each;  // rows of x, eighths of those that a block takes, blocks a processor
        };
        for (Form o : {Form{"m1", narrow_1, 1, 1, 1}, {"m8", narrow_1, 8, 1, 1}, {"m16", narrow_2, 16, 2, 2}, {"m32", narrow_4, 32, 4, 1},
                       {"m32, pairs", narrow_4_pairs, 32, 4, 2}, {"m32, two blocks, 3 ahead", narrow_v<4, 3, 2>, 32, 4, 2},
                       {"m64", narrow_8, 64, 8, 1}, {"m256", narrow_8, 256, 8, 1}}) {
            const int shared = 2 * o.blocks * 4096, tiles = (s.n + 15) / 16;
            CK(cudaFuncSetAttribute(o.f, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
            float t = graph_us([&] {
                          for (int i = 0; i < sets; i++) {
                              NarrowParams p{x, w + (long)i * s.n * s.k, out, nullptr, o.m, s.n, s.k, s.k, s.n, 0};
                              launch_early(o.f, dim3(std::min(tiles, processors * o.each), (o.m + 8 * o.blocks - 1) / (8 * o.blocks)), 256, shared, st0, p);
                          }
                      }) / sets;
            printf(" %s %.2f us %.0f%%", o.name, t, 200.0 * s.n * s.k / copy_rate / t * 1e-3);
        }
        printf("\n");
        cudaFree(w);
        cudaFree(x);
        cudaFree(out);
    }
}
template <int G, int A, int E> __global__ void __launch_bounds__(256, E) one_v(const __grid_constant__ OneParams p) { one_block<G, A>(p); }
// A way to run products of one row: kernels for up to 8, 16 and 24 rows of a tile, blocks a processor.
struct Way {
    const char* name;
    void (*one)(OneParams);
    void (*two)(OneParams);
    void (*three)(OneParams);
    int each;
    bool outside = false;  // the gates' up-projections are products by themselves
};
static std::vector<Way> ways() {
    return {{"as it is: 9, 3 or 2 ahead, three blocks", one_1, one_2, one_3, 3},
            {"as it is, gates outside", one_1, one_2, one_3, 3, true},
            {"8 rows at least", nullptr, one_2, one_3, 3},
            {"8, 3 or 2 ahead, three blocks", one_v<1, 8, 3>, one_2, one_3, 3},
            {"6 or 4 ahead, two blocks", nullptr, one_v<2, 6, 2>, one_v<3, 4, 2>, 2},
            {"9, 6 or 4 ahead, two blocks", one_v<1, 9, 2>, one_v<2, 6, 2>, one_v<3, 4, 2>, 2}};
}
void one(const Way& way, OneParams p) {
    const int blocks = processors * way.each, most = way.three ? 24 : 16;
    const int rounds = (p.n + blocks * most - 1) / (blocks * most);
    p.rows = std::max(way.one && p.k > 4096 ? 6 : 8, (p.n + blocks * rounds - 1) / (blocks * rounds));
    const int tiles = (p.n + p.rows - 1) / p.rows;
    launch_early(p.rows < 8 ? way.one : p.rows <= 16 ? way.two : way.three, dim3(std::min(tiles, blocks)), 256, sizeof(OneShared), st0, p);
}
void ones() {
    bf16* x = dev<bf16>(16384);
    fill<<<16, 256>>>(x, 16384, 6, 1);
    float *f = dev<float>(8192), *sum = dev<float>(32000);
    fillf<<<16, 256>>>(f, 8192, 7, 1, 0);
    for (auto s : {std::pair{10496, 2304}, {2304, 2048}, {12416, 2304}, {2304, 6208}, {32000, 2304}}) {
        const int n = s.first, k = s.second;
        const int sets = std::max<long>(2, 200000000l / ((long)n * k * 2));
        bf16* w = dev<bf16>((long)n * k * sets);
        fill<<<1024, 256>>>(w, (long)n * k * sets, 5, 1);
        CK(cudaDeviceSynchronize());
        for (auto& way : ways()) {
            if (way.outside) continue;
            printf("one N%d K%d, %s:", n, k, way.name);
            for (int from : {0, 1, 2}) {
                float t = graph_us([&] {
                              for (int i = 0; i < sets; i++) {
                                  OneParams p{};
                                  p.x = x, p.w = w + (long)i * n * k, p.sum = sum, p.n = n, p.k = k, p.eps = 1e-5f;
                                  if (from == 1) p.residual = p.weight = f;
                                  if (from == 2) p.gate_up = x;
                                  one(way, p);
                              }
                          }) / sets;
                printf(" %s %.2f us %.0f%%", from == 0 ? "as it is" : from == 1 ? "norm" : "swiglu", t, 200.0 * n * k / copy_rate / t * 1e-3);
            }
            printf("\n");
        }
        cudaFree(w);
    }
}
// A decode step of 18 layers, with random weights; the same sums whatever the way.
void steps() {
    const int D = 2304, F = 6208, H = 16, HK = 2048, ALL = 10496, LAYERS = 18, VOCABULARY = 32000;
    const long layer = (long)ALL * D + 2l * HK * 128 + (long)D * HK + 3l * F * D;
    bf16* w = dev<bf16>(layer * LAYERS + (long)VOCABULARY * D);
    fill<<<2048, 256>>>(w, layer * LAYERS + (long)VOCABULARY * D, 3, 0.03f);
    float *f = dev<float>(32768), *residual = dev<float>(D), *logits = dev<float>(VOCABULARY), *state = dev<float>(LAYERS * (H * 16384l + 9 * HK));
    fillf<<<64, 256>>>(f, 32768, 4, 0.1f, 1);
    bf16 *normed = dev<bf16>(D), *projected = dev<bf16>(ALL), *decay = dev<bf16>(HK), *gate = dev<bf16>(HK), *mixed = dev<bf16>(HK),
         *gate_up = dev<bf16>(2 * F), *hidden = dev<bf16>(F);
    float** table = dev<float*>(1);
    CK(cudaMemcpy(table, &state, 8, cudaMemcpyHostToDevice));
    auto step = [&](const Way* way) {
        auto product = [&](const bf16* x, const bf16* w, int n, int k, bf16* out, float* sum, bool add, bool norm = false, const bf16* pair = nullptr) {
            if (way) {
                OneParams p{};
                p.x = x, p.w = w, p.out = out, p.sum = sum, p.n = n, p.k = k, p.add = add, p.eps = 1e-5f;
                if (norm) p.residual = residual, p.weight = f;
                p.gate_up = pair;
                return one(*way, p);
            }
            if (norm) {
                RowParams p{};
                p.residual = residual, p.weight = f, p.out = normed, p.d = D, p.out_row = D, p.eps = 1e-5f;
                launch_early(rms_norm, dim3(1), 256, 64, st0, p);
            }
            if (pair) {
                RowParams p{};
                p.x = pair, p.out = hidden, p.d = F, p.x_row = 2 * F, p.out_row = F;
                launch_early(swiglu, dim3((F + 2047) / 2048, 1), 256, 0, st0, p);
            }
            NarrowParams p{norm ? normed : pair ? hidden : x, w, out, sum, 1, n, k, k, n, add};
            launch_early(narrow_1, dim3(std::min((n + 15) / 16, processors)), 256, 2 * 4096, st0, p);
        };
        for (int l = 0; l < LAYERS; l++) {
            const bf16 *into = w + l * layer, *f_up = into + (long)ALL * D, *g_up = f_up + HK * 128, *out = g_up + HK * 128,
                       *up = out + (long)D * HK, *down = up + 2l * F * D;
            product(nullptr, into, ALL, D, projected, nullptr, false, true);
            if (!way || way->outside) {
                product(projected + ALL - 256, f_up, HK, 128, decay, nullptr, false);
                product(projected + ALL - 128, g_up, HK, 128, gate, nullptr, false);
            }
            StepParams p{};
            p.q = projected, p.k = projected + HK, p.v = projected + 2 * HK, p.f = decay, p.b = projected + 3 * HK, p.w = projected + 4 * HK;
            p.gate = gate, p.gate_bias = p.q_taps = p.k_taps = p.v_taps = p.a_log = p.dt_bias = p.o_norm = f;
            p.out = mixed, p.states = table, p.at = l * (H * 16384l + 9 * HK);
            p.q_row = p.k_row = p.v_row = p.f_row = p.b_row = p.w_row = p.gate_row = p.out_row = ALL;
            p.heads = p.value_heads = H, p.b_scale = 1, p.q_scale = 0.088f, p.eps = 1e-5f;
            if (way && !way->outside) {
                p.f = projected + ALL - 256, p.gate = projected + ALL - 128, p.f_up = f_up, p.g_up = g_up, p.rank = 128;
                launch_early(gdn2_step_gates_k128_v128, dim3(H, 1), STEP_THREADS, sizeof(StepShared<128, 128>) + sizeof(GateShared), st0, p);
            } else {
                launch_early(gdn2_step_k128_v128, dim3(H, 1), STEP_THREADS, sizeof(StepShared<128, 128>), st0, p);
            }
            product(mixed, out, D, HK, nullptr, residual, true);
            product(nullptr, up, 2 * F, D, gate_up, nullptr, false, true);
            product(nullptr, down, D, F, nullptr, residual, true, false, gate_up);
        }
        product(nullptr, w + layer * LAYERS, VOCABULARY, D, nullptr, logits, false, true);
    };
    CK(cudaFuncSetAttribute(gdn2_step_gates_k128_v128, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(StepShared<128, 128>) + sizeof(GateShared)));
    std::vector<float> first, now(VOCABULARY);
    auto all = ways();
    for (int i = -1; i < (int)all.size(); i++) {
        const Way* way = i < 0 ? nullptr : &all[i];
        CK(cudaMemset(state, 0, LAYERS * (H * 16384l + 9 * HK) * 4));
        fillf<<<16, 256>>>(residual, D, 8, 1, 0);
        CK(cudaDeviceSynchronize());
        step(way);
        CK(cudaStreamSynchronize(st0));
        CK(cudaMemcpy(now.data(), logits, VOCABULARY * 4, cudaMemcpyDeviceToHost));
        if (i < 0) first = now;
        float us = graph_us([&] { step(way); });
        printf("step, %s: %.1f us, %.0f tokens/s, %.0f%% of copies; logits %s, sum %016llx\n", way ? way->name : "narrow, norms and swiglu by themselves", us, 1e6 / us,
               (layer * LAYERS + (double)VOCABULARY * D) * 2 / copy_rate / us * 0.1, memcmp(now.data(), first.data(), VOCABULARY * 4) ? "DIFFER" : "the same", sum_of(now.data(), VOCABULARY));
    }
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
    if (what == "all" || what == "step") steps();
    if (what == "all" || what == "one") ones();
    if (what == "all" || what == "narrow") narrows();
    if (what == "all" || what == "top") tops();
}
