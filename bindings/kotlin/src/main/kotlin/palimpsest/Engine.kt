package palimpsest

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow

/**
 * Documents, a reader, and what it remembers of them.
 *
 * Every function may be called from any coroutine and any thread; none holds up its thread. Cancelling the coroutine of a
 * long call ends the work behind it. Failures are [PalimpsestException]s; after [close] every call throws
 * [PalimpsestException.Closed].
 *
 * ```kotlin
 * Engine.open("notes.store", ReaderSource.Path("reader.tar")).use { engine ->
 *     engine.ingest("notes")
 *     val answer = engine.ask("When is the lease due?")
 *     println(answer.answer ?: "not in these documents")
 * }
 * ```
 */
class Engine private constructor(private val handle: EngineHandle) : AutoCloseable {
    companion object {
        /**
         * Opens the engine whose index and snapshots lie in the folder [store], which is made when absent. Delete it and
         * nothing but time is lost.
         *
         * @param reader where the reader's files lie; without, it is looked for as during development.
         * @param device what computes; a GPU where one can be used, without.
         * @param threads threads to read with; all processors without.
         * @param weights what the reader's matrices are kept as in memory.
         * @param snapshotBudgetBytes bytes that snapshots may take on disk; 1 GiB without.
         * @param snapshotForm how snapshots are written down; exactly, without.
         * @param language language of a new store's documents, by its English name or two-letter code; English without.
         */
        suspend fun open(
            store: String,
            reader: ReaderSource? = null,
            device: Device? = null,
            threads: Int? = null,
            weights: Weights? = null,
            snapshotBudgetBytes: Long? = null,
            snapshotForm: SnapshotForm? = null,
            language: String? = null,
        ): Engine {
            val budget = snapshotBudgetBytes?.toULong()
            return Engine(openEngine(EngineOptions(store, reader, device, threads?.toUInt(), weights, budget, snapshotForm, language)))
        }
    }

    /**
     * Brings files and folders in, and what was ingested below them before in step with them: only what changed is read.
     *
     * @param metadata kept with every document that is brought in, beside what was kept with it before.
     * @param fields by which tables become a document a record; it is kept with them for the next time.
     * @param onProgress told, some times a second, how far it is. What it throws ends the work and is thrown from here.
     */
    suspend fun ingest(
        vararg paths: String,
        metadata: Map<String, Value> = emptyMap(),
        fields: FieldMap? = null,
        onProgress: (IngestProgress) -> Unit = {},
    ): IngestReport =
        handle.ingest(paths.toList(), IngestOptions(metadata, fields)).whole(IngestJob::cancel) {
            while (true) onProgress(next() ?: break)
            result()
        }

    /** Adds texts, or replaces those of the same ids. */
    suspend fun put(documents: List<TextDocument>): IngestReport = handle.put(documents)

    /** Adds a text, or replaces the one of the same id. [metadata] is what [search] and [ask] can filter by. */
    suspend fun put(id: String, title: String, text: String, metadata: Map<String, Value> = emptyMap()): IngestReport =
        put(listOf(TextDocument(id, title, text, metadata)))

    /** Forgets the document with this id or path. */
    suspend fun forget(document: String) = handle.forget(document)

    /** The document with this id or path, with its text. */
    suspend fun document(document: String): Document = handle.document(document)

    /** All documents, without their texts. */
    suspend fun documents(): List<DocumentSummary> = handle.documents()

    /** The passages that match [query] best, at most [limit], among the documents that meet [filter]. */
    suspend fun search(query: String, limit: Int = 10, filter: Filter? = null): List<Hit> =
        handle.search(query, SearchOptions(limit.toUInt(), filter))

    /** Answers [question] from the documents. */
    suspend fun ask(question: String, options: AskOptions = AskOptions()): Answer =
        handle.ask(question, options).whole(AskJob::cancel) { result() }

    /** Answers many questions from the documents, each as [ask] does: they share the weights and the passages that are read. */
    suspend fun askMany(questions: List<String>, options: AskOptions = AskOptions()): List<Answer> =
        handle.askMany(questions, options).whole(AskManyJob::cancel) { result() }

    /** Answers [question], with what happens on the way. Cold: it is asked anew by each collector, who may leave early. */
    fun stream(question: String, options: AskOptions = AskOptions()): Flow<AskEvent> =
        events({ handle.ask(question, options) }, AskJob::cancel, AskJob::next)

