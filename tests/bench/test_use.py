"""What the measurements of asking and of memory call: `ask` as users have it, and an answer from all segments."""

from hierlandmark.bench.footprint import use
from hierlandmark.bench.speed import bench_ask
from hierlandmark.memory import Memory
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.testing import tiny_model


def watched(monkeypatch):
    """Answers of every `ask` from here on."""
    asked, ask = [], Memory.ask

    def kept(memory, *args, **options):
        asked.append(ask(memory, *args, **options))
        return asked[-1]

    monkeypatch.setattr(Memory, "ask", kept)
    return asked


def test_ask_is_measured_with_its_search(monkeypatch):
    asked = watched(monkeypatch)
    found = bench_ask(tiny_model(), tokens=400, repeats=1, new_tokens=4)
    assert [answer.among for answer in asked] == [[0], [0]]
    assert (found["ask_first_token_s"], found["ask_decode_s"]) == (asked[1].first_token_s, asked[1].per_token_s)
    assert found["cost"] == asked[1].cost.model_dump()
    assert found["first_token_ratio"] > 0


def test_peak_memory_is_that_of_an_answer_from_all(monkeypatch, tmp_path):
    model, asked = tiny_model(), watched(monkeypatch)
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda: model)
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add([Message(id=i, content=f"{i}: word{i} " * 4) for i in range(12)])
    assert use(tmp_path / "m.db", "flat") > 0
    assert [answer.among for answer in asked] == [None] * 3
