"""`python -m hierlandmark.train.questions`: let the base model write questions that messages of chats answer.

A memory that is asked needs pairs of a question and the message it means. Chats have few, so the model writes them, as
doc2query (Nogueira & Lin 2019) and InPars (Bonifacio et al. 2022, arXiv 2202.05144) do. A small model wanders, so its
question is begun for it, what it would write without the message is taken off its logits (classifier-free guidance,
Sanchez et al. 2023, arXiv 2306.17806), and rules drop what is not about the message.
"""

import argparse
import json
import lzma
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hierlandmark.chats import read_chats
from hierlandmark.errors import InvalidArgument
from hierlandmark.loading import without_bars
from hierlandmark.model.base import checked_device, default_base
from hierlandmark.model.prompts import speaker, tokenize
from hierlandmark.train.wording import OF_TEXT, TYPE, Draw, Found, draw_messages, keep

_ASK = "Write a short question about the topic of this message."
# ChatML without a system turn, which only distracts
_BEFORE, _AFTER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
_GUIDANCE = 1.5
_NEW_TOKENS = 32
_SAVE_SECONDS = 180.0

Write = Callable[[Sequence[Draw]], Sequence[str]]


def read_records(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Conversations of chat files as they stand there, all keys kept; ids that stand in two files are refused."""
    found: dict[Any, dict[str, Any]] = {}
    for path in paths:
        # names every fault; what it leaves out must be kept, so lines are read again
        chats = list(read_chats(path))
        if path.suffix in (".txt", ".md"):
            records = [chat.model_dump(mode="json", exclude_none=True) for chat in chats]
        else:
            with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8-sig") as file:
                records = [json.loads(line) for line in file if line.strip()]
        for record in records:
            if record["id"] in found:
                raise InvalidArgument(f"conversation {record['id']!r} of {path} stands in another file too")
            found[record["id"]] = record
    return list(found.values())


def add_questions(
    records: Sequence[dict[str, Any]],
    write: Write,
    *,
    count: int,
    batch: int = 64,
    seed: int = 0,
    seconds: float = float("inf"),
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Questions of type "generated" added to the records, each with the one message it was made of as evidence.

    Args:
        write: draws to what the model wrote for each, its beginning included.
        count: messages that are tried; fewer questions are kept.
        seconds: after which no batch is begun.
        progress: called after each batch with the numbers of messages tried and of questions kept.
    """
    if count < 1 or batch < 1:
        raise InvalidArgument(f"expected at least one message and a batch of at least one, got {count}, {batch}")
    began, rng = time.monotonic(), np.random.default_rng(seed)
    draws = list(draw_messages(records, count, rng))
    # batches of one length, in random order, so that what is there at any time is a fair sample
    order = sorted(range(len(draws)), key=lambda i: len(draws[i].shown))
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    found = [Found(record) for record in records]
    asked = {(c, q["question"].lower()) for c, r in enumerate(records) for q in r.get("questions") or ()}
    tried = kept = 0
    for i in rng.permutation(len(batches)):
        if time.monotonic() - began > seconds:
            break
        some = [draws[at] for at in batches[i]]
        for draw, text in zip(some, write(some), strict=True):
            question = keep(draw, text, found[draw.chat])
            # the same of a second message would make two answers of one
            if question is None or (draw.chat, question.lower()) in asked:
                continue
            asked.add((draw.chat, question.lower()))
            record = records[draw.chat]
            made = {"type": TYPE, "question": question, "answer": None, "evidence": [draw.message]}
            record["questions"] = [*(record.get("questions") or ()), made]
            kept += 1
        tried += len(some)
        if progress:
            progress(tried, kept)
    return kept


def save_records(records: Sequence[dict[str, Any]], path: Path) -> None:
    """A chat file, whole or not there at all."""
    part = path.with_name(f"part-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"preset": 1} if path.suffix == ".xz" else {}
    with (lzma.open if options else open)(part, "wt", encoding="utf-8", **options) as file:
        file.writelines(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    part.replace(path)


def load_writer(base: Path, device: str, *, dtype: str = "bfloat16") -> Write:
    """The base model, greedy under guidance. What breaks off has no question mark."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteria, StoppingCriteriaList

    tokenizer = AutoTokenizer.from_pretrained(base)
    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    model = model.eval().to(checked_device(device))
    before, after = (tokenizer(mark, add_special_tokens=False)["input_ids"] for mark in (_BEFORE, _AFTER))
    ends = [i for i in range(len(tokenizer)) if {"?", "\n"} & set(tokenizer.decode([i]))]
    unwanted = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in sorted(OF_TEXT)]
    pad = tokenizer.eos_token_id
    stops = torch.tensor([pad, *ends], device=device)

    class Ended(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
            return torch.isin(input_ids[:, -1], stops)

    def padded(draws: Sequence[Draw], shown: Sequence[str]) -> tuple[Any, Any]:
        told = [f"{_ASK}\n\n{speaker(draw.role, None)} {text}" for draw, text in zip(draws, shown, strict=True)]
        texts = [(tokenize(tokenizer, t), tokenize(tokenizer, d.start)) for t, d in zip(told, draws, strict=True)]
        rows = [[*before, *text, *after, *start] for text, start in texts]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
        return ids, mask

    @torch.inference_mode()
    def write(draws: Sequence[Draw]) -> list[str]:
        ids, mask = padded(draws, [draw.shown for draw in draws])
        without, without_mask = padded(draws, ["..."] * len(draws))
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=_NEW_TOKENS, pad_token_id=pad,
            guidance_scale=_GUIDANCE, negative_prompt_ids=without, negative_prompt_attention_mask=without_mask,
            suppress_tokens=[ids[0] for ids in unwanted if len(ids) == 1], begin_suppress_tokens=stops.tolist(),
            stopping_criteria=StoppingCriteriaList([Ended()]),
        )  # fmt: skip
        new = out[:, ids.shape[1] :]
        ended = torch.isin(new, stops).any(1).tolist()
        texts = tokenizer.batch_decode(new, skip_special_tokens=True)
        return [_ask(d.start + text, end) for d, text, end in zip(draws, texts, ended, strict=True)]

    return write


def _ask(text: str, ended: bool) -> str:
    """The first line; the model often leaves out the mark of a question that it ends."""
    line = text.split("\n")[0].rstrip()
    return f"{line}?" if ended and line and line[-1].isalnum() else line


def main(argv: Sequence[str] | None = None) -> None:
    """Let the base model write questions for messages of chats; one line of JSON on standard output."""
    parser = argparse.ArgumentParser(prog="python -m hierlandmark.train.questions", description=main.__doc__)
    parser.add_argument("--chats", type=Path, action="append", required=True, help="chat file; may be repeated")
    parser.add_argument("--out", type=Path, required=True, help="chat file to write, .jsonl or .jsonl.xz")
    parser.add_argument("--count", type=int, required=True, help="messages to try; fewer questions are kept")
    parser.add_argument("--batch", type=int, default=64, help="questions written at once")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if not args.out.name.endswith((".jsonl", ".jsonl.xz")):
        raise InvalidArgument(f"expected --out to end in .jsonl or .jsonl.xz, got {args.out.name!r}")
    records = read_records(args.chats)
    began = saved = time.monotonic()

    def progress(tried: int, kept: int) -> None:
        nonlocal saved
        now = time.monotonic()
        print(f"{tried} tried, {kept} kept, {tried / (now - began):.1f}/s", file=sys.stderr, flush=True)
        if now - saved > _SAVE_SECONDS:
            save_records(records, args.out)
            saved = time.monotonic()

    write = load_writer(default_base(), args.device)
    options = {"count": args.count, "batch": args.batch, "seed": args.seed, "seconds": args.seconds}
    kept = add_questions(records, write, progress=progress, **options)
    save_records(records, args.out)
    print(json.dumps({"kept": kept, "out": str(args.out), "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