    /**
     * Reads [text] once into a new context called [name], to be asked many questions.
     *
     * @param onProgress told how far it is. Cancelled, the context keeps what was read: [openContext], then [Context.readOn].
     */
    suspend fun read(name: String, title: String, text: String, onProgress: (ReadProgress) -> Unit = {}): Context =
        handle.readText(name, title, text).context(onProgress)

    /**
     * As [read], from a file of plain text in UTF-8 of any length. A context that is there is taken up where it was; where the
     * file holds another text by now, reading begins at the first section that changed, once every question to the old one was
     * taken back.
     */
    suspend fun readFile(name: String, path: String, title: String? = null, onProgress: (ReadProgress) -> Unit = {}): Context =
        handle.readFile(name, path, title).context(onProgress)

    /** The context called [name]. */
    suspend fun openContext(name: String): Context = Context(handle.openContext(name))

    /**
     * Makes [name] the context that [Context.export] gave. On another machine, or with another reader of the same tokenizer,
     * its state is read again from the text.
     */
    suspend fun importContext(name: String, bytes: ByteArray): Context = Context(handle.importContext(name, bytes))

    /** The names of all contexts, in order. */
    suspend fun contexts(): List<String> = handle.contexts()

    /** Removes the context [name] and all it kept. */
    suspend fun dropContext(name: String) = handle.dropContext(name)

    /** What it holds. */
    suspend fun status(): Status = handle.status()

    /** What its reader is. Loads it, as the first question does. */
    suspend fun modelInfo(): ModelInfo = handle.modelInfo()

    /** Compares every byte of the store with what was written; with [repair], snapshots that are not whole are removed. */
    suspend fun verify(repair: Boolean = false): Verified = handle.verify(repair)

    /**
     * Lets go of memory that can be had again, as when Android calls `onTrimMemory`. The next question takes as long as the
     * first. Returns the bytes of weights that were let go.
     */
    suspend fun trimMemory(): Long = handle.trimMemory().toLong()

    /**
     * Cancels what is under way, waits until it has ended and lets go of the store: holds up its thread for as long as a
     * segment of a text takes to be read. [shut] does not.
     */
    override fun close() = handle.shutNow()

    /** As [close], without holding up a thread. */
    suspend fun shut() = handle.shut()
}

/**
 * One long text, read once and kept in the store: ask it, ask on, take turns back, fork it, carry it away.
 *
 * Calls on one context come one after another, whoever makes them.
 */
class Context internal constructor(private val handle: ContextHandle) : AutoCloseable {
    /** What it is called. */
    val name: String get() = handle.name()

    /** Goes on reading where a cancelled reading stopped. */
    suspend fun readOn(onProgress: (ReadProgress) -> Unit = {}): Context = handle.readOn().context(onProgress)

    /** Asks the text; question and answer become part of what the next question is asked after. */
    suspend fun ask(question: String): ContextAnswer = handle.ask(question).whole(ContextAskJob::cancel) { result() }

    /** Takes back the last [turns] questions. */
    suspend fun undo(turns: Int = 1): ContextStatus = handle.undo(turns.toUInt())

    /** Copies it under another name: both go on from here on their own. */
    suspend fun fork(name: String): Context = Context(handle.fork(name))

    /** The whole context: text, turns and state, with a checksum. [Engine.importContext] takes it. */
    suspend fun export(): ByteArray = handle.export()

    /** Its sizes. */
    suspend fun status(): ContextStatus = handle.status()

    /** The questions asked so far and not taken back. */
    suspend fun turns(): List<Turn> = handle.turns()

    /** Lets go of the context, which stays in the store. */
    override fun close() = handle.shut()
}

private suspend fun ReadJob.context(onProgress: (ReadProgress) -> Unit): Context =
    whole(ReadJob::cancel) {
        while (true) onProgress(next() ?: break)
        Context(result())
    }

/** Sees a job to its end; when that fails, or the coroutine is cancelled, the job is too. */
private suspend fun <J : AutoCloseable, R> J.whole(cancel: (J) -> Unit, work: suspend J.() -> R): R =
    use {
        try {
            work()
        } catch (e: Throwable) {
            // Rust does not see that a coroutine was cancelled: it is told.
            cancel(this)
            throw e
        }
    }

private fun <J : AutoCloseable, E : Any> events(start: () -> J, cancel: (J) -> Unit, next: suspend J.() -> E?): Flow<E> = flow {
    start().use { job ->
        try {
            while (true) emit(job.next() ?: break)
        } finally {
            cancel(job)
        }
    }
}
