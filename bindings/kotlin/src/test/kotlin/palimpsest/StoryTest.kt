package palimpsest

import com.sun.jna.NativeLibrary
import java.io.File
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertIs
import kotlin.test.assertNotNull
import kotlin.test.assertTrue
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.async
import kotlinx.coroutines.awaitAll
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.yield

/** The story that is told in every language: ingest, ask, stream, cancel, go wrong, ask a hundred times, fork and undo, close. */
class StoryTest {
    private val root = generateSequence(File("").absoluteFile) { it.parentFile }.first { File(it, "models/reader-small").isDirectory }
    private val documents = File(root, "examples/documents")
    private val reader = ReaderSource.Path(File(root, "models/reader-small").path)
    private val folder: Path = Files.createTempDirectory("palimpsest")
    private val question = "When did the Antarctic Treaty enter into force?"
    private val kenya = File(documents, "kenya.md").readText().take(12_000)

    @AfterTest
    fun clean() {
        folder.toFile().deleteRecursively()
    }

    private suspend fun open(name: String = "store", from: ReaderSource? = reader) = Engine.open(folder.resolve(name).toString(), from)

    /** With the documents in it. */
    private fun story(test: suspend (Engine) -> Unit) = runBlocking {
        open().use { engine ->
            engine.ingest(documents.path)
            test(engine)
        }
    }

    private fun bytes(text: String, start: ULong, end: ULong) =
        text.toByteArray().copyOfRange(start.toInt(), end.toInt()).decodeToString()

    @Test
    fun documentsGoInAndAreAsked() = runBlocking<Unit> {
        open().use { engine ->
            val told = mutableListOf<IngestProgress>()
            val report = engine.ingest(documents.path) { told += it }
            assertTrue(report.added > 30u && report.failed.isEmpty())
            assertEquals(told.last().filesTotal, told.last().filesDone)
            assertEquals(report.added, engine.ingest(documents.path).unchanged)
            val answer = engine.ask(question)
            assertEquals("1961", answer.answer)
            for (citation in answer.citations) {
                assertEquals(citation.quote, bytes(engine.document(citation.document).text, citation.start, citation.end))
                assertEquals(citation.quote, bytes(File(assertNotNull(citation.path)).readText(), citation.start, citation.end))
            }
            assertTrue(answer.citations.any { "1961" in it.quote })
            val warm = engine.ask(question)
            assertTrue(warm.tokensRestored > 0u)
            assertEquals(answer.confidence, warm.confidence)
            assertEquals(report.added, engine.status().documents)
            assertTrue(engine.search("capital of Kenya", limit = 3).size in 1..3)
            assertTrue(engine.modelInfo().parameters > 0u)
            assertTrue(engine.verify().whole)
            assertTrue(engine.trimMemory() > 0)
            assertEquals("1961", engine.ask(question).answer)
            engine.forget(File(documents, "antarctica.txt").path)
            assertEquals(report.added - 1u, engine.status().documents)
        }
    }

    @Test
    fun textsHaveMetadataThatIsFilteredBy() = runBlocking<Unit> {
        open().use { engine ->
            engine.put("lease", "Lease", "The lease of the flat is due on 3 May 2031.", metadataOf("year" to 2031, "kind" to "flat"))
            engine.put(listOf(TextDocument("old", "Lease", "The lease of the garage was due on 1 March 2019.", emptyMap())))
            val found: suspend (Filter) -> List<String> = { filter -> engine.search("lease", filter = filter).map { it.document } }
            assertEquals(listOf("lease"), found(where("kind", "flat")))
            assertEquals(listOf(), found(where("kind", "flat") and between("year", 2032)))
            assertEquals(listOf("old"), found(!between("year", to = 2040)))
            assertEquals(2, found(where("kind", "flat") or !where("kind", "flat")).size)
            val answer = engine.ask("When is the lease due?", AskOptions(filter = where("kind", "flat"), minConfidence = 0f))
            assertTrue((answer.citations + answer.nearest).all { it.document == "lease" && it.path == null })
            assertFailsWith<IllegalArgumentException> { metadataOf("bad" to listOf(1)) }
        }
    }

