// The kernels for the host, as one shared library with one function: see emulate.h.
#define PALIMPSEST_EMULATE
#include "all.cu"

extern "C" int palimpsest_emulate(const char* name, const void* params, int x, int y, int threads, int shared) {
#define CASE(NAME, PARAMS)                                                             \
    if (!strcmp(name, #NAME)) {                                                        \
        if (threads != NAME##_threads) return 2;                                       \
        emulate::launch(NAME, *(const PARAMS*)params, {x, y, 0}, threads, shared);     \
        return 0;                                                                      \
    }
#define PREPARE_CASE(K) if (!strcmp(name, "gdn2_prepare_k" #K) && shared != (int)sizeof(PrepareShared<K>)) return 3; \
    CASE(gdn2_prepare_k##K, ChunkParams)
#define SCAN_CASE(K) if (!strcmp(name, "gdn2_scan_k" #K) && shared != (int)sizeof(ScanShared<K, SCAN_FIRST, SCAN_SECOND, SCAN_AHEAD, SCAN_TURNS>)) return 3; \
    CASE(gdn2_scan_k##K, ChunkParams)
#define STEP_CASE(K, V) if (!strcmp(name, "gdn2_step_k" #K "_v" #V) && shared != (int)sizeof(StepShared<K, V>)) return 3; \
    if (!strcmp(name, "gdn2_step_gates_k" #K "_v" #V) && shared != (int)(sizeof(StepShared<K, V>) + sizeof(GateShared))) return 3; \
    CASE(gdn2_step_k##K##_v##V, StepParams) CASE(gdn2_step_gates_k##K##_v##V, StepParams)
    PREPARE_CASE(64) PREPARE_CASE(128)
    SCAN_CASE(64) SCAN_CASE(128)
    STEP_CASE(64, 64) STEP_CASE(64, 128) STEP_CASE(128, 64) STEP_CASE(128, 128)
    if (!strncmp(name, "ring_1", 6) && shared != (int)sizeof(RingShared<1>)) return 3;
    if (!strncmp(name, "ring_4", 6) && shared != (int)sizeof(RingShared<4>)) return 3;
    CASE(ring_1, RingParams) CASE(ring_4, RingParams) CASE(ring_1_gated, RingParams) CASE(ring_4_gated, RingParams)
    CASE(embed, RowParams) CASE(rms_norm, RowParams) CASE(swiglu, RowParams) CASE(top, RowParams) CASE(largest, RowParams)
    CASE(gated_norm, GatedNormParams) CASE(conv_silu, ConvParams) CASE(conv_carry, ConvParams)
    return 1;
}
