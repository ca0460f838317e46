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
# The page's pieces of code: the first is a program, each other one a function of what it takes as given.
../snippets.sh README.md kotlin build/page
page=build/page/kotlin
rm -rf "$page"
mkdir -p "$page"
{ echo "package palimpsest.page.first"; cat build/page/1.txt; } >"$page/First.kt"
{
    printf 'package palimpsest.page\n\nimport java.io.File\nimport palimpsest.*\n'
    given='engine: Engine, context: AndroidContext, text: String, question: String, show: (String?) -> Unit, retryLater: () -> Unit'
    for ((n = 2; ; n++)); do
        [ -f "build/page/$n.txt" ] || break
        printf 'suspend fun snippet%d(%s) {\n' "$n" "$given"
        cat "build/page/$n.txt"
        echo '}'
    done
} >"$page/Snippets.kt"
compile build/palimpsest.jar "$runtime" build/generated src/main/kotlin
compile build/tests.jar "build/palimpsest.jar:$runtime:$junit" src/test/kotlin examples "$page"
echo "build/tests.jar:build/palimpsest.jar:$runtime:$junit"
