#!/usr/bin/env bash
# Prints where the library for other languages lies, built if need be. Use: library.sh [generate LANGUAGE FOLDER]
# generate: writes that language's side into FOLDER (swift, kotlin or python) as well.
# PALIMPSEST_LIBRARY and PALIMPSEST_BINDGEN name a library and a bindgen that are there already.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ "${1:-}" != generate ] || { mkdir -p "$3"; folder=$(cd "$3" && pwd); }
cd "$root"
target=${CARGO_TARGET_DIR:-$root/target}
case "$(uname -s)" in Darwin) suffix=dylib ;; *) suffix=so ;; esac
if [ -z "${PALIMPSEST_LIBRARY:-}" ] || [ -z "${PALIMPSEST_BINDGEN:-}" ]; then
    cargo build -q -p palimpsest-ffi -p palimpsest-bindgen >&2
fi
library=${PALIMPSEST_LIBRARY:-$target/debug/libpalimpsest_ffi.$suffix}
bindgen=${PALIMPSEST_BINDGEN:-$target/debug/palimpsest-bindgen}
if [ "${1:-}" = generate ]; then
    # The names of the surface are read from the development build: a stripped library has lost them.
    "$bindgen" "$2" "$library" "$folder" >/dev/null
fi
echo "$library"
