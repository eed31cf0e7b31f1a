"""Whether a base model has the attention that landmarks can replace, found out by running it on a few tokens."""

from typing import Any

import torch
from torch import Tensor

from hierlandmark.errors import UnsupportedModel
from hierlandmark.layout import Kind
from hierlandmark.model.core import LandmarkCore
from hierlandmark.ops.rope import rotate


class _Seeing:
    """Passes values on and keeps every layer's rotated keys."""

    def __init__(self) -> None:
        self.keys: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """See `Attend.attend`."""
        self.keys[layer] = k
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)


@torch.inference_mode()
def check_base(core: LandmarkCore) -> None:
    """Run a few tokens and compare the keys each layer attends to with those recalled from disk would be.

    Raises:
        UnsupportedModel: a layer's keys are not rotated as `ops.rope` does (no positions, part of a head, another
            pairing), are not seen before rotation, or attention has a window shorter than a segment.
    """
    kind, size = _kind(core), core.layout.segment_size
    config = core.base.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"]
    if window and "sliding_attention" in layers and window < size:
        raise UnsupportedModel(
            f"{kind} attends to {window} positions in some layers, fewer than a segment of {size}; train an adapter "
            "with fewer or smaller blocks"
        )
    # not the number of key-value heads, which tells heads and positions apart; not from 0, where nothing is turned
    T = core.kv_heads + 2
    device = core.rows.device
    positions = torch.arange(3, 3 + T, device=device)
    kinds = torch.full((1, T), int(Kind.CONTENT), device=device)
    seeing = _Seeing()
    with core.tap.taking() as taken:
        try:
            core.hidden(torch.arange(T, device=device)[None], kinds, positions[None], seeing)
        except (TypeError, AttributeError, RuntimeError) as error:
            raise UnsupportedModel(f"{kind} does not hand its attention over to landmarks: {error}") from error
    for layer in range(core.layers):
        if layer not in taken or layer not in seeing.keys:
            raise UnsupportedModel(f"layer {layer} of {kind} has no attention that landmarks can replace")
        raw = taken[layer].view(1, T, -1, core.head_dim).transpose(1, 2)
        freq, scaling = core.rope.inv_freq[layer], core.rope.scaling[layer]
        if 2 * len(freq) != core.head_dim or not _near(rotate(raw, positions, freq, scaling), seeing.keys[layer]):
            raise UnsupportedModel(
                f"layer {layer} of {kind} does not rotate its keys by position as Llama does; supported are Llama, "
                "Mistral, Qwen 2 and 3, Gemma 1 and 3, and what is built like them"
            )


def _near(a: Tensor, b: Tensor) -> bool:
    a, b = a.float(), b.float()
    # bfloat16 rounds to 1 part in 256, twice
    return bool((a - b).norm() <= 0.02 * b.norm())


def _kind(core: LandmarkCore) -> Any:
    return f"model type {core.base.config.model_type!r}"
