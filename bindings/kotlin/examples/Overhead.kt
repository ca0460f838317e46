// What streaming costs beside decoding: Overhead READER_FOLDER. As bindings/python/examples/overhead.py, which says how.
package palimpsest.examples

import java.io.File
import java.nio.file.Files
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.filterIsInstance
import kotlinx.coroutines.flow.map
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

private fun List<Double>.median() = sorted()[size / 2]

fun main(args: Array<String>) = runBlocking {
    val folder = withoutAnEnd(File(args[0]), Files.createTempDirectory("reader").toFile())
    Engine.open(Files.createTempDirectory("store").toString(), ReaderSource.Path(folder.path)).use { engine ->
        engine.put("kenya", "Kenya", "Nairobi is the capital of Kenya, and Lake Victoria lies in the west.")
        val options = AskOptions(free = true, minConfidence = 0f, passages = 1u)
        val border = mutableListOf<Double>()
        val decode = mutableListOf<Double>()
        var tokens = 0
        repeat(20) {
            // The first event is held until all the others wait.
            var began = 0L
            var events = 0
            engine.stream(QUESTION, options).collect {
                if (events++ == 0) {
                    delay(1500)
                    began = System.nanoTime()
                }
            }
            border += (System.nanoTime() - began) / 1e3 / (events - 1)
            val times = engine.stream("And the lake?", options).filterIsInstance<AskEvent.Token>().map { System.nanoTime() }.toList()
            tokens = times.size
            decode += (times.last() - times.first()) / 1e3 / (times.size - 1)
        }
        val (one, token) = border.drop(5).median() to decode.drop(5).median()
        println("Kotlin: %d tokens, %.1f us an event, %.0f us a token: %.2f%%".format(tokens, one, token, 100 * one / token))
    }
    folder.deleteRecursively()
    Unit
}
