"""`demo`: a chat history in, and in a second process the right messages and answers out of stored keys and values."""

import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated

import typer

from hierlandmark.cli.options import AdapterOption, ModelOption, check_place, load_model, open_memory
from hierlandmark.cli.output import counted, progress, short, show_cost, show_hits, show_trace
from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.memory import Memory
    from hierlandmark.messages import MessageId
    from hierlandmark.model import LandmarkModel

SAMPLE = Path(__file__).parents[2] / "examples" / "sample_chat.jsonl"
NAMESPACE = "demo"


def demo(
    file: Annotated[Path, typer.Option("--file", help="Chat file with questions.", show_default=False)] = SAMPLE,
    db: Annotated[Path | None, typer.Option("--db", metavar="FILE", help="Database; a new one if not given.")] = None,
    question: Annotated[list[str] | None, typer.Option("--question", help="Ask this; may be repeated.")] = None,
    questions: Annotated[int, typer.Option("--questions", help="Else, how many of the file's questions to ask.")] = 2,
    reread: Annotated[int, typer.Option("--reread", help="Most tokens to read again for comparison.")] = 4096,
    second: Annotated[bool, typer.Option("--second-process", hidden=True)] = False,
    model: ModelOption = None,
    adapter: AdapterOption = "default",
) -> None:
    """Import a long chat, then search it and answer from it in a second process."""
    if second and db:
        loaded = load_model(model, adapter)
        with open_memory(db, NAMESPACE, loaded) as memory:
            read(memory, loaded, question or [], reread)
        return
    if db:
        check_place(db)
    asked = question or _questions(file, questions)
    db = db or Path(mkdtemp(prefix="hierlandmark-demo-")) / "demo.db"
    write(file, db, load_model(model, adapter))
    typer.echo("a second process opens the database\n")
    command = [sys.executable, "-m", "hierlandmark", "demo", "--second-process", "--db", str(db), "--adapter", adapter]
    command += ["--model", model] if model else []
    command += ["--reread", str(reread), *(word for one in asked for word in ("--question", one))]
    # what this process printed must stand above what the second prints
    sys.stdout.flush()
    if code := subprocess.run(command, check=False).returncode:
        raise typer.Exit(code)
    typer.echo(
        f"\nsearch it yourself: {Path(sys.executable).parent / 'hierlandmark'} search QUERY --db {db} -n {NAMESPACE}\n"
        f"the database takes {db.stat().st_size / 1e6:,.0f} MB, most of it keys and values; delete it when you are done"
    )


def write(file: Path, db: Path, model: "LandmarkModel") -> None:
    """Import the messages of a chat file."""
    from hierlandmark.chats import read_chats

    messages = [message for chat in read_chats(file) for message in chat.messages]
    with open_memory(db, NAMESPACE, model) as memory, progress("tokens") as update:
        report = memory.add(messages, progress=update)
    rate = report.tokens / max(report.seconds, 1e-9)
    typer.echo(
        f"read {counted(report.messages, 'message')} once: {counted(report.tokens, 'token')} in {report.seconds:.1f} s "
        f"({rate:,.0f} a second), saved to {db}"
    )


def read(memory: "Memory", model: "LandmarkModel", questions: list[str], reread: int) -> None:
    """Search and answer, say why, and compare the time to the first token with reading everything again."""
    first: list[float] = []
    for one in questions:
        typer.echo(f"? {one}\n")
        found = memory.search(one, 3)
        show_hits(found.hits, one)
        show_cost(found.cost)
        answer = memory.ask(one, max_new_tokens=24)
        first.append(answer.first_token_s)
        typer.echo(f"\n= {short(answer.text, 400)}\n\nwhy: of the attention that went to {_read_from(answer.among)}")
        show_trace(answer.trace, 3)
        typer.echo(f"first token after {answer.first_token_s:.2f} s, from stored keys and values\n")
    if first:
        compare(memory, model, questions[-1], reread, sum(first) / len(first))


def compare(memory: "Memory", model: "LandmarkModel", question: str, reread: int, first_token_s: float) -> None:
    """Measure reading parts of the memory's text again, estimate reading all of it, and print both beside the store."""
    from hierlandmark.model.prompts import render

    # as it was read into the store
    text = "".join(render(one) for one in memory.messages())
    total = memory.stats().tokens
    typer.echo(
        f"time to the first token, measured: {first_token_s:.2f} s from the store, which holds "
        f"{counted(total, 'token')}"
    )
    if reread < 2:
        return
    # the first pass of a process is slower than others
    model.complete_full(question, max_new_tokens=1)
    measured: dict[int, float] = {}
    for length in sorted({min(total, reread // 2), min(total, reread)}):
        # characters stand for tokens: near enough, and what is read is counted
        prompt = f"{text[: len(text) * length // max(1, total)]}\n{question}"
        tokens = len(model.tokenize(prompt))
        measured[tokens] = model.complete_full(prompt, max_new_tokens=1).first_token_s
        typer.echo(f"  {measured[tokens]:.1f} s when reading {counted(tokens, 'token')} again")
    if total <= max(measured):
        return
    seconds = estimate(measured, total)
    typer.echo(
        f"an estimate from those two (seconds = a n + b n^2): {seconds:,.0f} s when reading all {total:,} tokens "
        f"again, {seconds / max(first_token_s, 1e-9):,.0f} times as long as from the store"
    )
    if model.longest_text and total > model.longest_text:
        typer.echo(f"(in time alone: the base model was not trained to read more than {model.longest_text:,} tokens)")


def estimate(measured: dict[int, float], n: int) -> float:
    """Seconds to read n tokens, from seconds at one or two lengths: a n + b n^2, no part of it negative."""
    (low, fast), (high, slow) = min(measured.items()), max(measured.items())
    b = (slow / high - fast / low) / (high - low) if high > low else 0.0
    # two measurements of a busy machine may bend either way
    b = min(max(b, 0.0), slow / high**2)
    return (slow / high - b * high) * n + b * n * n


def _read_from(among: "list[MessageId] | None") -> str:
    """An answer looks at the segments of more messages than are shown above it."""
    return "all segments" if among is None else f"the segments of the {counted(len(among), 'message')} found best"


def _questions(file: Path, n: int) -> list[str]:
    from hierlandmark.chats import read_chats

    if not file.exists():
        raise InvalidArgument(f"no chat file at {str(file)!r}; give one with --file")
    asked = [one.question for chat in read_chats(file) for one in chat.questions if one.evidence]
    if not asked:
        raise InvalidArgument(f"{file} holds no question with evidence; ask your own with --question")
    # spread over the file, whose questions go from early to late
    return asked[:: max(1, len(asked) // n)][:n] if n > 0 else []
