"""One trial of a needle task: the paper's passkey, or one of RULER's (`hierlandmark.needles`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval import passkey
from hierlandmark.needles import SPECS, distractor, found_share, make_needles

PASSKEY = "passkey"
TASKS = (PASSKEY, *SPECS)
# RULER hides at 40 depths, evenly spaced from the first sentence to the last
DEPTHS = 40
# names of the haystacks that are not a file
GRASS, _OF = "grass", "needles of "
# between two sentences, on a line of its own, or among lines: the text goes on with its own space or line break
INLINE, LINE, NEXT = (" ", ""), ("\n", "\n"), ("\n", "")
# as a memory closes a document
CLOSING = "\n\n"


@dataclass(frozen=True)
class Trial:
    """What is hidden and asked. Statements stand in the order of their depths, 0 to 1."""

    opening: str
    statements: tuple[str, ...]
    depths: tuple[float, ...]
    # what stands before and behind each statement
    around: tuple[str, str]
    prompt: str
    answers: tuple[str, ...]
    # the whole answer as a right one would begin
    reference: str
    # tokens to make; None for a number that depends on the reference
    max_new_tokens: int | None
    score: Callable[[str], float]
    # keys that the haystack must not hold as well
    taken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TokenizedTrial:
    """A trial without its haystack, in tokens."""

    opening: Sequence[int]
    # depth and tokens of each
    statements: list[tuple[float, Sequence[int]]]
    closing: Sequence[int]
    prompt: Sequence[int]
    # tokens of the longest answer
    room: int

    @property
    def length(self) -> int:
        """Tokens of all of it: the shortest length that it fits into."""
        document = len(self.opening) + sum(len(tokens) for _, tokens in self.statements) + len(self.closing)
        return document + len(self.prompt) + self.room


def tokenize_trial(
    trial: Trial, tokenize: Callable[[str], Sequence[int]], max_new_tokens: int | None = None
) -> TokenizedTrial:
    """A trial in a model's tokens; of no more of an answer than `max_new_tokens`, where that is given."""
    before, behind = trial.around
    return TokenizedTrial(
        opening=tokenize(f"{trial.opening}\n"),
        statements=[
            (depth, tokenize(f"{before}{statement}{behind}"))
            for depth, statement in zip(trial.depths, trial.statements, strict=True)
        ],
        closing=tokenize(CLOSING),
        prompt=tokenize(trial.prompt),
        room=max_new_tokens or trial.max_new_tokens or len(tokenize(trial.reference)) * 3 // 2 + 8,
    )


def default_tasks(text: bool) -> list[str]:
    """All tasks, or without a text those that do without one."""
    return [task for task in TASKS if text or task == PASSKEY or SPECS[task].haystack != "essay"]


def fillers_of(task: str, text: str | None) -> tuple[str, ...]:
    """Haystacks that a task is run in: RULER's own kind, passkeys in grass and in the text.

    Args:
        text: what the text that stands for RULER's essays is called.

    Raises:
        InvalidArgument: no such task, or one that is hidden in essays and no file is given.
    """
    if task not in TASKS:
        raise InvalidArgument(f"expected needle tasks of {', '.join(TASKS)}, got {task!r}")
    if task == PASSKEY:
        return (GRASS, text) if text else (GRASS,)
    kind = SPECS[task].haystack
    if kind == "essay":
        if text is None:
            raise InvalidArgument(
                f"task {task} hides its needles in text of yours",
                python="give its file as text",
                command="name a file with --filler",
            )
        return (text,)
    return (GRASS,) if kind == "noise" else (f"{_OF}{task}",)


def make_trial(task: str, rng: Random, hay: str | None = None) -> Trial:
    """A trial of a task; with the text of a haystack of needles, one whose keys do not stand there."""
    if task == PASSKEY:
        return _passkey(rng)
    while True:
        made = make_needles(task, rng)
        if hay is None or not any(f" for {key} is:" in hay for key in made.taken):
            break
    depths = sorted(rng.sample(range(DEPTHS), len(made.statements)))
    return Trial(
        opening=made.opening.strip(),
        statements=made.statements,
        depths=tuple(depth / (DEPTHS - 1) for depth in depths),
        around=LINE if made.spec.chained else NEXT if made.spec.haystack == "needle" else INLINE,
        prompt=made.prompt,
        answers=made.answers,
        reference="".join(made.parts),
        max_new_tokens=None,
        score=lambda text: found_share(made, text),
        taken=made.taken,
    )


def draw_trial(seed: int, task: str, length: int, number: int, hay: str | None = None) -> Trial:
    """The trial of that number among those of a task and a length; see `make_trial`."""
    return make_trial(task, Random(f"{seed}/{task}/{length}/{number}"), hay)


def needles_task(filler: str) -> str | None:
    """The task whose haystack of needles that is, None for any other filler."""
    return filler.removeprefix(_OF) if filler.startswith(_OF) else None


def needles_text(task: str, seed: str, chars: int) -> str:
    """A haystack of needles only, one a line, of at least that many characters; a longer one starts alike."""
    rng = Random(seed)
    kind = make_needles(task, rng)
    out: list[str] = []
    size = 0
    while size < chars:
        out.append(distractor(kind, rng))
        size += len(out[-1]) + 1
    return "\n".join(out)


def _passkey(rng: Random) -> Trial:
    key, depth = rng.randint(1, passkey.LARGEST), rng.random()
    return Trial(
        opening=passkey.TASK,
        statements=(passkey.HIDDEN.format(key=key),),
        depths=(depth,),
        around=LINE,
        prompt=passkey.QUESTION,
        answers=(str(key),),
        reference=f" {key}",
        max_new_tokens=passkey.MAX_NEW_TOKENS,
        score=lambda text: float(passkey.first_number(text) == key),
    )
