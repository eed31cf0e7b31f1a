"""Base models by hub id: from the hub where it answers; where it does not, from this machine or not at all, at once."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import huggingface_hub.constants
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import ModelUnavailable
from hierlandmark.model import LandmarkModel
from hierlandmark.model.base import located
from hierlandmark.testing import save_tiny
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.run import train_adapter
from tests.model.hub import COMMIT, as_hub_id


@pytest.fixture
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No host has an address; hosts that were looked for. Whoever waits to try again fails."""
    looked_for: list[str] = []

    def none(host: str, *_: object, **__: object) -> None:
        looked_for.append(host)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", none)
    monkeypatch.setattr(time, "sleep", Mock(side_effect=AssertionError("waited")))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return looked_for


def test_an_unknown_id_is_told_at_once_without_a_network(unreachable: list[str], capfd, caplog) -> None:
    with pytest.raises(
        ModelUnavailable, match=r"'nobody/none', neither a folder nor a reachable hub id: .*no such name"
    ):
        LandmarkModel.from_pretrained("nobody/none")
    assert unreachable
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.filterwarnings("ignore:.*untrained")
def test_what_was_fetched_before_is_loaded_without_a_network(
    unreachable: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "cache"))
    name = as_hub_id(save_tiny(tmp_path / "base"), tmp_path, monkeypatch)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    model = LandmarkModel.from_pretrained(name, dtype="float32")
    assert model.nll([1, 2, 3], mode="full") and unreachable


def load(name: str, folder: Path) -> None:
    LandmarkModel.from_pretrained(name, dtype="float32")


def train(name: str, folder: Path) -> None:
    text = folder / "book.txt"
    text.write_text("They went north. " * 200)
    layout = LayoutConfig(block_size=16, blocks_per_segment=4)
    config = TrainConfig(steps=1, tokens=256, rank=2, longest=2)
    train_adapter(name, texts=[text], chats=[], folder=folder / "run", config=config, layout=layout, device="cpu")


@pytest.mark.filterwarnings("ignore:.*untrained")
@pytest.mark.parametrize("work", [load, train])
def test_it_is_asked_once_whether_the_hub_answers(
    work: Callable[[str, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two times a hub id may move on."""
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "cache"))
    name = as_hub_id(save_tiny(tmp_path / "base"), tmp_path, monkeypatch)
    asked = Mock(wraps=huggingface_hub.get_hf_file_metadata)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    work(name, tmp_path)
    assert asked.call_count == 1


BUSY = HfHubHTTPError("503", response=Mock())


@pytest.mark.parametrize("said", [None, BUSY], ids=["fine", "busy"])
def test_a_hub_that_answers_is_asked_for_the_files(said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / COMMIT
    asked: list[bool] = []

    def cached_file(name: str, file: str, *, local_files_only: bool) -> str:
        asked.append(local_files_only)
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", Mock(side_effect=said))
    monkeypatch.setattr("transformers.utils.hub.cached_file", cached_file)
    source = {"pretrained_model_name_or_path": "nobody/tiny", "revision": COMMIT}
    assert located("nobody/tiny") == (folder, source) and asked == [False]


def test_a_fault_without_words_is_named_and_our_own_is_none(unreachable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Mock(side_effect=TimeoutError())
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", asked)
    with pytest.raises(ModelUnavailable, match=r"reachable hub id: TimeoutError\(\)"):
        located("nobody/none")
    asked.side_effect = TypeError("ours")
    with pytest.raises(TypeError, match="ours"):
        located("nobody/none")
