"""Options of one training run and their ranges. No torch: the command line shows their defaults."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args

from hierlandmark.config import Attention, LayoutConfig, WeighBy
from hierlandmark.errors import InvalidArgument
from hierlandmark.train.files import ANOTHER_FOLDER, resumed_state

# fields that the command line calls otherwise than by their name with dashes, those without an option by the name
OPTIONS = {"lengths": "--length"} | {
    name: name for name in ("warmup", "clip", "spike", "flat_share", "retrieval_layers", "checkpoint_every")
}
# steps of a run that its seconds end
UNENDING = 1_000_000_000


@dataclass(frozen=True)
class TrainConfig:
    """One run. What the shipped adapter's runs were given stands in its `hierlandmark.json`, under `training`.

    Raises:
        InvalidArgument: a value is outside its range, no number, or no word that its field takes.
    """

    steps: int = 2000
    # tokens a step, padding included; batches of every shape come to about this many
    tokens: int = 32_768
    learning_rate: float = 6e-4
    rank: int = 16
    warmup: int = 60
    clip: float = 1.0
    # share of steps in the paper's flat mode, and of stream (plain text) steps
    flat_share: float = 0.3
    stream_share: float = 0.12
    # segments of the longest texts, readers among them
    longest: int = 64
    # positions of every text, one or several to draw from; none: texts of many lengths up to `longest`
    lengths: tuple[int, ...] = ()
    # share of memories that hide RULER's needles (Hsieh et al. 2024)
    needles: float = 0.25
    # share of memories that are chats whose questions, replies or sentences have known evidence; 0 without chats
    linked: float = 0.25
    # the furthest that positions jump ahead behind a landmark (Mohtashami & Jaggi 2023, appendix E)
    jump: int = 0
    # share of steps whose memory is encoded without gradient, as it is when it is recalled
    cached: float = 0.0
    seed: int = 0
    # a step whose gradient norm is over this many times the running median of such steps is not taken
    spike: float = 10.0
    # query heads that learn to rank blocks for a search: so many layers, one head a group
    retrieval_layers: int = 6
    # between which shares of the depth they lie; a memory made for search runs nothing above the highest
    retrieval_depth: tuple[float, float] = (0.35, 0.8)
    # weight of their loss beside the language model's
    votes: float = 0.3
    # weight of the loss that holds the gates of all memory layers and heads to their landmarks, and most segments of
    # earlier steps that queries of readers choose among too
    gates: float = 0.0
    gate_queue: int = 0
    checkpoint_every: int = 250
    # what it trains: landmarks, or as a peer to compare with plain attention to all or to the last `window` tokens
    attention: Attention = "landmark"
    window: int | None = None
    # texts read in order: so many segments right before each one stand at their true distance, older ones one further;
    # None: as many as the adapter to start from has, or 0
    recency: int | None = None
    # layers that look into other segments, of which alone a memory then keeps keys and values; none: those of the
    # adapter to start from, or all
    memory_layers: tuple[int, ...] = ()
    # share of steps in which segments attend only to what they select, and how many segments and blocks that is, the
    # mass under which they read nothing, and what weighs blocks of opened segments, all as in `RecallConfig`
    select_share: float = 0.0
    select_segments: int = 4
    select_blocks: int = 4
    select_threshold: float = 0.0
    select_weigh_by: WeighBy = "gates"
    # share of steps that train the search alone, on chats (`train.pairs`), and their positions; None for `tokens`
    search_share: float = 0.0
    search_tokens: int | None = None
    # layers whose heads search, one head a group; nothing above the highest is run for it
    search_layers: tuple[int, ...] = ()
    # weight of each of their logits in the sum
    search_weight: float = 1.0
    # how much of what the search is to find is told by MiniLM, the rest by what is known
    taught: float = 0.0
    # layers below this one, and the two rows, stay as they were: what searches there finds what it found
    freeze_below: int = 0
    # wall-clock budget in seconds; the schedule then follows time instead of steps
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name, kind, fits, wanted in _TUPLES:
            object.__setattr__(self, name, _numbers(name, getattr(self, name), kind, fits, wanted))
        if isinstance(self.recency, bool):
            # as it was once: of the one segment right before
            object.__setattr__(self, "recency", int(self.recency))
        for name in ("search_layers", "memory_layers"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))
        if bool(self.search_layers) != bool(self.search_share):
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected {called('search_layers')} with a {called('search_share')} and not without, got "
                    f"{self.search_layers!r} and {self.search_share!r}"
                )
            )
        plain = {field.name: field.default for field in fields(self)}
        for name in ("search_tokens", "search_weight", "taught"):
            if not self.search_share and getattr(self, name) != plain[name]:
                raise _without_search(name, getattr(self, name))
        for names, right, wanted in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if value is None and name in ("seconds", "window", "search_tokens", "recency"):
                    continue
                number = isinstance(value, Real) and not isinstance(value, bool)
                if not number:
                    raise _wrong(name, f"a number, {wanted}", value)
                if not (math.isfinite(value) and right(value)):
                    raise _wrong(name, wanted, value)
        for name, kinds in (("attention", Attention), ("select_weigh_by", WeighBy)):
            (*some, last) = get_args(kinds)
            if (value := getattr(self, name)) not in (*some, last):
                raise _wrong(name, f"{', '.join(map(repr, some))} or {last!r}", value)
        if self.gates and self.search_share == 1:
            raise InvalidArgument.naming(
                lambda called: f"expected steps that read with {called('gates')}, got a {called('search_share')} of 1"
            )
        if self.gate_queue and (not self.gates or self.stream_share == 1 or self.jump):
            # where positions jump, a segment's keys are those of its batch
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected a {called('gate_queue')} with {called('gates')}, a {called('stream_share')} under 1 and "
                    f"no {called('jump')}, got {self.gate_queue!r} with {self.gates!r}, {self.stream_share!r} and "
                    f"{self.jump!r}"
                )
            )
        if self.freeze_below and (self.search_share or self.votes):
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected neither a {called('search_share')} nor {called('votes')} with {called('freeze_below')}, "
                    f"got {self.search_share!r} and {self.votes!r}: what searches is to stay as it was"
                )
            )
        if (self.attention == "window") != (self.window is not None):
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected a {called('window')} with {called('attention')} 'window' only, got {self.window!r} with "
                    f"{self.attention!r}"
                )
            )
        of_landmarks = "select_share search_share cached jump freeze_below recency gates memory_layers"
        useless = [name for name in of_landmarks.split() if getattr(self, name)]
        if self.attention != "landmark" and useless:
            raise InvalidArgument.naming(
                lambda called: (
                    f"expected no {called(useless[0])} with {called('attention')} {self.attention!r}, which has no "
                    "landmarks"
                )
            )


def run_config(folder: Path, given: dict[str, Any], *, resume: bool) -> TrainConfig:
    """The options given, and for the others the resumed run's own, or the defaults.

    Raises:
        InvalidArgument: a value is outside its range, or there is nothing to resume.
    """
    kept = resumed_state(folder)["config"] if resume else {}
    if resume and isinstance(kept, dict):
        # a run begun before there were needles, or chats with evidence, goes on without
        kept = {"needles": 0.0, "linked": 0.0, **kept}
    known = {field.name for field in fields(TrainConfig)}
    if not isinstance(kept, dict) or not kept.keys() <= known:
        raise InvalidArgument(f"the checkpoint in {str(folder)!r} is of another version", **ANOTHER_FOLDER)
    if given.get("seconds") and not given.get("steps") and not resume:
        # the time ends it, and nothing else
        given = {**given, "steps": UNENDING}
    return TrainConfig(**{**kept, **given})


def check_lengths(config: TrainConfig, layout: LayoutConfig) -> None:
    """Raises `InvalidArgument` where a given length is not one of two whole segments or more."""
    size = layout.segment_size
    if wrong := [length for length in config.lengths if length % size or length < 2 * size]:
        raise InvalidArgument.naming(
            lambda called: (
                f"expected {called('lengths')} of two or more whole segments of {size} positions, got {wrong[0]!r}"
            ),
            options=OPTIONS,
        )


def _wrong(name: str, wanted: str, value: Any) -> InvalidArgument:
    return InvalidArgument.naming(
        lambda called: f"expected {called(name)} to be {wanted}, got {value!r}", options=OPTIONS
    )


def _without_search(name: str, value: Any) -> InvalidArgument:
    return InvalidArgument.naming(
        lambda called: f"expected {called(name)} with a {called('search_share')} only, got {value!r}"
    )


def _numbers(
    name: str, given: Any, kind: type[int] | type[float], fits: Callable[[Sequence[float]], bool], wanted: str
) -> tuple[float, ...]:
    """The numbers of a field as a tuple; they come as a list from a checkpoint.

    Raises:
        InvalidArgument: it is no sequence of them, or they do not fit.
    """
    known: type = Integral if kind is int else Real
    values = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str | bytes) else (None,)
    numbers = all(isinstance(one, known) and not isinstance(one, bool) for one in values)
    if not (numbers and fits(values)):
        raise _wrong(name, wanted, given)
    return tuple(map(kind, values))


_TUPLES: tuple[tuple[str, type[int] | type[float], Callable[[Sequence[float]], bool], str], ...] = (
    ("lengths", int, lambda x: all(one >= 1 for one in x), "integers of at least 1"),
    ("search_layers", int, lambda x: all(one >= 0 for one in x), "integers of 0 or more"),
    ("memory_layers", int, lambda x: all(one >= 0 for one in x), "integers of 0 or more"),
    (
        "retrieval_depth",
        float,
        lambda x: len(x) == 2 and 0 <= x[0] <= x[1] < 1,
        "two shares from 0 to under 1 in order",
    ),
)

_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("steps tokens longest rank warmup retrieval_layers checkpoint_every", lambda x: x >= 1, "at least 1"),
    ("window search_tokens select_segments select_blocks", lambda x: x >= 1, "at least 1"),
    ("learning_rate votes gates gate_queue seed jump freeze_below recency", lambda x: x >= 0, "0 or more"),
    ("clip spike seconds search_weight", lambda x: x > 0, "more than 0"),
    (
        "flat_share stream_share select_share needles linked cached search_share taught",
        lambda x: 0 <= x <= 1,
        "from 0 to 1",
    ),
    ("select_threshold", lambda x: 0 <= x < 1, "from 0 to under 1"),
)
