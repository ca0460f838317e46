"""Read once, ask for ever: answers over your own documents, offline, with citations checked byte for byte.

    import asyncio
    from palimpsest import Engine

    async def main():
        async with Engine.open("notes.store", reader="reader.tar") as engine:
            await engine.ingest("notes")
            answer = await engine.ask("When is the lease due?")
            print(answer.answer or "not in these documents")

    asyncio.run(main())

Every method is a coroutine and holds up nothing; cancelling its task ends the work behind it. Failures are subclasses of
`PalimpsestError`.
"""

from typing import TypeAlias

from ._engine import Context, Engine, Opening, Stream
from ._ffi import (
    Answer,
    AskEvent,
    AskOptions,
    Citation,
    ContextAnswer,
    ContextStatus,
    Device,
    Document,
    DocumentSummary,
    FailedFile,
    FieldMap,
    Filter,
    Hit,
    IngestProgress,
    IngestReport,
    ModelInfo,
    PalimpsestError,
    ReaderSource,
    ReadProgress,
    SnapshotForm,
    Status,
    TextDocument,
    Tier,
    Timings,
    Turn,
    Value,
    Verified,
    Weights,
)
from ._metadata import all_of, any_of, between, is_not, where

#: The events of `Engine.stream`, to match on: `case Token(text=piece): ...`.
Retrieved: TypeAlias = AskEvent.RETRIEVED
Reading: TypeAlias = AskEvent.READING
Token: TypeAlias = AskEvent.TOKEN
Cited: TypeAlias = AskEvent.CITED
Done: TypeAlias = AskEvent.DONE

__all__ = [
    "Answer", "AskEvent", "AskOptions", "Citation", "Cited", "Context", "ContextAnswer", "ContextStatus", "Device", "Document",
    "DocumentSummary", "Done", "Engine", "FailedFile", "FieldMap", "Filter", "Hit", "IngestProgress", "IngestReport", "ModelInfo",
    "Opening", "PalimpsestError", "ReadProgress", "ReaderSource", "Reading", "Retrieved", "SnapshotForm", "Status", "Stream", "TextDocument",
    "Tier", "Timings", "Token", "Turn", "Value", "Verified", "Weights", "all_of", "any_of", "between", "is_not", "where",
]
