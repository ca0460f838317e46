package palimpsest

import java.io.File
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotEquals
import kotlin.test.assertTrue
import kotlinx.coroutines.runBlocking

/** What is rarely met: who has to wait, what a machine lacks, what a host's own code throws, a panic inside. */
class FailuresTest {
    private val root = generateSequence(File("").absoluteFile) { it.parentFile }.first { File(it, "models/reader-small").isDirectory }
    private val documents = File(root, "examples/documents").path
    private val reader = ReaderSource.Path(File(root, "models/reader-small").path)
    private val folder: Path = Files.createTempDirectory("palimpsest")
    private val store = folder.resolve("store").toString()
    private val kenya = "Nairobi is the capital of Kenya. ".repeat(20)
    private val question = "When did the Antarctic Treaty enter into force?"

    private class Mine : Exception("mine")

    @AfterTest
    fun clean() {
        folder.toFile().deleteRecursively()
    }

    @Test
    fun whoComesSecondIsToldToWait() = runBlocking<Unit> {
        Engine.open(store, reader).use { engine ->
            Engine.open(store, reader).use { other ->
                val held = engine.read("kenya", "Kenya", kenya)
                val looking = other.openContext("kenya")
                assertEquals(0u, looking.status().tokensLeft, "it may look")
                val busy = assertFailsWith<PalimpsestException.Busy> { looking.ask("What is the capital of Kenya?") }
                assertTrue("in use" in busy.message!!)
                assertTrue(held.ask("What is the capital of Kenya?").tokensRead > 0u)
                engine.put("a", "a", "Something.")
                assertFailsWith<PalimpsestException.Busy> { other.put("b", "b", "Something else.") }
                engine.shut()
                assertEquals(1u, other.put("b", "b", "Something else.").added)
            }
        }
    }

    @Test
    fun aDeviceThatIsNotThereIsRefused() = runBlocking<Unit> {
        Engine.open(store, reader, Device.CPU, threads = 1).use { assertEquals(1u, it.modelInfo().threads) }
        Engine.open(store, reader, Device.CUDA).use {
            try {
                assertTrue("cpu" !in it.modelInfo().device.lowercase(), "a GPU is here")
            } catch (e: PalimpsestException.Device) {
                assertTrue(e.message!!.isNotEmpty())
            }
        }
    }

    @Test
    fun whatAHostThrowsComesBackToItAndEverythingGoesOn() = runBlocking<Unit> {
        Engine.open(store, reader).use { engine ->
            assertFailsWith<Mine> { engine.ingest(documents) { throw Mine() } }
            assertFailsWith<Mine> { engine.read("kenya", "Kenya", kenya.repeat(50)) { throw Mine() } }
            assertTrue(engine.openContext("kenya").status().tokensLeft > 0u, "the reading has ended")
            engine.ingest(documents)
            assertFailsWith<Mine> { engine.stream(question).collect { throw Mine() } }
            assertEquals("1961", engine.ask(question).answer)
        }
    }

    @Test
    fun aPanicInsideIsAnExceptionAndEverythingGoesOn() = runBlocking<Unit> {
        repeat(3) {
            val said = assertFailsWith<PalimpsestException.Internal> { rehearsePanic() }.message!!
            assertTrue("rehearsal" in said && "report" in said, said)
        }
        Engine.open(store, reader).use { assertEquals(1u, it.put("a", "a", "Something.").added) }
    }

    @Test
    fun tablesManyQuestionsAndAFileThatGrows() = runBlocking<Unit> {
        val table = folder.resolve("stock.csv")
        Files.writeString(table, "sku,about,price\n30,The lamp costs 30 shillings.,30\n90,The lamp costs 90 shillings.,90\n")
        val fields = FieldMap(text = listOf("about"), id = "sku", metadata = listOf("price"))
        Engine.open(store, reader, snapshotForm = SnapshotForm.F32, language = "en").use { engine ->
            assertEquals(2u, engine.ingest(table.toString(), metadata = metadataOf("shop" to "north"), fields = fields).added)
            assertEquals(1, engine.search("lamp", filter = where("price", 90) and where("shop", "north")).size)
            assertFailsWith<PalimpsestException.Input> { engine.ingest(table.toString(), fields = FieldMap(text = listOf())) }
            val answers = engine.askMany(listOf("What does the lamp cost?", "Who?"))
            val alone = engine.ask("What does the lamp cost?")
            assertEquals(2, answers.size)
            assertEquals(alone.answer to alone.confidence, answers[0].answer to answers[0].confidence)
            val file = Files.writeString(folder.resolve("kenya.txt"), kenya)
            val context = engine.readFile("kenya", file.toString())
            val before = context.status().content
            Files.writeString(file, kenya + "Its second city is Mombasa.")
            engine.readFile("kenya", file.toString())
            val status = context.status()
            assertNotEquals(before, status.content)
            assertEquals(Files.size(file).toULong() to 0uL, status.textBytes to status.tokensLeft)
        }
    }
}
