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

# The page's pieces of code, for the tests: each one a function of what it takes as given.
../snippets.sh README.md swift "$generated/page"
{
    printf 'import Foundation\nimport Palimpsest\n'
    given='_ engine: Engine, _ text: String, _ question: String, _ show: (String) -> Void, _ retryLater: () -> Void'
    for ((n = 1; ; n++)); do
        [ -f "$generated/page/$n.txt" ] || break
        printf '\nfunc snippet%d(%s) async throws {\n' "$n" "$given"
        grep -v '^import ' "$generated/page/$n.txt"
        echo '}'
    done
} >Tests/PalimpsestTests/Page.swift
