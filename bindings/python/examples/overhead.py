"""What streaming costs beside decoding: python overhead.py READER_FOLDER

Answers in the reader's own words are 128 tokens long when its form has no end. Such an answer is awaited whole and streamed, in
turn: what streaming takes longer is what it costs, waking up and the processor's time that it takes from decoding included.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from palimpsest import Answer, AskEvent, AskOptions, Engine, Token

QUESTION = "What is the capital of Kenya?"


def without_an_end(reader: Path, folder: Path) -> Path:
    for file in reader.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    form = json.loads((reader / "reader.json").read_text())
    form["prompt"].pop("end", None)
    form["prompt"].pop("none", None)
    form["prompt"].pop("start", None)
    (folder / "reader.json").unlink()
    (folder / "reader.json").write_text(json.dumps(form))
    return folder


async def whole(engine: Engine, options: AskOptions) -> tuple[float, Answer]:
    began = time.perf_counter()
    answer = await engine.ask(QUESTION, options)
    return (time.perf_counter() - began) * 1e3, answer


async def streamed(engine: Engine, options: AskOptions) -> tuple[float, list[AskEvent]]:
    began = time.perf_counter()
    events = [event async for event in engine.stream(QUESTION, options)]
    return (time.perf_counter() - began) * 1e3, events


async def main(reader: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as store:
        async with Engine.open(store, without_an_end(reader, Path(folder))) as engine:
            await engine.put("kenya", "Kenya", "Nairobi is the capital of Kenya, and Lake Victoria lies in the west.")
            options = AskOptions(free=True, min_confidence=0.0, passages=1)
            longer, decoding = [], []
            for turn in range(160):
                # Each is the first every second time.
                if turn % 2 == 0:
                    alone_ms, answer = await whole(engine, options)
                streamed_ms, events = await streamed(engine, options)
                if turn % 2 == 1:
                    alone_ms, answer = await whole(engine, options)
                longer.append(streamed_ms - alone_ms)
                decoding.append(answer.timings_ms.answer)
            decoding_ms, pieces = median(decoding[10:]), sum(isinstance(event, Token) for event in events)
            low, middle, high = (ms / decoding_ms for ms in quantiles(longer[10:], n=4))
            print(f"Python: {decoding_ms:.0f} ms of decoding in {pieces} pieces, streamed {middle:+.2%} ({low:+.2%} to {high:+.2%})")


asyncio.run(main(Path(sys.argv[1])))
