"""`add` beside a plain forward pass; `ask` beside reading everything again; each pair in one process, warm."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hierlandmark.memory import Memory
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel
from hierlandmark.model.full import load_full

# goes on with some digits, whatever is remembered
QUESTION = "What is the pass key? The pass key is"


def text_of(model: LandmarkModel, tokens: int, source: Path | None) -> str:
    """Text of about so many tokens: a file's, repeated as needed, or sentences of plain words."""
    unit = source.read_text(encoding="utf-8") if source else _plain()
    ids = model.tokenize(unit[: 8 * tokens])
    while len(ids) < tokens:
        ids = ids + ids
    return model.decode(ids[:tokens])


def _plain() -> str:
    who, what = (
        ("Ana", "Boris", "Clara", "Diego", "Elif"),
        ("ferry", "mill", "orchard", "piano", "lamp", "bridge", "kite"),
    )
    where = ("Lisbon", "Riga", "Cork", "Turin", "Perth", "Hanoi", "Oslo", "Quito", "Split", "Lyon", "Bergen")
    return " ".join(
        f"{who[i % 5]} saw the {what[i * 3 % 7]} in {where[i * 7 % 11]} on day {i * 37 % 365}." for i in range(400)
    )


def plain_base(model: LandmarkModel) -> Any:
    """The untouched base model with torch's fused attention, in the same dtype."""
    return load_full(model)


@torch.inference_mode()
def bench_add(model: LandmarkModel, *, tokens: int = 8192, window: int = 2048, repeats: int = 3) -> dict[str, Any]:
    """Tokens/s of `add` into a fresh database, and of a forward pass over windows; turn by turn.

    Returns:
        Every rate, their medians, and the median of the pairwise ratios (`add` / plain).
    """
    base = plain_base(model)
    text = text_of(model, tokens, None)
    ids = torch.tensor(model.tokenize(text))

    def add() -> int:
        with TemporaryDirectory() as folder, Memory.open(Path(folder) / "bench.db", model=model) as memory:
            return memory.add([Message(id=0, role="document", content=text)]).tokens

    def plain() -> int:
        whole = len(ids) // window * window
        for start in range(0, whole, window):
            base.model(ids[None, start : start + window], use_cache=False)
        return whole

    add(), plain()
    pairs = [(_rate(add), _rate(plain)) for _ in range(repeats)]
    return {
        "dtype": str(model.core.dtype),
        "add_tokens_per_s": [round(a) for a, _ in pairs],
        "plain_tokens_per_s": [round(p) for _, p in pairs],
        "ratio": round(median(a / p for a, p in pairs), 3),
    }


@torch.inference_mode()
def bench_ask(
    model: LandmarkModel, *, tokens: int = 32_768, repeats: int = 5, new_tokens: int = 16, prefill: bool = True
) -> dict[str, Any]:
    """First token and decoding of `ask` over a stored history, and of the base model that reads it all with SDPA.

    Each `ask`, its search included, opens the database anew: no block is cached. The prefill runs once: it takes
    minutes.
    """
    text = text_of(model, tokens, None)
    first, decode, cost = [], [], None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "bench.db"
        with Memory.open(path, model=model) as memory:
            memory.add([Message(id=0, role="document", content=text)])
        for turn in range(repeats + 1):
            with Memory.open(path, model=model) as memory:
                answer = memory.ask(QUESTION, max_new_tokens=new_tokens)
            if turn:
                first.append(answer.first_token_s)
                decode.append(answer.per_token_s)
                cost = answer.cost.model_dump()
    out: dict[str, Any] = {
        "dtype": str(model.core.dtype), "tokens": tokens, "ask_first_token_s": median(first),
        "ask_decode_s": median(decode), "cost": cost,
    }  # fmt: skip
    if prefill:
        full = _read_all(model, text, new_tokens // 2)
        out |= full
        out["first_token_ratio"] = round(full["full_first_token_s"] / out["ask_first_token_s"], 1)
        # an answer of one token has nothing to compare
        out["decode_ratio"] = round(full["full_decode_s"] / out["ask_decode_s"], 2) if out["ask_decode_s"] else None
    return out


def _read_all(model: LandmarkModel, text: str, new_tokens: int) -> dict[str, float]:
    base = plain_base(model)
    ids = torch.tensor([model.tokenize(text + QUESTION)])
    began = time.perf_counter()
    out = base(ids, use_cache=True, logits_to_keep=1)
    first = time.perf_counter() - began
    steps = []
    for _ in range(new_tokens):
        token = out.logits[:, -1:].argmax(-1)
        began = time.perf_counter()
        out = base(token, past_key_values=out.past_key_values, use_cache=True)
        steps.append(time.perf_counter() - began)
    return {"full_first_token_s": first, "full_decode_s": median(steps[1:] or steps)}


def _rate(run: Callable[[], int]) -> float:
    began = time.perf_counter()
    tokens = run()
    return tokens / (time.perf_counter() - began)
