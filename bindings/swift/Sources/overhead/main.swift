// What streaming costs beside decoding: overhead READER_FOLDER. As bindings/python/examples/overhead.py, which says how.
import Dispatch
import Foundation
import Palimpsest

func withoutAnEnd(_ reader: URL, _ folder: URL) throws {
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    for name in try FileManager.default.contentsOfDirectory(atPath: reader.path) {
        let (file, copy) = (reader.appendingPathComponent(name), folder.appendingPathComponent(name))
        guard name == "reader.json" else {
            try FileManager.default.copyItem(at: file, to: copy)
            continue
        }
        var form = try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as! [String: Any]
        var prompt = form["prompt"] as! [String: Any]
        prompt["end"] = nil
        prompt["none"] = nil
        prompt["start"] = nil
        form["prompt"] = prompt
        try JSONSerialization.data(withJSONObject: form).write(to: copy)
    }
}

func milliseconds() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e6 }

func part(_ quarters: Int, of all: [Double]) -> Double { all.sorted()[all.count * quarters / 4] }

let question = "What is the capital of Kenya?"
let options = AskOptions(passages: 1, minConfidence: 0, free: true)

func whole(_ engine: Engine) async throws -> (ms: Double, decodingMs: Double) {
    let began = milliseconds()
    let answer = try await engine.ask(question, options: options)
    return (milliseconds() - began, answer.timingsMs.answer)
}

func streamed(_ engine: Engine) async throws -> (ms: Double, pieces: Int) {
    let began = milliseconds()
    var pieces = 0
    for try await event in engine.stream(question, options: options) {
        if case .token = event { pieces += 1 }
    }
    return (milliseconds() - began, pieces)
}

let reader = URL(fileURLWithPath: CommandLine.arguments[1])
let scratch = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
try withoutAnEnd(reader, scratch.appendingPathComponent("reader"))
let engine = try await Engine(
    store: scratch.appendingPathComponent("store").path, reader: .path(path: scratch.appendingPathComponent("reader").path))
try await engine.put(
    TextDocument(id: "kenya", title: "Kenya", text: "Nairobi is the capital of Kenya, and Lake Victoria lies in the west."))
var (longer, decoding): ([Double], [Double]) = ([], [])
var pieces = 0
for turn in 0..<160 {
    // Each is the first every second time.
    let before = try await turn % 2 == 0 ? whole(engine) : nil
    let told = try await streamed(engine)
    let alone = if let before { before } else { try await whole(engine) }
    pieces = told.pieces
    longer.append(told.ms - alone.ms)
    decoding.append(alone.decodingMs)
}
let decodingMs = part(2, of: Array(decoding.dropFirst(10)))
let shares = (1...3).map { 100 * part($0, of: Array(longer.dropFirst(10))) / decodingMs }
print(
    String(
        format: "Swift: %.0f ms of decoding in %d pieces, streamed %+.2f%% (%+.2f%% to %+.2f%%)", decodingMs, pieces, shares[1],
        shares[0], shares[2]))
await engine.close()
try FileManager.default.removeItem(at: scratch)
