"""The story that is told in every language: ingest, ask, stream, cancel, go wrong, ask a hundred times, fork and undo, close."""

import asyncio
import gc
import os
from pathlib import Path

import pytest

from conftest import DOCUMENTS, READER
from palimpsest import (
    AskEvent,
    AskOptions,
    Cited,
    Done,
    Engine,
    PalimpsestError,
    Reading,
    ReaderSource,
    Retrieved,
    TextDocument,
    Token,
    between,
    is_not,
    where,
)

QUESTION = "When did the Antarctic Treaty enter into force?"
LONG = (DOCUMENTS / "kenya.md").read_text()[:12_000]


def check(answer, documents):
    """Every citation stands in its source, byte for byte, and the answer in one of the quotes."""
    assert answer.answer is not None and any(answer.answer in c.quote for c in answer.citations)
    for c in answer.citations:
        assert documents[c.document].text.encode()[c.start : c.end] == c.quote.encode()
        if c.path is not None and c.path.endswith((".txt", ".md")):
            assert Path(c.path).read_bytes()[c.start : c.end] == c.quote.encode()


def test_documents_go_in_and_are_asked(tmp_path):
    async def story():
        async with Engine.open(tmp_path, READER) as engine:
            told = []
            report = await engine.ingest(DOCUMENTS, on_progress=told.append)
            assert report.added == len(list(DOCUMENTS.glob("*.*"))) - report.ignored and not report.failed
            assert told and told[-1].files_done == told[-1].files_total
            again = await engine.ingest(str(DOCUMENTS))
            assert (again.added, again.unchanged) == (0, report.added)
            answer = await engine.ask(QUESTION)
            assert answer.answer == "1961" and 0 < answer.confidence <= 1
            check(answer, {c.document: await engine.document(c.document) for c in answer.citations})
            warm = await engine.ask(QUESTION)
            assert warm.answer == answer.answer and warm.tokens_restored > 0 and warm.confidence == answer.confidence
            status = await engine.status()
            assert status.documents == report.added == len(await engine.documents()) and status.snapshots > 0
            hits = await engine.search("capital of Kenya", limit=3)
            assert 0 < len(hits) <= 3 and hits[0].score >= hits[-1].score
            info = await engine.model_info()
            assert info.parameters > 0 and info.state_bytes > 0 and info.weights in ("f32", "bf16", "int8")
            assert (await engine.verify()).whole
            assert await engine.trim_memory() > 0
            assert (await engine.ask(QUESTION)).answer == "1961"
            await engine.forget(DOCUMENTS / "antarctica.txt")
            assert (await engine.status()).documents == report.added - 1

    asyncio.run(story())


def test_texts_have_metadata_that_is_filtered_by(tmp_path):
    async def story():
        async with Engine.open(tmp_path, READER) as engine:
            await engine.put("lease", "Lease", "The lease of the flat is due on 3 May 2031.", {"year": 2031, "kind": "flat"})
            old = TextDocument(id="old", title="Lease", text="The lease of the garage was due on 1 March 2019.", metadata={})
            report = await engine.put_all([old])
            assert report.added == 1
            assert (await engine.put("lease", "Lease", "The lease of the flat is due on 3 May 2031.", {"year": 2031, "kind": "flat"})).unchanged == 1
            found = await engine.search("lease", filter=where(kind="flat"))
            assert [h.document for h in found] == ["lease"]
            assert await engine.search("lease", filter=between("year", 2032)) == []
            assert [h.document for h in await engine.search("lease", filter=is_not(between("year", None, 2040)))] == ["old"]
            answer = await engine.ask("When is the lease due?", AskOptions(filter=where(kind="flat"), min_confidence=0.0))
            assert all(c.document == "lease" and c.path is None for c in answer.citations + answer.nearest)
            with pytest.raises(TypeError):
                await engine.put("x", "x", "x", {"bad": [1]})

    asyncio.run(story())


def test_an_answer_streams(engine_test):
    async def story(engine):
        events = [event async for event in engine.stream(QUESTION)]
        kinds = [type(event) for event in events]
        order = [Retrieved, Reading, Token, Cited, Done]
        assert sorted(kinds, key=order.index) == kinds and set(kinds) == set(order)
        done = events[-1]
        assert "".join(e.text for e in events if isinstance(e, Token)) == done.answer.answer == "1961"
        match events[0]:
            case Retrieved(hits=hits):
                assert hits
            case _:
                raise AssertionError(events[0])
        assert (await engine.stream(QUESTION).answer()).answer == "1961"

    engine_test(story)


def test_cancelling_ends_the_work(tmp_path):
    async def story():
        async with Engine.open(tmp_path, READER) as engine:
            await engine.ingest(DOCUMENTS)
            # Left after the first event.
            async for event in engine.stream(QUESTION):
                assert isinstance(event, AskEvent)
                break
            # By hand.
            stream = engine.stream(QUESTION)
            stream.cancel()
            with pytest.raises(PalimpsestError.Cancelled):
                async for _ in stream:
                    pass
            # As tasks are: half-way through a long reading, whose part is kept and read on.
            half_way = asyncio.Event()
            reading = asyncio.create_task(engine.read("long", "Kenya", LONG, on_progress=lambda p: half_way.set()))
            await half_way.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            context = await engine.open_context("long")
            part = await context.status()
            assert part.tokens > 0 and part.tokens_left > 0
            with pytest.raises(PalimpsestError.Input):
                await context.ask("What is the capital of Kenya?")
            await context.read_on()
            assert (await context.status()).tokens_left == 0
            # What is under way when the engine is closed.
            left = asyncio.create_task(engine.ask(QUESTION))
            await asyncio.sleep(0)
        with pytest.raises(PalimpsestError.Cancelled):
            await left
        # And the store opens again at once.
        async with Engine.open(tmp_path, READER) as engine:
            assert "long" in await engine.contexts()

    asyncio.run(story())


