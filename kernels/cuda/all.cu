// Everything that is embedded, as one unit.
#include "gdn2_chunk.cu"
#include "gdn2_step.cu"
#include "narrow.cu"
#include "rows.cu"
