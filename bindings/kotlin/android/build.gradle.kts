// The library for Android, minSdk 24. NOT RUN HERE: it needs the Android SDK and NDK. `./libraries.sh` makes the .so files
// and the generated code first.
import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.library")
    kotlin("android")
}

android {
    namespace = "palimpsest"
    compileSdk = 35
    defaultConfig {
        minSdk = 24
        consumerProguardFiles("consumer-rules.pro")
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    sourceSets["main"].kotlin.srcDirs("../src/main/kotlin", "../build/generated")
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    // The generated code looks for java.lang.ref.Cleaner, and does without where Android is too old for it.
    lint { disable += "NewApi" }
    // A reader within the app is handed over by descriptor: it must lie in the package as it is.
    androidResources { noCompress += "tar" }
}

kotlin {
    compilerOptions { jvmTarget.set(JvmTarget.JVM_17) }
}

dependencies {
    api("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.8.1")
    implementation("net.java.dev.jna:jna:5.17.0@aar")
}