def test_errors_say_what_to_do(tmp_path, engine_test):
    async def story(engine):
        with pytest.raises(PalimpsestError.Input, match="no document"):
            await engine.forget("nothing of that name")
        with pytest.raises(PalimpsestError.Input):
            await engine.ask("   ")
        with pytest.raises(PalimpsestError.Input):
            await engine.read("../outside", "t", "t")
        with pytest.raises(PalimpsestError.Input):
            await engine.import_context("damaged", b"no context at all")
        report = await engine.ingest(tmp_path / "not there")
        assert len(report.failed) == 1 and report.failed[0].reason

    engine_test(story)

    async def opened(reader, error):
        async with Engine.open(tmp_path / "store", reader) as engine:
            await engine.put("a", "a", "Something to read.")
            with pytest.raises(error):
                await engine.ask("What is there to read?")

    (tmp_path / "empty").mkdir()
    asyncio.run(opened(tmp_path / "empty", PalimpsestError.Reader))
    with pytest.raises(PalimpsestError.Reader, match="tar"):
        asyncio.run(opened(b"no archive", PalimpsestError.Reader))
    with pytest.raises(PalimpsestError.Input, match="descriptor"):
        asyncio.run(opened(ReaderSource.DESCRIPTOR(987654, 0, None), PalimpsestError.Reader))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PalimpsestError.Store):
        asyncio.run(opened_at(tmp_path / "file" / "store"))
    assert issubclass(PalimpsestError.Busy, PalimpsestError)


async def opened_at(store):
    async with Engine.open(store, READER):
        pass


def test_a_reader_is_a_folder_an_archive_a_stretch_of_a_file_or_bytes(tmp_path, archive):
    package = tmp_path / "package"
    whole = archive.read_bytes()
    package.write_bytes(b"before" * 100 + whole + b"after" * 100)
    with package.open("rb") as file:
        stretch = ReaderSource.DESCRIPTOR(os.dup(file.fileno()), 600, len(whole))

    async def fingerprint(number, reader):
        async with Engine.open(tmp_path / str(number), reader) as engine:
            return (await engine.model_info()).fingerprint

    sources = [READER, archive, whole, ReaderSource.PATH(str(archive)), stretch]
    found = {asyncio.run(fingerprint(n, source)) for n, source in enumerate(sources)}
    assert len(found) == 1
    os.close(stretch.fd)


def test_a_hundred_questions_at_once(engine_test):
    questions = [QUESTION, "What is the capital of Kenya?", "In what year did Finland gain complete independence?", "Who?"]

    async def story(engine):
        alone = [await engine.ask(q) for q in questions]
        together = await asyncio.gather(*(engine.ask(questions[n % 4]) for n in range(100)))
        for n, answer in enumerate(together):
            assert (answer.answer, answer.confidence) == (alone[n % 4].answer, alone[n % 4].confidence)

    engine_test(story)


def test_contexts_are_kept_forked_taken_back_and_carried_away(tmp_path):
    async def story():
        text = LONG
        async with Engine.open(tmp_path / "one", READER) as engine:
            told = []
            context = await engine.read("kenya", "Kenya", text, on_progress=told.append)
            assert told[-1].tokens_done == told[-1].tokens_total
            first = await context.ask("What is the capital of Kenya?")
            assert first.answer is None or text.encode()[first.start : first.end].decode() == first.answer
            after = await context.status()
            copy = await context.fork("copy")
            await copy.ask("And the population?")
            assert (len(await copy.turns()), len(await context.turns())) == (2, 1)
            assert (await copy.undo()).turns == 1
            assert (await copy.status()).tokens == after.tokens
            with pytest.raises(PalimpsestError.Input):
                await copy.undo(5)
            blob = await context.export()
            assert await engine.contexts() == ["copy", "kenya"]
            await engine.drop_context("copy")
            with pytest.raises(PalimpsestError.Closed):
                await copy.status()
            same = await engine.open_context("kenya")
            again = await same.ask("What is the capital of Kenya?")
            assert len(await context.turns()) == 2, "both handles are to one context"
        async with Engine.open(tmp_path / "two", READER) as engine:
            async with await engine.import_context("kenya", blob) as carried:
                assert (await carried.status()).tokens_left == 0
                assert (await carried.turns())[0].answer == first.answer
                assert (await carried.ask("What is the capital of Kenya?")).answer == again.answer
            with pytest.raises(PalimpsestError.Input):
                await engine.import_context("kenya", blob)
            damaged = bytearray(blob)
            damaged[len(blob) // 2] ^= 1
            with pytest.raises(PalimpsestError.Input):
                await engine.import_context("other", bytes(damaged))

    asyncio.run(story())


def test_after_closing_every_call_says_so(tmp_path):
    async def story():
        engine = await Engine.open(tmp_path, READER)
        context = await engine.read("t", "t", "A short text about nothing.")
        await engine.close()
        await engine.close()
        for call in (engine.ask("a?"), engine.status(), engine.ingest("."), engine.open_context("t"), context.ask("a?")):
            with pytest.raises(PalimpsestError.Closed, match="open it again"):
                await call
        async with Engine.open(tmp_path, READER) as engine:
            context = await engine.open_context("t")
            context.close()
            with pytest.raises(PalimpsestError.Closed):
                await context.status()

    asyncio.run(story())
    gc.collect()
