"""`search` and `info`: look, and change nothing."""

from json import loads
from typing import Annotated, Any

import typer

from hierlandmark.cli.options import (
    AdapterOption,
    DbOption,
    JsonOption,
    ModelOption,
    NamespaceOption,
    SearchModeOption,
    existing_memory,
    existing_store,
    open_memory,
)
from hierlandmark.cli.output import counted, print_json, show_cost, show_hits, show_trace, show_when
from hierlandmark.errors import InvalidArgument


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for.")],
    db: DbOption,
    namespace: NamespaceOption = "default",
    k: Annotated[int, typer.Option("-k", help="Messages to find.")] = 10,
    mode: SearchModeOption = "hybrid",
    role: Annotated[
        list[str] | None, typer.Option("--role", help="Only messages of this role; may be repeated.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only from this time on, ISO 8601; UTC without a zone."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only before this time; a date alone: to its end.")
    ] = None,
    meta: Annotated[
        list[str] | None,
        typer.Option("--meta", metavar="KEY=VALUE", help="Only with this in the metadata; may be repeated."),
    ] = None,
    neighbours: Annotated[int, typer.Option("--neighbours", help="Messages to show before and after each hit.")] = 0,
    when: Annotated[
        bool, typer.Option("--when", help="Read times in the query (last week) as --since and --until; extra `time`.")
    ] = False,
    why: Annotated[
        bool, typer.Option("--why", help="Show what found each message, and which gates and blocks got the attention.")
    ] = False,
    json: JsonOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Find the messages that answer a query best: where the model's attention goes, weighed by the query's words."""
    wanted = {"roles": role or None, "since": since, "until": until, "metadata": dict(map(_pair, meta or ()))}
    from hierlandmark.memory.arguments import checked_search

    # a fault comes before a model is loaded
    checked_search(query, k, mode, wanted, neighbours)
    with existing_memory(db, namespace, model, adapter, indexed=mode == "index") as memory:
        found = memory.search(query, k, mode=mode, where=wanted, neighbours=neighbours, parse_time=when)
        there = {one.role for one in memory.messages()} if role and not found.hits else set()
    if there and not there & set(role or ()):
        roles = " or ".join(map(repr, role or ()))
        typer.echo(f"no message has the role {roles}; there are {', '.join(sorted(map(repr, there)))}", err=True)
    if json:
        fields = {"message_ids", "text", "score", "block", "segment"} | ({"before", "after"} if neighbours else set())
        fields |= {"landmarks", "words"} if why else set()
        shape: dict[str, Any] = {"hits": [hit.model_dump(mode="json", include=fields) for hit in found.hits]}
        trace = {"trace": found.trace.model_dump(mode="json")} if why else {}
        read = {"when": found.when and found.when.model_dump(mode="json")} if when else {}
        print_json(shape | {"cost": found.cost.model_dump(mode="json")} | read | trace)
        return
    if found.when:
        show_when(found.when)
    show_hits(found.hits, query, why=why)
    if why:
        show_trace(found.trace)
    show_cost(found.cost)


def _pair(text: str) -> tuple[str, Any]:
    """`key=value`: JSON where the value is a number, true, false, null or a text in quotes, else the text as it is."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidArgument(f"expected --meta to be KEY=VALUE, got {text!r}")
    try:
        read = loads(value, parse_constant=str)
    except ValueError:
        return key, value
    return key, value if isinstance(read, list | dict) else read


def info(
    db: DbOption,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Only this one.")] = None,
    json: JsonOption = False,
) -> None:
    """Show what a database holds and how large it is."""
    with existing_store(db) as store:
        names = store.namespaces() if namespace is None else [namespace]
    from hierlandmark.store.opening import may_be_written

    stats = []
    for name in names:
        with open_memory(db, name, read_only=not may_be_written(db)) as memory:
            stats.append(memory.stats())
    if json:
        print_json({"path": str(db), "namespaces": [one.model_dump(mode="json") for one in stats]})
        return
    if not stats:
        typer.echo(f"{db} holds no message")
    for one in stats:
        kind = " (for search only)" if one.keep == "search" else ""
        typer.echo(
            f"{one.namespace}{kind}: {counted(one.messages, 'message')}, {counted(one.tokens, 'token')}, "
            f"{counted(one.segments, 'segment')}, {counted(one.blocks, 'block')}; "
            f"keys and values {counted(one.kv_bytes, 'byte')}, landmarks and gates {one.key_bytes:,}, "
            f"text {one.text_bytes:,}; file {one.file_bytes:,}"
        )
        if one.index and one.index.problem:
            typer.echo(f"  its index cannot be used: {one.index.problem}")
        elif one.index:
            typer.echo(
                f"  index: {one.index.current:,} of {counted(one.segments, 'segment')}, "
                f"{one.index.behind:,} beside it; {counted(one.index.bytes, 'byte')}"
            )
