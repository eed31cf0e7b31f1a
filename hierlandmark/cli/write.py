"""`add`, `forget`, `index` and `reencode`: the commands that write."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hierlandmark.cli.options import (
    AdapterOption,
    DbOption,
    KeepOption,
    ModelOption,
    NamespaceOption,
    check_database,
    check_place,
    existing_memory,
    load_model,
    open_memory,
)
from hierlandmark.cli.output import counted, progress
from hierlandmark.errors import InvalidArgument, InvalidMessage, MessageNotFound

if TYPE_CHECKING:
    from hierlandmark.memory import Memory
    from hierlandmark.messages import MessageId

Ids = Literal["auto", "string", "integer"]


def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Chats (.jsonl, .jsonl.xz), texts (.txt, .md).")],
    db: DbOption,
    namespace: NamespaceOption = "default",
    keep: KeepOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Add the messages of files to a memory: all of them, or none when one is faulty."""
    check_place(db)
    from hierlandmark.chats import read_chats
    from hierlandmark.filters import instant

    # every file is read before the model is loaded or the database touched
    messages = []
    for file in files:
        for chat in read_chats(file):
            for message in chat.messages:
                if not message.content.strip():
                    raise InvalidMessage(f"{file}: message {message.id!r} of conversation {chat.id!r} has no text")
                messages.append(message)
    with open_memory(db, namespace, load_model(model, adapter), keep=keep) as memory, progress("tokens") as update:
        report = memory.add(messages, progress=update)
    typer.echo(
        f"added {counted(report.messages, 'message')}, {counted(report.tokens, 'token')} in "
        f"{counted(report.segments, 'segment')}, to {namespace!r} of {db} in {report.seconds:.1f} s"
    )
    if undated := sum(one.time is not None and instant(one.time) is None for one in messages):
        typer.echo(
            f"--since and --until will not find {counted(undated, 'message')}, whose time is no ISO 8601 date or time",
            err=True,
        )


def forget(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of the messages.")],
    db: DbOption,
    namespace: NamespaceOption = "default",
    ids_are: Annotated[Ids, typer.Option("--ids", help="How to read an id such as 7: 7, or the text 7.")] = "auto",
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Remove messages and every trace of them, keys and values included."""
    with existing_memory(db, namespace, model, adapter) as memory:
        found = list(dict.fromkeys(_identify(memory, one, ids_are) for one in ids))
        memory.forget(found)
    typer.echo(f"forgot {len(found):,} of {namespace!r} in {db}")


def index(
    db: DbOption,
    namespace: NamespaceOption = "default",
    drop: Annotated[bool, typer.Option("--drop", help="Remove the index instead.")] = False,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Index a memory for `search --mode index`, in place of an index that is there."""
    with existing_memory(db, namespace, model, adapter) as memory:
        if drop:
            memory.drop_index()
            typer.echo(f"no index of {namespace!r} in {db} any more")
            return
        with progress("segments") as update:
            report = memory.build_index(progress=update)
    typer.echo(
        f"indexed {counted(report.segments, 'segment')}, {counted(report.blocks, 'block')}, of {namespace!r} in "
        f"{db} in {report.seconds:.1f} s; {counted(report.bytes, 'byte')}"
    )


def reencode(
    db: DbOption, keep: KeepOption = None, model: ModelOption = None, adapter: AdapterOption = "default"
) -> None:
    """Make all keys and values of a database again from its text, for another model, adapter or --keep."""
    check_database(db)
    from hierlandmark.config import MemoryConfig
    from hierlandmark.memory import Memory

    with progress("tokens") as update:
        report = Memory.reencode(db, model=load_model(model, adapter), config=MemoryConfig(keep=keep), progress=update)
    what = f"{counted(report.messages, 'message')}, {counted(report.tokens, 'token')}"
    typer.echo(f"encoded {what}, again in {report.seconds:.1f} s")


def _identify(memory: "Memory", text: str, ids_are: Ids) -> "MessageId":
    """The id that a word of the command line means; 7 and "7" may both be there, and the wrong one must not go."""
    # 05 is the text 05, not the integer 5
    integer: list[MessageId] = [int(text)] if re.fullmatch(r"0|-?[1-9][0-9]{0,3999}", text) else []
    candidates: dict[Ids, list[MessageId]] = {"auto": [text, *integer], "string": [text], "integer": integer}
    present = [one for one in candidates[ids_are] if _holds(memory, one)]
    if len(present) == 1:
        return present[0]
    if present:
        raise InvalidArgument(f"{text} and {text!r} are both ids here; say --ids integer or --ids string")
    message = f"no message with id {text!r} in namespace {memory.namespace!r}"
    raise MessageNotFound(message, command="`hierlandmark search` shows ids of what it finds")


def _holds(memory: "Memory", message_id: "MessageId") -> bool:
    try:
        memory.messages([message_id])
    except MessageNotFound:
        return False
    return True
