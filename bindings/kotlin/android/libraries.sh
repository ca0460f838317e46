#!/usr/bin/env bash
# Makes src/main/jniLibs/ABI/libpalimpsest_ffi.so for each ABI, and the generated Kotlin. NOT RUN HERE: it needs the NDK
# (ANDROID_NDK_HOME) and rustup target add aarch64-linux-android x86_64-linux-android
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
[ -n "${ANDROID_NDK_HOME:-}" ] || { echo "ANDROID_NDK_HOME names no NDK"; exit 77; }
tools=$(echo "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin)
minimum=24
for pair in arm64-v8a:aarch64-linux-android x86_64:x86_64-linux-android; do
    abi=${pair%%:*} triple=${pair##*:}
    name=${triple//-/_}
    export "CARGO_TARGET_${name^^}_LINKER=$tools/$triple$minimum-clang"
    export "CC_$name=$tools/$triple$minimum-clang" "AR_$name=$tools/llvm-ar"
    # Pages of 16 KiB come from the build script of palimpsest-ffi.
    (cd "$root" && cargo rustc -p palimpsest-ffi --lib --crate-type cdylib --profile dist --target "$triple")
    mkdir -p "src/main/jniLibs/$abi"
    cp "$target/$triple/dist/libpalimpsest_ffi.so" "src/main/jniLibs/$abi/"
done
../../library.sh generate kotlin ../build/generated >/dev/null
