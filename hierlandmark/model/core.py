"""A transformers model with landmark and gate rows: ids in, hidden states out."""

from typing import Any

import torch
from torch import Tensor, nn

from hierlandmark.config import LayoutConfig, Mode, RecallConfig
from hierlandmark.errors import UnsupportedModel
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.binding import NAME, Attend, KeyTap, Rope, decoder_of, head_shape, register
from hierlandmark.model.dense import DenseAttention, PlainAttention, Probe
from hierlandmark.ops import Impl
from hierlandmark.ops.selected import Counts


class LandmarkCore(nn.Module):
    """The network: base model, two embedding rows, and its attention replaced.

    Args:
        base: a transformers causal language model.
        layout: where landmarks and gates stand.
        sink_id: token at the head of every segment.
        residual_dtype: of hidden states between layers; by default that of the weights.
    """

    def __init__(
        self, base: Any, layout: LayoutConfig, sink_id: int, *, residual_dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        register()
        base.set_attn_implementation(NAME)
        self.base = base
        self.layout = layout
        self.sink_id = sink_id
        self.residual_dtype = residual_dtype
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

    def hidden_dense(
        self,
        ids: Tensor,
        layout: Layout,
        mode: Mode = "hierarchical",
        impl: Impl | None = None,
        probe: Probe | None = None,
        select: RecallConfig | None = None,
        counts: Counts | None = None,
    ) -> Tensor:
        """Last hidden states of a batch on the grid: (B, S, P) -> (B, S, P, hidden).

        Every block is attended, or those that each query selects by `select`; then `counts` is added to.
        """
        B, S, P = ids.shape
        kinds = torch.from_numpy(layout.kinds).to(ids.device).view(B, S * P)
        positions = torch.arange(P, device=ids.device).repeat(B, S)
        attend = DenseAttention(layout, self.rope, mode, impl, probe, select, counts)
        return self.hidden(ids.view(B, S * P), kinds, positions, attend).view(B, S, P, -1)

    def hidden_plain(self, ids: Tensor, window: int | None) -> Tensor:
        """Last hidden states without landmarks, each token seeing the last `window`: (B, T) -> (B, T, hidden)."""
        kinds = torch.full_like(ids, int(Kind.CONTENT))
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        return self.hidden(ids, kinds, positions, PlainAttention(window))

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits in fp32: (..., hidden) -> (..., vocabulary)."""
        return self.base.get_output_embeddings()(hidden).float()
