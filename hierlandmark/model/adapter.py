"""Adapters on disk: LoRA tensors and config in peft's format, and beside them the two rows and their history."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import AdapterInvalid, ModelMismatch

LORA_FILE, LORA_CONFIG, ROWS_FILE, META_FILE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "landmarks.safetensors",
    "hierlandmark.json",
)
_PREFIX = "base_model.model."
Attention = Literal["landmark", "full", "window"]
Ranking = Literal["votes", "sum"]


class RetrievalHead(BaseModel):
    """One query head whose gates and landmarks rank blocks, and its weight in the sum."""

    model_config = ConfigDict(frozen=True)

    layer: int
    head: int
    weight: float = 1.0


class AdapterMeta(BaseModel):
    """`hierlandmark.json`."""

    model_config = ConfigDict(frozen=True)

    layout: LayoutConfig
    # digest of the base weights it was trained on; None fits any
    base: str | None = None
    retrieval: tuple[RetrievalHead, ...] = ()
    # how these come to one ranking: each by a softmax of its own, or their logits summed (`memory.rules`)
    ranking: Ranking = "votes"
    # what it was trained under: landmarks, or as a peer plain attention, to all or to the last `window` tokens
    attention: Attention = "landmark"
    window: int | None = None
    training: dict[str, Any] = {}


class Adapter:
    """A loaded adapter folder."""

    def __init__(self, meta: AdapterMeta, lora: dict[str, Tensor], scale: float, rows: Tensor, digest: str) -> None:
        self.meta, self.lora, self.scale, self.rows, self.digest = meta, lora, scale, rows, digest

    @classmethod
    def load(cls, folder: Path) -> "Adapter":
        """Read a folder.

        Raises:
            AdapterInvalid: a file is missing or cannot be read.
        """
        try:
            meta = AdapterMeta.model_validate_json((folder / META_FILE).read_text())
            config = json.loads((folder / LORA_CONFIG).read_text())
            lora = load_file(folder / LORA_FILE)
            rows = load_file(folder / ROWS_FILE)["landmark_rows"]
            digest = hashlib.sha256()
            for name in (LORA_FILE, ROWS_FILE):
                digest.update((folder / name).read_bytes())
            return cls(meta, lora, config["lora_alpha"] / config["r"], rows, digest.hexdigest())
        except (OSError, ArithmeticError, TypeError, ValueError, KeyError, SafetensorError) as error:
            raise AdapterInvalid(
                f"expected an adapter folder with {LORA_FILE}, {LORA_CONFIG}, {ROWS_FILE} and {META_FILE} "
                f"at {str(folder)!r}: {error}"
            ) from error

    def check_base(self, digest: str, name: str) -> None:
        """Raises `ModelMismatch` when the adapter was trained on other weights."""
        if self.meta.base is not None and self.meta.base != digest:
            raise ModelMismatch(
                f"this adapter was trained on base weights {self.meta.base[:12]}, {name!r} has {digest[:12]}; "
                "train an adapter for it with `hierlandmark train`, or pass adapter=None"
            )

    def merge_into(self, model: Any) -> None:
        """Add the low-rank products to the weights of a causal language model, in fp32.

        Raises:
            AdapterInvalid: a tensor names a module the model lacks, or has another shape.
        """
        width = model.get_input_embeddings().weight.shape[1]
        if self.rows.shape != (2, width):
            raise AdapterInvalid(f"expected landmark rows of shape (2, {width}), got {tuple(self.rows.shape)}")
        for key, a in self.lora.items():
            if not key.endswith(".lora_A.weight"):
                continue
            name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
            try:
                b = self.lora[key.replace("lora_A", "lora_B")]
                weight: Any = model.get_submodule(name).weight
                delta = (b.float() @ a.float()) * self.scale
                weight.data.copy_((weight.data.float() + delta).to(weight.dtype))
            except (AttributeError, KeyError, RuntimeError) as error:
                raise AdapterInvalid(f"the adapter's {name!r} does not fit the base model: {error}") from error


def save_adapter(
    folder: Path, tensors: Mapping[str, Tensor], meta: AdapterMeta, *, base_name: str, rank: int, alpha: int
) -> None:
    """Write an adapter folder in bf16 from trained tensors named as in `train.checkpoint.trained_tensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {key: tensor.detach().to(torch.bfloat16).contiguous().cpu() for key, tensor in tensors.items()}
    rows = half.pop("landmark_rows")
    save_file(half, folder / LORA_FILE, metadata={"format": "pt"})
    save_file({"landmark_rows": rows}, folder / ROWS_FILE, metadata={"format": "pt"})
    for file in (LORA_FILE, ROWS_FILE):
        # safetensors makes files for their owner only
        (folder / file).chmod(0o644)
    modules = sorted({key.split(".")[-3] for key in half})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "inference_mode": True,
    }
    (folder / LORA_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / META_FILE).write_text(meta.model_dump_json(indent=2) + "\n")
