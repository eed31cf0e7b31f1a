"""The example and the README's code run as they stand."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_hierlandmark import HierLandmarkChatMessageHistory

from hierlandmark import Memory

HERE = Path(__file__).parents[1]
EXAMPLE = HERE / "examples" / "chat_with_memory.py"


def test_example_remembers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example = runpy.run_path(str(EXAMPLE))
    db = tmp_path / "chat.db"
    for question in ("Where is the spare key?", "What may my sister not eat?"):
        example["main"]([question, "--db", str(db)])
        assert re.search(r"Found:\n.*\nAnswer:", capsys.readouterr().out, re.DOTALL)
    history = HierLandmarkChatMessageHistory(path=db, namespace="chat")
    assert len(history.messages) == len(example["SAID_BEFORE"]) + 4
    assert history.messages[-2].content == "What may my sister not eat?"
    history.memory.close()


async def test_example_chain_takes_any_chat_model(filled: Memory) -> None:
    example = runpy.run_path(str(EXAMPLE))
    chain = example["chat_chain"](filled, FakeListChatModel(responses=["Under the pot.", "In June."]), k=2)
    assert chain.invoke("Where is the spare key?") == "Under the pot."
    assert await chain.ainvoke("When does my sister visit?") == "In June."


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", (HERE / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {"__name__": "__main__"})


def test_import_loads_no_torch() -> None:
    code = "import sys, langchain_hierlandmark; print(*{'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
