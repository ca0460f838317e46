"""The engine and its contexts, in Python's idiom over the generated module."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Optional, TypeVar, Union

from . import _ffi
from ._metadata import Plain, values

Path = Union[str, "os.PathLike[str]"]
Source = Union[Path, bytes, _ffi.ReaderSource]
T = TypeVar("T")


async def _whole(job: Any, work: Awaitable[T]) -> T:
    """Sees a job to its end; when that fails, or the task is cancelled, the job is too, which Rust does not see by itself."""
    try:
        return await work
    except BaseException:
        job.cancel()
        raise


async def _told(job: Any, on_progress: Callable[[Any], object] | None) -> Any:
    while on_progress is not None and (progress := await job.next()) is not None:
        on_progress(progress)
    return await job.result()


def _source(reader: Source | None) -> _ffi.ReaderSource | None:
    if reader is None or isinstance(reader, _ffi.ReaderSource):
        return reader
    if isinstance(reader, (bytes, bytearray, memoryview)):
        return _ffi.ReaderSource.BYTES(bytes(reader))
    return _ffi.ReaderSource.PATH(os.fspath(reader))


class Opening:
    """An engine that is being opened: `await` it, or use it with `async with`."""

    def __init__(self, options: _ffi.EngineOptions) -> None:
        self._options = options
        self._engine: Optional[Engine] = None

    def __await__(self) -> Generator[Any, None, Engine]:
        return self._open().__await__()

    async def _open(self) -> Engine:
        return Engine(await _ffi.open_engine(self._options))

    async def __aenter__(self) -> Engine:
        self._engine = await self._open()
        return self._engine

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._engine is not None
        await self._engine.close()


class Engine:
    """Documents, a reader, and what it remembers of them. After `close` every call raises `PalimpsestError.Closed`."""

    def __init__(self, handle: _ffi.EngineHandle) -> None:
        self._handle = handle

    @staticmethod
    def open(
        store: Path,
        reader: Source | None = None,
        *,
        device: _ffi.Device | None = None,
        threads: int | None = None,
        weights: _ffi.Weights | None = None,
        snapshot_budget_bytes: int | None = None,
        snapshot_form: _ffi.SnapshotForm | None = None,
        language: str | None = None,
    ) -> Opening:
        """Opens the engine whose index and snapshots lie in the folder `store`, which is made when absent. Delete it and
        nothing but time is lost.

        `reader` is a folder, a tar archive of one, or the bytes of such an archive; `ReaderSource.DESCRIPTOR` names one within
        an open file. Without, it is looked for as during development. `threads` are those it reads with, all processors
        without; `weights` what its matrices are kept as in memory; `snapshot_budget_bytes` what snapshots may take on disk,
        `snapshot_form` how they are written down. `language` is that of a new store's documents, English without.
        """
        return Opening(
            _ffi.EngineOptions(
                store=os.fspath(store),
                reader=_source(reader),
                device=device,
                threads=threads,
                weights=weights,
                snapshot_budget_bytes=snapshot_budget_bytes,
                snapshot_form=snapshot_form,
                language=language,
            )
        )

    async def ingest(
        self,
        *paths: Path,
        metadata: Mapping[str, Plain] | None = None,
        fields: _ffi.FieldMap | None = None,
        on_progress: Callable[[_ffi.IngestProgress], object] | None = None,
    ) -> _ffi.IngestReport:
        """Brings files and folders in, and what was ingested below them before in step with them: only what changed is
        read. `metadata` is kept with every document that is brought in, beside what was kept with it before; by `fields` tables
        become a document a record. `on_progress` is told, some times a second, how far it is; what it raises ends the work and
        comes out here."""
        options = _ffi.IngestOptions(metadata=values(metadata or {}), fields=fields)
        job = self._handle.ingest([os.fspath(path) for path in paths], options)
        report: _ffi.IngestReport = await _whole(job, _told(job, on_progress))
        return report

    async def put(self, id: str, title: str, text: str, metadata: Mapping[str, Plain] | None = None) -> _ffi.IngestReport:
        """Adds a text, or replaces the one of the same id. `metadata` is what `search` and `ask` can filter by."""
        return await self.put_all([_ffi.TextDocument(id=id, title=title, text=text, metadata=values(metadata or {}))])

    async def put_all(self, documents: Iterable[_ffi.TextDocument]) -> _ffi.IngestReport:
        """Adds texts, or replaces those of the same ids."""
        return await self._handle.put(list(documents))

    async def forget(self, document: Path) -> None:
        """Forgets the document with this id or path."""
        await self._handle.forget(os.fspath(document))

    async def document(self, document: Path) -> _ffi.Document:
        """The document with this id or path, with its text."""
        return await self._handle.document(os.fspath(document))

    async def documents(self) -> list[_ffi.DocumentSummary]:
        """All documents, without their texts."""
        return await self._handle.documents()

    async def search(self, query: str, limit: int = 10, filter: _ffi.Filter | None = None) -> list[_ffi.Hit]:
        """The passages that match `query` best, among the documents that meet `filter`."""
        return await self._handle.search(query, _ffi.SearchOptions(limit=limit, filter=filter))

    async def ask(self, question: str, options: _ffi.AskOptions | None = None) -> _ffi.Answer:
        """Answers `question` from the documents."""
        job = self._handle.ask(question, options or _ffi.AskOptions())
        return await _whole(job, job.result())

    async def ask_many(self, questions: Iterable[str], options: _ffi.AskOptions | None = None) -> list[_ffi.Answer]:
        """Answers many questions from the documents, each as `ask` does: they share the weights and the passages that are
        read."""
        job = self._handle.ask_many(list(questions), options or _ffi.AskOptions())
        return await _whole(job, job.result())

    def stream(self, question: str, options: _ffi.AskOptions | None = None) -> Stream:
        """Answers `question`, with what happens on the way: `async for event in engine.stream(...)`. Leaving the loop early
        ends the work."""
        return Stream(self._handle.ask(question, options or _ffi.AskOptions()))

    async def read(
        self, name: str, title: str, text: str, *, on_progress: Callable[[_ffi.ReadProgress], object] | None = None
    ) -> Context:
        """Reads `text` once into a new context called `name`, to be asked many questions. Cancelled, the context keeps what
        was read: `open_context`, then `Context.read_on`."""
        job = self._handle.read_text(name, title, text)
        return Context(await _whole(job, _told(job, on_progress)))

    async def read_file(
        self,
        name: str,
        path: Path,
        title: str | None = None,
        *,
        on_progress: Callable[[_ffi.ReadProgress], object] | None = None,
    ) -> Context:
        """As `read`, from a file of plain text in UTF-8 of any length. A context that is there is taken up where it was; where
        the file holds another text by now, reading begins at the first section that changed, once every question to the old one
        was taken back."""
        job = self._handle.read_file(name, os.fspath(path), title)
        return Context(await _whole(job, _told(job, on_progress)))

    async def open_context(self, name: str) -> Context:
        """The context called `name`."""
        return Context(await self._handle.open_context(name))

    async def import_context(self, name: str, data: bytes) -> Context:
        """Makes `name` the context that `Context.export` gave. On another machine, or with another reader of the same
        tokenizer, its state is read again from the text."""
        return Context(await self._handle.import_context(name, data))

    async def contexts(self) -> list[str]:
        """The names of all contexts, in order."""
        return await self._handle.contexts()

    async def drop_context(self, name: str) -> None:
        """Removes the context `name` and all it kept."""
        await self._handle.drop_context(name)

    async def status(self) -> _ffi.Status:
        """What it holds."""
        return await self._handle.status()

    async def model_info(self) -> _ffi.ModelInfo:
        """What its reader is. Loads it, as the first question does."""
        return await self._handle.model_info()

    async def verify(self, repair: bool = False) -> _ffi.Verified:
        """Compares every byte of the store with what was written; with `repair`, snapshots that are not whole are removed."""
        return await self._handle.verify(repair)

    async def trim_memory(self) -> int:
        """Lets go of memory that can be had again. The next question takes as long as the first. Returns the bytes of weights
        that were let go."""
        return await self._handle.trim_memory()

    async def close(self) -> None:
        """Cancels what is under way, waits until it has ended and lets go of the store. Closing twice is closing once."""
        await self._handle.shut()


class Stream(AsyncIterator[_ffi.AskEvent]):
    """The events of one question. Dropped, left early, or after `cancel`, the work ends. `async with` ends it at a place of your
    choice."""

    def __init__(self, job: _ffi.AskJob) -> None:
        self._job = job

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> _ffi.AskEvent:
        event = await _whole(self._job, self._job.next())
        if event is None:
            raise StopAsyncIteration
        return event

    def cancel(self) -> None:
        """Ends the work; the next event is then `PalimpsestError.Cancelled`."""
        self._job.cancel()

    async def aclose(self) -> None:
        """As `cancel`; `contextlib.aclosing` calls it."""
        self.cancel()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.cancel()

    async def answer(self) -> _ffi.Answer:
        """The whole answer, once there is one."""
        return await _whole(self._job, self._job.result())

    def __del__(self) -> None:
        self._job.cancel()


class Context:
    """One long text, read once and kept in the store: ask it, ask on, take turns back, fork it, carry it away.

    Calls on one context come one after another, whoever makes them."""

    def __init__(self, handle: _ffi.ContextHandle) -> None:
        self._handle = handle

    async def __aenter__(self) -> Context:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What it is called."""
        return self._handle.name()

    async def read_on(self, *, on_progress: Callable[[_ffi.ReadProgress], object] | None = None) -> Context:
        """Goes on reading where a cancelled reading stopped."""
        job = self._handle.read_on()
        return Context(await _whole(job, _told(job, on_progress)))

    async def ask(self, question: str) -> _ffi.ContextAnswer:
        """Asks the text; question and answer become part of what the next question is asked after."""
        job = self._handle.ask(question)
        return await _whole(job, job.result())

    async def undo(self, turns: int = 1) -> _ffi.ContextStatus:
        """Takes back the last questions."""
        return await self._handle.undo(turns)

    async def fork(self, name: str) -> Context:
        """Copies it under another name: both go on from here on their own."""
        return Context(await self._handle.fork(name))

    async def export(self) -> bytes:
        """The whole context: text, turns and state, with a checksum. `Engine.import_context` takes it."""
        return await self._handle.export()

    async def status(self) -> _ffi.ContextStatus:
        """Its sizes."""
        return await self._handle.status()

    async def turns(self) -> list[_ffi.Turn]:
        """The questions asked so far and not taken back."""
        return await self._handle.turns()

    def close(self) -> None:
        """Lets go of the context, which stays in the store."""
        self._handle.shut()
