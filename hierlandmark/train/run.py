"""From a base model and files of text to an adapter folder."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from hierlandmark import minilm
from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument, MissingExtra, ModelUnavailable
from hierlandmark.loading import without_bars
from hierlandmark.model.adapter import Adapter, AdapterMeta, Ranking, RetrievalHead, Weights, layer_of, save_adapter
from hierlandmark.model.base import checked_device, default_base, located
from hierlandmark.model.binding import decoder_of
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.dense import far_queries
from hierlandmark.model.fingerprint import weights_digest
from hierlandmark.model.prompts import ask_prompt
from hierlandmark.train.checkpoint import trained_tensors
from hierlandmark.train.config import TrainConfig, check_lengths
from hierlandmark.train.corpus import build_corpus
from hierlandmark.train.files import check_given, no_files, other_files, read_state, resumed_state
from hierlandmark.train.loop import BatchSource, middle_heads, retrieval_heads, train
from hierlandmark.train.pairs import nothing_to_search
from hierlandmark.train.search_loss import SearchTraining
from hierlandmark.train.synonyms import synonyms
from hierlandmark.train.tokens import read_tokens

# what of a step's row is a loss or a share
LOGGED = (
    "loss",
    "facts",
    "passages",
    "text",
    "right",
    "right_passages",
    "votes",
    "votes_gates",
    "votes_flat",
    "votes_linked",
    "gates",
    "gate_mass",
    "landmark_mass",
    "search",
    "search_gates",
    "found",
    "found_gates",
)

# factor on the low-rank products: alpha over rank
_SCALE = 2
# how the command line calls what a checkpoint is bound to
_OPTIONS = {
    "rank": "--rank", "freeze_below": "--freeze-below", "memory_layers": "--memory-layers", "base": "--model"
}  # fmt: skip


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
    init: Path | None = None,
    on_step: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train landmark and gate rows and a LoRA; return the adapter folder, `folder / "adapter"`.

    Args:
        base: folder or hub id; None for the default base model.
        texts: `.txt`, `.md`, or `.jsonl`(`.xz`) with `text` on every line.
        chats: chat files.
        folder: takes checkpoints, `log.jsonl` and the adapter.
        layout: by default that of the run to resume, else that of the adapter to start from.
        resume: go on from the checkpoint in `folder`; `config.run_config` gives its own configuration.
        init: adapter folder whose weights a new run starts from; its layout is kept, and with `freeze_below` the heads
            that search, all of which must lie below. Of one whose search has weights of its own a run that only trains
            the search (`search_share` 1) starts from those, to be put beside others again (`train.merge --search`); any
            other run starts from the rest and leaves them as they are.

    Raises:
        MissingExtra: peft is not installed.
        InvalidChatFile: a text in place of chats.
        InvalidArgument: no text, also for a run to resume, files of other names for one, or a path that is no file; no
            such device, a folder with another run's checkpoint, nothing to resume, an adapter to start from of another
            rank, shape or layout, or lengths that are not whole segments.
        AdapterInvalid: the adapter to start from cannot be read.
        ModelMismatch: it was trained on another base.
        ModelUnavailable: the base model is not there.
        TrainingDiverged: see `train`.
    """
    check_given(folder, texts, chats, workers)
    device = checked_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    start = Adapter.load(init) if init is not None else None
    state = resumed_state(folder) if resume else None
    # by their names only: the rest of a path is this machine's
    files = {"text": [path.name for path in texts], "chats": [path.name for path in chats]}
    if state is not None and (not (texts or chats) or state.get("files", files) != files):
        raise other_files(folder, state)
    if not texts and not chats:
        raise no_files()
    # distances that were learned stay, as the layout does, unless others are asked for
    learned = start.meta.recency if start is not None and config.attention == "landmark" else 0
    if config.recency not in (None, 0, learned) and not config.stream_share and not resume:
        raise InvalidArgument.naming(
            lambda called: (
                f"expected a {called('stream_share')} with {called('recency')}: only texts read in order know it"
            )
        )
    if config.recency is None and learned:
        config = replace(config, recency=learned)
    if not resume and (found := read_state(folder)) is not None:
        raise InvalidArgument(
            f"{str(folder)!r} holds a run at step {found['step']}",
            python="give resume=True, or another folder",
            command="give --resume, or another --out",
        )
    if layout is None:
        of_run = LayoutConfig.model_validate(state["layout"]) if state and state.get("layout") else None
        layout = of_run or (start.meta.layout if start else LayoutConfig())
    elif start is not None and layout != start.meta.layout:
        raise InvalidArgument(
            f"the adapter to start from has the layout {start.meta.layout.model_dump()}, not {layout.model_dump()}: "
            "its rows would not stand for what they were trained to",
            python="leave layout out, or init",
            command="leave --block-size, --blocks-per-segment and --local-window out, or --init",
        )
    if config.freeze_below and not resume:
        _check_frozen(config, start)
    if start is not None and start.search and 0 < config.search_share < 1:
        raise InvalidArgument.naming(
            lambda called: (
                f"expected {called('search_share')} 0 or 1 to start from an adapter with weights of search, got "
                f"{config.search_share!r}"
            )
        )
    # as the layout; what only searches in other layers has nothing to read, and is put beside what reads
    if start is not None and config.attention == "landmark":
        theirs = start.meta.memory_layers
        if config.search_share < 1 or set(config.search_layers) <= set(theirs):
            config = replace(config, memory_layers=config.memory_layers or theirs)
    # lengths that do not fit are told before anything is loaded
    check_lengths(config, layout)
    _check_watched(config, layout)
    started = {"adapter": start.digest, "training": start.meta.training} if start is not None else None
    # weights of search that stay beside what is trained, where that has landmarks at all
    stays = start is not None and not config.search_share and config.attention == "landmark"
    beside = start.search if start is not None and stays else None
    if start is not None and start.search:
        if start.search.scale != _SCALE:
            raise InvalidArgument(
                f"expected weights of search of scale {_SCALE} to go on from, got {start.search.scale!r}"
            )
        started = {**(started or {}), "search": "trained" if config.search_share else "beside"}
    if state is not None:
        started = _started(folder, state, started)
        if beside is None and (started or {}).get("search") == "beside":
            raise InvalidArgument(
                f"the run in {str(folder)!r} keeps weights of search of the adapter that it started from",
                python="give that as init again",
                command="give that by --init again",
            )
    # heads of the adapter that it started from, where they stay
    kept_heads = bool(config.freeze_below) or beside is not None
    where = str(base) if base is not None else str(default_base())
    torch.manual_seed(config.seed)
    core, tokenizer, held = load_trainable(where, layout, config.rank, device, config.memory_layers)
    digest = weights_digest(held)
    bound = {"base": digest, "layout": layout.model_dump()}
    if state is not None:
        of_config = {name: getattr(config, name) for name in ("rank", "freeze_below", "memory_layers")}
        _check_same(folder, state, {**of_config, **bound})
    elif start is not None:
        start.check_base(digest, where)
    _check_memory_layers(config, core, start if kept_heads else None)
    if state is None and start is not None:
        if start.search is not None and config.search_share:
            start_from(core, start.search, below=start.search_depth)
        else:
            start_from(core, start.weights)
    if config.freeze_below:
        freeze(core, config.freeze_below)
    read, talks = read_tokens(tokenizer, texts, chats)
    if not talks:
        if config.search_share:
            raise nothing_to_search("expected chats to train the search on")
        config = replace(config, linked=0.0)
    corpus = build_corpus(read, tokenizer, lambda q: ask_prompt(tokenizer, q), talks)
    tokenizer_of_teacher, searching = _searching(core, config)
    if tokenizer_of_teacher is not None:
        corpus = replace(corpus, synonyms=synonyms(tokenizer_of_teacher.get_vocab(), minilm.embed))
    source = BatchSource(corpus, config, layout, sink_id=core.sink_id, teacher=tokenizer_of_teacher)
    kept = state.get("searches") if state else _searches(start) if start and kept_heads else None
    rows = train(
        core, source, folder, resume=resume, workers=workers, on_step=on_step,
        note={**bound, "init": started, "searches": kept, "files": files}, searching=searching,
    )  # fmt: skip
    searched = retrieval_heads(core, config.retrieval_layers, config.retrieval_depth)
    heads = tuple(
        RetrievalHead(layer=layer, head=head, weight=searching.weight if searching else 1.0)
        for layer, members in (searching.heads if searching else searched).items()
        for head in members
        if config.attention == "landmark"
    )
    ranking: Ranking = "sum" if searching else "votes"
    if kept is not None:
        heads = tuple(RetrievalHead.model_validate(head) for head in kept["retrieval"])
        ranking = kept["ranking"]
    training = {
        "steps": len(rows),
        "seed": config.seed,
        # positions of the grid: content, landmarks, gates and padding
        "positions": sum(math.prod(row["shape"]) for row in rows),
        "config": asdict(config),
        "files": [{"name": path.name, "bytes": path.stat().st_size} for path in (*texts, *chats)],
        "tokens": {
            "texts": sum(map(len, read.values())),
            "chats": sum(len(turn.tokens) for talk in talks for turn in talk),
        },
        "losses": final_losses(rows),
    }
    if started is not None:
        training["init"] = started
    meta = AdapterMeta(
        search=start.meta.search if start and beside else None,
        layout=layout,
        base=digest,
        retrieval=heads,
        ranking=ranking,
        attention=config.attention,
        window=config.window,
        recency=config.recency or 0,
        memory_layers=config.memory_layers if len(config.memory_layers) < core.layers else (),
        training=training,
    )
    out = folder / "adapter"
    # a folder by its name only: the rest of the path is this machine's
    name = Path(where).name if Path(where).is_dir() else where
    save_adapter(
        out, trained_tensors(core), meta, base_name=name, rank=config.rank, alpha=_SCALE * config.rank,
        search=beside.tensors if beside else None,
    )  # fmt: skip
    return out


