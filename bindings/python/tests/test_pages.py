"""The page for newcomers and the sample chat do what they say, and their types hold."""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import palimpsest
from conftest import DOCUMENTS, READER, ROOT
from palimpsest import Engine

PACKAGE = ROOT / "bindings/python"
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", (PACKAGE / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A working folder like the root of the project, where the page's commands are run."""
    for folder in (READER, DOCUMENTS):
        link = tmp_path / folder.relative_to(ROOT)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(folder)
    (tmp_path / "report.txt").write_text("The revenue was 12 million shillings. The costs were 7 million shillings.\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_program_of_the_page_answers(checkout):
    (checkout / "first.py").write_text(SNIPPETS[0])
    done = subprocess.run([sys.executable, "first.py"], capture_output=True, text=True, check=True)
    assert "documents added" in done.stdout and "\n1961\n" in done.stdout and "antarctica.txt" in done.stdout, done.stdout


def test_the_other_snippets_run_one_after_another(checkout, capsys):
    async def story():
        async with Engine.open("store", READER) as engine:
            await engine.ingest(DOCUMENTS)
            space = {"engine": engine, "question": "   "}
            for snippet in SNIPPETS[1:]:
                code = compile(snippet, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                running = eval(code, space)
                if inspect.iscoroutine(running):
                    await running
            assert [hit.document for hit in space["hits"]] == ["note-7"]
            assert (await space["context"].status()).turns == 0 and await engine.contexts() == ["report", "what-if"]

    asyncio.run(story())
    assert "1917" in capsys.readouterr().out
    assert len(SNIPPETS) >= 5


def test_the_sample_chat_answers_with_citations(tmp_path):
    chat = [sys.executable, str(PACKAGE / "examples/chat.py")]
    talk = "When did the Antarctic Treaty enter into force?\nIn what year did Finland gain complete independence?\n\n"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([*chat, DOCUMENTS, READER], input=talk, env=environment, capture_output=True, text=True, check=True)
    assert "1961" in done.stdout and re.search(r"\[\d+\.\.\d+\]: “[^”]*1961[^”]*”", done.stdout), done.stdout
    assert "1917" in done.stdout and "tokens" in done.stderr
    refused = subprocess.run([*chat, DOCUMENTS, tmp_path / "nothing"], input=talk, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 or "nothing" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert subprocess.run(chat, capture_output=True).returncode == 1


def test_the_types_hold(tmp_path):
    pytest.importorskip("mypy", reason="mypy cannot be had here")
    installed = Path(palimpsest.__file__).parent
    assert (installed / "py.typed").exists() and (installed / "_ffi.pyi").exists()
    page = tmp_path / "page.py"
    imports = "\n".join(re.findall(r"^from palimpsest import .*", "\n".join(SNIPPETS), re.MULTILINE))
    functions = (
        f"async def snippet{n}(engine: Engine, question: str) -> None:\n{textwrap.indent(snippet, '    ')}"
        for n, snippet in enumerate(SNIPPETS[1:])
    )
    page.write_text(f"{imports}\n" + "\n".join(functions))
    (tmp_path / "first.py").write_text(SNIPPETS[0].replace("def main():", "def main() -> None:"))
    files = [page, tmp_path / "first.py", *sorted((PACKAGE / "examples").glob("*.py")), PACKAGE / "stubs.py"]
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    for what in (["-p", "palimpsest"], *([str(file)] for file in files)):
        done = subprocess.run([*mypy, *what], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_refuse_what_is_wrong(tmp_path):
    pytest.importorskip("mypy", reason="mypy cannot be had here")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from palimpsest import AskOptions, Engine, Filter, PalimpsestError, Value\n"
        "async def wrong(engine: Engine) -> None:\n"
        "    await engine.ask(3)\n"
        "    (await engine.ask('a?')).answers\n"
        "    AskOptions(budget='soon')\n"
        "    Filter.EQUALS('year', 3)\n"
        "    await engine.ingest('a', fields={'text': ['a']})\n"
        "    (await engine.status()).documents + 'a'\n"
        "    raise PalimpsestError.Unknown\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(wrong)], capture_output=True, text=True
    )
    assert {int(line) for line in re.findall(r"^[^:]*wrong\.py:(\d+): error", done.stdout, re.MULTILINE)} == set(range(3, 10)), done.stdout
