#!/usr/bin/env bash
# Makes Palimpsest.xcframework for iOS 15 (devices, simulators) and macOS 12. NOT RUN HERE: it needs a Mac with Xcode, and
# rustup target add aarch64-apple-ios aarch64-apple-ios-sim x86_64-apple-ios aarch64-apple-darwin x86_64-apple-darwin
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
[ "$(uname -s)" = Darwin ] || { echo "an XCFramework is made on a Mac"; exit 77; }
export IPHONEOS_DEPLOYMENT_TARGET=15.0 MACOSX_DEPLOYMENT_TARGET=12.0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for triple in aarch64-apple-ios aarch64-apple-ios-sim x86_64-apple-ios aarch64-apple-darwin x86_64-apple-darwin; do
    (cd "$root" && cargo rustc -p palimpsest-ffi --lib --crate-type staticlib --profile dist --target "$triple")
done
../library.sh generate swift "$scratch/generated" >/dev/null
cp "$scratch/generated/Palimpsest.swift" Sources/Palimpsest/Generated.swift
mkdir -p "$scratch/headers/PalimpsestFFI" "$scratch/simulator" "$scratch/macos"
cp "$scratch/generated/PalimpsestFFI.h" "$scratch/headers/PalimpsestFFI/"
printf 'module PalimpsestFFI {\n    header "PalimpsestFFI.h"\n    export *\n}\n' >"$scratch/headers/PalimpsestFFI/module.modulemap"

# One slice holds both processors of a platform.
library() { echo "$target/$1/dist/libpalimpsest_ffi.a"; }
lipo -create "$(library aarch64-apple-ios-sim)" "$(library x86_64-apple-ios)" -output "$scratch/simulator/libpalimpsest_ffi.a"
lipo -create "$(library aarch64-apple-darwin)" "$(library x86_64-apple-darwin)" -output "$scratch/macos/libpalimpsest_ffi.a"
rm -rf Palimpsest.xcframework
xcodebuild -create-xcframework -output Palimpsest.xcframework \
    -library "$(library aarch64-apple-ios)" -headers "$scratch/headers" \
    -library "$scratch/simulator/libpalimpsest_ffi.a" -headers "$scratch/headers" \
    -library "$scratch/macos/libpalimpsest_ffi.a" -headers "$scratch/headers"
echo "Palimpsest.xcframework is made; Package.swift takes it from here"