    @Test
    fun anAnswerStreams() = story { engine ->
        val events = engine.stream(question).toList()
        val order = listOf("Retrieved", "Reading", "Token", "Cited", "Done")
        val kinds = events.map { it::class.simpleName!! }
        assertEquals(kinds.sortedBy(order::indexOf), kinds)
        assertEquals(order.toSet(), kinds.toSet())
        val answer = assertIs<AskEvent.Done>(events.last()).answer
        assertEquals("1961", answer.answer)
        assertEquals("1961", events.filterIsInstance<AskEvent.Token>().joinToString("") { it.text })
        // Cold: the same flow asks again.
        val flow = engine.stream(question)
        repeat(2) { assertEquals("1961", assertIs<AskEvent.Done>(flow.toList().last()).answer.answer) }
    }

    @Test
    fun cancellingEndsTheWork() = runBlocking<Unit> {
        open().use { engine ->
            engine.ingest(documents.path)
            // Left after the first event.
            assertIs<AskEvent.Retrieved>(engine.stream(question).first())
            // Half-way through a long reading, whose part is kept and read on.
            val halfWay = CompletableDeferred<Unit>()
            val reading = launch { engine.read("long", "Kenya", kenya) { halfWay.complete(Unit) } }
            halfWay.await()
            reading.cancel()
            reading.join()
            assertTrue(reading.isCancelled)
            val context = engine.openContext("long")
            val part = context.status()
            assertTrue(part.tokens > 0u && part.tokensLeft > 0u)
            assertFailsWith<PalimpsestException.Input> { context.ask("What is the capital of Kenya?") }
            context.readOn()
            assertEquals(0u, context.status().tokensLeft)
            val asked = async { runCatching { engine.ask(question) } }
            yield()
            engine.shut()
            assertIs<PalimpsestException.Cancelled>(asked.await().exceptionOrNull())
        }
        // The store opens again at once.
        open().use { assertEquals(listOf("long"), it.contexts()) }
    }

    @Test
    fun errorsSayWhatToDo() = story { engine ->
        assertTrue("no document" in assertFailsWith<PalimpsestException.Input> { engine.forget("nothing") }.message!!)
        assertFailsWith<PalimpsestException.Input> { engine.ask("   ") }
        assertFailsWith<PalimpsestException.Input> { engine.read("../outside", "t", "t") }
        assertFailsWith<PalimpsestException.Input> { engine.importContext("damaged", "no context".toByteArray()) }
        assertEquals(1, engine.ingest(folder.resolve("not there").toString()).failed.size)
        val empty = Files.createDirectory(folder.resolve("empty"))
        open("other", ReaderSource.Path(empty.toString())).use {
            it.put("a", "a", "Something to read.")
            assertFailsWith<PalimpsestException.Reader> { it.ask("What is there to read?") }
        }
        assertFailsWith<PalimpsestException.Reader> { open("other", ReaderSource.Bytes("no archive".toByteArray())) }
        assertFailsWith<PalimpsestException.Input> { open("other", ReaderSource.Descriptor(987654, 0u, null)) }
        val file = Files.writeString(folder.resolve("file"), "in the way")
        assertFailsWith<PalimpsestException.Store> { Engine.open("$file/store", reader) }
        // A host branches without an else.
        val failure: PalimpsestException = assertFailsWith<PalimpsestException> { engine.ask("") }
        val advice = when (failure) {
            is PalimpsestException.Input -> "correct it"
            is PalimpsestException.Reader, is PalimpsestException.Device, is PalimpsestException.Store -> "look at the machine"
            is PalimpsestException.Busy -> "wait"
            is PalimpsestException.Cancelled, is PalimpsestException.Closed -> "nothing"
            is PalimpsestException.Internal -> "report it"
        }
        assertEquals("correct it", advice)
    }

