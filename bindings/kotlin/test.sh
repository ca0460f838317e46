#!/usr/bin/env bash
# Builds the library for the JVM and runs its tests under JUnit. Exit 77: Kotlin cannot be had here.
set -euo pipefail
cd "$(dirname "$0")"
path=$(./build.sh)
java -ea -Djna.library.path=build/lib -Djna.nosys=false -cp "$path" org.junit.runner.JUnitCore \
    palimpsest.StoryTest palimpsest.FailuresTest palimpsest.PagesTest
