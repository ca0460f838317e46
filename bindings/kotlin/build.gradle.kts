// The library for the JVM. NOT RUN HERE: build.sh does the same without Gradle.
plugins {
    kotlin("jvm") version "2.2.20" apply true
    id("com.android.library") version "8.12.0" apply false
    kotlin("android") version "2.2.20" apply false
}

kotlin {
    jvmToolchain(17)
    sourceSets["main"].kotlin.srcDir("build/generated")
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.8.1")
    implementation("net.java.dev.jna:jna:5.13.0")
    testImplementation(kotlin("test-junit"))
}
