"""Weights have one digest, whatever machine reads them, in whatever precision and wherever they come from."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file

from hierlandmark.errors import InvalidArgument, ModelUnavailable
from hierlandmark.model import LandmarkModel
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.testing import save_tiny, tiny_base
from tests.model.hub import as_hub_id

pytestmark = pytest.mark.filterwarnings("ignore:.*untrained")


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "cache"))
    return save_tiny(tmp_path / "base")


def as_bin(base, folder, seed=0):
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    torch.save(tiny_base(seed=seed).state_dict(), folder / "pytorch_model.bin")
    return folder


def digest(base, dtype="float32"):
    return LandmarkModel.from_pretrained(base, dtype=dtype).kv_spec.fingerprint


def test_precision_changes_no_fingerprint(base, tmp_path, monkeypatch):
    binary = as_bin(base, tmp_path / "bin")
    assert digest(binary, "float32") == digest(binary, "bfloat16")
    hub = as_hub_id(base, tmp_path, monkeypatch)
    assert digest(hub, "float32") == digest(hub, "bfloat16") == digest(base)
    assert LandmarkModel.from_pretrained(hub, dtype="float32").nll([1, 2, 3], mode="full")


def test_other_bin_weights_are_told_apart(base, tmp_path):
    assert digest(as_bin(base, tmp_path / "a")) != digest(as_bin(base, tmp_path / "b", seed=1))


def test_only_what_is_loaded_counts(base, tmp_path):
    plain = weights_digest(base)
    # hubs carry the same weights a second time, in files that transformers does not load
    save_file({"x": torch.ones(3)}, base / "consolidated.safetensors")
    (base / "training_args.bin").write_bytes(b"x")
    assert weights_digest(base) == plain


def test_shards_are_the_weights_they_are_cut_from(base, tmp_path):
    tensors = load_file(base / "model.safetensors")
    folder = tmp_path / "shards"
    folder.mkdir()
    index = {}
    for i, name in enumerate(sorted(tensors)):
        index[name] = f"model-{i % 2 + 1:05}-of-00002.safetensors"
    for file in set(index.values()):
        save_file({name: tensors[name] for name in tensors if index[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert weights_digest(folder) == weights_digest(base)


@pytest.mark.parametrize("rubbish", [b"", b"0" * 63, b"X" * 64, b"\xff" * 64, b"a" * 65])
def test_a_cut_write_of_a_remembered_digest_is_not_believed(base, tmp_path, rubbish):
    wanted = weights_digest(base)
    (kept,) = (tmp_path / "cache" / "digests").iterdir()
    assert kept.read_text() == wanted
    kept.write_bytes(rubbish)
    assert weights_digest(base) == wanted
    assert kept.read_text() == wanted


def test_a_full_disk_leaves_nothing_behind(base, tmp_path, monkeypatch):
    def full(self, *_, **__):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    found = weights_digest(base)
    assert list((tmp_path / "cache" / "digests").iterdir()) == []
    monkeypatch.undo()
    assert weights_digest(base) == found


def test_a_truncated_file_is_named(base, tmp_path):
    binary = as_bin(base, tmp_path / "bin")
    for file in (base / "model.safetensors", binary / "pytorch_model.bin"):
        whole = file.read_bytes()
        for length in (0, 5, len(whole) // 2):
            file.write_bytes(whole[:length])
            with pytest.raises(ModelUnavailable, match="cannot be loaded"):
                LandmarkModel.from_pretrained(file.parent, dtype="float32")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        weights_digest(base)
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        weights_digest(tmp_path)


@pytest.mark.parametrize("dtype", ["float99", "int8", "nn", "", torch.int32])
def test_a_dtype_that_is_none_is_named(base, dtype):
    with pytest.raises(InvalidArgument, match="dtype"):
        LandmarkModel.from_pretrained(base, dtype=dtype)


def test_a_hub_id_that_cannot_be_reached_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="no base model at 'nobody/nothing'"):
        LandmarkModel.from_pretrained("nobody/nothing")
