// A chat over a folder of documents: Chat FOLDER [READER]
package palimpsest.examples

import java.io.File
import kotlin.system.exitProcess
import kotlinx.coroutines.runBlocking
import palimpsest.AskEvent
import palimpsest.Engine
import palimpsest.PalimpsestException
import palimpsest.ReaderSource

fun main(args: Array<String>) = runBlocking {
    val folder = args.firstOrNull() ?: run { System.err.println("Chat FOLDER [READER]"); exitProcess(2) }
    val store = File(System.getProperty("java.io.tmpdir"), "palimpsest-chat").path
    try {
        Engine.open(store, args.getOrNull(1)?.let { ReaderSource.Path(it) }).use { engine ->
            val report = engine.ingest(folder)
            println("${report.added} documents added, ${report.unchanged} unchanged. Ask; an empty line ends it.")
            while (true) {
                print("> ")
                val question = readlnOrNull()?.trim().orEmpty()
                if (question.isEmpty()) break
                try {
                    answer(engine, question)
                } catch (e: PalimpsestException) {
                    System.err.println(e.message)
                }
            }
        }
    } catch (e: PalimpsestException) {
        System.err.println(e.message)
        exitProcess(1)
    }
}

private suspend fun answer(engine: Engine, question: String) {
    var first = true
    engine.stream(question).collect { event ->
        when (event) {
            is AskEvent.Retrieved -> Unit
            is AskEvent.Reading ->
                System.err.print("\r  reading ${event.tokensRead + event.tokensRestored} of ${event.tokensTotal} tokens ")
            is AskEvent.Token -> {
                print(if (first) "\r\u001b[K${event.text}" else event.text)
                first = false
            }
            is AskEvent.Cited -> event.citation.run { println("\n  $title [$start..$end]: “$quote”") }
            is AskEvent.Done -> if (event.answer.answer == null) {
                println("\r\u001b[KThese documents do not say. Nearest:")
                event.answer.nearest.take(3).forEach { println("  ${it.title}: “${it.quote}”") }
            }
        }
    }
}
