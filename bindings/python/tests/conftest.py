"""One engine over examples/documents for all tests that only ask."""

import asyncio
import tarfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from palimpsest import Engine

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = ROOT / "examples/documents"
READER = ROOT / "models/reader-small"


@pytest.fixture
def engine_test(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Engine], Coroutine[Any, Any, None]]], None]:
    """Runs a coroutine with an engine that holds the documents. The store is shared; the engine is opened for each test."""
    store = tmp_path_factory.getbasetemp() / "store"

    def run(test: Callable[[Engine], Coroutine[Any, Any, None]]) -> None:
        async def with_engine() -> None:
            async with Engine.open(store, READER) as engine:
                await engine.ingest(DOCUMENTS)
                await test(engine)

        asyncio.run(with_engine())

    return run


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader that ships, in one archive."""
    path = tmp_path_factory.mktemp("archive") / "reader.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(READER, ".")
    return path
