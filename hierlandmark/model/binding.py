"""Landmark attention inside a transformers model, through its attention and mask registries; no code is copied.

The model is run as usual with `landmarks=` among its forward arguments; transformers hands it through to the attention.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hierlandmark.errors import UnsupportedModel
from hierlandmark.ops.rope import turns

NAME = "hierlandmark"


class Enough(Exception):
    """Ends a forward pass from within: what was wanted of it is there."""


class Attend(Protocol):
    """What one forward pass does in place of attention."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Attention output for one layer.

        Args:
            layer: index of the layer.
            q: (B, H, T, D), rotated.
            k, v: (B, H_kv, T, D), keys rotated.

        Returns:
            (B, H, T, D).
        """


def register() -> None:
    """Make `attn_implementation="hierlandmark"` known to transformers; safe to call again."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    # without an entry of the same name the mask is silently None for some models and an error for others
    AttentionMaskInterface.register(NAME, _no_mask)


# what surrounds it may be compiled; a layout's tables are not for a compiler to trace
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    landmarks: Attend | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if landmarks is None:
        raise TypeError("a model with hierlandmark attention is run through LandmarkModel, which passes landmarks=")
    if softcap is not None:
        raise UnsupportedModel("capped attention logits (Gemma 2) are not supported; use Gemma 1 or Gemma 3")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = landmarks.attend(module.layer_idx, query, key, value, scale)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


class Rope:
    """Rotation frequencies of every layer: (D / 2,) each, and the factor that scaled-up contexts put on cos and sin."""

    def __init__(self, decoder: Any) -> None:
        rotary = decoder.rotary_emb
        layers = len(decoder.layers)
        kinds = list(getattr(decoder.config, "layer_types", None) or [])
        per_kind = bool(kinds) and hasattr(rotary, f"{kinds[0]}_inv_freq")
        prefix = [f"{kind}_" for kind in kinds] if per_kind else [""] * layers
        self.inv_freq: list[Tensor] = [getattr(rotary, f"{p}inv_freq").detach().float().clone() for p in prefix]
        self.scaling: list[float] = [float(getattr(rotary, f"{p}attention_scaling", 1.0)) for p in prefix]
        self._angles: dict[tuple[int, tuple[int, ...], torch.device], tuple[Tensor, Tensor]] = {}

    def angles(self, layer: int, positions: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine of n turns by some positions, (n, D / 2) each; made once, since every pass asks for them."""
        key = layer, positions, device
        if key not in self._angles:
            made = turns(torch.tensor(positions), self.inv_freq[layer].cpu())
            self._angles[key] = made[0].to(device), made[1].to(device)
        return self._angles[key]


class KeyTap:
    """Takes each layer's keys before rotation: behind the key norm where there is one, else behind the projection."""

    def __init__(self, decoder: Any) -> None:
        # a model is shared between memories, and each thread takes only what it runs itself
        self._here = threading.local()
        self._kv_heads = head_shape(decoder.config)[2]
        self._hooks = []
        for index, layer in enumerate(decoder.layers):
            attention = layer.self_attn
            source = getattr(attention, "k_norm", None) or attention.k_proj
            self._hooks.append(source.register_forward_hook(self._hook(index)))

    def remove(self) -> None:
        """Take no more keys: a model that is only trained needs none, and hooks keep it from being compiled whole."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def taking(self, until: int | None = None) -> Iterator[dict[int, Tensor]]:
        """Within this, forward passes leave their keys here: layer -> (B, T, H_kv * D), T > H_kv.

        Args:
            until: the highest layer whose keys are wanted: there the pass ends with `Enough`, before its attention.
        """
        keys = dict[int, Tensor]()
        self._here.keys, self._here.until = keys, until
        try:
            yield keys
        finally:
            self._here.keys = self._here.until = None

    def _hook(self, layer: int) -> Any:
        def take(module: nn.Module, args: Any, output: Tensor) -> None:
            keys = getattr(self._here, "keys", None)
            if keys is not None:
                # a norm sees heads apart: before positions in Gemma 3, behind them in Qwen 3
                if output.dim() == 4 and output.shape[1] == self._kv_heads:
                    output = output.transpose(1, 2)
                keys[layer] = output.flatten(2) if output.dim() == 4 else output
                if layer == self._here.until:
                    raise Enough

        return take


def decoder_of(model: Any) -> Any:
    """The stack of layers inside a causal language model, LoRA wrappers taken off."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.model


def head_shape(config: Any) -> tuple[int, int, int, int]:
    """Layers, query heads, key-value heads and head width of a transformers config."""
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return config.num_hidden_layers, heads, getattr(config, "num_key_value_heads", None) or heads, width
