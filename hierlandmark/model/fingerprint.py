"""What a database is bound to: base weights, adapter and layout, as one digest."""

import hashlib
import json
import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import ModelUnavailable
from hierlandmark.model.base import cache_folder

# what changes keys besides the weights; file order, library versions and names do not
_CONFIG = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_parameters", "rope_theta", "rope_scaling", "layer_types", "hidden_act",
)  # fmt: skip
# of some families only: named where they are set
_CONFIG_SOME = ("hidden_activation", "query_pre_attn_scalar")


# as transformers looks for weights, first come first served; what else lies in a folder is not loaded
_KINDS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def weights_digest(folder: Path) -> str:
    """Digest of a folder's weights, whatever they are loaded as; remembered by size and time of the files.

    Over every tensor of its safetensors files, by name; where there are only `.bin` files, over their bytes.

    Raises:
        ModelUnavailable: there are no weights, or a file cannot be read.
    """
    try:
        files = _weight_files(folder)
        marks = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        kept = cache_folder() / "digests" / hashlib.sha256(json.dumps(marks).encode()).hexdigest()
        if (known := _read(kept)) is not None:
            return known
        each: dict[str, str] = {}
        for file in files:
            each |= _tensors(file) if file.suffix == ".safetensors" else {file.name: _bytes(file)}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"the weights in {str(folder)!r} cannot be read: {error}") from error
    total = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
    _keep(kept, total)
    return total


def _weight_files(folder: Path) -> list[Path]:
    for kind in _KINDS:
        path = folder / kind
        if path.exists() and path.suffix == ".json":
            return sorted({folder / name for name in json.loads(path.read_text())["weight_map"].values()})
        if path.exists():
            return [path]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"expected safetensors or pytorch_model.bin in {str(folder)!r}")
    return files


def _tensors(file: Path) -> dict[str, str]:
    each = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            tensor = tensors.get_tensor(name).contiguous()
            digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
            each[name] = digest.hexdigest()
    return each


def _bytes(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(kept: Path) -> str | None:
    """A remembered digest; None where there is none, or a write was cut."""
    try:
        text = kept.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if _DIGEST.fullmatch(text) else None


def _keep(kept: Path, digest: str) -> None:
    """Remember a digest, whole or not at all."""
    scratch = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(digest, encoding="ascii")
        scratch.replace(kept)
    except OSError:
        # a read-only cache or a full disk costs time only
        with suppress(OSError):
            scratch.unlink(missing_ok=True)


def fingerprint(base: str, config: Any, adapter: str, layout: LayoutConfig, sink_id: int) -> str:
    """Digest that a store carries: base weights and shape, adapter, layout."""
    shape = {name: getattr(config, name, None) for name in _CONFIG}
    shape |= {name: getattr(config, name) for name in _CONFIG_SOME if getattr(config, name, None) is not None}
    parts = [base, json.dumps(shape, sort_keys=True, default=str), adapter, layout.model_dump_json(), str(sink_id)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
