#!/usr/bin/env bash
# Makes the wheel: generated module, library and the handwritten package, into dist/. Prints the wheel's path.
# Use: build.sh [LIBRARY]   with a stripped library to ship in place of the development build.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
library=$(../library.sh generate python "$generated")
cp -f "$generated/palimpsest.py" palimpsest/_ffi.py
"$python" stubs.py palimpsest/_ffi.py >palimpsest/_ffi.pyi
cp -f "${1:-$library}" palimpsest/
rm -rf build/lib build/bdist.* dist
"$python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . >&2
ls dist/*.whl
