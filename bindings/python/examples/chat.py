"""A chat over a folder of documents: python chat.py FOLDER [READER]"""

import asyncio
import sys
import tempfile
from pathlib import Path

from palimpsest import Cited, Done, Engine, PalimpsestError, Reading, Token


async def answer(engine: Engine, question: str) -> None:
    first = True
    async for event in engine.stream(question):
        match event:
            case Reading(tokens_read=read, tokens_restored=restored, tokens_total=total):
                print(f"\r  reading {read + restored} of {total} tokens ", end="", file=sys.stderr, flush=True)
            case Token(text=piece):
                print(("\r\033[K" if first else "") + piece, end="", flush=True)
                first = False
            case Cited(citation=place):
                print(f"\n  {place.title} [{place.start}..{place.end}]: “{place.quote}”")
            case Done(answer=whole) if whole.answer is None:
                print("\r\033[KThese documents do not say. Nearest:")
                for place in whole.nearest[:3]:
                    print(f"  {place.title}: “{place.quote}”")


async def main(folder: Path, reader: str | None) -> None:
    store = Path(tempfile.gettempdir()) / "palimpsest-chat"
    async with Engine.open(store, reader) as engine:
        report = await engine.ingest(folder)
        print(f"{report.added} documents added, {report.unchanged} unchanged. Ask; an empty line ends it.")
        while question := (await asyncio.to_thread(input, "> ")).strip():
            try:
                await answer(engine, question)
            except PalimpsestError as error:
                print(error, file=sys.stderr)


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
    except (EOFError, KeyboardInterrupt):
        pass
    except IndexError:
        sys.exit(__doc__)
    except PalimpsestError as error:
        sys.exit(str(error))
