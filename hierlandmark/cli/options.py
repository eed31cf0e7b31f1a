"""Options that several commands share, and the memory they name."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.config import RecallConfig
    from hierlandmark.memory import Memory
    from hierlandmark.model import LandmarkModel
    from hierlandmark.store import KVSpec, SQLiteStore

# as config.Mode, without the cost of importing it for --help
Mode = Literal["hierarchical", "flat"]
SearchMode = Literal["hierarchical", "flat", "hybrid", "index"]
# as config.Granularity
Granularity = Literal["head_token", "head", "token", "shared"]
# as config.WeighBy
WeighBy = Literal["gates", "landmarks"]
# as config.Keep
Keep = Literal["all", "search"]
# the base model with plain causal attention, beside which the two modes are measured
AnyMode = Literal["hierarchical", "flat", "full"]

DbOption = Annotated[Path, typer.Option("--db", metavar="FILE", help="Database file.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Owner of the memory: a tenant, user, thread.")]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="BASE", help="Base model: folder or hub id; SmolLM2-135M if not given."),
]
AdapterOption = Annotated[
    str, typer.Option("--adapter", metavar="FOLDER", help="Adapter folder, `default` for the shipped one, or `none`.")
]
ModeOption = Annotated[Mode, typer.Option("--mode", help="Gates, then landmarks; or every landmark.")]
SearchModeOption = Annotated[
    SearchMode,
    typer.Option(
        "--mode", help="Gates, then landmarks; every landmark; gates fused with words (BM25); gates by `index`."
    ),
]
AnyModeOption = Annotated[AnyMode, typer.Option("--mode", help="As in search; `full` is plain attention, no memory.")]
KeepOption = Annotated[
    Keep | None,
    typer.Option("--keep", help="`search` keeps only what a search looks at; by default what the database keeps."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StrideOption = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="TOKENS",
        help="Choose what to read only every so many tokens of an answer: faster over long memories; words may differ.",
    ),
]


def writable(param: typer.CallbackParam, out: Path | None) -> Path | None:
    """Checked while options are read: figures of an hour must not end in a path that is not there."""
    if out is None or str(out) == "-":
        return out
    if out.is_dir() or not out.parent.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise InvalidArgument(f"expected {param.opts[0]} to name a file that can be written, got {str(out)!r}")
    return out


OutOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="OUT", help="Write JSON to this file, `-` for standard output.", callback=writable),
]
LengthsOption = Annotated[str, typer.Option("--lengths", help="Lengths in tokens, separated by commas.")]


def load_model(
    base: str | None, adapter: str, *, device: str | None = None, dtype: str | None = None, peer: bool = False
) -> "LandmarkModel":
    """The model the options name; see `LandmarkModel.from_pretrained`."""
    from hierlandmark.model import LandmarkModel

    wanted = None if adapter == "none" else adapter
    return LandmarkModel.from_pretrained(base, adapter=wanted, device=device, dtype=dtype, peer=peer)


def open_memory(
    db: Path,
    namespace: str,
    model: "LandmarkModel | None" = None,
    *,
    read_only: bool = False,
    keep: Keep | None = None,
    stride: int | None = None,
) -> "Memory":
    """Open or create a database; without a model the default one is loaded when it is first needed."""
    from hierlandmark.config import MemoryConfig
    from hierlandmark.memory import Memory

    config = MemoryConfig(keep=keep, recall=recall_config(stride=stride))
    return Memory.open(db, namespace, model=model, config=config, read_only=read_only)


def check_database(db: Path) -> "KVSpec":
    """Before a model or what runs it is loaded: what the database at this path holds, if there is one.

    Raises:
        InvalidArgument: nothing is there, an empty file, or a folder.
        StoreCorrupt, StoreTooNew: a file that cannot be used.
    """
    if not db.exists() or _is_empty(db):
        found = ", which is an empty file" if db.exists() else ""
        make = f"`hierlandmark add FILE --db {shlex.quote(str(db))}`"
        raise InvalidArgument(f"no database at {str(db)!r}{found}; make one with {make}")
    from hierlandmark.store import SQLiteStore

    return SQLiteStore.peek(db).spec


def check_place(db: Path) -> None:
    """As `check_database`, for a command that makes one where there is none: then its folder is there."""
    if not db.parent.is_dir():
        raise InvalidArgument(f"no folder {str(db.parent)!r} to make the database {db.name!r} in; make it first")
    # of a file without a byte a database is made
    if db.exists() and not _is_empty(db):
        check_database(db)


def _is_empty(db: Path) -> bool:
    return db.is_file() and db.stat().st_size == 0


def existing_store(db: Path) -> "SQLiteStore":
    """Open a database that is there, without a model or what runs it; raises as `check_database`."""
    spec = check_database(db)
    from hierlandmark.store import SQLiteStore
    from hierlandmark.store.opening import may_be_written

    return SQLiteStore(db, spec, read_only=not may_be_written(db))


def existing_memory(
    db: Path,
    namespace: str,
    model: str | None = None,
    adapter: str = "default",
    stride: int | None = None,
    *,
    answers: bool = False,
    indexed: bool = False,
) -> "Memory":
    """Open a database that is there: a mistyped path must not leave an empty file behind.

    Raises before a model is loaded:
        NamespaceNotFound: it has no such namespace.
        KeepMismatch: with `answers`, where it was made for search only.
        IndexNotFound: with `indexed`, where the namespace has no index.
    """
    with existing_store(db) as store:
        store.messages(namespace, [])
    if answers:
        from hierlandmark.memory.arguments import check_kept

        check_kept(store.spec.keep, db)
    if indexed:
        from hierlandmark.memory.indexing import check_indexed

        check_indexed(db, namespace)
    from hierlandmark.store.opening import may_be_written

    is_default = model is None and adapter == "default"
    loaded = None if is_default else load_model(model, adapter)
    return open_memory(db, namespace, loaded, read_only=not may_be_written(db), stride=stride)


def recall_config(**options: Any) -> "RecallConfig":
    """What a query opens and reads, by those options that are given; the bounds are those of `RecallConfig`.

    Raises:
        InvalidArgument: one is outside its bounds.
    """
    from hierlandmark.config import RecallConfig

    return RecallConfig(**{name: value for name, value in options.items() if value is not None})


def parse_lengths(text: str, option: str = "--lengths") -> list[int]:
    """`4096,8192` to integers; `InvalidArgument`, which names the option, for anything else."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InvalidArgument(f"expected {option} to be integers separated by commas, got {text!r}") from None


def parse_shares(text: str, option: str) -> tuple[float, ...]:
    """`0.2,0.5` to numbers; `InvalidArgument`, which names the option, for anything else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument(f"expected {option} to be numbers separated by commas, got {text!r}") from None
