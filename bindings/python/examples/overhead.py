"""What streaming costs beside decoding: python overhead.py READER_FOLDER

Answers in the reader's own words are 128 tokens long when its form has no end: one event a token. Once all events of an answer
wait on Rust's side, picking them up is nothing but the border; decoding is timed by the engine's own clock.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from palimpsest import AskOptions, Engine, Token


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


async def main(reader: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as store:
        async with Engine.open(store, without_an_end(reader, Path(folder))) as engine:
            await engine.put("kenya", "Kenya", "Nairobi is the capital of Kenya, and Lake Victoria lies in the west.")
            options = AskOptions(free=True, min_confidence=0.0, passages=1)
            border, decode = [], []
            for round in range(12):
                stream = engine.stream("What is the capital of Kenya?", options)
                await stream.answer()
                began = time.perf_counter()
                events = [event async for event in stream]
                border.append((time.perf_counter() - began) / len(events))
                # As it comes: from the first token to the last.
                times = [time.perf_counter() async for event in engine.stream("And the lake?", options) if isinstance(event, Token)]
                decode.append((times[-1] - times[0]) / (len(times) - 1))
            border_us, decode_us = median(border[2:]) * 1e6, median(decode[2:]) * 1e6
            print(f"Python: {len(times)} tokens, {border_us:.1f} us an event, {decode_us:.0f} us a token: {border_us / decode_us:.2%}")


asyncio.run(main(Path(sys.argv[1])))
