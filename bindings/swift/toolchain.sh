#!/usr/bin/env bash
# Runs a command where Swift is: here, or in a Debian trixie tree with Swift 6.0.3, made once (2.5 GB, some minutes).
# Use: toolchain.sh COMMAND...   in the folder of the package. Exit 77: Swift cannot be had here, for the reason printed.
# PALIMPSEST_SWIFT_ROOT says where the tree lies; PALIMPSEST_CI_NO_INSTALL=1 keeps it from being made.
set -euo pipefail
cd "$(dirname "$0")"
skip() { echo "no Swift here: $1"; exit 77; }

if command -v swift >/dev/null; then exec "$@"; fi

tree=${PALIMPSEST_SWIFT_ROOT:-/var/tmp/palimpsest-swift}
[ "$(id -u)" = 0 ] && [ "$(uname -m)" = x86_64 ] || skip "making a Debian tree needs root on x86-64"
if [ ! -f "$tree/.ready" ]; then
    [ -z "${PALIMPSEST_CI_NO_INSTALL:-}" ] || skip "PALIMPSEST_CI_NO_INSTALL is set"
    command -v apt-get >/dev/null || skip "this is no Debian"
    [ "$(df --output=avail -B1M "$(dirname "$tree")" | tail -1)" -gt 5000 ] || skip "less than 5 GB are free for $tree"
    log=$(mktemp)
    if ! command -v mmdebstrap >/dev/null; then
        timeout 120 apt-get -qq update >"$log" 2>&1 || true
        DEBIAN_FRONTEND=noninteractive timeout 240 apt-get -qq install -y --no-install-recommends mmdebstrap >>"$log" 2>&1 \
            || skip "mmdebstrap cannot be installed"
    fi
    mirror=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m1 '/debian$' || true)
    [ -n "$mirror" ] || skip "apt names no Debian mirror"
    rm -rf --one-file-system "$tree"
    timeout 900 mmdebstrap --quiet --variant=apt --mode=root --include=swiftlang,libc6-dev,libstdc++-14-dev \
        --aptopt='APT::Install-Recommends "false"' --dpkgopt=force-unsafe-io \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        trixie "$tree" "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >>"$log" 2>&1 \
        || { rm -rf --one-file-system "$tree"; skip "the Debian tree could not be made: $(tail -1 "$log")"; }
    touch "$tree/.ready"
fi

# The repository is /src in the tree; what is mounted goes with the process.
root=$(cd ../.. && pwd)
export root tree
exec unshare --mount --propagation private bash -c '
    mkdir -p "$tree/src" && mount --rbind /proc "$tree/proc" && mount --rbind /dev "$tree/dev" && mount --bind "$root" "$tree/src" &&
    exec chroot "$tree" /usr/bin/env -i HOME=/root PATH=/usr/bin:/bin:/usr/sbin LANG=C.UTF-8 \
        PALIMPSEST_BENCH="${PALIMPSEST_BENCH:-}" bash -c "cd /src/bindings/swift && \"\$@\"" _ "$@"' _ "$@"