def _check_watched(config: TrainConfig, layout: LayoutConfig) -> None:
    """Raises `InvalidArgument` where no query could ever choose among segments, which `gates` is about."""
    most = max(config.lengths, default=min(config.tokens, config.longest * layout.segment_size)) // layout.segment_size
    if config.gates and config.stream_share == 1 and most < 3:
        raise InvalidArgument.naming(
            lambda called: (
                f"expected texts of at least 3 segments of {layout.segment_size} positions with {called('gates')} and "
                f"a {called('stream_share')} of 1, got {most}"
            )
        )


def _check_frozen(config: TrainConfig, start: Adapter | None) -> None:
    if start is None:
        raise InvalidArgument.naming(
            lambda called: f"expected an adapter to start from with {called('freeze_below')}",
            python="give init",
            command="give --init",
        )
    if not start.meta.retrieval:
        raise InvalidArgument.naming(
            lambda called: (
                f"expected an adapter to start from that names the heads that search with {called('freeze_below')}: "
                "without, all do"
            )
        )
    if high := sorted({head.layer for head in start.meta.retrieval if head.layer >= config.freeze_below}):
        raise InvalidArgument.naming(
            lambda called: (
                f"expected {called('freeze_below')} over the layers that search, got {config.freeze_below!r} and layer "
                f"{high[-1]}"
            )
        )


