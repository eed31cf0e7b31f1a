"""A transformers model with landmark and gate rows: ids in, hidden states out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hierlandmark.config import LayoutConfig, Mode, RecallConfig
from hierlandmark.errors import InvalidArgument, UnsupportedModel
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.binding import NAME, Attend, Enough, KeyTap, Rope, decoder_of, head_shape, register
from hierlandmark.model.cached import BehindKept, KeptKeys
from hierlandmark.model.dense import DenseAttention, PlainAttention, Prepare, Probe
from hierlandmark.model.gates import GateProbe
from hierlandmark.ops import Impl
from hierlandmark.ops.selected import Counts

# in which the reach of far queries grows, where positions jump
_STEP = 32


class LandmarkCore(nn.Module):
    """The network: base model, two embedding rows, and its attention replaced.

    Args:
        base: a transformers causal language model.
        layout: where landmarks and gates stand.
        sink_id: token at the head of every segment.
        residual_dtype: of hidden states between layers; by default that of the weights.
        memory_layers: layers that look into other segments, lowest first; none named: all of them.
    """

    def __init__(
        self,
        base: Any,
        layout: LayoutConfig,
        sink_id: int,
        *,
        residual_dtype: torch.dtype | None = None,
        memory_layers: Sequence[int] = (),
    ) -> None:
        super().__init__()
        register()
        base.set_attn_implementation(NAME)
        self.base = base
        self.layout = layout
        self.sink_id = sink_id
        self.residual_dtype = residual_dtype
        self.prepare: Prepare | None = None
        table = base.get_input_embeddings().weight
        # rows stand in the space of embedded tokens, so that no vocabulary is resized; fp32 for the optimizer's sake
        start = table.detach().float().mean(0)
        self.rows = nn.Parameter(torch.stack((start, start)) if table.device.type != "meta" else torch.zeros(2, 1))
        try:
            decoder = decoder_of(base)
            self.rope, self.tap = Rope(decoder), KeyTap(decoder)
        except AttributeError as error:
            raise UnsupportedModel(
                f"model type {base.config.model_type!r} is not built like Llama, as far as landmarks need: {error}"
            ) from error
        self.layers, self.heads, self.kv_heads, self.head_dim = head_shape(decoder.config)
        self.memory_layers = tuple(memory_layers) or tuple(range(self.layers))
        if [one for one in range(self.layers) if one in self.memory_layers] != list(self.memory_layers):
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected {called('memory_layers')} from 0 to {self.layers - 1}, each once and lowest first, got "
                    f"{self.memory_layers!r}"
                )
            )

    @property
    def dtype(self) -> torch.dtype:
        """Of the base model's weights."""
        return self.base.get_input_embeddings().weight.dtype  # type: ignore[no-any-return]

    def embed(self, ids: Tensor, kinds: Tensor) -> Tensor:
        """Embedded tokens with landmark, gate and sink put in: (B, T) ids and kinds -> (B, T, hidden)."""
        ids = ids.masked_fill(kinds == Kind.SINK, self.sink_id)
        out = self.base.get_input_embeddings()(ids)
        out = out.to(self.residual_dtype or out.dtype)
        rows = self.rows.to(out.dtype)
        out = torch.where((kinds == Kind.LANDMARK).unsqueeze(-1), rows[0], out)
        return torch.where((kinds == Kind.GATE).unsqueeze(-1), rows[1], out)

    def hidden(self, ids: Tensor, kinds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Last hidden states: (B, T) ids, kinds and positions in the segment -> (B, T, hidden)."""
        decoder = decoder_of(self.base)
        out = decoder(inputs_embeds=self.embed(ids, kinds), position_ids=positions, use_cache=False, landmarks=attend)
        return out.last_hidden_state

    def keys(
        self, ids: Tensor, kinds: Tensor, positions: Tensor, attend: Attend, layers: Sequence[int]
    ) -> list[Tensor]:
        """Keys of some layers before rotation, (B, T, H_kv, D) each; nothing above the highest of them is computed."""
        with self.tap.taking(until=max(layers)) as taken, suppress(Enough):
            self.hidden(ids, kinds, positions, attend)
        return [taken[layer].unflatten(-1, (-1, self.head_dim)) for layer in layers]

    def hidden_dense(
        self,
        ids: Tensor,
        layout: Layout,
        mode: Mode = "hierarchical",
        impl: Impl | None = None,
        probe: Probe | None = None,
        positions: np.ndarray | None = None,
        cached: int = 0,
        select: RecallConfig | None = None,
        counts: Counts | None = None,
        recency: int = 0,
        gates: GateProbe | None = None,
    ) -> Tensor:
        """Last hidden states of a batch on the grid: (B, S, P) -> (B, S, P, hidden).

        Args:
            positions: (B, S, P) of each token in its segment, by default those of the grid.
            cached: leading segments whose keys and values are made without gradient, as recall finds them; they are
                left out of the result, (B, S - cached, P, hidden).
            select: what each query selects of earlier segments; by default every block is attended.
            counts: the work of selecting is added to it.
            recency: so many segments right before a query's own stand at their true distance, all older ones one
                segment further; by default all stand where the one right before does.
            gates: watches gates beside landmarks in every layer that looks into other segments.
        """
        B, S, P = ids.shape
        kinds = torch.from_numpy(layout.kinds).to(ids.device)
        if positions is None:
            places, ahead = torch.arange(P, device=ids.device).expand(B, S, P), 0
        else:
            places, ahead = torch.from_numpy(positions).to(ids.device), max(0, int(positions.max()) + 1 - P)
        # a far key has to stay before a near one, however far positions have jumped: a query moves on by one segment
        # and as much as the furthest jumped, in steps, so that few angles are made and small distances stay frequent
        reach = P + -(-ahead // _STEP) * _STEP
        dense = DenseAttention(
            layout, self.rope, mode, impl, probe, self.prepare, reach, recency, select, counts, gates,
            self.memory_layers,
        )  # fmt: skip

        def run(attend: Attend, start: int, end: int) -> Tensor:
            some, kind, place = (x[:, start:end].reshape(B, (end - start) * P) for x in (ids, kinds, places))
            return self.hidden(some, kind, place, attend).view(B, end - start, P, -1)

        if not cached:
            return run(dense, 0, S)
        first = Layout(layout.config, layout.kinds[:, :cached], layout.reads[:, :cached, :cached])
        kept = KeptKeys(replace(dense, layout=first, probe=None, select=None, counts=None, gates=None))
        with torch.no_grad():
            run(kept, 0, cached)
        return run(BehindKept(dense, kept.taken), cached, S)

    def hidden_plain(self, ids: Tensor, window: int | None, cache: int | None = None) -> Tensor:
        """Last hidden states under `PlainAttention`, without landmarks: (B, T) -> (B, T, hidden)."""
        kinds = torch.full_like(ids, int(Kind.CONTENT))
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.hidden(ids, kinds, positions, PlainAttention(window, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits in fp32: (..., hidden) -> (..., vocabulary)."""
        return self.base.get_output_embeddings()(hidden).float()
