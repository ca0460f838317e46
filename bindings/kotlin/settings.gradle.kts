// NOT RUN HERE: the library for the JVM is built and tested by build.sh and test.sh, without Gradle.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}
dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}
rootProject.name = "palimpsest"
include(":android")
