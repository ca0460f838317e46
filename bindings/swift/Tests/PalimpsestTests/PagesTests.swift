import Foundation
import Palimpsest
import XCTest

/// The page for newcomers and the sample chat do what they say. `build.sh` takes the page's code from the page.
final class PagesTests: XCTestCase {
    let root = StoryTests.root
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("palimpsest-\(UUID().uuidString)")
    let before = FileManager.default.currentDirectoryPath

    /// Where the page's commands are run: a folder like the root of the project.
    override func setUpWithError() throws {
        let files = FileManager.default
        try files.createDirectory(at: folder.appendingPathComponent("examples"), withIntermediateDirectories: true)
        // No link: Foundation removes what a link to a folder names.
        try files.copyItem(
            at: root.appendingPathComponent("examples/documents"), to: folder.appendingPathComponent("examples/documents"))
        let reader = root.appendingPathComponent("models/reader-small").path
        let made = try run("/usr/bin/env", ["tar", "-cf", folder.appendingPathComponent("reader.tar").path, "-C", reader, "."])
        XCTAssertEqual(made.status, 0, made.said)
        XCTAssertTrue(files.changeCurrentDirectoryPath(folder.path))
    }

    override func tearDownWithError() throws {
        _ = FileManager.default.changeCurrentDirectoryPath(before)
        try FileManager.default.removeItem(at: folder)
    }

    /// What a program prints, given `input`.
    func run(_ program: String, _ arguments: [String], input: String = "") throws -> (status: Int32, said: String) {
        let process = Process()
        let (stdin, stdout) = (Pipe(), Pipe())
        process.executableURL = URL(fileURLWithPath: program)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(["TMPDIR": folder.path]) { $1 }
        (process.standardInput, process.standardOutput, process.standardError) = (stdin, stdout, stdout)
        try process.run()
        try stdin.fileHandleForWriting.write(contentsOf: Data(input.utf8))
        try stdin.fileHandleForWriting.close()
        let said = String(decoding: try stdout.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
        process.waitUntilExit()
        return (process.terminationStatus, said)
    }

    /// What this process prints meanwhile.
    func printed(_ work: () async throws -> Void) async throws -> String {
        let file = folder.appendingPathComponent("printed").path
        fflush(nil)
        let (kept, taken) = (dup(1), creat(file, 0o600))
        dup2(taken, 1)
        defer {
            dup2(kept, 1)
            close(kept)
            close(taken)
        }
        try await work()
        fflush(nil)
        return try String(contentsOfFile: file, encoding: .utf8)
    }

    func testThePiecesOfThePageRun() async throws {
        let engine = try await Engine(store: "story.store", reader: .path(path: "reader.tar"))
        try await engine.ingest("examples/documents")
        let text = "The revenue was 12 million shillings. The costs were 7 million shillings."
        var shown: [String] = []
        let nobody = { XCTFail("nobody else is here") }
        let first = try await printed { try await snippet1(engine, text, "", { shown.append($0) }, nobody) }
        XCTAssertTrue(first.contains("documents added") && first.contains("\n1961\n") && first.contains("antarctica.txt"), first)
        // The second is about the bundle of an app: it is compiled.
        let others = try await printed {
            for snippet in [snippet3, snippet4, snippet5, snippet6, snippet7] {
                try await snippet(engine, text, "   ", { shown.append($0) }, nobody)
            }
        }
        XCTAssertTrue(others.contains("1917"), others)
        XCTAssertEqual(shown.count, 1, "the empty question is refused")
        let contexts = try await engine.contexts()
        XCTAssertEqual(contexts, ["report", "what-if"])
        let notes = try await engine.search("lease", filter: .equals(field: "kind", value: "contract"))
        XCTAssertEqual(notes.map(\.document), ["note-7"])
        await engine.close()
    }

    func testTheSampleChatAnswersWithCitations() throws {
        #if os(macOS)
            let products = Bundle(for: PagesTests.self).bundleURL.deletingLastPathComponent()
        #else
            let products = Bundle.main.bundleURL
        #endif
        let chat = products.appendingPathComponent("chat").path
        let talk = "When did the Antarctic Treaty enter into force?\nIn what year did Finland gain complete independence?\n\n"
        let done = try run(chat, ["examples/documents", "reader.tar"], input: talk)
        XCTAssertEqual(done.status, 0, done.said)
        XCTAssertNotNil(done.said.range(of: #"\[\d+\.\.\d+\]: “[^”]*1961[^”]*”"#, options: .regularExpression), done.said)
        XCTAssertTrue(done.said.contains("1917") && done.said.contains("tokens"), done.said)
        XCTAssertEqual(try run(chat, []).status, 2)
    }
}
