"""The small grid and the text that tests of a training step share."""

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.testing import ByteTokenizer
from hierlandmark.train.corpus import Corpus, build_corpus

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)


def tale() -> Corpus:
    """Sentences about ships, a byte a token."""
    text = np.frombuffer(b"Some words of a long and winding tale about ships. " * 200, dtype=np.uint8)
    tokenizer = ByteTokenizer()
    return build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(f"Q: {q} A:")["input_ids"])
