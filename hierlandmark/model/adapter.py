"""Adapters on disk: LoRA tensors and config in peft's format, and beside them the two rows and their history."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hierlandmark.config import Attention, LayoutConfig
from hierlandmark.errors import AdapterInvalid, ModelMismatch

LORA_FILE, LORA_CONFIG, ROWS_FILE, SEARCH_FILE, META_FILE = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "landmarks.safetensors",
    "search.safetensors",
    "hierlandmark.json",
)
_ROWS = "landmark_rows"
_PREFIX = "base_model.model."
Ranking = Literal["votes", "sum"]


class RetrievalHead(BaseModel):
    """One query head whose gates and landmarks rank blocks, and its weight in the sum."""

    model_config = ConfigDict(frozen=True)

    layer: int
    head: int
    weight: float = Field(default=1.0, ge=0.0, allow_inf_nan=False)


class SearchMeta(BaseModel):
    """Of the weights of search: the factor on their low-rank products, and how they came about."""

    model_config = ConfigDict(frozen=True)

    scale: float
    training: dict[str, Any] = {}


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
    # how many segments right before texts read in order have at their true distance, older ones one further; adapters
    # of before say true for one
    recency: int = Field(default=0, ge=0)
    # layers that look into other segments, lowest first, and the only ones of which a memory keeps keys and values to
    # read; none named: all of them
    memory_layers: tuple[int, ...] = ()
    training: dict[str, Any] = {}
    # where search has weights of its own, in a file of their own: those of the layers up to its highest
    search: SearchMeta | None = None


@dataclass(frozen=True, eq=False)
class Weights:
    """Low-rank pairs by peft's names, the factor on their products, and the rows of landmark and gate: (2, hidden)."""

    lora: dict[str, Tensor]
    scale: float
    rows: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All by the names that `save_adapter` takes."""
        return self.lora | {_ROWS: self.rows}

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
                if delta.shape != weight.shape:
                    raise RuntimeError(f"a product of shape {tuple(delta.shape)} for {tuple(weight.shape)}")
                weight.data.copy_((weight.data.float() + delta).to(weight.dtype))
            except (AttributeError, KeyError, RuntimeError) as error:
                raise AdapterInvalid(f"the adapter's {name!r} does not fit the base model: {error}") from error


class Adapter:
    """A loaded adapter folder.

    Args:
        weights: of the network that reads and answers.
        search: of the one that searches; None where it is the same.
        digest: over all tensors.
    """

    def __init__(self, meta: AdapterMeta, weights: Weights, digest: str, search: Weights | None = None) -> None:
        self.meta, self.weights, self.digest, self.search = meta, weights, digest, search
        if list(meta.memory_layers) != sorted(set(meta.memory_layers)):
            raise ValueError(f"expected memory_layers in order, got {meta.memory_layers!r}")
        if search is not None:
            self._check_search(search)
        elif meta.memory_layers and (
            blind := sorted({head.layer for head in meta.retrieval} - set(meta.memory_layers))
        ):
            raise ValueError(f"heads that search lie in layers {blind}, of which a memory keeps nothing")

    def _check_search(self, search: Weights) -> None:
        """Raise `ValueError` unless the part holds what a search runs through, neither more nor less."""
        if not self.meta.retrieval:
            raise ValueError("weights of search without heads that search")
        if not (math.isfinite(search.scale) and search.scale > 0):
            raise ValueError(f"expected a scale of search over 0, got {search.scale!r}")
        wanted = {name for name in self.weights.lora if 0 <= layer_of(name) < self.search_depth}
        if not wanted or wanted != search.lora.keys():
            raise ValueError(
                f"expected weights of search for the layers under {self.search_depth}, as the heads that search say, "
                f"got those of {sorted({layer_of(name) for name in search.lora})}"
            )

    @property
    def search_depth(self) -> int:
        """Layers that a search runs through."""
        return 1 + max(head.layer for head in self.meta.retrieval)

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
            weights = Weights(lora, config["lora_alpha"] / config["r"], load_file(folder / ROWS_FILE)[_ROWS])
            digest = hashlib.sha256()
            for name in (LORA_FILE, ROWS_FILE):
                digest.update((folder / name).read_bytes())
            search = None
            if meta.search is not None:
                lora = load_file(folder / SEARCH_FILE)
                search = Weights(lora, meta.search.scale, lora.pop(_ROWS))
                digest.update((folder / SEARCH_FILE).read_bytes() + repr(search.scale).encode())
            elif (folder / SEARCH_FILE).exists():
                raise ValueError(f"{META_FILE} says nothing of {SEARCH_FILE}")
            return cls(meta, weights, digest.hexdigest(), search)
        except (OSError, ArithmeticError, TypeError, ValueError, KeyError, SafetensorError) as error:
            raise AdapterInvalid(
                f"expected an adapter folder with {LORA_FILE}, {LORA_CONFIG}, {ROWS_FILE} and {META_FILE}, and "
                f"{SEARCH_FILE} where that says so, at {str(folder)!r}: {error}"
            ) from error

    def check_heads(self, layers: int, heads: int) -> None:
        """Raises `AdapterInvalid` when it names heads that search, or layers, which the base model does not have."""
        if self.meta.retrieval and not any(head.weight for head in self.meta.retrieval):
            raise AdapterInvalid("the heads that search weigh nothing; name some, or none for all alike")
        for head in self.meta.retrieval:
            if not (0 <= head.layer < layers and 0 <= head.head < heads):
                raise AdapterInvalid(
                    f"the adapter searches with head {head.head} of layer {head.layer}, the base model has {layers} "
                    f"layers of {heads} heads"
                )
        if self.meta.memory_layers and not 0 <= self.meta.memory_layers[0] <= self.meta.memory_layers[-1] < layers:
            raise AdapterInvalid(
                f"the adapter looks into a memory in layers {self.meta.memory_layers}, the base model has {layers}"
            )

    def check_base(self, digest: str, name: str) -> None:
        """Raises `ModelMismatch` when the adapter was trained on other weights."""
        if self.meta.base is not None and self.meta.base != digest:
            raise ModelMismatch(
                f"this adapter was trained on base weights {self.meta.base[:12]}, {name!r} has {digest[:12]}",
                python="train an adapter for it with `hierlandmark train`, or pass adapter=None",
                command="train an adapter for it with `hierlandmark train`, or give --adapter none",
            )


def save_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    meta: AdapterMeta,
    *,
    base_name: str,
    rank: int,
    alpha: int,
    search: Mapping[str, Tensor] | None = None,
) -> None:
    """Write an adapter folder in bf16 from trained tensors named as in `train.checkpoint.trained_tensors`.

    Args:
        search: weights of search, named likewise; with `meta.search`, and not without.

    Raises:
        ValueError: one of both without the other.
    """
    if (search is None) != (meta.search is None):
        raise ValueError("expected weights of search with what is said of them, and not without")
    folder.mkdir(parents=True, exist_ok=True)
    # of an adapter that was here
    (folder / SEARCH_FILE).unlink(missing_ok=True)
    half = _in_half(tensors)
    files = {ROWS_FILE: {_ROWS: half.pop(_ROWS)}, LORA_FILE: half}
    if search is not None:
        files[SEARCH_FILE] = _in_half(search)
    for file, each in files.items():
        save_file(each, folder / file, metadata={"format": "pt"})
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
    # an adapter without this part is written as before there was one
    without = None if meta.search else {"search"}
    (folder / META_FILE).write_text(meta.model_dump_json(indent=2, exclude=without) + "\n")


def layer_of(name: str) -> int:
    """Which layer a tensor belongs to; -1 for what is of none."""
    found = re.search(r"\.layers\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _in_half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().to(torch.bfloat16).contiguous().cpu() for key, tensor in tensors.items()}
