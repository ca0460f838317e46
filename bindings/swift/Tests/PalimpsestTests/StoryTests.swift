import Foundation
import Palimpsest
import XCTest

/// The story that is told in every language: ingest, ask, stream, cancel, go wrong, ask a hundred times, fork and undo, close.
final class StoryTests: XCTestCase {
    static let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    let documents = root.appendingPathComponent("examples/documents")
    let reader = ReaderSource.path(path: root.appendingPathComponent("models/reader-small").path)
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("palimpsest-\(UUID().uuidString)")
    let question = "When did the Antarctic Treaty enter into force?"

    override func setUpWithError() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: folder)
    }

    func open(_ name: String = "store", _ source: ReaderSource? = nil) async throws -> Engine {
        try await Engine(store: folder.appendingPathComponent(name).path, reader: source ?? reader)
    }

    func withDocuments() async throws -> Engine {
        let engine = try await open()
        try await engine.ingest(documents.path)
        return engine
    }

    func bytes(_ text: String, _ start: UInt64, _ end: UInt64) -> String {
        String(decoding: Array(text.utf8)[Int(start)..<Int(end)], as: UTF8.self)
    }

    /// What `work` throws, which must be a `PalimpsestError` with a message that is Rust's.
    func failure<T>(_ work: () async throws -> T, line: UInt = #line) async -> PalimpsestError? {
        do {
            _ = try await work()
            XCTFail("nothing was thrown", line: line)
            return nil
        } catch let error as PalimpsestError {
            XCTAssertFalse(error.localizedDescription.isEmpty, line: line)
            XCTAssertEqual(error.localizedDescription, error.errorDescription, line: line)
            return error
        } catch {
            XCTFail("\(error)", line: line)
            return nil
        }
    }

    func assertInput(_ error: PalimpsestError?, line: UInt = #line) {
        guard case .Input? = error else { return XCTFail("\(String(describing: error))", line: line) }
    }

    func assertClosed(_ error: PalimpsestError?, line: UInt = #line) {
        guard case .Closed? = error else { return XCTFail("\(String(describing: error))", line: line) }
    }

    func assertReader(_ error: PalimpsestError?, line: UInt = #line) {
        guard case .Reader? = error else { return XCTFail("\(String(describing: error))", line: line) }
    }

    func testDocumentsGoInAndAreAsked() async throws {
        let engine = try await open()
        var told: [IngestProgress] = []
        let report = try await engine.ingest(documents.path) { told.append($0) }
        XCTAssertGreaterThan(report.added, 30)
        XCTAssertTrue(report.failed.isEmpty)
        XCTAssertEqual(told.last?.filesDone, told.last?.filesTotal)
        let unchanged = try await engine.ingest(documents.path).unchanged
        XCTAssertEqual(unchanged, report.added)
        let answer = try await engine.ask(question)
        XCTAssertEqual(answer.answer, "1961")
        XCTAssertTrue(answer.citations.contains { $0.quote.contains("1961") })
        for citation in answer.citations {
            let text = try await engine.document(citation.document).text
            XCTAssertEqual(bytes(text, citation.start, citation.end), citation.quote)
            let file = try String(contentsOfFile: try XCTUnwrap(citation.path), encoding: .utf8)
            XCTAssertEqual(bytes(file, citation.start, citation.end), citation.quote)
        }
        let warm = try await engine.ask(question)
        XCTAssertGreaterThan(warm.tokensRestored, 0)
        XCTAssertEqual(warm.confidence, answer.confidence)
        let coded = try JSONDecoder().decode(Answer.self, from: try JSONEncoder().encode(answer))
        XCTAssertEqual(coded, answer)
        let status = try await engine.status()
        XCTAssertEqual(status.documents, report.added)
        let hits = try await engine.search("capital of Kenya", limit: 3)
        XCTAssertTrue((1...3).contains(hits.count))
        let info = try await engine.modelInfo()
        XCTAssertGreaterThan(info.parameters, 0)
        let verified = try await engine.verify()
        XCTAssertTrue(verified.whole)
        let freed = try await engine.trimMemory()
        XCTAssertGreaterThan(freed, 0)
        let loadedAgain = try await engine.ask(question)
        XCTAssertEqual(loadedAgain.answer, "1961")
        try await engine.forget(documents.appendingPathComponent("antarctica.txt").path)
        let left = try await engine.status().documents
        XCTAssertEqual(left, report.added - 1)
        await engine.close()
    }

    func testTextsHaveMetadataThatIsFilteredBy() async throws {
        let engine = try await open()
        try await engine.put(
            TextDocument(
                id: "lease", title: "Lease", text: "The lease of the flat is due on 3 May 2031.",
                metadata: ["year": 2031, "kind": "flat"]),
            TextDocument(id: "old", title: "Lease", text: "The lease of the garage was due on 1 March 2019.", metadata: [:]))
        func found(_ filter: Filter) async throws -> [String] {
            try await engine.search("lease", filter: filter).map(\.document)
        }
        let flat = Filter.equals(field: "kind", value: "flat")
        let isFlat = try await found(flat)
        XCTAssertEqual(isFlat, ["lease"])
        let later = try await found(flat && .between(field: "year", from: 2032, to: nil))
        XCTAssertEqual(later, [])
        let undated = try await found(!.between(field: "year", from: nil, to: 2040))
        XCTAssertEqual(undated, ["old"])
        let all = try await found(flat || !flat)
        XCTAssertEqual(all.count, 2)
        let answer = try await engine.ask("When is the lease due?", options: AskOptions(minConfidence: 0, filter: flat))
        XCTAssertTrue((answer.citations + answer.nearest).allSatisfy { $0.document == "lease" && $0.path == nil })
        await engine.close()
    }

    func testAnAnswerStreams() async throws {
        let engine = try await withDocuments()
        var order: [Int] = []
        var text = ""
        var done: Answer?
        for try await event in engine.stream(question) {
            switch event {
            case .retrieved(let hits):
                order.append(0)
                XCTAssertFalse(hits.isEmpty)
            case .reading: order.append(1)
            case .token(let piece):
                order.append(2)
                text += piece
            case .cited: order.append(3)
            case .done(let answer):
                order.append(4)
                done = answer
            }
        }
        XCTAssertEqual(order, order.sorted())
        XCTAssertEqual(Set(order), [0, 1, 2, 3, 4])
        XCTAssertEqual(text, "1961")
        XCTAssertEqual(done?.answer, "1961")
        await engine.close()
    }

    func testCancellingEndsTheWork() async throws {
        let engine = try await withDocuments()
        // Left after the first event.
        for try await event in engine.stream(question) {
            guard case .retrieved = event else { return XCTFail("\(event)") }
            break
        }
        // Half-way through a long reading, whose part is kept and read on.
        let kenya = String(try String(contentsOf: documents.appendingPathComponent("kenya.md"), encoding: .utf8).prefix(12_000))
        let (halfWay, reached) = AsyncStream<Void>.makeStream()
        let reading = Task { try await engine.read("long", title: "Kenya", text: kenya) { _ in reached.yield() } }
        for await _ in halfWay { break }
        reading.cancel()
        do {
            _ = try await reading.value
            XCTFail("it was read to the end")
        } catch is CancellationError {}
        let context = try await engine.openContext("long")
        let part = try await context.status()
        XCTAssertGreaterThan(part.tokens, 0)
        XCTAssertGreaterThan(part.tokensLeft, 0)
        assertInput(await failure { try await context.ask("What is the capital of Kenya?") })
        try await context.readOn()
        let left = try await context.status().tokensLeft
        XCTAssertEqual(left, 0)
        // A task that waits for the events of a stream.
        let waiting = Task { [question] in
            var seen = 0
            for try await _ in engine.stream(question) { seen += 1 }
            return seen
        }
        waiting.cancel()
        _ = await waiting.result
        // What is under way when the engine is closed; and the store opens again at once.
        let asked = Task { [question] in try await engine.ask(question) }
        try await Task.sleep(nanoseconds: 1_000_000)
        await engine.close()
        switch await asked.result {
        case .failure(PalimpsestError.Cancelled), .failure(PalimpsestError.Closed): break
        case let other: XCTFail("\(other)")
        }
        let again = try await open()
        let contexts = try await again.contexts()
        XCTAssertEqual(contexts, ["long"])
        await again.close()
    }

    func testErrorsSayWhatToDo() async throws {
        let engine = try await open()
        let unknown = await failure { try await engine.forget("nothing") }
        assertInput(unknown)
        XCTAssertTrue(try XCTUnwrap(unknown?.localizedDescription).contains("no document"))
        assertInput(await failure { try await engine.ask("   ") })
        assertInput(await failure { try await engine.read("../outside", title: "t", text: "t") })
        assertInput(await failure { try await engine.importContext("damaged", bytes: Data("no context".utf8)) })
        let report = try await engine.ingest(folder.appendingPathComponent("not there").path)
        XCTAssertEqual(report.failed.count, 1)
        await engine.close()

        let empty = folder.appendingPathComponent("empty")
        try FileManager.default.createDirectory(at: empty, withIntermediateDirectories: true)
        let other = try await open("other", .path(path: empty.path))
        try await other.put(TextDocument(id: "a", title: "a", text: "Something to read."))
        assertReader(await failure { try await other.ask("What is there to read?") })
        await other.close()
        assertReader(await failure { try await open("other", .bytes(bytes: Data("no archive".utf8))) })
        assertInput(await failure { try await open("other", .descriptor(fd: 987654, offset: 0, length: nil)) })
        try Data("in the way".utf8).write(to: folder.appendingPathComponent("file"))
        guard case .Store? = await failure({ try await open("file/store") }) else { return XCTFail("no store there") }
    }

    func testAReaderIsAFolderAnArchiveAStretchOfAFileOrBytes() async throws {
        let archive = folder.appendingPathComponent("reader.tar")
        let tar = Process()
        tar.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        let source = Self.root.appendingPathComponent("models/reader-small").path
        tar.arguments = ["tar", "-cf", archive.path, "-C", source, "."]
        try tar.run()
        tar.waitUntilExit()
        XCTAssertEqual(tar.terminationStatus, 0)
        let bytes = try Data(contentsOf: archive)
        let package = folder.appendingPathComponent("package")
        try (Data(repeating: 7, count: 600) + bytes + Data(repeating: 9, count: 700)).write(to: package)
        let file = try FileHandle(forReadingFrom: package)
        let sources: [ReaderSource] = [
            reader, .path(path: archive.path), .bytes(bytes: bytes),
            .descriptor(fd: file.fileDescriptor, offset: 600, length: UInt64(bytes.count)),
        ]
        var found: Set<String> = []
        for source in sources {
            let engine = try await open("reader", source)
            found.insert(try await engine.modelInfo().fingerprint)
            await engine.close()
        }
        XCTAssertEqual(found.count, 1)
        try file.close()
    }

    func testAHundredQuestionsAtOnce() async throws {
        let engine = try await withDocuments()
        let questions = [
            question, "What is the capital of Kenya?", "In what year did Finland gain complete independence?", "Who?",
        ]
        var alone: [Answer] = []
        for question in questions { alone.append(try await engine.ask(question)) }
        let together = try await withThrowingTaskGroup(of: (Int, Answer).self) { group in
            for n in 0..<100 { group.addTask { (n, try await engine.ask(questions[n % 4])) } }
            return try await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        XCTAssertEqual(together.count, 100)
        for (n, answer) in together {
            XCTAssertEqual(answer.answer, alone[n % 4].answer)
            XCTAssertEqual(answer.confidence, alone[n % 4].confidence)
        }
        await engine.close()
    }

    func testContextsAreKeptForkedTakenBackAndCarriedAway() async throws {
        let text = String(try String(contentsOf: documents.appendingPathComponent("kenya.md"), encoding: .utf8).prefix(12_000))
        let engine = try await open("one")
        var told: [ReadProgress] = []
        let context = try await engine.read("kenya", title: "Kenya", text: text) { told.append($0) }
        XCTAssertEqual(told.last?.tokensDone, told.last?.tokensTotal)
        let first = try await context.ask("What is the capital of Kenya?")
        if let answer = first.answer, let start = first.start, let end = first.end {
            XCTAssertEqual(bytes(text, start, end), answer)
        }
        let after = try await context.status()
        let copy = try await context.fork("copy")
        _ = try await copy.ask("And the population?")
        let turns = (try await copy.turns().count, try await context.turns().count)
        XCTAssertTrue(turns == (2, 1))
        let undone = try await copy.undo()
        XCTAssertEqual(undone.turns, 1)
        XCTAssertEqual(undone.tokens, after.tokens)
        assertInput(await failure { try await copy.undo(5) })
        let blob = try await context.export()
        let names = try await engine.contexts()
        XCTAssertEqual(names, ["copy", "kenya"])
        try await engine.dropContext("copy")
        assertClosed(await failure { try await copy.status() })
        let again = try await engine.openContext("kenya").ask("What is the capital of Kenya?")
        let both = try await context.turns().count
        XCTAssertEqual(both, 2, "both handles are to one context")
        await engine.close()

        let other = try await open("two")
        let carried = try await other.importContext("kenya", bytes: blob)
        let carriedTurns = try await carried.turns()
        XCTAssertEqual(carriedTurns.map(\.answer), [first.answer])
        let asked = try await carried.ask("What is the capital of Kenya?")
        XCTAssertEqual(asked.answer, again.answer)
        var damaged = blob
        damaged[blob.count / 2] ^= 1
        assertInput(await failure { try await other.importContext("other", bytes: damaged) })
        await other.close()
    }

    func testAfterClosingEveryCallSaysSo() async throws {
        let engine = try await open()
        let context = try await engine.read("t", title: "t", text: "A short text about nothing.")
        await engine.close()
        await engine.close()
        assertClosed(await failure { try await engine.ask("a?") })
        assertClosed(await failure { try await engine.status() })
        assertClosed(await failure { try await engine.ingest(".") })
        assertClosed(await failure { for try await _ in engine.stream("a?") {} })
        assertClosed(await failure { try await context.ask("a?") })
        let reopened = try await open()
        let same = try await reopened.openContext("t")
        same.close()
        assertClosed(await failure { try await same.status() })
        await reopened.close()
    }
}
