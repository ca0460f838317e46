"""What is rarely met: who has to wait, what a machine lacks, what a host's own code raises, a panic inside."""

import asyncio
import json
import subprocess
import sys

import pytest

from conftest import DOCUMENTS, READER
from palimpsest import Device, Engine, FieldMap, PalimpsestError, SnapshotForm, _ffi, where

KENYA = "Nairobi is the capital of Kenya. " * 20


def test_who_comes_second_is_told_to_wait(tmp_path):
    async def story():
        async with Engine.open(tmp_path, READER) as engine, Engine.open(tmp_path, READER) as other:
            held = await engine.read("kenya", "Kenya", KENYA)
            looking = await other.open_context("kenya")
            assert (await looking.status()).tokens_left == 0, "it may look"
            with pytest.raises(PalimpsestError.Busy, match="in use"):
                await looking.ask("What is the capital of Kenya?")
            assert (await held.ask("What is the capital of Kenya?")).tokens_read > 0
            await engine.put("a", "a", "Something.")
            with pytest.raises(PalimpsestError.Busy):
                await other.put("b", "b", "Something else.")
            await engine.close()
            assert (await other.put("b", "b", "Something else.")).added == 1

    asyncio.run(story())


def test_another_process_is_told_to_wait(tmp_path):
    holder = f"""
import asyncio
from palimpsest import Engine
async def hold():
    async with Engine.open({str(tmp_path)!r}, {str(READER)!r}) as engine:
        await engine.put("a", "a", "Something.")
        print("held", flush=True)
        await asyncio.to_thread(input)
asyncio.run(hold())
"""
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "held\n"

        async def story():
            async with Engine.open(tmp_path, READER) as engine:
                with pytest.raises(PalimpsestError.Busy, match="another process"):
                    await engine.put("b", "b", "Something else.")
                process.communicate("\n")
                assert (await engine.put("b", "b", "Something else.")).added == 1

        asyncio.run(story())


def test_a_device_that_is_not_there_is_refused(tmp_path):
    async def story():
        async with Engine.open(tmp_path, READER, device=Device.CPU, threads=1) as engine:
            assert (await engine.model_info()).threads == 1
        async with Engine.open(tmp_path, READER, device=Device.CUDA) as engine:
            try:
                assert "cpu" not in (await engine.model_info()).device.lower(), "a GPU is here"
            except PalimpsestError.Device as error:
                assert str(error)

    asyncio.run(story())


def test_what_a_host_raises_comes_back_to_it_and_everything_goes_on(tmp_path):
    class Mine(Exception):
        pass

    def refuse(_):
        raise Mine("mine")

    async def story():
        async with Engine.open(tmp_path, READER) as engine:
            with pytest.raises(Mine, match="mine"):
                await engine.ingest(DOCUMENTS, on_progress=refuse)
            with pytest.raises(Mine):
                await engine.read("kenya", "Kenya", KENYA * 50, on_progress=refuse)
            part = await engine.open_context("kenya")
            assert (await part.status()).tokens_left > 0, "the reading has ended"
            await engine.ingest(DOCUMENTS)
            with pytest.raises(Mine):
                async with engine.stream("When did the Antarctic Treaty enter into force?") as stream:
                    async for event in stream:
                        refuse(event)
            with pytest.raises(PalimpsestError.Cancelled):
                await stream.answer()
            assert (await engine.ask("When did the Antarctic Treaty enter into force?")).answer == "1961"

    asyncio.run(story())


def test_a_panic_inside_is_an_error_and_everything_goes_on(tmp_path):
    async def story():
        for _ in range(3):
            with pytest.raises(PalimpsestError.Internal, match="rehearsal.*report"):
                await _ffi.rehearse_panic()
        async with Engine.open(tmp_path, READER) as engine:
            assert (await engine.put("a", "a", "Something.")).added == 1

    asyncio.run(story())


def test_tables_many_questions_and_a_file_that_grows(tmp_path):
    table = tmp_path / "stock.jsonl"
    table.write_text("".join(json.dumps({"sku": n, "about": f"The lamp costs {n} shillings.", "price": n}) + "\n" for n in (30, 90)))
    fields = FieldMap(text=["about"], id="sku", metadata=["price"])

    async def story():
        async with Engine.open(tmp_path / "store", READER, snapshot_form=SnapshotForm.F32, language="en") as engine:
            report = await engine.ingest(table, metadata={"shop": "north"}, fields=fields)
            assert report.added == 2
            assert len(await engine.search("lamp", filter=where(price=90, shop="north"))) == 1
            with pytest.raises(PalimpsestError.Input):
                await engine.ingest(table, fields=FieldMap(text=[]))
            answers = await engine.ask_many(["What does the lamp cost?", "Who?"])
            alone = await engine.ask("What does the lamp cost?")
            assert len(answers) == 2 and (answers[0].answer, answers[0].confidence) == (alone.answer, alone.confidence)
            file = tmp_path / "kenya.txt"
            file.write_text(KENYA)
            context = await engine.read_file("kenya", file)
            before = (await context.status()).content
            file.write_text(KENYA + "Its second city is Mombasa.")
            await engine.read_file("kenya", file)
            held = await engine.status()
            assert held.contexts == 1 and held.context_bytes > file.stat().st_size and not held.read_only
            status = await context.status()
            assert status.content != before and status.tokens_left == 0 and status.text_bytes == file.stat().st_size

    asyncio.run(story())
