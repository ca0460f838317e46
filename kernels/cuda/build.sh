#!/usr/bin/env bash
# Makes code/: PTX and machine code for sm_90a of all.cu, packed by zstd, and the hash of what they were made from. `NVCC` names a compiler, else
# `nvcc` is looked for; `zstd` is needed. That of 13.0, from PyPI, serves without a GPU:
#   pip install --no-deps nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
# usage: build.sh [FOLDER], or build.sh --hash to print the hash of the sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
hash() { cat params.cuh ptx.cuh gdn2_prepare.cu gdn2_scan.cu gdn2_step.cu rows.cu ring.cu all.cu build.sh | sha256sum | cut -d' ' -f1; }
if [ "${1:-}" = --hash ]; then hash; exit; fi
nvcc="${NVCC:-nvcc}"
out="${1:-code}"
mkdir -p "$out"
"$nvcc" -std=c++17 -O3 -ptx -arch=compute_90 all.cu -o "$out/kernels.ptx"
"$nvcc" -std=c++17 -O3 -cubin -gencode=arch=compute_90a,code=sm_90a all.cu -o "$out/kernels.cubin"
zstd -q --ultra -22 --force --rm "$out/kernels.ptx" "$out/kernels.cubin"
hash > "$out/sources.sha256"
