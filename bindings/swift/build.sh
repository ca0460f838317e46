#!/usr/bin/env bash
# Makes what Package.swift needs on Linux: the library, and the generated Swift over it. Nothing of it is committed.
set -euo pipefail
cd "$(dirname "$0")"
generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
library=$(../library.sh generate swift "$generated")
mkdir -p .build-rust Sources/PalimpsestFFI
cp -f "$library" .build-rust/
cp -f "$generated/Palimpsest.swift" Sources/Palimpsest/Generated.swift
cp -f "$generated/PalimpsestFFI.h" Sources/PalimpsestFFI/PalimpsestFFI.h
printf 'module PalimpsestFFI {\n    header "PalimpsestFFI.h"\n    export *\n}\n' >Sources/PalimpsestFFI/module.modulemap
