"""`eval needles`: RULER's needles and the paper's passkey at many lengths, modes beside each other."""

import hashlib
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierlandmark.cli.options import (
    AdapterOption,
    Granularity,
    LengthsOption,
    ModelOption,
    OutOption,
    StrideOption,
    WeighBy,
    load_model,
    parse_lengths,
    recall_config,
)
from hierlandmark.cli.output import progress, show_recall, write_json
from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.model import LandmarkModel


def needles(
    lengths: LengthsOption = "4096,8192,16384,32768",
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="`passkey` and RULER's names, by commas; all there is filler for.")
    ] = None,
    trials: Annotated[int, typer.Option("--trials", help="Trials of each task at each length.")] = 50,
    modes: Annotated[
        str, typer.Option("--modes", help="By commas; `full` is the base model reading everything.")
    ] = "hierarchical,flat,full",
    filler: Annotated[
        Path | None, typer.Option("--filler", metavar="FILE", help="Text in place of RULER's essays: books.")
    ] = None,
    haystacks: Annotated[int, typer.Option("--haystacks", help="Different haystacks of each kind.")] = 5,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens",
            help="Of an answer; if not given, 10 for passkeys, else a right one's, half as many again and 8.",
        ),
    ] = None,
    segments: Annotated[int | None, typer.Option("--segments", help="Segments a query opens, if not 4.")] = None,
    blocks: Annotated[int | None, typer.Option("--blocks", help="Blocks a query reads, if not 4.")] = None,
    granularity: Annotated[
        Granularity | None,
        typer.Option("--granularity", help="Who chooses its own blocks, if not each head and token."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="MASS", help="Mass on the past under which a query reads nothing."),
    ] = None,
    weigh_by: Annotated[
        WeighBy | None,
        typer.Option(
            "--weigh-by", help="What weighs blocks of opened segments: both levels, if not given, or landmarks alone."
        ),
    ] = None,
    stride: StrideOption = None,
    beyond: Annotated[
        bool, typer.Option("--beyond", help="`full` also beyond the positions of the base model.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Seed of needles, depths and haystacks.")] = 0,
    workers: Annotated[int, typer.Option("--workers", help="Processes, each with a model of its own.")] = 1,
    device: Annotated[str | None, typer.Option("--device", help="cuda or cpu.")] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of the weights, such as float32 or bfloat16.")] = None,
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="A line of JSON a trial; those there are not run again."),
    ] = None,
    out: OutOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """RULER's needle tasks and the passkey through recall, in each mode over the same memory."""
    wanted = parse_lengths(lengths)
    from hierlandmark.eval.needle_rows import ratios, rows, table
    from hierlandmark.eval.needles import Plan, check_model, evaluate_needles, is_final, key_of
    from hierlandmark.eval.tasks import default_tasks

    if filler is not None and not filler.is_file():
        raise InvalidArgument(f"expected --filler to name a file, got {str(filler)!r}")
    options: dict[str, Any] = {
        "segments": segments, "blocks": blocks, "granularity": granularity, "threshold": threshold,
    }  # fmt: skip
    # what is as ever is not in the logs of before
    options |= {"weigh_by": weigh_by} if weigh_by == "landmarks" else {}
    options |= {} if stride in (None, 1) else {"stride": stride}
    recall = recall_config(**options)
    plan = Plan(
        tasks=tasks.split(",") if tasks else default_tasks(filler is not None),
        lengths=wanted,
        text=filler,
        trials=trials,
        haystacks=haystacks,
        modes=modes.split(","),  # type: ignore[arg-type]
        seed=seed,
        max_new_tokens=max_new_tokens,
        beyond=beyond,
        recall=recall,
    )
    logged = _logged(log)
    planned = plan.keys
    order = {key: place for place, key in enumerate(planned)}
    final = {key_of(record): record for record in logged[1:] if is_final(record)}
    left = [key for key in planned if key not in final]
    make: Callable[[], LandmarkModel] = partial(load_model, model, adapter, device=device, dtype=dtype)
    # several have one each, and the device is theirs
    make = cache(make) if workers == 1 else make
    records = evaluate_needles(make, plan, workers=workers, done=final)
    # where nothing is left, one tells still whose answers these are
    here = make() if workers == 1 and left else load_model(model, adapter, dtype=dtype)
    check_model(plan, here, left)
    # what runs, not what it is called here: folders and files change under their names
    settings = {
        "model": here.kv_spec.fingerprint,
        "dtype": str(here.core.dtype).removeprefix("torch."),
        "device": device or "cpu",
        **_identity(filler),
        "haystacks": haystacks,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "beyond": beyond,
        **{name: getattr(recall, name) for name in options},
    }
    if here.kv_spec.kept:
        # adapters of the same weights may look in other layers
        settings["memory_layers"] = list(here.kv_spec.kept)
    _begin(log, logged, settings)
    found = [record for key, record in final.items() if key in order]
    with progress("answers") as update:
        update(len(found), len(planned))
        for record in records:
            found.append(record)
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            update(len(found), len(planned))
    found.sort(key=lambda record: order[key_of(record)])
    results = rows(found)
    if str(out) != "-":
        # the base model alone chooses no blocks
        if set(plan.modes) != {"full"}:
            show_recall(recall, gated="hierarchical" in plan.modes)
        for line in table(results):
            typer.echo(line)
    names = {"base": model, "adapter": adapter}
    write_json({"settings": names | settings, "results": results, "ratios": ratios(results)}, out)


def _identity(filler: Path | None) -> dict[str, Any]:
    """A file's name, under which records stand, and what tells its text from another's."""
    if filler is None:
        return {"filler": None}
    try:
        with filler.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"filler": filler.name, "filler_bytes": filler.stat().st_size, "filler_sha256": digest}
    except OSError as error:
        raise InvalidArgument(f"{str(filler)!r} cannot be read: {error}") from error


def _logged(log: Path | None) -> list[dict[str, Any]]:
    """Settings and records of an earlier run, nothing of a new log.

    Raises:
        InvalidArgument: no such log.
    """
    if log is None:
        return []
    from hierlandmark.eval.needles import KEY

    try:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        # a run that was killed may have left half a line
        whole = [json.loads(line) for line in text.split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{str(log)!r} is no log of `eval needles` that can be used: {error}") from error
    # settings, and records of trials
    objects = all(isinstance(one, dict) for one in whole) and all({*KEY} <= one.keys() for one in whole[1:])
    if not objects or (text and not whole):
        raise InvalidArgument(f"{str(log)!r} is no log of `eval needles` that can be used: expected objects")
    return whole


def _begin(log: Path | None, logged: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    """Start a new log with the settings, or see that an old one has the same and cut off half a line.

    Raises:
        InvalidArgument: it has others, or cannot be written.
    """
    if log is None:
        return
    if logged and logged[0] != settings:
        names = dict.fromkeys((*logged[0], *settings))
        was = {name: logged[0].get(name) for name in names if logged[0].get(name) != settings.get(name)}
        raise InvalidArgument(f"{str(log)!r} was written with other settings, {was}; name another file")
    try:
        text = log.read_text(encoding="utf-8") if logged else json.dumps(settings) + "\n"
        if not logged or not text.endswith("\n"):
            log.write_text(text[: text.rindex("\n") + 1], encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"{str(log)!r} cannot be written: {error}") from error
