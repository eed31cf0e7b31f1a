"""From a base model and files of text to an adapter folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierlandmark.chats import read_chats, read_texts
from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument, MissingExtra, ModelUnavailable
from hierlandmark.model.adapter import AdapterMeta, RetrievalHead, save_adapter
from hierlandmark.model.base import default_base
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.model.prompts import ask_prompt, render, tokenize
from hierlandmark.train.checkpoint import read_state, trained_tensors
from hierlandmark.train.corpus import build_corpus
from hierlandmark.train.loop import BatchSource, TrainConfig, retrieval_heads, train

# what of a step's row is a loss or a share
LOGGED = ("loss", "facts", "passages", "text", "right", "right_passages", "votes", "votes_gates", "votes_flat")
# what a part of a text may have, so that a tokenizer is never given a whole library at once
_CHARS = 1_000_000


def train_adapter(
    base: str | None,
    *,
    texts: Sequence[Path],
    chats: Sequence[Path],
    folder: Path,
    config: TrainConfig,
    layout: LayoutConfig | None = None,
    workers: int = 0,
    device: str | None = None,
    resume: bool = False,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train landmark and gate rows and a LoRA; return the adapter folder, `folder / "adapter"`.

    Args:
        base: folder or hub id; None for the default base model.
        texts: `.txt`, `.md`, or `.jsonl`(`.xz`) with `text` on every line.
        chats: chat files.
        folder: takes checkpoints, `log.jsonl` and the adapter.
        resume: go on from the checkpoint in `folder`.

    Raises:
        MissingExtra: peft is not installed.
        InvalidArgument: no text, a folder with another run's checkpoint, or nothing to resume.
        ModelUnavailable: the base model is not there.
        TrainingDiverged: see `train`.
    """
    layout = layout or LayoutConfig()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    state = read_state(folder)
    if resume and state is None:
        raise InvalidArgument(f"nothing to resume in {str(folder)!r}: no state.json; leave --resume out")
    if not resume and state is not None:
        raise InvalidArgument(f"{str(folder)!r} holds a run of {state['step']} steps; give --resume, or another --out")
    where = str(base) if base is not None else str(default_base())
    torch.manual_seed(config.seed)
    core, tokenizer, name = load_trainable(where, layout, config.rank, device)
    digest = weights_digest(Path(where)) if Path(where).is_dir() else None
    note = {"base": digest or where, "layout": layout.model_dump()}
    if state is not None:
        _check_same(folder, state, {"rank": config.rank, **note})
    corpus = build_corpus(read_tokens(tokenizer, texts, chats), tokenizer, lambda q: ask_prompt(tokenizer, q))
    source = BatchSource(corpus, config, layout)
    rows = train(core, source, folder, resume=resume, workers=workers, on_step=on_step, note=note)
    heads = tuple(
        RetrievalHead(layer=layer, head=head)
        for layer, members in retrieval_heads(core, config.retrieval_layers).items()
        for head in members
    )
    training = {
        "steps": len(rows),
        "seed": config.seed,
        # positions of the grid: content, landmarks, gates and padding
        "positions": sum(math.prod(row["shape"]) for row in rows),
        "config": asdict(config),
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in (*texts, *chats)],
        "tokens": {name: len(tokens) for name, tokens in corpus.texts.items()},
        "losses": final_losses(rows),
    }
    meta = AdapterMeta(layout=layout, base=digest, retrieval=heads, training=training)
    out = folder / "adapter"
    save_adapter(out, trained_tensors(core), meta, base_name=name, rank=config.rank, alpha=2 * config.rank)
    return out


def final_losses(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the last fifty steps of the loss and its parts, each over the steps that have it."""
    parts: dict[str, list[float]] = {}
    for row in rows[-50:]:
        for name, value in row.items():
            if name in LOGGED and math.isfinite(value):
                parts.setdefault(name, []).append(value)
    return {name: round(sum(values) / len(values), 4) for name, values in parts.items()}


def _check_same(folder: Path, state: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `InvalidArgument` when a checkpoint is of another rank, base or layout."""
    found = {"rank": state["config"]["rank"], "base": state.get("base"), "layout": state.get("layout")}
    for name, value in wanted.items():
        if found[name] != value:
            raise InvalidArgument(
                f"the checkpoint in {str(folder)!r} is of {name} {found[name]!r}, not {value!r}; "
                f"resume it with its own {name}, or give another --out"
            )


def load_trainable(where: str, layout: LayoutConfig, rank: int, device: str) -> tuple[LandmarkCore, Any, str]:
    """A frozen base with a fresh LoRA on every linear layer and two rows to train; its tokenizer and name.

    On a GPU the base is bf16, but hidden states between layers stay fp32: with all of them in bf16 the gradient of a
    real batch had a cosine of 0.87 with the fp32 reference (median over tensors), with fp32 between layers 0.99.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("training needs peft; run: pip install 'hierlandmark[train]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = device.startswith("cuda")
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        base = AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16 if half else torch.float32)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(
            f"no base model at {where!r}, neither a folder nor a reachable hub id: {error}"
        ) from error
    sink = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id or 0
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", bias="none")
    wrapped = get_peft_model(base, lora)
    for name, module in wrapped.named_modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # autocast does it; peft's own cast to fp32 doubles the copies
            module.cast_input_dtype_enabled = False
        if half and name.endswith(("input_layernorm", "post_attention_layernorm")):
            module.register_forward_hook(lambda module, args, output: output.to(torch.bfloat16))
    core = LandmarkCore(wrapped, layout, sink, residual_dtype=torch.float32 if half else None)
    return core.to(device), tokenizer, where


def read_tokens(tokenizer: Any, texts: Sequence[Path], chats: Sequence[Path]) -> dict[str, np.ndarray]:
    """Token ids of all texts and all chats, each one array (n,) uint32.

    Raises:
        InvalidArgument: neither has a token.
    """
    pieces: dict[str, list[np.ndarray]] = {"texts": [], "chats": []}

    def take(name: str, text: str) -> None:
        for i in range(0, len(text), _CHARS):
            pieces[name].append(np.asarray(tokenize(tokenizer, text[i : i + _CHARS]), dtype=np.uint32))

    for path in texts:
        for text in read_texts(path):
            take("texts", text)
    for path in chats:
        for chat in read_chats(path):
            for message in chat.messages:
                if message.content:
                    take("chats", render(message))
    out = {name: np.concatenate(kept) for name, kept in pieces.items() if sum(map(len, kept))}
    if not out:
        raise InvalidArgument("expected some text to train on, the files hold none")
    return out
