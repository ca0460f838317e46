// A chat over a folder of documents: chat FOLDER [READER]
import Foundation
import Palimpsest

func answer(_ engine: Engine, _ question: String) async throws {
    var first = true
    for try await event in engine.stream(question) {
        switch event {
        case .retrieved: break
        case .reading(let read, let restored, let total):
            FileHandle.standardError.write(Data("\r  reading \(read + restored) of \(total) tokens ".utf8))
        case .token(let piece):
            FileHandle.standardOutput.write(Data(((first ? "\r\u{1B}[K" : "") + piece).utf8))
            first = false
        case .cited(let place):
            print("\n  \(place.title) [\(place.start)..\(place.end)]: “\(place.quote)”")
        case .done(let whole):
            guard whole.answer == nil else { break }
            print("\r\u{1B}[KThese documents do not say. Nearest:")
            for place in whole.nearest.prefix(3) { print("  \(place.title): “\(place.quote)”") }
        }
    }
}

let arguments = CommandLine.arguments
guard arguments.count > 1 else {
    print("chat FOLDER [READER]")
    exit(2)
}
do {
    let store = FileManager.default.temporaryDirectory.appendingPathComponent("palimpsest-chat").path
    let engine = try await Engine(store: store, reader: arguments.count > 2 ? .path(path: arguments[2]) : nil)
    let report = try await engine.ingest(arguments[1])
    print("\(report.added) documents added, \(report.unchanged) unchanged. Ask; an empty line ends it.")
    while true {
        print("> ", terminator: "")
        guard let question = readLine(), !question.isEmpty else { break }
        do { try await answer(engine, question) } catch { print(error.localizedDescription) }
    }
    await engine.close()
} catch {
    print(error.localizedDescription)
    exit(1)
}
