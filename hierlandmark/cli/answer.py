"""`ask` and `chat`: answers read from stored keys and values."""

import sys
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

import typer

from hierlandmark.cli.options import (
    AdapterOption,
    DbOption,
    JsonOption,
    ModelOption,
    ModeOption,
    NamespaceOption,
    StrideOption,
    check_place,
    existing_memory,
    load_model,
    open_memory,
    recall_config,
)
from hierlandmark.cli.output import counted, excerpt, print_json, show_cost, show_hits, show_recall, show_trace
from hierlandmark.errors import NamespaceNotFound

TokensOption = Annotated[int, typer.Option("--max-new-tokens", help="Longest answer.")]
AmongOption = Annotated[
    int | None,
    typer.Option(
        "--among", metavar="K", help="Answer from the segments of the K messages found best, 8 if not given; 0: all."
    ),
]


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to answer.")],
    db: DbOption,
    namespace: NamespaceOption = "default",
    max_new_tokens: TokensOption = 128,
    mode: ModeOption = "hierarchical",
    among: AmongOption = None,
    stride: StrideOption = None,
    why: Annotated[bool, typer.Option("--why", help="Show which gates and blocks got the attention.")] = False,
    json: JsonOption = False,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Answer a question from what the memory holds, without reading it again.

    Only the answer is printed, and on standard error the message found best for it. All messages found for it are shown
    with --why, beside the blocks that were read, or with --json.
    """
    from hierlandmark.memory.arguments import check_asked

    # a fault comes before a model is loaded
    recall = recall_config(stride=stride)
    check_asked(question, max_new_tokens, mode, among)
    with existing_memory(db, namespace, model, adapter, stride, answers=True) as memory:
        show = None if json else _type
        answer = memory.ask(question, max_new_tokens=max_new_tokens, mode=mode, among=among, on_token=show)
    if json:
        found = [hit.model_dump(mode="json", include={"message_ids", "text", "score"}) for hit in answer.found]
        left_out = {"found"} | {name for name, out in (("trace", not why), ("among", answer.among is None)) if out}
        told = {} if answer.among is None else {"found": found}
        print_json(answer.model_dump(mode="json", exclude=left_out) | told)
        return
    typer.echo("")
    if answer.finish_reason == "length":
        typer.echo(f"cut after {counted(len(answer.tokens), 'token')}; --max-new-tokens N for more", err=True)
    if why:
        if answer.among is not None:
            what = "message" if len(answer.among) == 1 else "messages"
            typer.echo(f"answered from the segments of {what} {', '.join(map(repr, answer.among))}")
            show_hits(answer.found, question)
        show_recall(recall)
        show_trace(answer.trace)
    elif answer.found:
        best = answer.found[0]
        typer.echo(
            f"found best ({best.score:.4f}): message {best.message_ids[0]!r}, {excerpt(best.text, question)}", err=True
        )
    typer.echo(f"first token after {answer.first_token_s:.2f} s, then {answer.per_token_s:.3f} s each", err=True)
    if why:
        show_cost(answer.cost)


def chat(
    db: DbOption,
    namespace: NamespaceOption = "default",
    max_new_tokens: TokensOption = 128,
    mode: ModeOption = "hierarchical",
    among: AmongOption = None,
    stride: StrideOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Talk to the memory: each turn is answered from it and added to it. End with /exit or end of input."""
    recall_config(stride=stride)
    from hierlandmark.memory.arguments import check_asked

    # questions are checked when they come
    check_asked("any", max_new_tokens, mode, among)
    check_place(db)
    prompt = "> " if sys.stdin.isatty() else ""
    with open_memory(db, namespace, load_model(model, adapter), stride=stride) as memory:
        while (line := _line(prompt)) is not None:
            if not line:
                continue
            if line.startswith("/"):
                typer.echo(f"no such command: {line}; /exit ends the chat", err=True)
                continue
            try:
                said = memory.ask(line, max_new_tokens=max_new_tokens, mode=mode, among=among, on_token=_type)
                text = said.text.strip()
            except NamespaceNotFound:
                text = ""
                _type("(I remember nothing yet.)")
            typer.echo("")
            turns = [("user", line), ("assistant", text)]
            now = datetime.now(UTC).isoformat(timespec="seconds")
            # the memory takes no empty text; a model may end its turn at once, and what is no answer is not kept
            memory.add({"id": str(uuid4()), "role": who, "content": said, "time": now} for who, said in turns if said)


def _line(prompt: str) -> str | None:
    """The next line without its ends, or None at the end."""
    try:
        line = input(prompt).strip()
    except EOFError:
        return None
    return None if line == "/exit" else line


def _type(text: str) -> None:
    typer.echo(text, nl=False)
    sys.stdout.flush()
