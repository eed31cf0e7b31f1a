"""What learning passkeys from nothing takes: a tokenizer of few words, texts that hide a key, a random network."""

import re
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.eval.fillers import GRASS, Grass
from hierlandmark.eval.passkey import QUESTION, TASK
from hierlandmark.layout import Kind, Layout
from hierlandmark.model import LandmarkModel
from hierlandmark.model.core import LandmarkCore
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.episodes import NO_LABEL, Batch
from hierlandmark.train.loop import BatchSource

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)
# segments of the longest text that is trained on, and its content tokens
SEGMENTS = 4
LONGEST = SEGMENTS * LAYOUT.segment_capacity
# keys of three digits: five take twice the steps
LARGEST = 999
# texts of one segment in a batch, fewer of longer ones
TEXTS = 32
# share of the steps that see texts of one segment only, on which copying is learned
SHORT = 0.45
CONFIG = TrainConfig(steps=260, learning_rate=3e-3, warmup=20, retrieval_layers=2, checkpoint_every=1000)


class WordTokenizer:
    """The words of a passkey text with the space before them, one id each; of anything else every byte."""

    bos_token_id, eos_token_id = 256, 257
    chat_template = None
    all_special_ids = (256, 257)

    def __init__(self) -> None:
        text = " ".join((TASK, GRASS, QUESTION, "The pass key is. Remember it. is the pass key."))
        words = sorted(set(re.findall(r" ?[A-Za-z]+", text)), key=len)
        digits = [str(digit) for digit in range(10)]
        self.words = [*words, *digits, *(f" {digit}" for digit in digits)]
        self._ids = {word: 258 + i for i, word in enumerate(self.words)}
        # a word that a filler was cut in is no word
        self._pattern = re.compile("|".join(f"{word}(?![A-Za-z])" for word in words[::-1]) + "| ?[0-9]|.", re.DOTALL)

    def __len__(self) -> int:
        return 258 + len(self.words)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids = []
        for piece in self._pattern.findall(text):
            ids += [self._ids[piece]] if piece in self._ids else list(piece.encode())
        return {"input_ids": ids}

    def decode(self, ids, **_: Any) -> str:
        parts = (bytes([i]) if i < 256 else self.words[i - 258].encode() if i >= 258 else b"" for i in ids)
        return b"".join(parts).decode(errors="replace")


@dataclass(frozen=True)
class Text:
    """A text that hides a key, and its reader. Weights are those of tokens as they are predicted."""

    memory: list[int]
    weights: np.ndarray  # of the memory's tokens
    key: tuple[int, int]  # its tokens in the memory, from and to
    question: list[int]
    answer: list[int]


class Passkeys(BatchSource):
    """Texts in the format of `eval.passkey` that fit into `SEGMENTS` segments, each with a reader that asks."""

    def __init__(self, config: TrainConfig, tokenizer: WordTokenizer) -> None:
        super().__init__(None, config, LAYOUT)
        self.tokenizer = tokenizer

    def __getitem__(self, step: int):
        if step >= self.config.steps:
            raise IndexError(step)
        rng = Random(f"{self.config.seed}/{step}")
        mode = "flat" if rng.random() < self.config.flat_share else "hierarchical"
        segments = 1 if step < SHORT * self.config.steps else rng.randint(1, SEGMENTS)
        return batch_of([self.text(rng, segments) for _ in range(2 * TEXTS // (segments + 1))]), mode

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def text(self, rng: Random, segments: int) -> Text:
        """Filler, the line with the key, filler; before them the task where there is room for it."""
        key = rng.randint(1, LARGEST)
        said = f"The pass key is {key}. Remember it."
        head = f"{TASK}\n" if segments > 1 and rng.random() < 0.7 else ""
        line = f"\n{said} {key} is the pass key.\n"
        room = segments * LAYOUT.segment_capacity - len(self.tokenize(head + line)) - rng.randrange(20)
        # three characters a token: the grass has nearly four
        chars = max(0, 3 * room)
        cut = rng.randint(0, chars)
        before, after = (self.tokenize(Grass().take(0, n)) for n in (cut, chars - cut))
        first = [*self.tokenize(head), *before]
        memory = [*first, *self.tokenize(line), *after][: segments * LAYOUT.segment_capacity]
        digits = len(self.tokenize(f" {key}"))
        start, again = (len(first) + len(self.tokenize(f"\n{text}")) for text in ("The pass key is", said))
        weights = np.full(len(memory), 0.05)
        # said a second time, it can be copied from nearby: the same skill
        weights[again : again + digits] = 1.0
        key_at = (start, start + digits)
        return Text(memory, weights, key_at, self.tokenize(QUESTION), self.tokenize(f" {key}."))


def batch_of(texts: list[Text]) -> Batch:
    """Memory segments that do not see each other, and behind them one reader a text, which sees them all."""
    capacity = LAYOUT.segment_capacity
    M = max(-(-len(text.memory) // capacity) for text in texts)
    reads = np.zeros((M + 1, M + 1), dtype=bool)
    reads[M, :M] = True
    tokens = [np.asarray([*text.memory, *text.question, *text.answer]) for text in texts]
    lengths = [
        [min(capacity, max(0, len(text.memory) - s * capacity)) for s in range(M)]
        + [len(text.question) + len(text.answer)]
        for text in texts
    ]
    layout = Layout.of(lengths, LAYOUT, reads=reads)
    content = layout.kinds == Kind.CONTENT
    ids = layout.place(tokens)
    labels = np.full(ids.shape, NO_LABEL, dtype=np.int64)
    weights = np.zeros(ids.shape, dtype=np.float32)
    asked, targets = [], []
    for b, text in enumerate(texts):
        weight = np.concatenate((text.weights, np.zeros(len(text.question)), np.full(len(text.answer), 4.0)))
        # a token's place holds the label and weight of the next one; the first of a segment is told by nothing
        weight = np.append(weight[1:], 0.0)
        weight[np.cumsum(lengths[b]) - 1] = 0.0
        labels[b][content[b]] = np.where(weight > 0, np.append(tokens[b][1:], NO_LABEL), NO_LABEL)
        weights[b][content[b]] = weight
        homes = np.flatnonzero(content[b, :M]) // LAYOUT.block_size
        wanted = np.zeros(M * LAYOUT.blocks_per_segment, dtype=bool)
        wanted[homes[slice(*text.key)]] = True
        targets.append(wanted)
        asked.append((b, np.flatnonzero(content[b])[len(text.memory) + len(text.question) - 1]))
    return Batch(ids, layout, labels, weights, np.asarray(asked), np.stack(targets))


def random_core(family: str, tokenizer: WordTokenizer, seed: int) -> LandmarkCore:
    """Three layers of width 64, four heads of 32 in two groups, every weight random and to be trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    # weights of 0.02 are for wide models: here nothing would move for a hundred steps
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512, bos_token_id=256,
        eos_token_id=257, pad_token_id=257, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        core = LandmarkCore(AutoModelForCausalLM.from_config(config, dtype=torch.float32), LAYOUT, 256)
        torch.nn.init.normal_(core.rows, std=0.1)
    return core


def as_model(core: LandmarkCore, tokenizer: WordTokenizer) -> LandmarkModel:
    """The same network, to remember and to answer."""
    return LandmarkModel(core, tokenizer, "from-scratch", kv_dtype=torch.float32)
