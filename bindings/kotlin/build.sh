#!/usr/bin/env bash
# Builds the library for the JVM, its tests and its sample, without Gradle, into build/. Prints the class path to run them.
# Exit 77: Kotlin cannot be had here.
set -euo pipefail
cd "$(dirname "$0")"
kotlin=$(./toolchain.sh)
mkdir -p build/lib
library=$(../library.sh generate kotlin build/generated)
cp -f "$library" build/lib/
java=/usr/share/java
runtime=$kotlin/kotlin-stdlib.jar:$kotlin/kotlinx-coroutines-core-jvm.jar:$java/jna.jar
junit=$kotlin/kotlin-test.jar:$kotlin/kotlin-test-junit.jar:$java/junit4.jar:$java/hamcrest-core.jar
compiler=$kotlin/kotlin-compiler.jar:$kotlin/kotlin-stdlib.jar:$kotlin/kotlinx-coroutines-core-jvm.jar
compiler=$compiler:$kotlin/kotlin-reflect.jar:$kotlin/kotlin-script-runtime.jar:$kotlin/annotations-13.0.jar
compile() {
    local jar=$1 path=$2
    shift 2
    java -Xmx1g -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp "$compiler" org.jetbrains.kotlin.cli.jvm.K2JVMCompiler \
        -no-stdlib -no-reflect -nowarn -jvm-target 17 -cp "$path" -d "$jar" "$@" >&2
}
compile build/palimpsest.jar "$runtime" build/generated src/main/kotlin
compile build/tests.jar "build/palimpsest.jar:$runtime:$junit" src/test/kotlin examples
echo "build/tests.jar:build/palimpsest.jar:$runtime:$junit"
