"""What a database is bound to: base weights, adapter and layout, as one digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hierlandmark.config import LayoutConfig
from hierlandmark.model.base import cache_folder

# what changes keys besides the weights; file order, library versions and names do not
_CONFIG = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
    "rms_norm_eps", "rope_parameters", "rope_theta", "rope_scaling", "layer_types", "hidden_act",
)  # fmt: skip
# of some families only: named where they are set
_CONFIG_SOME = ("hidden_activation", "query_pre_attn_scalar")


def weights_digest(folder: Path) -> str:
    """Digest over every tensor of a folder's safetensors files, by name; remembered by size and time of the files."""
    files = sorted(folder.glob("*.safetensors"))
    marks = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    key = hashlib.sha256(json.dumps(marks).encode()).hexdigest()
    kept = cache_folder() / "digests" / key
    if kept.exists():
        return kept.read_text()
    each = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor = tensors.get_tensor(name).contiguous()
                digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
                each[name] = digest.hexdigest()
    total = hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(total)
    except OSError:
        # a read-only cache costs time only
        pass
    return total


def fingerprint(base: str, config: Any, adapter: str, layout: LayoutConfig, sink_id: int) -> str:
    """Digest that a store carries: base weights and shape, adapter, layout."""
    shape = {name: getattr(config, name, None) for name in _CONFIG}
    shape |= {name: getattr(config, name) for name in _CONFIG_SOME if getattr(config, name, None) is not None}
    parts = [base, json.dumps(shape, sort_keys=True, default=str), adapter, layout.model_dump_json(), str(sink_id)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
