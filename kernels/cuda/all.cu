// Everything that is embedded, as one unit.
#include "gdn2_prepare.cu"
#include "gdn2_scan.cu"
#include "gdn2_step.cu"
#include "rows.cu"
#include "ring.cu"
