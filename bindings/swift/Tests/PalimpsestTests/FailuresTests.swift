import Foundation
import Palimpsest
import XCTest

/// What is rarely met: who has to wait, what a machine lacks, what a host's own code throws, a panic inside.
final class FailuresTests: XCTestCase {
    let documents = StoryTests.root.appendingPathComponent("examples/documents").path
    let reader = ReaderSource.path(path: StoryTests.root.appendingPathComponent("models/reader-small").path)
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("palimpsest-\(UUID().uuidString)")
    let question = "When did the Antarctic Treaty enter into force?"
    let kenya = String(repeating: "Nairobi is the capital of Kenya. ", count: 20)

    struct Mine: Error {}

    override func setUpWithError() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws {
        try FileManager.default.removeItem(at: folder)
    }

    func open(device: Device? = nil, threads: UInt32? = nil) async throws -> Engine {
        try await Engine(store: folder.appendingPathComponent("store").path, reader: reader, device: device, threads: threads)
    }

    func assertBusy<T>(_ work: () async throws -> T, line: UInt = #line) async {
        do {
            _ = try await work()
            XCTFail("nothing was thrown", line: line)
        } catch PalimpsestError.Busy(let message) {
            XCTAssertFalse(message.isEmpty, line: line)
        } catch {
            XCTFail("\(error)", line: line)
        }
    }

    func assertMine<T>(_ work: () async throws -> T, line: UInt = #line) async {
        do {
            _ = try await work()
            XCTFail("nothing was thrown", line: line)
        } catch is Mine {
        } catch {
            XCTFail("\(error)", line: line)
        }
    }

    func testWhoComesSecondIsToldToWait() async throws {
        let (engine, other) = (try await open(), try await open())
        let held = try await engine.read("kenya", title: "Kenya", text: kenya)
        let looking = try await other.openContext("kenya")
        let left = try await looking.status().tokensLeft
        XCTAssertEqual(left, 0, "it may look")
        await assertBusy { try await looking.ask("What is the capital of Kenya?") }
        let read = try await held.ask("What is the capital of Kenya?").tokensRead
        XCTAssertGreaterThan(read, 0)
        try await engine.put(TextDocument(id: "a", title: "a", text: "Something."))
        let later = TextDocument(id: "b", title: "b", text: "Something else.")
        await assertBusy { try await other.put(later) }
        await engine.close()
        let report = try await other.put(later)
        XCTAssertEqual(report.added, 1)
        await other.close()
    }

    func testADeviceThatIsNotThereIsRefused() async throws {
        let cpu = try await open(device: .cpu, threads: 1)
        let threads = try await cpu.modelInfo().threads
        XCTAssertEqual(threads, 1)
        await cpu.close()
        let gpu = try await open(device: .cuda)
        do {
            let device = try await gpu.modelInfo().device
            XCTAssertFalse(device.lowercased().contains("cpu"), "a GPU is here")
        } catch PalimpsestError.Device(let message) {
            XCTAssertFalse(message.isEmpty)
        }
        await gpu.close()
    }

    func testWhatAHostThrowsComesBackToItAndEverythingGoesOn() async throws {
        let engine = try await open()
        await assertMine { try await engine.ingest(documents) { _ in throw Mine() } }
        let long = String(repeating: kenya, count: 50)
        await assertMine { try await engine.read("kenya", title: "Kenya", text: long) { _ in throw Mine() } }
        let left = try await engine.openContext("kenya").status().tokensLeft
        XCTAssertGreaterThan(left, 0, "the reading has ended")
        try await engine.ingest(documents)
        await assertMine { for try await _ in engine.stream(question) { throw Mine() } }
        let answer = try await engine.ask(question).answer
        XCTAssertEqual(answer, "1961")
        await engine.close()
    }

    func testAPanicInsideIsAnErrorAndEverythingGoesOn() async throws {
        for _ in 0..<3 {
            do {
                try await rehearsePanic()
                XCTFail("nothing was thrown")
            } catch PalimpsestError.Internal(let message) {
                XCTAssertTrue(message.contains("rehearsal") && message.contains("report"), message)
            }
        }
        let engine = try await open()
        let report = try await engine.put(TextDocument(id: "a", title: "a", text: "Something."))
        XCTAssertEqual(report.added, 1)
        await engine.close()
    }

    func testTablesManyQuestionsAndAFileThatGrows() async throws {
        let table = folder.appendingPathComponent("stock.csv")
        try Data("sku,about,price\n30,The lamp costs 30 shillings.,30\n90,The lamp costs 90 shillings.,90\n".utf8).write(to: table)
        let engine = try await Engine(
            store: folder.appendingPathComponent("store").path, reader: reader, snapshotForm: .f32, language: "en")
        let fields = FieldMap(text: ["about"], id: "sku", metadata: ["price"])
        let report = try await engine.ingest(table.path, metadata: ["shop": "north"], fields: fields)
        XCTAssertEqual(report.added, 2)
        let north = Filter.equals(field: "price", value: 90) && .equals(field: "shop", value: "north")
        let hits = try await engine.search("lamp", filter: north)
        XCTAssertEqual(hits.count, 1)
        do {
            try await engine.ingest(table.path, fields: FieldMap(text: []))
            XCTFail("a map without text")
        } catch PalimpsestError.Input {}
        let answers = try await engine.askMany(["What does the lamp cost?", "Who?"])
        let alone = try await engine.ask("What does the lamp cost?")
        XCTAssertEqual(answers.count, 2)
        XCTAssertEqual(answers.first?.answer, alone.answer)
        XCTAssertEqual(answers.first?.confidence, alone.confidence)
        let file = folder.appendingPathComponent("kenya.txt")
        try Data(kenya.utf8).write(to: file)
        let context = try await engine.readFile("kenya", path: file.path)
        let before = try await context.status().content
        try Data((kenya + "Its second city is Mombasa.").utf8).write(to: file)
        _ = try await engine.readFile("kenya", path: file.path)
        let status = try await context.status()
        XCTAssertNotEqual(status.content, before)
        XCTAssertEqual(status.tokensLeft, 0)
        XCTAssertEqual(status.textBytes, UInt64(kenya.utf8.count + 27))
        await engine.close()
    }
}