def _check_memory_layers(config: TrainConfig, core: LandmarkCore, start: Adapter | None) -> None:
    """Raises `InvalidArgument` for a layer that is to search and keeps nothing."""
    searching = set(config.search_layers)
    if start is not None and start.search is None:
        searching |= {head.layer for head in start.meta.retrieval}
    if config.memory_layers and (blind := sorted(searching - set(core.memory_layers))):
        raise InvalidArgument.naming(
            lambda called: (
                f"expected {called('memory_layers')} to name the layers that search, got {config.memory_layers!r} and "
                f"layer {blind[0]}"
            )
        )


def _searches(adapter: Adapter) -> dict[str, Any]:
    meta = adapter.meta
    return {"retrieval": [head.model_dump() for head in meta.retrieval], "ranking": meta.ranking}


def freeze(core: LandmarkCore, below: int) -> None:
    """Leave the layers below one, and the two rows, as they are. Raises `InvalidArgument` where nothing is left."""
    if below >= core.layers:
        raise InvalidArgument.naming(
            lambda called: f"expected {called('freeze_below')} under {core.layers}, got {below!r}"
        )
    core.rows.requires_grad_(False)
    for layer in decoder_of(core.base).layers[:below]:
        layer.requires_grad_(False)


def _searching(core: LandmarkCore, config: TrainConfig) -> tuple[Any | None, SearchTraining | None]:
    """The teacher's tokenizer, and what steps that train the search need; None where there are none."""
    if not config.search_share:
        return None, None
    if config.search_layers[-1] >= core.layers:
        raise InvalidArgument.naming(
            lambda called: f"expected {called('search_layers')} under {core.layers}, got {config.search_layers[-1]!r}"
        )
    tokenizer = teacher = None
    if config.taught:
        tokenizer, model = minilm.load()
        device = core.rows.device
        # the loaded one is kept for whoever asks next
        teacher = copy.deepcopy(model).to(device, dtype=torch.float16 if device.type == "cuda" else torch.float32)
    heads = middle_heads(core, config.search_layers)
    return tokenizer, SearchTraining(heads, config.search_weight, teacher, config.taught)


