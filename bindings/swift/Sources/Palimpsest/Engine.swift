import Foundation

/// Documents, a reader, and what it remembers of them.
///
/// Every method may be called from any task and any thread; none holds up its thread. Cancelling the task of a long call ends
/// the work behind it. Failures are ``PalimpsestError``s; after ``close()`` every call throws `PalimpsestError.Closed`.
///
/// ```swift
/// let engine = try await Engine(store: "notes.store", reader: .path(path: "reader.tar"))
/// try await engine.ingest("notes")
/// let answer = try await engine.ask("When is the lease due?")
/// print(answer.answer ?? "not in these documents")
/// await engine.close()
/// ```
public final class Engine: Sendable {
    private let handle: EngineHandle

    /// Opens the engine whose index and snapshots lie in the folder `store`, which is made when absent. Delete it and nothing
    /// but time is lost.
    ///
    /// - Parameters:
    ///   - store: The folder.
    ///   - reader: Where the reader's files lie. Without, it is looked for as during development.
    ///   - device: What computes; a GPU where one can be used, without.
    ///   - threads: Threads to read with; all processors without.
    ///   - weights: What the reader's matrices are kept as in memory.
    ///   - snapshotBudgetBytes: Bytes that snapshots may take on disk; 1 GiB without.
    ///   - snapshotForm: How snapshots are written down; exactly, without.
    ///   - language: Language of a new store's documents, by its English name or two-letter code; English without.
    public init(
        store: String, reader: ReaderSource? = nil, device: Device? = nil, threads: UInt32? = nil, weights: Weights? = nil,
        snapshotBudgetBytes: UInt64? = nil, snapshotForm: SnapshotForm? = nil, language: String? = nil
    ) async throws {
        handle = try await openEngine(
            options: EngineOptions(
                store: store, reader: reader, device: device, threads: threads, weights: weights,
                snapshotBudgetBytes: snapshotBudgetBytes, snapshotForm: snapshotForm, language: language))
    }

    /// Brings files and folders in, and what was ingested below them before in step with them: only what changed is read.
    ///
    /// - Parameters:
    ///   - metadata: Kept with every document that is brought in, beside what was kept with it before.
    ///   - fields: By which tables become a document a record; it is kept with them for the next time.
    ///   - progress: Told, some times a second, how far it is. What it throws ends the work and is thrown from here.
    @discardableResult
    public func ingest(
        _ paths: String..., metadata: [String: Value] = [:], fields: FieldMap? = nil,
        progress: (IngestProgress) throws -> Void = { _ in }
    ) async throws -> IngestReport {
        let job = try handle.ingest(paths: paths, options: IngestOptions(metadata: metadata, fields: fields))
        return try await cancelling(job.cancel) {
            while let event = try await job.next() { try progress(event) }
            return try await job.result()
        }
    }

    /// Adds texts, or replaces those of the same ids.
    @discardableResult
    public func put(_ documents: TextDocument...) async throws -> IngestReport {
        try await handle.put(documents: documents)
    }

    /// Forgets the document with this id or path.
    public func forget(_ document: String) async throws {
        try await handle.forget(document: document)
    }

    /// The document with this id or path, with its text.
    public func document(_ document: String) async throws -> Document {
        try await handle.document(document: document)
    }

    /// All documents, without their texts.
    public func documents() async throws -> [DocumentSummary] {
        try await handle.documents()
    }

    /// The passages that match `query` best, at most `limit`, among the documents that meet `filter`.
    public func search(_ query: String, limit: UInt32 = 10, filter: Filter? = nil) async throws -> [Hit] {
        try await handle.search(query: query, options: SearchOptions(limit: limit, filter: filter))
    }

    /// Answers `question` from the documents.
    public func ask(_ question: String, options: AskOptions = AskOptions()) async throws -> Answer {
        let job = try handle.ask(question: question, options: options)
        return try await cancelling(job.cancel) { try await job.result() }
    }

    /// Answers many questions from the documents, each as ``ask(_:options:)`` does: they share the weights and the passages that
    /// are read.
    public func askMany(_ questions: [String], options: AskOptions = AskOptions()) async throws -> [Answer] {
        let job = try handle.askMany(questions: questions, options: options)
        return try await cancelling(job.cancel) { try await job.result() }
    }

    /// Answers `question`, with what happens on the way. Leaving the loop early ends the work, as cancelling its task does.
    public func stream(_ question: String, options: AskOptions = AskOptions()) -> AsyncThrowingStream<AskEvent, Error> {
        AsyncThrowingStream { continuation in
            do {
                let job = try handle.ask(question: question, options: options)
                Task {
                    do {
                        while let event = try await job.next() { continuation.yield(event) }
                        continuation.finish()
                    } catch {
                        continuation.finish(throwing: error)
                    }
                }
                continuation.onTermination = { _ in job.cancel() }
            } catch {
                continuation.finish(throwing: error)
            }
        }
    }

