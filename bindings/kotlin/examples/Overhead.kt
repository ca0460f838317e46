// What streaming costs beside decoding: Overhead READER_FOLDER. As bindings/python/examples/overhead.py, which says how.
package palimpsest.examples

import java.io.File
import java.nio.file.Files
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import palimpsest.AskEvent
import palimpsest.AskOptions
import palimpsest.Engine
import palimpsest.ReaderSource

private const val QUESTION = "What is the capital of Kenya?"

private fun withoutAnEnd(reader: File, folder: File): File {
    for (file in reader.listFiles()!!) {
        val copy = File(folder, file.name)
        if (file.name != "reader.json") file.copyRecursively(copy)
        else copy.writeText(file.readText().replace(Regex(""",\s*"(end|none|start)"\s*:\s*"[^"]*""""), ""))
    }
    return folder
}

private val options = AskOptions(free = true, minConfidence = 0f, passages = 1u)

private suspend fun whole(engine: Engine): Pair<Double, Double> {
    val began = System.nanoTime()
    val answer = engine.ask(QUESTION, options)
    return (System.nanoTime() - began) / 1e6 to answer.timingsMs.answer
}

private suspend fun streamed(engine: Engine): Pair<Double, Int> {
    val began = System.nanoTime()
    val events = engine.stream(QUESTION, options).toList()
    return (System.nanoTime() - began) / 1e6 to events.count { it is AskEvent.Token }
}

private fun List<Double>.part(quarters: Int) = sorted()[size * quarters / 4]

fun main(args: Array<String>) = runBlocking {
    val folder = withoutAnEnd(File(args[0]), Files.createTempDirectory("reader").toFile())
    Engine.open(Files.createTempDirectory("store").toString(), ReaderSource.Path(folder.path)).use { engine ->
        engine.put("kenya", "Kenya", "Nairobi is the capital of Kenya, and Lake Victoria lies in the west.")
        val longer = mutableListOf<Double>()
        val decoding = mutableListOf<Double>()
        var pieces = 0
        repeat(160) { turn ->
            // Each is the first every second time.
            val before = if (turn % 2 == 0) whole(engine) else null
            val (streamedMs, told) = streamed(engine)
            val (aloneMs, decodingMs) = before ?: whole(engine)
            pieces = told
            longer += streamedMs - aloneMs
            decoding += decodingMs
        }
        val decodingMs = decoding.drop(10).part(2)
        val (low, middle, high) = (1..3).map { 100 * longer.drop(10).part(it) / decodingMs }
        println("Kotlin: %.0f ms of decoding in %d pieces, streamed %+.2f%% (%+.2f%% to %+.2f%%)".format(decodingMs, pieces, middle, low, high))
    }
    folder.deleteRecursively()
    Unit
}
