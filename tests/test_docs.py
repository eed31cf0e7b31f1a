"""Docs cannot drift: generated parts are up to date, Python blocks run, commands and files named in them exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hierlandmark.chats import read_chats
from hierlandmark.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list:
    """Fenced blocks of the docs as test parameters, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            if match[1] in languages:
                line = text[: match.start()].count("\n") + 2
                found.append(pytest.param(match[2], page, line, id=f"{page.name}:{line}"))
    return found


def test_generated_parts_are_up_to_date() -> None:
    generated = [str(page) for page in PAGES if "[[[cog" in page.read_text(encoding="utf-8")]
    command = [sys.executable, "-m", "cogapp", "--check", *generated]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"run `make docs`\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(("code", "page", "line"), blocks("python"))
def test_python_block_runs(code: str, page: Path, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hierlandmark.model import LandmarkModel
    from hierlandmark.testing import tiny_model

    # blocks show the default model; a tiny one proves that they run
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda *_, **__: tiny_model())
    monkeypatch.chdir(tmp_path)
    # blank lines ahead, so that a traceback shows the line of the page
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(("code", "page", "line"), blocks("sh", "bash", "console"))
def test_commands_and_targets_exist(code: str, page: Path, line: int) -> None:
    root = typer.main.get_command(app)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in (line.split() for line in code.splitlines()):
        if words[:1] == ["make"]:
            assert words[1] in targets
        if words[:1] == ["hierlandmark"]:
            command = root.commands[words[1]]
            command = command.commands[words[2]] if words[1] == "eval" else command
            known = {name for one in command.params for name in one.opts}
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= known


def test_every_command_has_a_section() -> None:
    root = typer.main.get_command(app)
    names = [name for name in root.commands if name != "eval"]
    names += [f"eval {name}" for name in root.commands["eval"].commands]
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(names) <= set(headings)


def test_the_chat_file_shown_is_one(tmp_path: Path) -> None:
    shown = next(block for block in blocks("json") if block.values[1].name == "README.md")
    path = tmp_path / "c.jsonl"
    path.write_text(shown.values[0])
    assert len(list(read_chats(path))) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_sections_that_are_cited_exist() -> None:
    numbers = set(re.findall(r"^## (\d)\. ", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.MULTILINE))
    files = [ROOT / "pyproject.toml", *(ROOT / "hierlandmark").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    cited = {
        (path.name, number)
        for path in files
        for number in re.findall(r"docs/design\.md, section (\d)", path.read_text(encoding="utf-8"))
    }
    assert cited and {number for _, number in cited} <= numbers, cited


def test_where_transformers_is_imported_is_said() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    importing = re.compile(r"^( *)(?:from|import) transformers\b", re.MULTILINE)
    for path in (ROOT / "hierlandmark").rglob("*.py"):
        indents = importing.findall(path.read_text(encoding="utf-8"))
        assert all(indents), f"{path} imports transformers when it is imported"
        name = path.relative_to(ROOT / "hierlandmark").as_posix()
        assert bool(indents) == (f"`{name}`" in page.split("transformers is imported in")[1].split(", each time")[0])


def test_changelog_names_this_version() -> None:
    import hierlandmark

    assert f"## {hierlandmark.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
