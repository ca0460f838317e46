#!/usr/bin/env bash
# Builds the wheel, installs it into an environment of its own and runs its tests.
# Exit 77: Python 3.10 or newer, or what the tests need, cannot be had here.
set -euo pipefail
cd "$(dirname "$0")"
skip() { echo "no Python tests here: $1"; exit 77; }
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || skip "Python 3.10 or newer is missing"
environment=$PWD/build/environment
if [ ! -x "$environment/bin/pytest" ]; then
    rm -rf "$environment"
    "$python" -m venv "$environment" >/dev/null 2>&1 || skip "python3-venv is missing"
    [ -z "${PALIMPSEST_CI_NO_INSTALL:-}" ] || skip "pytest is missing, and PALIMPSEST_CI_NO_INSTALL is set"
    timeout 300 "$environment/bin/pip" install --quiet 'setuptools>=77' wheel pytest==9.* 2>/dev/null \
        || { rm -rf "$environment"; skip "pip cannot install pytest"; }
    # Without it the tests of the types are skipped, by name.
    timeout 300 "$environment/bin/pip" install --quiet mypy==1.18.2 2>/dev/null || echo "mypy cannot be had here"
fi
wheel=$(PYTHON=$environment/bin/python ./build.sh)
"$environment/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"
# From elsewhere, so that it is the wheel that is tested, not the folder.
cd tests
"$environment/bin/pytest" -q -rs -p no:cacheprovider "$@" .
