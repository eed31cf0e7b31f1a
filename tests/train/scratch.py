"""What a model needs to learn passkeys from nothing: a tokenizer of few words, texts that hide a key, a random network."""

import re
from random import Random
from typing import Any

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.eval import passkey
from hierlandmark.eval.fillers import GRASS, Grass
from hierlandmark.eval.passkey import QUESTION, TASK
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.core import LandmarkCore
from hierlandmark.train.episodes import NO_LABEL, Batch
from hierlandmark.train.loop import BatchSource, TrainConfig

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)
# segments of the longest text that is trained on
SEGMENTS = 4
GROW = 0.6
DRILL = 0.0
STD = 0.1
WIDTH = 32


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


class Passkeys(BatchSource):
    """Texts in the format of `eval.passkey`, of one segment to `SEGMENTS`, and a reader that is asked for the key."""

    def __init__(self, config: TrainConfig, tokenizer: WordTokenizer, texts: int) -> None:
        super().__init__(None, config, LAYOUT)
        self.tokenizer, self.texts = tokenizer, texts

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def __getitem__(self, step: int):
        if step >= self.config.steps:
            raise IndexError(step)
        rng = Random(f"{self.config.seed}/{step}")
        mode = "flat" if rng.random() < self.config.flat_share else "hierarchical"
        capacity = LAYOUT.segment_capacity
        # copying is learned on the shortest texts; every batch has about as many positions
        segments = 1 if step < GROW * self.config.steps else rng.randint(1, SEGMENTS)
        made = [self.text(rng, segments) for _ in range(2 * self.texts // (segments + 1))]
        longest = max(-(-len(text) // capacity) for text, *_ in made)
        reads = np.zeros((longest + 1, longest + 1), dtype=bool)
        reads[longest, :longest] = True
        lengths = []
        for text, _, _, reader, _ in made:
            pieces = [min(capacity, max(0, len(text) - s * capacity)) for s in range(longest)]
            lengths.append([*pieces, len(reader)])
        layout = Layout.of(lengths, LAYOUT, reads=reads)
        content = layout.kinds == Kind.CONTENT
        ids = layout.place([np.asarray([*text, *reader]) for text, _, _, reader, _ in made])
        labels = np.full(ids.shape, NO_LABEL, dtype=np.int64)
        weights = np.zeros(ids.shape, dtype=np.float32)
        asked, targets = [], []
        for b, (text, marks, where, reader, start) in enumerate(made):
            last = np.full(len(reader), 1.0)
            last[:start] = 0.0
            last[start:] = 4.0
            weight = np.concatenate((marks, last))
            # what comes after a token is its label
            following = np.append(np.asarray([*text, *reader])[1:], NO_LABEL)
            weight = np.append(weight[1:], 0.0)
            # no segment of the memory tells what the next one starts with
            ends = np.cumsum(lengths[b]) - 1
            weight[ends] = 0.0
            labels[b][content[b]] = np.where(weight > 0, following, NO_LABEL)
            weights[b][content[b]] = weight
            homes = np.flatnonzero(content[b, :longest].reshape(-1)) // LAYOUT.block_size
            wanted = np.zeros(longest * LAYOUT.blocks_per_segment, dtype=bool)
            wanted[np.unique(homes[where[0] : where[1]])] = True
            place = np.flatnonzero(content[b, longest])[start - 1]
            asked.append((b, longest * LAYOUT.segment_size + int(place)))
            targets.append(wanted)
        return Batch(ids, layout, labels, weights, np.asarray(asked), np.stack(targets)), mode

    def text(self, rng: Random, segments: int):
        """Tokens, weight of each, place of the key, the reader's tokens and where its answer starts."""
        key = rng.randint(1, passkey.LARGEST)
        hidden = f"The pass key is {key}. Remember it. {key} is the pass key."
        limit = segments * LAYOUT.segment_capacity
        line = self.tokenize(hidden + "\n")
        head = self.tokenize(TASK + "\n") if segments > 1 and rng.random() < 0.7 else []
        room = limit - len(line) - len(head) - rng.randrange(20)
        filler = np.resize(self.tokenize(Grass().take(0, len(GRASS) + 1)), max(room, 0)).tolist()
        cut = rng.randrange(len(filler) + 1)
        text = [*head, *filler[:cut], *line, *filler[cut:]][:limit]
        at = len(head) + cut
        marks = np.full(len(text), 0.05)
        again = len(self.tokenize(f"The pass key is {key}. Remember it."))
        digits = len(self.tokenize(f" {key}"))
        marks[at + again : at + again + digits] = 1.0
        answer = self.tokenize(f" {key}.")
        question = self.tokenize(QUESTION)
        first = len(self.tokenize("The pass key is"))
        return text, marks, (at + first, at + first + digits), [*question, *answer], len(question)


def random_core(family: str, tokenizer: WordTokenizer, seed: int, hidden=64, layers=3, heads=4) -> LandmarkCore:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=WIDTH,
        max_position_embeddings=512,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
        tie_word_embeddings=True,
        rope_theta=10000.0,
        initializer_range=STD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        core = LandmarkCore(base, LAYOUT, tokenizer.bos_token_id)
        torch.nn.init.normal_(core.rows, std=0.02)
    return core
