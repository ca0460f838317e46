// swift-tools-version:5.9
import Foundation
import PackageDescription

// On Linux the library is the one that `build.sh` made, in `.build-rust`; on Apple's platforms it is in the XCFramework
// that `xcframework.sh` makes.
let library = "\(Context.packageDirectory)/.build-rust"
let apple = FileManager.default.fileExists(atPath: "\(Context.packageDirectory)/Palimpsest.xcframework")

let package = Package(
    name: "Palimpsest",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [
        .library(name: "Palimpsest", targets: ["Palimpsest"]),
        .executable(name: "chat", targets: ["chat"]),
    ],
    targets: [
        apple
            ? .binaryTarget(name: "PalimpsestFFI", path: "Palimpsest.xcframework")
            : .systemLibrary(name: "PalimpsestFFI", path: "Sources/PalimpsestFFI"),
        .target(
            name: "Palimpsest",
            dependencies: ["PalimpsestFFI"],
            resources: [.copy("PrivacyInfo.xcprivacy")],
            linkerSettings: apple
                ? []
                : [.unsafeFlags(["-L\(library)", "-lpalimpsest_ffi", "-Xlinker", "-rpath", "-Xlinker", library])]
        ),
        .executableTarget(name: "chat", dependencies: ["Palimpsest"]),
        .executableTarget(name: "overhead", dependencies: ["Palimpsest"]),
        .testTarget(name: "PalimpsestTests", dependencies: ["Palimpsest"]),
    ]
)
