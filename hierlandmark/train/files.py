"""What is said of a run's files that are not given. No torch: the command says it before that is loaded."""

import shlex
from pathlib import Path
from typing import Any

from hierlandmark.errors import InvalidArgument

# a run's kinds of files, as its checkpoint calls them, and the arguments that they are given in
_ARGUMENTS = {"text": "texts", "chats": "chats"}


def no_files() -> InvalidArgument:
    """What to raise for a new run without a file."""
    return InvalidArgument(
        "expected at least one file to train on",
        python="give it in texts or chats",
        command="give it by --text or --chats",
    )


def other_files(folder: Path, state: dict[str, Any]) -> InvalidArgument:
    """What to raise for a run to resume without its files; it names those that its checkpoint does."""
    had: dict[str, list[str]] = {kind: names for kind, names in state.get("files", {}).items() if names}
    arguments = [f"{_ARGUMENTS.get(kind, kind)}={names!r}" for kind, names in had.items()]
    options = [f"--{kind} {shlex.quote(name)}" for kind, names in had.items() for name in names]
    return InvalidArgument(
        f"the run in {str(folder)!r} needs the files that it was trained on again, a checkpoint does not hold them",
        python=f"give {' and '.join(arguments) or 'them in texts and chats'}",
        command=f"give {' '.join(options) or 'them by --text and --chats'}",
    )
