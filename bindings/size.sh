#!/usr/bin/env bash
# Builds the stripped library as packages ship it, for x86-64 and, where it can be, aarch64 Linux, and reports its size.
# The reader's weights are not in it. Goal: 12 MB, of 10^6 bytes; one that is larger fails this script.
# PALIMPSEST_NEW_GLIBC=1 packs relocations, which needs glibc 2.36 or newer (Debian 12, Ubuntu 24.04) where it is loaded, and a
# linker that can.
# For aarch64: rustup target add aarch64-unknown-linux-gnu; apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}
goal=12000000 larger=0
packed=()
[ -z "${PALIMPSEST_NEW_GLIBC:-}" ] || packed=(-C link-arg=-Wl,-z,pack-relative-relocs)
report() {
    local file=$1 bytes
    bytes=$(stat -c %s "$file")
    printf '%s: %s bytes (%s MB)' "$2" "$bytes" "$(awk "BEGIN { printf \"%.2f\", $bytes / 1e6 }")"
    if command -v readelf >/dev/null; then
        printf '; pages of %d; needs %s' \
            "$(readelf -lW "$file" | awk '$1 == "LOAD" { print $NF }' | sort -u | head -1)" \
            "$(readelf -dW "$file" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | paste -sd' ')"
    fi
    echo
    [ "$bytes" -le "$goal" ] || { echo "$2: larger than the goal of $goal bytes"; larger=1; }
}
for triple in x86_64-unknown-linux-gnu aarch64-unknown-linux-gnu; do
    if [ ! -d "$(rustc --print target-libdir --target "$triple" 2>/dev/null)" ]; then
        echo "$triple: not built, this toolchain has no standard library for it (rustup target add $triple)"
        continue
    fi
    if [ "$triple" = aarch64-unknown-linux-gnu ] && [ "$(uname -m)" != aarch64 ]; then
        command -v aarch64-linux-gnu-gcc >/dev/null || { echo "$triple: not built, no aarch64-linux-gnu-gcc"; continue; }
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
    fi
    # Only the dynamic library: beside the Rust library there would be no link-time optimisation.
    cargo rustc -q -p palimpsest-ffi --lib --crate-type cdylib --profile dist --target "$triple" -- "${packed[@]}"
    # `strip` in the profile leaves a dynamic library its table of symbols.
    strip=strip
    [ "$triple" = "$(uname -m)-unknown-linux-gnu" ] || strip=${triple%%-*}-linux-gnu-strip
    "$strip" "$target/$triple/dist/libpalimpsest_ffi.so"
    report "$target/$triple/dist/libpalimpsest_ffi.so" "$triple"
done
exit $larger
