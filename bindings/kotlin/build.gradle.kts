// The library for the JVM. NOT RUN HERE: build.sh does the same without Gradle.
plugins {
    kotlin("jvm") version "2.2.20"
    id("com.android.library") version "8.12.0" apply false
    kotlin("android") version "2.2.20" apply false
}

kotlin {
    jvmToolchain(17)
    sourceSets["main"].kotlin.srcDir("build/generated")
    // `build.sh` writes the pieces of code of the page.
    sourceSets["test"].kotlin.srcDirs("examples", "build/page/kotlin")
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-core:1.8.1")
    implementation("net.java.dev.jna:jna:5.17.0")
    testImplementation(kotlin("test-junit"))
}

tasks.test {
    systemProperty("jna.library.path", file("build/lib").path)
}