def start_from(core: LandmarkCore, weights: Weights, *, below: int | None = None) -> None:
    """Put an adapter's weights in place of fresh ones. Raises `InvalidArgument` where names or shapes differ.

    Args:
        below: only layers under this one, and the rows: weights of search have no others.
    """
    given = weights.tensors
    for name, parameter in trained_tensors(core).items():
        if below is not None and layer_of(name) >= below:
            continue
        found = given.get(name)
        if found is None or found.shape != parameter.shape:
            shape = None if found is None else tuple(found.shape)
            raise InvalidArgument(
                f"the adapter to start from has {shape} for {name!r}, expected {tuple(parameter.shape)}",
                python="give its own rank and layout",
                command="give its own --rank",
            )
        parameter.data.copy_(found)


def final_losses(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over the last fifty steps of the loss and its parts, each over the steps that have it."""
    parts: dict[str, list[float]] = {}
    for row in rows[-50:]:
        for name, value in row.items():
            if name in LOGGED and math.isfinite(value):
                parts.setdefault(name, []).append(value)
    return {name: round(sum(values) / len(values), 4) for name, values in parts.items()}


def _started(folder: Path, state: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a resumed run started from; `InvalidArgument` when that is not the adapter given now."""
    found: dict[str, Any] | None = state.get("init", given)
    if given is not None and (found or {}).get("adapter") != given["adapter"]:
        raise InvalidArgument(
            f"the run in {str(folder)!r} did not start from this adapter",
            python="resume it without init",
            command="resume it without --init",
        )
    if given is not None and (found or {}).get("search") != given.get("search"):
        raise InvalidArgument(
            f"the run in {str(folder)!r} trained the other part of this adapter",
            python="resume it with its own search_share",
            command="resume it with its own --search-share",
        )
    return found


def _check_same(folder: Path, state: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises `InvalidArgument` when a checkpoint is of another rank, base or layout, or trained other layers."""
    config = state["config"]
    found = {
        "rank": config["rank"],
        "freeze_below": config.get("freeze_below", 0),
        "memory_layers": tuple(config.get("memory_layers", ())),
        "base": state.get("base"),
        "layout": state.get("layout"),
    }
    if (name := next((one for one in wanted if found[one] != wanted[one]), None)) is not None:
        raise InvalidArgument.naming(
            lambda called: (
                f"the checkpoint in {str(folder)!r} is of {called(name)} {found[name]!r}, not {wanted[name]!r}"
            ),
            # what is a word too stays one
            options={one: one for one in ("rank", "base", "layout")},
            python=f"resume it with its own {name}, or give another folder",
            command=f"resume it with its own {_OPTIONS.get(name, name)}, or give another --out",
        )


def load_trainable(
    where: str, layout: LayoutConfig, rank: int, device: str, memory_layers: Sequence[int] = ()
) -> tuple[LandmarkCore, Any, Path]:
    """A frozen base with a fresh LoRA on every linear layer and two rows to train; its tokenizer and its folder.

    On a GPU the base is bf16, but hidden states between layers stay fp32: with all of them in bf16 the gradient of a
    real batch had a cosine of 0.87 with the fp32 reference (median over tensors), with fp32 between layers 0.99.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MissingExtra("training needs peft; run: pip install 'hierlandmark[train]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = device.startswith("cuda")
    folder, source = located(where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source)
        with without_bars():
            base = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16 if half else torch.float32)
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"the base model at {where!r} cannot be loaded: {error}") from error
    sink = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id or 0
    lora = LoraConfig(r=rank, lora_alpha=_SCALE * rank, target_modules="all-linear", bias="none")
    with warnings.catch_warnings():
        # peft asks by the name that transformers had for it before
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        wrapped = get_peft_model(base, lora)
    for name, module in wrapped.named_modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            # autocast does it; peft's own cast to fp32 doubles the copies
            module.cast_input_dtype_enabled = False
        if half and name.endswith(("input_layernorm", "post_attention_layernorm")):
            module.register_forward_hook(lambda module, args, output: output.to(torch.bfloat16))
    residual = torch.float32 if half else None
    core = LandmarkCore(wrapped, layout, sink, residual_dtype=residual, memory_layers=memory_layers).to(device)
    if half:
        core.tap.remove()
        for layer in decoder_of(wrapped).layers:
            # a small model's time goes into what stands between its matrix products
            layer.compile(dynamic=True)
        core.prepare = torch.compile(far_queries, dynamic=True)
    return core, tokenizer, folder
