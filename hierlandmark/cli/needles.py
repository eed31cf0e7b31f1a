"""`eval needles`: RULER's needles and the paper's passkey at many lengths, modes beside each other."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hierlandmark.cli.options import AdapterOption, LengthsOption, ModelOption, OutOption, load_model, parse_lengths
from hierlandmark.cli.output import progress, write_json
from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.eval.needles import Record


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
    from hierlandmark.config import RecallConfig
    from hierlandmark.eval.needle_rows import ratios, rows, table
    from hierlandmark.eval.needles import Plan, evaluate_needles, key_of
    from hierlandmark.eval.tasks import default_tasks

    if filler is not None and not filler.is_file():
        raise InvalidArgument(f"expected --filler to name a file, got {str(filler)!r}")
    recall = {name: value for name, value in (("segments", segments), ("blocks", blocks)) if value is not None}
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
        recall=RecallConfig(**recall),  # type: ignore[arg-type]
    )
    settings = {
        "model": model,
        "adapter": adapter,
        "dtype": dtype,
        "device": device,
        "filler": filler.name if filler else None,
        "haystacks": haystacks,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "beyond": beyond,
        "segments": plan.recall.segments,
        "blocks": plan.recall.blocks,
    }
    planned = plan.keys
    order = {key: place for place, key in enumerate(planned)}
    found = [record for record in _logged(log, settings) if key_of(record) in order]
    make_model = partial(load_model, model, adapter, device=device, dtype=dtype)
    done = [key_of(record) for record in found]
    with progress("answers") as update:
        update(len(found), len(planned))
        for record in evaluate_needles(make_model, plan, workers=workers, done=done):
            found.append(record)
            if log:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            update(len(found), len(planned))
    found.sort(key=lambda record: order[key_of(record)])
    results = rows(found)
    if str(out) != "-":
        for line in table(results):
            typer.echo(line)
    write_json({"settings": settings, "results": results, "ratios": ratios(results)}, out)


def _logged(log: Path | None, settings: dict[str, Any]) -> "list[Record]":
    """Records of an earlier run with the same settings; a new log starts with these.

    Raises:
        InvalidArgument: other settings, or no such log.
    """
    if log is None:
        return []
    try:
        lines = log.read_text(encoding="utf-8").split("\n") if log.exists() else []
        if not lines or lines == [""]:
            log.write_text(json.dumps(settings) + "\n", encoding="utf-8")
            return []
        # a run that was killed may have left half a line, which is cut off
        whole = [json.loads(line) for line in lines[:-1]]
        if lines[-1]:
            log.write_text("".join(f"{line}\n" for line in lines[:-1]), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{str(log)!r} is no log of `eval needles` that can be used: {error}") from error
    if not whole or whole[0] != settings:
        was = {name: value for name, value in (whole[0] if whole else {}).items() if settings.get(name) != value}
        raise InvalidArgument(f"{str(log)!r} was written with other settings, {was}; name another file")
    return whole[1:]
