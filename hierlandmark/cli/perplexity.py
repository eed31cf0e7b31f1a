"""`eval perplexity` and `eval work`: the paper's tables."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hierlandmark.cli.guard import terminable
from hierlandmark.cli.options import (
    AdapterOption,
    Granularity,
    LengthsOption,
    ModelOption,
    OutOption,
    WeighBy,
    load_model,
    parse_lengths,
    parse_shares,
    recall_config,
)
from hierlandmark.cli.output import counted, progress, write_json
from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.eval.perplexity import Setting
    from hierlandmark.model import LandmarkModel
    from hierlandmark.ops.selected import Counts

Peers = Literal["hierarchical", "flat", "full", "xl"]
BlocksOption = Annotated[
    str | None, typer.Option("--blocks", metavar="K,...", help="Blocks that each reads; every block if not given.")
]
SegmentsOption = Annotated[
    int | None, typer.Option("--segments", help="Segments that each opens.  [default: 4, or k if more]")
]


def perplexity(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Text: .txt, .md, or .jsonl(.xz) with one text a line.")],
    lengths: LengthsOption = "2048,4096",
    limit: Annotated[int, typer.Option("--limit", help="Windows of each length.")] = 20,
    mode: Annotated[
        Peers, typer.Option("--mode", help="As in search; `full` is plain attention, `xl` the same to --window tokens.")
    ] = "hierarchical",
    out: OutOption = None,
    table: Annotated[
        Literal["1", "2", "D"] | None,
        typer.Option("--table", help="A table of the paper: 1 all against k, 2 who chooses, D thresholds."),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            "--window", metavar="TOKENS,...", help="Local window: a segment, or what `xl` sees without --cache."
        ),
    ] = None,
    cache: Annotated[
        int | None,
        typer.Option("--cache", metavar="TOKENS", help="With mode xl: steps of --window, each sees so many before it."),
    ] = None,
    blocks: BlocksOption = None,
    segments: SegmentsOption = None,
    granularity: Annotated[
        Granularity,
        typer.Option("--granularity", help="Who chooses its own blocks; `shared`: all of a segment together."),
    ] = "head_token",
    threshold: Annotated[
        str | None,
        typer.Option("--threshold", metavar="MASS,...", help="Mass on the past under which nothing is read."),
    ] = None,
    weigh_by: Annotated[
        WeighBy,
        typer.Option(
            "--weigh-by", help="With --blocks: what weighs those of opened segments, both levels or landmarks alone."
        ),
    ] = "gates",
    count: Annotated[
        bool,
        typer.Option("--work/--no-work", help="Count reads and keys; uncounted a GPU selects in its kernels, faster."),
    ] = True,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
    xl_adapter: Annotated[
        str, typer.Option("--xl-adapter", metavar="FOLDER", help="Of `xl` in --table 1; `none` for the base.")
    ] = "none",
    full_adapter: Annotated[
        str, typer.Option("--full-adapter", metavar="FOLDER", help="Of `full` in --table 1; `none` for the base.")
    ] = "none",
    device: Annotated[str | None, typer.Option("--device", help="Such as cuda; cpu if not given.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Such as bfloat16 or float32.")] = None,
) -> None:
    """How well the model predicts documents through its landmarks, each segment reading all before it.

    A run that is cut keeps the windows that it scored: it prints them, and --json has them after each window.
    """
    wanted = parse_lengths(lengths)
    sizes = parse_lengths(window, "--window") if window else None
    ks = parse_lengths(blocks, "--blocks") if blocks else None
    masses = parse_shares(threshold, "--threshold") if threshold else (0.0,)
    if mode == "xl" and not table and not sizes:
        raise InvalidArgument("expected --window with mode xl: how many tokens a token sees")
    # a default misleads nobody
    given = {name for name in _USED if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    given -= {"count"} if count else set()
    _check_used(given, table, mode, sizes or [], ks or [])
    if limit < 1:
        raise InvalidArgument(f"expected a --limit of 1 window or more, got {limit}")
    if cache is not None and cache < 0:
        raise InvalidArgument(f"expected a --cache of 0 tokens or more, got {cache}")
    if sizes and min(sizes) < 1:
        raise InvalidArgument(f"expected a --window of 1 token or more, got {min(sizes)}")
    for k, mass in product(ks or (None,), masses):
        recall_config(segments=segments, blocks=k, threshold=mass, weigh_by=weigh_by)
    from hierlandmark.chats import read_texts
    from hierlandmark.eval.perplexity import Setting, check_lengths, evaluate_perplexity
    from hierlandmark.eval.tables import as_lines, opened, settings_of

    # a token is a byte or more: what bytes are too few for is told before a model is loaded
    check_lengths(wanted, (text.encode(errors="surrogatepass") for text in read_texts(file)))

    def load(name: str) -> "LandmarkModel":
        return load_model(model, name, device=device, dtype=dtype, peer=True)

    main = load(adapter)
    models = {"main": main}
    block_size, whole = main.layout.block_size, main.layout.segment_size
    if table:
        sizes = sizes or ([whole, whole // 2] if table == "1" else [whole])
        settings = settings_of(
            table, sizes, ks or ([2, 4, 8] if table == "1" else [4]), block_size, masses if threshold else ()
        )
        if segments:
            settings = [replace(one, segments=segments) for one in settings]
        settings = [replace(one, weigh_by=weigh_by) if one.mode == "hierarchical" else one for one in settings]
    else:
        settings = [
            Setting(mode, size, cache, k, segments or opened(k or 1), granularity, mass, weigh_by)
            for size, k, mass in product(sizes or (None,), ks or (None,), masses)
        ]
    for one in settings:
        if one.mode in ("hierarchical", "flat") and one.window and one.window % block_size:
            raise InvalidArgument(f"expected windows to be whole blocks of {block_size}, got {one.window}")
    rows = evaluate_perplexity(
        lambda: map(main.tokenize, read_texts(file)),
        scorer(models, count=count),
        lengths=wanted,
        limit=limit,
        settings=settings,
        longest_full=main.core.base.config.max_position_embeddings if table else None,
    )
    # behind the check of lengths in tokens
    if table == "1":
        models |= {"xl": load(xl_adapter), "full": load(full_adapter)}
    names = {"adapter": adapter} | ({"xl_adapter": xl_adapter, "full_adapter": full_adapter} if table == "1" else {})
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    results: list[dict[str, Any]] = []
    finished = False
    try:
        with terminable(), progress("windows") as update:
            for done, row in enumerate(rows, start=1):
                last[tuple(row[name] for name in ("length", *asdict(settings[0])))] = row
                update(done, len(wanted) * limit * len(settings))
                # rows are compared, so they are kept where all settings have scored the same windows
                if asdict(settings[-1]).items() <= row.items():
                    results = [_finished(one, main) for one in last.values()]
                    if str(out) != "-":
                        # a disk that is full now may not be when it matters
                        with suppress(InvalidArgument):
                            write_json({"results": results, "finished": False, **names}, out)
        finished = True
    finally:
        if results:
            if not finished:
                typer.echo("cut short: these are the windows that were done", err=True)
            if str(out) != "-":
                for line in as_lines(results) if table else map(_line, results):
                    typer.echo(line)
            write_json({"results": results, "finished": finished, **names}, out)


# options that some tables and modes have no use for
_USED = (
    "mode", "window", "cache", "blocks", "segments", "granularity", "threshold", "weigh_by", "count", "xl_adapter",
    "full_adapter",
)  # fmt: skip

_NAMES = {"count": "no-work"}


def _check_used(given: set[str], table: str | None, mode: str, sizes: Sequence[int], ks: Sequence[int]) -> None:
    """Raises `InvalidArgument` for an option that would change nothing: whoever gave it believes it did."""
    if "cache" in given and (table or mode not in ("full", "xl")):
        beside = f"--table {table}, which has caches of its own" if table else f"--mode {mode}, which has none"
        raise InvalidArgument(f"--cache belongs to --mode xl and would change nothing beside {beside}")
    if table:
        who, why = f"--table {table}", "it has no use for them"
        useless = given & {"mode", "granularity"}
        # D is what is skipped, which has to be counted
        useless |= given & {"count" if table == "D" else "threshold"}
        if table != "1":
            useless |= given & {"xl_adapter", "full_adapter"}
            if len(sizes) > 1 or len(ks) > 1:
                raise InvalidArgument(f"expected one --window and one --blocks with --table {table}")
    elif mode in ("full", "xl"):
        who, why = f"--mode {mode}", "it is plain attention"
        useless = given - ({"mode", "window", "cache"} if mode == "xl" else {"mode"})
    elif not ks:
        who, why = "every block being read", "name how many with --blocks"
        useless = given - {"mode", "window"}
    else:
        who, why = f"--mode {mode}", "it has no use for them"
        useless = given & ({"xl_adapter", "full_adapter"} | ({"segments", "weigh_by"} if mode == "flat" else set()))
    if useless:
        names = ", ".join(f"--{_NAMES.get(name, name.replace('_', '-'))}" for name in _USED if name in useless)
        raise InvalidArgument(f"{names} would change nothing beside {who}: {why}")


def scorer(
    models: "dict[str, LandmarkModel]", *, count: bool = True
) -> "Callable[[Sequence[int], Setting, Counts], Sequence[float]]":
    """Scores by the model of a setting's mode, else by "main"; work is not counted unless `count`."""

    def score(tokens: Sequence[int], setting: "Setting", counts: "Counts") -> Sequence[float]:
        found = models.get(setting.mode, models["main"])
        layout = found.layout
        if setting.window and setting.mode in ("hierarchical", "flat"):
            layout = layout.model_copy(update={"blocks_per_segment": setting.window // layout.block_size})
        return found.nll(
            tokens, mode=setting.mode, recall=setting.select, layout=layout, window=setting.window,
            cache=setting.cache, counts=counts if count else None,
        )  # fmt: skip

    return score


def _finished(row: dict[str, Any], model: "LandmarkModel") -> dict[str, Any]:
    """A row with its attention size, and its work where that was counted."""
    from hierlandmark.eval.perplexity import Setting
    from hierlandmark.eval.work import measured

    layout = model.layout
    setting = Setting(**{name: row[name] for name in asdict(Setting())})
    size = setting.attention_size(row["length"], layout.segment_size, layout.block_size)
    out = {**row, "attention_size": size}
    if "counts" in row:
        if setting.window:
            layout = layout.model_copy(update={"blocks_per_segment": setting.window // layout.block_size})
        out["work"] = asdict(measured(_shape(model), layout, row["counts"], row["windows"] * row["length"]))
    return out


def _shape(model: "LandmarkModel") -> Any:
    from hierlandmark.eval.work import Shape

    core = model.core
    return Shape(core.layers, core.heads, core.kv_heads, core.head_dim, memory_layers=len(core.memory_layers))


def _line(row: dict[str, Any]) -> str:
    text = f"{row['length']:>8,} tokens, mode {row['mode']}"
    if row["window"]:
        text += f", window {row['window']:,}" + (f" and cache {row['cache']:,}" if row["cache"] is not None else "")
    if row["blocks"] and row["mode"] in ("hierarchical", "flat"):
        text += f", k {row['blocks']}"
        # flat looks at every segment
        text += f" of {counted(row['segments'], 'segment')}" if row["mode"] == "hierarchical" else ""
        text += f", threshold {row['threshold']:g}"
        text += ", weighed by landmarks" if row["mode"] == "hierarchical" and row["weigh_by"] == "landmarks" else ""
    text += f": {row['perplexity']:.2f} over {counted(row['windows'], 'window')}"
    if "work" in row:
        text += f", {row['reads_skipped']['head_token']:.1%} of reads skipped, {row['work']['keys']:,.0f} keys a token"
    return text


def work(
    lengths: LengthsOption = "2048,8192,32768,131072,1048576",
    blocks: Annotated[int, typer.Option("--blocks", help="Blocks that each head reads.")] = 4,
    segments: Annotated[int, typer.Option("--segments", help="Segments that each head opens.")] = 4,
    out: OutOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Keys scored, FLOPs and bytes of attention for one more token, by formula, for each kind of attention."""
    wanted = parse_lengths(lengths)
    if min(wanted) < 1:
        raise InvalidArgument(f"expected lengths of at least 1, got {min(wanted)!r}")
    select = recall_config(segments=segments, blocks=blocks)
    from hierlandmark.eval.work import decoding, full

    loaded = load_model(model, adapter)
    shape = _shape(loaded)
    rows = []
    for length in wanted:
        kinds = {"full": full(shape, length)}
        kinds |= {mode: decoding(shape, loaded.layout, mode, length, select) for mode in ("flat", "hierarchical")}
        rows += [{"length": length, "mode": mode, **asdict(one)} for mode, one in kinds.items()]
    if str(out) != "-":
        typer.echo(
            "| length | attention | keys a head scores | MFLOPs | MB read | of full attention's FLOPs |\n"
            + "|---" * 6
            + "|"
        )
        for row in rows:
            share = row["flops"] / full(shape, row["length"]).flops
            typer.echo(
                f"| {row['length']:,} | {row['mode']} | {row['keys']:,.0f} | {row['flops'] / 1e6:,.2f} | "
                f"{row['bytes'] / 1e6:,.2f} | {share:.2%} |"
            )
    write_json({"results": rows}, out)
