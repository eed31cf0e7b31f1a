"""`train`: landmark and gate rows and a LoRA for a base model, from plain text and chats."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from hierlandmark.cli.options import ModelOption, parse_lengths, parse_shares
from hierlandmark.train.files import check_given, no_files


class TrainCommand(TyperCommand):
    """Shows the defaults of what its options set, which are imported only where help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        ctx.default_map = _defaults()
        super().format_help(ctx, formatter)


def _defaults() -> dict[str, Any]:
    """Default of a new run for each option that is not given, by the name of its parameter; () and None where there is
    none."""
    from dataclasses import fields

    from hierlandmark.config import LayoutConfig
    from hierlandmark.train.config import TrainConfig

    known = {one.name: one.default for one in fields(TrainConfig)}
    known |= {name: one.default for name, one in LayoutConfig.model_fields.items()}
    # as they are typed
    return {name: ",".join(map(str, one)) if isinstance(one, tuple) else one for name, one in known.items()}


def train(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Checkpoints, log and the adapter go here.")],
    texts: Annotated[list[Path] | None, typer.Option("--text", help="Texts: .txt, .md, .jsonl with text.")] = None,
    chats: Annotated[list[Path] | None, typer.Option("--chats", help="Chat files; may be repeated.")] = None,
    model: ModelOption = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Steps to take.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="Or time to spend; then --steps has no default.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", help="Tokens a step. A GPU takes 1 MB for each, a processor 2.5."),
    ] = None,
    longest: Annotated[int | None, typer.Option("--longest", help="Segments of the longest texts.")] = None,
    length: Annotated[
        str | None,
        typer.Option(
            "--length",
            metavar="N[,N...]",
            help="Positions of every text, one drawn a step; if not given, many lengths up to --longest.",
        ),
    ] = None,
    needles: Annotated[
        float | None, typer.Option("--needles", help="Share of memories that hide RULER's needles.")
    ] = None,
    linked: Annotated[
        float | None, typer.Option("--linked", help="Share of memories that are chats with known evidence.")
    ] = None,
    jump: Annotated[int | None, typer.Option("--jump", help="Furthest jump of positions behind a landmark.")] = None,
    cached: Annotated[
        float | None, typer.Option("--cached", help="Share of steps with gradients in the readers only.")
    ] = None,
    block_size: Annotated[int | None, typer.Option("--block-size", help="Positions in a block.")] = None,
    blocks_per_segment: Annotated[
        int | None, typer.Option("--blocks-per-segment", help="Blocks in a segment; a started or resumed run's stay.")
    ] = None,
    local_window: Annotated[
        Literal["block", "segment"] | None,
        typer.Option(
            "--local-window",
            help="What is attended token by token: the own block, or the own segment.",
        ),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="Highest rate.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of the LoRA.")] = None,
    votes: Annotated[float | None, typer.Option("--votes", help="Weight of the loss that trains the search.")] = None,
    gates: Annotated[
        float | None,
        typer.Option("--gates", help="Weight of the loss that holds gates to their landmarks, such as 3."),
    ] = None,
    gate_queue: Annotated[
        int | None,
        typer.Option("--gate-queue", help="Segments of earlier steps that gates are told from too, with --gates."),
    ] = None,
    retrieval_depth: Annotated[
        str | None,
        typer.Option(
            "--retrieval-depth", metavar="LOW,HIGH", help="Shares of the depth between which the heads that search lie."
        ),
    ] = None,
    attention: Annotated[
        Literal["landmark", "full", "window"] | None,
        typer.Option("--attention", help="`full` or `window` trains a peer to compare with, without landmarks."),
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", help="Tokens a token sees, with --attention window.")
    ] = None,
    stream_share: Annotated[
        float | None,
        typer.Option("--stream-share", help="Share of steps on plain text that is read in order."),
    ] = None,
    recency: Annotated[
        int | None,
        typer.Option(
            "--recency",
            metavar="SEGMENTS",
            help="Segments right before that stand at their true distance, with --stream-share; by default as --init.",
        ),
    ] = None,
    select_share: Annotated[
        float | None, typer.Option("--select-share", help="Share of steps that attend only to what they select.")
    ] = None,
    select_segments: Annotated[int | None, typer.Option("--select-segments", help="Segments opened in those.")] = None,
    select_blocks: Annotated[int | None, typer.Option("--select-blocks", help="Blocks read in those.")] = None,
    select_threshold: Annotated[
        float | None, typer.Option("--select-threshold", help="Mass on the past under which those read nothing.")
    ] = None,
    select_weigh_by: Annotated[
        Literal["gates", "landmarks"] | None,
        typer.Option("--select-weigh-by", help="What weighs blocks of opened segments in those."),
    ] = None,
    memory_layers: Annotated[
        str | None,
        typer.Option(
            "--memory-layers",
            metavar="N[,N...]",
            help="Layers that look into other segments; if not given, those of --init, or all.",
        ),
    ] = None,
    search_share: Annotated[
        float | None, typer.Option("--search-share", help="Share of steps that train the search alone, on the chats.")
    ] = None,
    search_layers: Annotated[
        str | None, typer.Option("--search-layers", metavar="N[,N...]", help="Layers whose heads search, with it.")
    ] = None,
    search_tokens: Annotated[
        int | None, typer.Option("--search-tokens", help="Tokens of such a step; --tokens if not given.")
    ] = None,
    search_weight: Annotated[
        float | None, typer.Option("--search-weight", help="Weight of each searching head's logit.")
    ] = None,
    taught: Annotated[
        float | None,
        typer.Option(
            "--taught",
            help="How much of the search is learned from MiniLM, 0 to 1; above 0 it puts questions in other words too.",
        ),
    ] = None,
    freeze_below: Annotated[
        int | None,
        typer.Option("--freeze-below", metavar="LAYER", help="Lower layers and the search stay those of --init."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of data and weights.")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes that make batches.")] = 0,
    device: Annotated[str | None, typer.Option("--device", help="cuda or cpu; the best there is if not given.")] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Adapter folder to start from; with --search-share 1 from its weights of search."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the checkpoint, with its options in place of defaults and the same files."
        ),
    ] = False,
) -> None:
    """Train an adapter, so that a base model's landmarks and gates mean something."""
    # what a run to resume lacks, its checkpoint knows
    if not texts and not chats and not resume:
        raise no_files()
    from hierlandmark.config import LayoutConfig
    from hierlandmark.train.config import check_lengths, run_config

    given: dict[str, Any] = {
        "steps": steps,
        "seconds": seconds,
        "tokens": tokens,
        "longest": longest,
        "lengths": parse_lengths(length, "--length") if length is not None else None,
        "needles": needles,
        "linked": linked,
        "jump": jump,
        "cached": cached,
        "learning_rate": learning_rate,
        "rank": rank,
        "votes": votes,
        "gates": gates,
        "gate_queue": gate_queue,
        "retrieval_depth": parse_shares(retrieval_depth, "--retrieval-depth") if retrieval_depth is not None else None,
        "attention": attention,
        "window": window,
        "stream_share": stream_share,
        "recency": recency,
        "select_share": select_share,
        "select_segments": select_segments,
        "select_blocks": select_blocks,
        "select_threshold": select_threshold,
        "select_weigh_by": select_weigh_by,
        "memory_layers": parse_lengths(memory_layers, "--memory-layers") if memory_layers is not None else None,
        "search_share": search_share,
        "search_layers": parse_lengths(search_layers, "--search-layers") if search_layers is not None else None,
        "search_tokens": search_tokens,
        "search_weight": search_weight,
        "taught": taught,
        "freeze_below": freeze_below,
        "seed": seed,
    }
    grid = {"block_size": block_size, "blocks_per_segment": blocks_per_segment, "local_window": local_window}
    sizes: dict[str, Any] = {name: value for name, value in grid.items() if value is not None}
    config = run_config(out, {name: value for name, value in given.items() if value is not None}, resume=resume)
    layout = LayoutConfig(**sizes) if sizes else None
    if not resume and init is None:
        # else the layout is that of the run or the adapter
        check_lengths(config, layout or LayoutConfig())
    check_given(out, texts or [], chats or [], workers)
    # torch comes with what follows
    from rich.console import Console
    from rich.progress import Progress

    from hierlandmark.train.run import train_adapter

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=config.seconds or config.steps)

        def show(row: dict[str, Any]) -> None:
            text = (
                f"step {row['step']} loss {row['loss']:.3f} norm {row['norm']:.2f} {row['tokens_per_s']:,.0f} tokens/s"
            )
            done = bar.tasks[0].elapsed if config.seconds else row["step"] + 1
            bar.update(task, completed=done, description=text)

        try:
            adapter = train_adapter(
                model,
                texts=texts or [],
                chats=chats or [],
                folder=out,
                config=config,
                layout=layout,
                workers=workers,
                device=device,
                resume=resume,
                init=init,
                on_step=show,
            )
        except KeyboardInterrupt:
            typer.echo(f"interrupted; what was reached is in {out}, go on with --resume", err=True)
            raise typer.Exit(130) from None
    typer.echo(f"adapter in {adapter}; use it with --adapter {adapter}")