    /// Reads `text` once into a new context called `name`, to be asked many questions. Cancelled, the context keeps what was
    /// read: ``openContext(_:)``, then ``Context/readOn(progress:)``.
    public func read(
        _ name: String, title: String, text: String, progress: (ReadProgress) throws -> Void = { _ in }
    ) async throws -> Context {
        try await finish(try handle.readText(name: name, title: title, text: text), progress)
    }

    /// As ``read(_:title:text:progress:)``, from a file of plain text in UTF-8 of any length. A context that is there is taken up
    /// where it was; where the file holds another text by now, reading begins at the first section that changed, once every
    /// question to the old one was taken back.
    public func readFile(
        _ name: String, path: String, title: String? = nil, progress: (ReadProgress) throws -> Void = { _ in }
    ) async throws -> Context {
        try await finish(try handle.readFile(name: name, path: path, title: title), progress)
    }

    /// The context called `name`.
    public func openContext(_ name: String) async throws -> Context {
        Context(handle: try await handle.openContext(name: name))
    }

    /// Makes `name` the context that ``Context/export()`` gave. On another machine, or with another reader of the same
    /// tokenizer, its state is read again from the text.
    public func importContext(_ name: String, bytes: Data) async throws -> Context {
        Context(handle: try await handle.importContext(name: name, bytes: bytes))
    }

    /// The names of all contexts, in order.
    public func contexts() async throws -> [String] {
        try await handle.contexts()
    }

    /// Removes the context `name` and all it kept.
    public func dropContext(_ name: String) async throws {
        try await handle.dropContext(name: name)
    }

    /// What it holds.
    public func status() async throws -> Status {
        try await handle.status()
    }

    /// What its reader is. Loads it, as the first question does.
    public func modelInfo() async throws -> ModelInfo {
        try await handle.modelInfo()
    }

    /// Compares every byte of the store with what was written; with `repair`, snapshots that are not whole are removed.
    public func verify(repair: Bool = false) async throws -> Verified {
        try await handle.verify(repair: repair)
    }

    /// Lets go of memory that can be had again, as on a memory warning. The next question takes as long as the first. Returns
    /// the bytes of weights that were let go.
    @discardableResult
    public func trimMemory() async throws -> UInt64 {
        try await handle.trimMemory()
    }

    /// Cancels what is under way, waits until it has ended and lets go of the store. An engine that is let go of without is
    /// closed too, at some time.
    public func close() async {
        await handle.shut()
    }
}

/// One long text, read once and kept in the store: ask it, ask on, take turns back, fork it, carry it away.
///
/// Calls on one context come one after another, whoever makes them.
public final class Context: Sendable {
    private let handle: ContextHandle

    init(handle: ContextHandle) {
        self.handle = handle
    }

    /// What it is called.
    public var name: String { handle.name() }

    /// Goes on reading where a cancelled reading stopped.
    @discardableResult
    public func readOn(progress: (ReadProgress) throws -> Void = { _ in }) async throws -> Context {
        try await finish(try handle.readOn(), progress)
    }

    /// Asks the text; question and answer become part of what the next question is asked after.
    public func ask(_ question: String) async throws -> ContextAnswer {
        let job = try handle.ask(question: question)
        return try await cancelling(job.cancel) { try await job.result() }
    }

    /// Takes back the last `turns` questions.
    @discardableResult
    public func undo(_ turns: UInt32 = 1) async throws -> ContextStatus {
        try await handle.undo(turns: turns)
    }

    /// Copies it under another name: both go on from here on their own.
    public func fork(_ name: String) async throws -> Context {
        Context(handle: try await handle.fork(name: name))
    }

    /// The whole context: text, turns and state, with a checksum. ``Engine/importContext(_:bytes:)`` takes it.
    public func export() async throws -> Data {
        try await handle.export()
    }

    /// Its sizes.
    public func status() async throws -> ContextStatus {
        try await handle.status()
    }

    /// The questions asked so far and not taken back.
    public func turns() async throws -> [Turn] {
        try await handle.turns()
    }

    /// Lets go of the context, which stays in the store.
    public func close() {
        handle.shut()
    }
}

/// Sees the reading of a context to its end.
private func finish(_ job: ReadJob, _ progress: (ReadProgress) throws -> Void) async throws -> Context {
    try await cancelling(job.cancel) {
        while let event = try await job.next() { try progress(event) }
        return Context(handle: try await job.result())
    }
}

/// Does `work`, and ends it through `cancel` when it fails or the task is cancelled, which Rust does not see by itself.
private func cancelling<R>(_ cancel: @escaping @Sendable () -> Void, _ work: () async throws -> R) async throws -> R {
    do {
        return try await withTaskCancellationHandler(operation: work, onCancel: cancel)
    } catch PalimpsestError.Cancelled where Task.isCancelled {
        throw CancellationError()
    } catch {
        cancel()
        throw error
    }
}
