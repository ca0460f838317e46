// What streaming costs beside decoding: overhead READER_FOLDER. As bindings/python/examples/overhead.py, which says how.
import Dispatch
import Foundation
@_spi(Measuring) import Palimpsest

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

func microseconds() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e3 }

func median(_ all: [Double]) -> Double { all.sorted()[all.count / 2] }

let reader = URL(fileURLWithPath: CommandLine.arguments[1])
let scratch = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
try withoutAnEnd(reader, scratch.appendingPathComponent("reader"))
let engine = try await Engine(
    store: scratch.appendingPathComponent("store").path, reader: .path(path: scratch.appendingPathComponent("reader").path))
try await engine.put(
    TextDocument(id: "kenya", title: "Kenya", text: "Nairobi is the capital of Kenya, and Lake Victoria lies in the west."))
let options = AskOptions(passages: 1, minConfidence: 0, free: true)
var (border, decode): ([Double], [Double]) = ([], [])
var tokens = 0
for _ in 0..<12 {
    // The events wait on Rust's side: this is the job under `stream`, which itself picks them up at once.
    border.append(try await engine.borderMicroseconds("What is the capital of Kenya?", options: options))
    var times: [Double] = []
    for try await event in engine.stream("And the lake?", options: options) {
        if case .token = event { times.append(microseconds()) }
    }
    tokens = times.count
    decode.append((times[times.count - 1] - times[0]) / Double(times.count - 1))
}
let (one, token) = (median(Array(border.dropFirst(2))), median(Array(decode.dropFirst(2))))
print(String(format: "Swift: %d tokens, %.1f us an event, %.0f us a token: %.2f%%", tokens, one, token, 100 * one / token))
await engine.close()
try FileManager.default.removeItem(at: scratch)
