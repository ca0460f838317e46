// Times of the kernels on a GPU, sizes of blocks side by side, and a check against a plain kernel in f64 (`check`).
// nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a bench.cu && ./a.out [check|small|chunk|long|step]
// `small` is a check of few tokens, for compute-sanitizer.
#include "bench.cuh"
template <int K, int S, int S2, int AHEAD, int TURNS> __global__ void __launch_bounds__(SCAN_THREADS, 1) scan_v(const __grid_constant__ ChunkParams p) {
    scan_block<K, S, S2, AHEAD, TURNS>(p);
}
// One thread a (sequence, head, v): the definition in f32/f64.
template <int K> __global__ void plain(ChunkParams p, float* states, float* out, int T) {
    int v = threadIdx.x, j = blockIdx.x, s = blockIdx.y, h = j / (p.value_heads / p.heads);
    double x[K];
    float* st = states + ((long)s * p.value_heads + j) * K * p.value_dim + v;
    for (int c = 0; c < K; c++) x[c] = st[c * p.value_dim];
    __shared__ double q[K], k[K], g[K], b[K];
    for (int t = 0; t < T; t++) {
        long row = (long)s * T + t;
        for (int c = threadIdx.x; c < K; c += blockDim.x) {
            int a = h * K + c;
            q[c] = widen(p.q[row * p.q_row + a]), k[c] = widen(p.k[row * p.k_row + a]);
            double f = widen(((const bf16*)p.g)[row * p.g_row + a]) + p.dt_bias[a];
            g[c] = exp(-exp((double)p.a_log[h]) * log1p(exp(f)));
            b[c] = p.b_scale / (1 + exp(-(double)widen(p.b[row * p.b_row + a])));
        }
        __syncthreads();
        double nq = 1e-6, nk = 1e-6;
        for (int c = 0; c < K; c++) nq += q[c] * q[c], nk += k[c] * k[c];
        nq = rsqrt(nq) * p.q_scale, nk = rsqrt(nk);
        double y = 0, o = 0;
        double z =
            widen(p.v[row * p.v_row + j * p.value_dim + v]) / (1 + exp(-(double)widen(p.w[row * p.w_row + j * p.value_dim + v])));
        for (int c = 0; c < K; c++) x[c] *= g[c], y += b[c] * k[c] * nk * x[c];
        for (int c = 0; c < K; c++) x[c] += k[c] * nk * (z - y), o += q[c] * nq * x[c];
        out[row * p.value_heads * p.value_dim + j * p.value_dim + v] = o;
        __syncthreads();
    }
    for (int c = 0; c < K; c++) st[c * p.value_dim] = x[c];
}
typedef void (*ScanFn)(ChunkParams);
struct Case {
    int B;
    long T;
    int H;
};
// One part is prepared while the one before is gone through.
template <class V, class P, class S> void in_parts(ChunkParams p, int longest, int slice, int first, V& a, V& b, P prep, S scan, long each) {
    int from = 0, i = 0;
    auto next = [&] {
        p.from = from;
        p.slice = std::min(i ? slice : first, longest - from);
        p.to = from + p.slice;
        return p;
    };
    u8* records = p.records;
    CK(cudaEventRecord(ea, st0));
    CK(cudaStreamWaitEvent(st1, ea));
    ChunkParams now = next();
    prep(a, now, st1);
    for (; from < longest; i++) {
        CK(cudaEventRecord(eb, st1));
        CK(cudaStreamWaitEvent(st0, eb));
        CK(cudaEventRecord(ea, st0));
        CK(cudaStreamWaitEvent(st1, ea));
        scan(b, now, st0);
        from = now.to;
        if (from < longest) {
            i++;
            p.records = records + (long)(i % 2) * slice * each;
            now = next();
            i--;
            prep(a, now, st1);
        }
    }
}
template <int K> void run(Case c, bool check) {
    const int V = K;
    long M = c.B * c.T, n = M * c.H * K;
    bf16 *q = dev<bf16>(n), *k = dev<bf16>(n), *v = dev<bf16>(n), *g = dev<bf16>(n), *b = dev<bf16>(n), *w = dev<bf16>(n),
         *out = dev<bf16>(n);
    float *a_log = dev<float>(c.H), *dt = dev<float>(c.H * K);
    u64 s = 1;
    for (auto x : {q, k, v, g, b, w}) fill<<<1024, 256>>>(x, n, s++, 2.0f);
    fillf<<<1, 256>>>(a_log, c.H, 9, 1, 0);
    fillf<<<8, 256>>>(dt, c.H * K, 10, 1, -3);
    std::vector<Tile> tiles;
    std::vector<int> first{0};
    for (int i = 0; i < c.B; i++) {
        for (long t = 0; t < c.T; t += TILE) tiles.push_back({(int)(i * c.T + t), (int)std::min<long>(TILE, c.T - t), i, t == 0});
        first.push_back(tiles.size());
    }
    Tile* dt_ = dev<Tile>(tiles.size());
    int* df = dev<int>(first.size());
    CK(cudaMemcpy(dt_, tiles.data(), tiles.size() * sizeof(Tile), cudaMemcpyHostToDevice));
    CK(cudaMemcpy(df, first.data(), first.size() * 4, cudaMemcpyHostToDevice));
    long se = (long)c.H * K * V;
    float* states = dev<float>(c.B * se);
    CK(cudaMemset(states, 0, c.B * se * 4));
    std::vector<float*> sp;
    for (int i = 0; i < c.B; i++) sp.push_back(states + i * se);
    float** dsp = dev<float*>(c.B);
    CK(cudaMemcpy(dsp, sp.data(), c.B * 8, cudaMemcpyHostToDevice));
    CK(cudaDeviceSynchronize());
    const int longest = (c.T + SEGMENT - 1) / SEGMENT;
    long rec = Record<K>::BYTES, cap = (long)c.B * longest * c.H;
    u8* records = dev<u8>(cap * rec);
    ChunkParams p{};
    p.q = q;
    p.k = k;
    p.v = v;
    p.g = g;
    p.b = b;
    p.w = w;
    p.a_log = a_log;
    p.dt_bias = dt;
    p.out = out;
    p.records = records;
    p.tiles = dt_;
    p.first_tile = df;
    p.states = dsp;
    p.q_row = p.k_row = p.v_row = p.g_row = p.b_row = p.w_row = p.out_row = c.H * K;
    p.heads = p.value_heads = c.H;
    p.value_dim = V;
    p.sequences = c.B;
    p.gates = 1;
    p.b_scale = 1;
    p.q_scale = 1 / sqrtf(K);
    struct Var {
        const char* name;
        ScanFn fn;
        int smem, threads;
        bool both;
        int each;  // units of a block of prepare; 0: as many blocks as run at once
    };
    std::vector<Var> scans, preps;
    auto add = [](std::vector<Var>& to, const char* name, ScanFn fn, int smem, int threads, bool both = false, int each = 1) {
        CK(cudaFuncSetAttribute(fn, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
        to.push_back({name, fn, smem, threads, both, each});
    };
    const bool wide = K == 128;
    add(scans, "as it is", wide ? gdn2_scan_k128 : gdn2_scan_k64, sizeof(ScanShared<K, SCAN_FIRST, SCAN_SECOND, SCAN_AHEAD, SCAN_TURNS>), SCAN_THREADS, true);
    add(scans, "2 and 2, 4 ahead", scan_v<K, 2, 2, 4, 2>, sizeof(ScanShared<K, 2, 2, 4, 2>), SCAN_THREADS);
    for (int each : {1, 2, 4, 0})
        add(preps, each == 1 ? "1 a block" : each == 2 ? "2 a block" : each == 4 ? "4 a block" : "as many blocks as run at once", wide ? gdn2_prepare_k128 : gdn2_prepare_k64,
            sizeof(PrepareShared<K>), 4 * K, each == 1 || each == 2, each);
    auto prep = [&](Var& a, ChunkParams p, cudaStream_t st) {
        const int units = p.slice * c.B * c.H, each = a.each ? a.each : std::max(1, (units + 2 * processors - 1) / (2 * processors));
        a.fn<<<(units + each - 1) / each, a.threads, a.smem, st>>>(p);
    };
    auto scan = [&](Var& a, ChunkParams p, cudaStream_t st) { a.fn<<<dim3(c.H * V / 64, c.B), a.threads, a.smem, st>>>(p); };
    double hm = (double)M * c.H, floor_ms = (hm * K * 2 * 7 + 0) / copy_rate * 1e-6;
    printf("== B%d T%ld H%d K%d: bytes floor (bf16 g) %.3f ms\n", c.B, c.T, c.H, K, floor_ms);
    p.from = 0;
    p.to = longest;
    p.slice = longest;
    if (check) {
        float *ref = dev<float>(n), *rs = dev<float>(c.B * se);
        CK(cudaMemsetAsync(rs, 0, c.B * se * 4, st0));
        CK(cudaStreamSynchronize(st0));
        plain<K><<<dim3(c.H, c.B), V, 0, st0>>>(p, rs, ref, c.T);
        for (auto& a : scans)
            for (auto& pp : preps) {
                CK(cudaMemsetAsync(states, 0, c.B * se * 4, st0));
                CK(cudaMemsetAsync(out, 0xff, n * 2, st0));
                CK(cudaMemsetAsync(records, 0xff, cap * rec, st0));
                prep(pp, p, st0);
                scan(a, p, st0);
                CK(cudaStreamSynchronize(st0));
                std::vector<bf16> ho(n);
                std::vector<float> hr(n), hs(c.B * se), hrs(c.B * se);
                CK(cudaMemcpy(ho.data(), out, n * 2, cudaMemcpyDeviceToHost));
                CK(cudaMemcpy(hr.data(), ref, n * 4, cudaMemcpyDeviceToHost));
                CK(cudaMemcpy(hs.data(), states, c.B * se * 4, cudaMemcpyDeviceToHost));
                CK(cudaMemcpy(hrs.data(), rs, c.B * se * 4, cudaMemcpyDeviceToHost));
                double d = 0, nn = 0, ds = 0, ns = 0;
                for (long i = 0; i < n; i++) {
                    u32 x = (u32)ho[i] << 16;
                    float f;
                    memcpy(&f, &x, 4);
                    d += (f - hr[i]) * (double)(f - hr[i]);
                    nn += (double)hr[i] * hr[i];
                }
                for (long i = 0; i < c.B * se; i++)
                    ds += (hs[i] - hrs[i]) * (double)(hs[i] - hrs[i]), ns += (double)hrs[i] * hrs[i];
                printf("check prepare %s, scan %s: out %.2e state %.2e", pp.name, a.name, sqrt(d / nn), sqrt(ds / ns));
                // In parts: the same bits.
                for (int slice : {1, 4, 7}) {
                    CK(cudaMemsetAsync(states, 0, c.B * se * 4, st0));
                    CK(cudaMemsetAsync(out, 0xff, n * 2, st0));
                    CK(cudaMemsetAsync(records, 0xff, cap * rec, st0));
                    if (slice * 2 > longest) continue;
                    in_parts(p, longest, slice, std::max(slice / 2, 1), pp, a, prep, scan, (long)c.B * c.H * rec);
                    CK(cudaStreamSynchronize(st0));
                    std::vector<bf16> again(n);
                    std::vector<float> states_again(c.B * se);
                    CK(cudaMemcpy(again.data(), out, n * 2, cudaMemcpyDeviceToHost));
                    CK(cudaMemcpy(states_again.data(), states, c.B * se * 4, cudaMemcpyDeviceToHost));
                    printf("; parts of %d: %s", slice, again == ho && !memcmp(states_again.data(), hs.data(), c.B * se * 4) ? "same" : "NOT THE SAME");
                }
                printf("\n");
            }
        cudaFree(ref);
        cudaFree(rs);
    } else {
        for (auto& pp : preps) printf("prepare %s %.3f ms\n", pp.name, timed([&] { prep(pp, p, st0); }));
        for (auto& a : scans) printf("scan %s: %.3f ms\n", a.name, timed([&] { scan(a, p, st0); }));
        // Both: in slices, one prepared while the one before is gone through.
        for (auto& pp : preps)
            for (auto& a : scans) {
                if (!a.both || !pp.both) continue;
                Var pp_ = pp, a_ = a;
                printf("both %s, %s:", pp.name, a.name);
                printf(" whole %.3f", timed(
                                          [&] {
                                              prep(pp_, p, st0);
                                              scan(a_, p, st0);
                                          },
                                          10));
                for (int slice : {8, 16, 32, 64, 128, 256}) {
                    if (slice * 2 > longest) continue;
                    // The first part may be smaller, so that the scan begins early.
                    for (int first : {slice, std::max(slice / 4, 4)}) {
                        float t = timed([&] { in_parts(p, longest, slice, first, pp_, a_, prep, scan, (long)c.B * c.H * rec); }, 7);
                        printf(" %d(%d): %.3f", slice, first, t);
                    }
                }
                printf(" ms\n");
            }
    }
    for (auto x : {q, k, v, g, b, w, out}) cudaFree(x);
    cudaFree(a_log);
    cudaFree(dt);
    cudaFree(dt_);
    cudaFree(df);
    cudaFree(states);
    cudaFree(dsp);
    cudaFree(records);
}
void steps() {
    const int K = 128, H = 16;
    long el = (long)H * K * K + 3 * 3 * H * K;
    for (int B : {1, 32, 256}) {
        int sets = B == 1 ? 64 : 4;
        long row = 3 * H * K + 4 * H * K;
        float* states = dev<float>(el * B * sets);
        CK(cudaMemset(states, 0, el * B * sets * 4));
        bf16* x = dev<bf16>(row * B);
        fill<<<256, 256>>>(x, row * B, 3, 1.0f);
        bf16* out = dev<bf16>((long)H * K * B);
        float* f = dev<float>(4 * 3 * H * K);
        fillf<<<64, 256>>>(f, 4 * 3 * H * K, 4, 0.5f, 0);
        std::vector<float*> sp;
        for (long i = 0; i < (long)B * sets; i++) sp.push_back(states + i * el);
        float** d = dev<float*>(sp.size());
        CK(cudaMemcpy(d, sp.data(), sp.size() * 8, cudaMemcpyHostToDevice));
        CK(cudaDeviceSynchronize());
        StepParams p{};
        p.q = x;
        p.k = x + H * K;
        p.v = x + 2 * H * K;
        p.f = x + 3 * H * K;
        p.b = p.f + H * K;
        p.w = p.b + H * K;
        p.gate = p.w + H * K;
        p.gate_bias = f;
        p.q_taps = f;
        p.k_taps = f;
        p.v_taps = f;
        p.a_log = f;
        p.dt_bias = f;
        p.o_norm = f;
        p.out = out;
        p.at = 0;
        p.q_row = p.k_row = p.v_row = p.f_row = p.b_row = p.w_row = p.gate_row = row;
        p.out_row = H * K;
        p.heads = p.value_heads = H;
        p.b_scale = 1;
        p.q_scale = 0.088f;
        p.eps = 1e-5f;
        for (bool early : {true, false}) {
            cudaGraph_t gr;
            cudaGraphExec_t ge;
            CK(cudaStreamBeginCapture(st0, cudaStreamCaptureModeGlobal));
            for (int i = 0; i < sets; i++) {
                p.states = d + (long)i * B;
                launch_early(gdn2_step_k128_v128, dim3(H, B), STEP_THREADS, sizeof(StepShared<K, K>), st0, p, early);
            }
            CK(cudaStreamEndCapture(st0, &gr));
            CK(cudaGraphInstantiate(&ge, gr, 0));
            float t = timed([&] { CK(cudaGraphLaunch(ge, st0)); }) / sets;
            printf("step B%d%s: %.2f us in a graph of %d; floor %.2f us\n", B, early ? "" : ", not early", t * 1e3, sets,
                   (double)B * H * K * K * 8 / copy_rate * 1e-3);
            CK(cudaGraphExecDestroy(ge));
        }
        cudaFree(states);
        cudaFree(x);
        cudaFree(out);
        cudaFree(f);
        cudaFree(d);
    }
}
int main(int argc, char** argv) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    // The scan goes before what is prepared for the next one; `flat`: it does not.
    open_streams(argc > 2 && std::string(argv[2]) == "flat");
    std::string what = argc > 1 ? argv[1] : "all";
    if (what == "small") {
        copy_rate = 1;
        run<128>({1, 100, 2}, true);
        run<64>({2, 50, 2}, true);
        return 0;
    }
    measure_copies();
    auto is = [&](const char* s) { return what == "all" || what == s; };
    if (is("check")) {
        run<128>({2, 1000, 4}, true);
        run<64>({3, 501, 4}, true);
        run<128>({1, 8192, 2}, true);
    }
    if (is("chunk")) {
        run<128>({1, 8192, 64}, false);
        run<128>({1, 8192, 16}, false);
        run<128>({1, 1024, 16}, false);  // whose records lie in the L2 cache
        run<128>({8, 1024, 64}, false);
    }
    if (is("long")) run<128>({1, 131072, 16}, false);
    if (is("step")) steps();
}
