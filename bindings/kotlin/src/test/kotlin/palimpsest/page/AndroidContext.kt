package palimpsest.page

import com.sun.jna.NativeLibrary
import java.io.File

/** What the page's lines for Android take of Android, by its names: a folder of the app, and a reader in its package. */
class AndroidContext(val filesDir: File, reader: File) {
    val assets = Assets(reader)

    class Assets(private val reader: File) {
        fun openFd(name: String) = Asset(File(reader, name))
    }

    class Asset(file: File) : AutoCloseable {
        private val libc = NativeLibrary.getInstance("c")
        val parcelFileDescriptor = Descriptor(libc.getFunction("open").invokeInt(arrayOf(file.path, 0)))
        val startOffset = 0L
        val length = file.length()

        override fun close() {
            libc.getFunction("close").invokeInt(arrayOf(parcelFileDescriptor.fd))
        }
    }

    class Descriptor(val fd: Int)
}
