"""A tiny base model in a folder, as transformers saves it; texts, a corpus, and a network that trains."""

import pytest

from hierlandmark.testing import save_tiny, tiny_model
from tests.train.tale import LAYOUT, tale


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    book = folder / "book.txt"
    book.write_text("".join(f"On day {i} the {i % 7} ships of port {i % 11} left for the north. " for i in range(400)))
    chats = folder / "chats.jsonl"
    message = '{"id": %d, "role": "user", "content": "My number %d is %d."}'
    lines = ", ".join(message % (i, i, i * 37 % 101) for i in range(200))
    chats.write_text('{"id": 1, "messages": [' + lines + "]}\n")
    return book, chats


@pytest.fixture(scope="module")
def corpus():
    return tale()


@pytest.fixture
def core():
    return tiny_model("qwen3", layout=LAYOUT).core.requires_grad_()
