package palimpsest

import java.io.ByteArrayOutputStream
import java.io.File
import java.io.PrintStream
import java.nio.file.Files
import java.nio.file.Path
import kotlin.test.AfterTest
import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertTrue
import kotlinx.coroutines.runBlocking
import palimpsest.page.AndroidContext
import palimpsest.page.snippet2
import palimpsest.page.snippet3
import palimpsest.page.snippet4
import palimpsest.page.snippet5
import palimpsest.page.snippet6
import palimpsest.page.snippet7

/** The page for newcomers and the sample chat do what they say. `build.sh` takes the page's code from the page. */
class PagesTest {
    private val root = generateSequence(File("").absoluteFile) { it.parentFile }.first { File(it, "models/reader-small").isDirectory }
    private val folder: Path = Files.createTempDirectory("palimpsest")
    private val reader = File(root, "models/reader-small")

    @AfterTest
    fun clean() {
        folder.toFile().deleteRecursively()
    }

    private fun archive() {
        val tar = listOf("tar", "-cf", folder.resolve("reader.tar").toString(), "-C", reader.path, ".")
        assertEquals(0, ProcessBuilder(tar).start().waitFor())
    }

    /** What a program of these classes prints in [folder], given [input]. */
    private fun run(program: String, vararg arguments: String, input: String = ""): Pair<Int, String> {
        val java = File(System.getProperty("java.home"), "bin/java").path
        val path = System.getProperty("java.class.path").split(File.pathSeparator).joinToString(File.pathSeparator) { File(it).absolutePath }
        val library = "-Djna.library.path=" + File(System.getProperty("jna.library.path")).absolutePath
        val command = listOf(java, library, "-Djava.io.tmpdir=$folder", "-Dstdout.encoding=UTF-8", "-cp", path, program, *arguments)
        val process = ProcessBuilder(command).directory(folder.toFile()).redirectErrorStream(true).start()
        process.outputStream.use { it.write(input.toByteArray()) }
        val said = process.inputStream.readAllBytes().decodeToString()
        return process.waitFor() to said
    }

    @Test
    fun theFirstProgramOfThePageAnswers() {
        archive()
        // No link: `deleteRecursively` deletes what a link to a folder names.
        File(root, "examples/documents").copyRecursively(folder.resolve("examples/documents").toFile())
        val (status, said) = run("palimpsest.page.first.FirstKt")
        assertEquals(0, status, said)
        assertTrue("documents added" in said && "\n1961\n" in said && "antarctica.txt" in said, said)
    }

    @Test
    fun theOtherPiecesOfThePageRun() = runBlocking<Unit> {
        archive()
        val text = "The revenue was 12 million shillings. The costs were 7 million shillings."
        val android = AndroidContext(folder.toFile(), folder.toFile())
        val shown = mutableListOf<String?>()
        val (before, printed) = System.out to ByteArrayOutputStream()
        System.setOut(PrintStream(printed))
        try {
            Engine.open(folder.resolve("store").toString(), ReaderSource.Path(reader.path)).use { engine ->
                engine.ingest(File(root, "examples/documents").path)
                for (snippet in listOf(::snippet2, ::snippet3, ::snippet4, ::snippet5, ::snippet6, ::snippet7)) {
                    snippet(engine, android, text, "   ", shown::add) { throw AssertionError("nobody else is here") }
                }
                assertEquals(listOf("report", "what-if"), engine.contexts())
                assertEquals("note-7", engine.search("lease", filter = where("kind", "contract")).single().document)
            }
        } finally {
            System.setOut(before)
        }
        assertTrue("1917" in printed.toString(), printed.toString())
        assertEquals(1, shown.size, "the empty question is refused")
        assertTrue(folder.resolve("notes.store").toFile().isDirectory, "Android's lines opened an engine")
    }

    @Test
    fun theSampleChatAnswersWithCitations() {
        val talk = "When did the Antarctic Treaty enter into force?\nIn what year did Finland gain complete independence?\n\n"
        val (status, said) = run("palimpsest.examples.ChatKt", File(root, "examples/documents").path, reader.path, input = talk)
        assertEquals(0, status, said)
        assertTrue(Regex("""\[\d+\.\.\d+]: “[^”]*1961[^”]*”""").containsMatchIn(said), said)
        assertTrue("1917" in said && "tokens" in said, said)
        assertEquals(2, run("palimpsest.examples.ChatKt").first)
    }
}
