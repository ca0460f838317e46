#!/usr/bin/env bash
# Builds the package and runs its tests. Exit 77: Swift cannot be had here.
set -euo pipefail
cd "$(dirname "$0")"
./toolchain.sh true
./build.sh
./toolchain.sh swift test --quiet "$@"
