#!/usr/bin/env bash
# Prints the folder of a Kotlin compiler with coroutines, fetched once, after seeing to Java, JNA and JUnit.
# Exit 77: Kotlin cannot be had here, for the reason printed on stderr.
# PALIMPSEST_KOTLIN says where it lies; PALIMPSEST_CI_NO_INSTALL=1 keeps anything from being installed.
set -euo pipefail
skip() { echo "no Kotlin here: $1" >&2; exit 77; }
version=2.4.20
sum=c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f
cache=${PALIMPSEST_KOTLIN:-/var/tmp/palimpsest-kotlin}

missing=()
command -v java >/dev/null || missing+=(default-jre-headless)
[ -f /usr/share/java/jna.jar ] || missing+=(libjna-java)
[ -f /usr/share/java/junit4.jar ] || missing+=(junit4)
command -v npm >/dev/null || [ -f "$cache/kotlinc-$version/lib/kotlin-compiler.jar" ] || missing+=(npm)
if [ ${#missing[@]} != 0 ]; then
    [ -z "${PALIMPSEST_CI_NO_INSTALL:-}" ] || skip "${missing[*]} missing, and PALIMPSEST_CI_NO_INSTALL is set"
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || skip "${missing[*]} missing, and this is no Debian, or not root"
    timeout 120 apt-get -qq update >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive timeout 400 apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
        "${missing[@]}" >/dev/null 2>&1 || skip "${missing[*]} cannot be installed"
fi
if [ ! -f "$cache/kotlinc-$version/lib/kotlin-compiler.jar" ]; then
    [ -z "${PALIMPSEST_CI_NO_INSTALL:-}" ] || skip "the compiler is not in $cache, and PALIMPSEST_CI_NO_INSTALL is set"
    mkdir -p "$cache"
    cd "$cache"
    timeout 400 npm pack --silent "kotlin-compiler@$version" >/dev/null 2>&1 || skip "npm has no kotlin-compiler $version for us"
    echo "$sum  kotlin-compiler-$version.tgz" | sha256sum -c --quiet >&2 || skip "the compiler is not the one that was expected"
    mkdir -p "kotlinc-$version"
    tar xzf "kotlin-compiler-$version.tgz" --strip-components=1 -C "kotlinc-$version"
    rm "kotlin-compiler-$version.tgz"
fi
echo "$cache/kotlinc-$version/lib"
