"""`search` and `info`: look, and change nothing."""

from typing import Annotated

import typer

from hierlandmark.cli.options import (
    AdapterOption,
    DbOption,
    JsonOption,
    ModelOption,
    NamespaceOption,
    SearchModeOption,
    WhyOption,
    existing_memory,
)
from hierlandmark.cli.output import print_json, show_cost, show_hits, show_trace


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    db: DbOption,
    namespace: NamespaceOption = "default",
    k: Annotated[int, typer.Option("-k", help="Messages to find.")] = 10,
    mode: SearchModeOption = "hierarchical",
    why: WhyOption = False,
    json: JsonOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Find the messages that the model's attention goes to."""
    with existing_memory(db, namespace, model, adapter) as memory:
        found = memory.search(query, k, mode=mode)
    if json:
        fields = {"message_ids", "text", "score", "block", "segment"}
        shape = {"hits": [hit.model_dump(mode="json", include=fields) for hit in found.hits]}
        trace = {"trace": found.trace.model_dump(mode="json")} if why else {}
        print_json(shape | {"cost": found.cost.model_dump(mode="json")} | trace)
        return
    show_hits(found.hits)
    if why:
        show_trace(found.trace)
    show_cost(found.cost)


def info(
    db: DbOption,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    json: JsonOption = False,
) -> None:
    """Show what a database holds and how large it is."""
    with existing_memory(db, "default" if namespace is None else namespace) as memory:
        names = memory.namespaces() if namespace is None else [namespace]
    stats = []
    for name in names:
        with existing_memory(db, name) as memory:
            stats.append(memory.stats())
    if json:
        print_json({"path": str(db), "namespaces": [one.model_dump(mode="json") for one in stats]})
        return
    if not stats:
        typer.echo(f"{db} holds no message")
    for one in stats:
        kind = " (for search only)" if one.keep == "search" else ""
        typer.echo(
            f"{one.namespace}{kind}: {one.messages:,} messages, {one.tokens:,} tokens, {one.segments:,} segments, "
            f"{one.blocks:,} blocks; keys and values {one.kv_bytes:,} bytes, landmarks and gates {one.key_bytes:,}, "
            f"text {one.text_bytes:,}; file {one.file_bytes:,}"
        )