    @Test
    fun aReaderIsAFolderAnArchiveAStretchOfAFileOrBytes() = runBlocking<Unit> {
        val archive = folder.resolve("reader.tar").toFile()
        assertEquals(0, ProcessBuilder("tar", "-cf", archive.path, "-C", reader.path, ".").start().waitFor())
        val bytes = archive.readBytes()
        val asset = folder.resolve("package").toFile()
        asset.writeBytes(ByteArray(600) + bytes + ByteArray(700))
        val libc = NativeLibrary.getInstance("c")
        val fd = libc.getFunction("open").invokeInt(arrayOf(asset.path, 0))
        val sources = listOf(
            reader,
            ReaderSource.Path(archive.path),
            ReaderSource.Descriptor(fd, 600u, bytes.size.toULong()),
            ReaderSource.Bytes(bytes),
        )
        val found = sources.map { source -> open("reader", source).use { it.modelInfo().fingerprint } }
        assertEquals(1, found.toSet().size)
        assertEquals(0, libc.getFunction("close").invokeInt(arrayOf(fd)))
    }

    @Test
    fun aHundredQuestionsAtOnce() = story { engine ->
        val questions = listOf(question, "What is the capital of Kenya?", "In what year did Finland gain complete independence?", "Who?")
        val alone = questions.map { engine.ask(it).run { answer to confidence } }
        runBlocking {
            val together = List(100) { n -> async { engine.ask(questions[n % 4]).run { answer to confidence } } }.awaitAll()
            together.forEachIndexed { n, answer -> assertEquals(alone[n % 4], answer) }
        }
    }

    @Test
    fun contextsAreKeptForkedTakenBackAndCarriedAway() = runBlocking<Unit> {
        val blob: ByteArray
        val first: ContextAnswer
        val again: ContextAnswer
        open("one").use { engine ->
            val told = mutableListOf<ReadProgress>()
            val context = engine.read("kenya", "Kenya", kenya) { told += it }
            assertEquals(told.last().tokensTotal, told.last().tokensDone)
            first = context.ask("What is the capital of Kenya?")
            first.answer?.let { assertEquals(it, bytes(kenya, first.start!!, first.end!!)) }
            val after = context.status()
            val copy = context.fork("copy")
            copy.ask("And the population?")
            assertEquals(2 to 1, copy.turns().size to context.turns().size)
            assertEquals(1u, copy.undo().turns)
            assertEquals(after.tokens, copy.status().tokens)
            assertFailsWith<PalimpsestException.Input> { copy.undo(5) }
            blob = context.export()
            assertContentEquals(blob, context.export())
            assertEquals(listOf("copy", "kenya"), engine.contexts())
            engine.dropContext("copy")
            assertFailsWith<PalimpsestException.Closed> { copy.status() }
            again = engine.openContext("kenya").ask("What is the capital of Kenya?")
            assertEquals(2, context.turns().size, "both handles are to one context")
        }
        open("two").use { engine ->
            engine.importContext("kenya", blob).use { carried ->
                assertEquals(first.answer, carried.turns().single().answer)
                assertEquals(again.answer, carried.ask("What is the capital of Kenya?").answer)
            }
            blob[blob.size / 2] = (blob[blob.size / 2] + 1).toByte()
            assertFailsWith<PalimpsestException.Input> { engine.importContext("other", blob) }
        }
    }

    @Test
    fun afterClosingEveryCallSaysSo() = runBlocking<Unit> {
        val engine = open()
        val context = engine.read("t", "t", "A short text about nothing.")
        engine.close()
        engine.close()
        val closed = assertFailsWith<PalimpsestException.Closed> { engine.ask("a?") }
        assertTrue("open it again" in closed.message!!)
        assertFailsWith<PalimpsestException.Closed> { engine.status() }
        assertFailsWith<PalimpsestException.Closed> { engine.stream("a?").toList() }
        assertFailsWith<PalimpsestException.Closed> { engine.ingest(".") }
        assertFailsWith<PalimpsestException.Closed> { context.ask("a?") }
        open().use {
            val again = it.openContext("t")
            again.close()
            assertFailsWith<PalimpsestException.Closed> { again.status() }
        }
    }
}
