"""Made-up facts: a statement to hide, the question that asks for it, and the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hierlandmark.train.words import (
    ADJECTIVES,
    ATTRIBUTES,
    FOODS,
    HOBBIES,
    JOBS,
    MONTHS,
    NAME_ENDS,
    NAME_STARTS,
    NAMES,
    NOUNS,
    PETS,
    PLACES,
    RELATIONS,
    WEEKDAYS,
)

_T = TypeVar("_T")

PASSKEY_HEAD = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
PASSKEY_FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PASSKEY_QUESTION = "What is the pass key? The pass key is"


@dataclass(frozen=True)
class Fact:
    """`raw` facts are asked as text to continue, the others as a chat turn."""

    statement: str
    question: str
    answer: str
    raw: bool = False
    # said earlier, and true no more
    older: str | None = None
    # what it is about, if more than its question says: of two that share it either might answer the other's question
    about: str | None = None


def passkey(rng: np.random.Generator) -> Fact:
    """The paper's passkey line (`run_test.py` of Mohtashami & Jaggi 2023)."""
    key = int(rng.integers(1, 50_001))
    statement = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Fact(statement, PASSKEY_QUESTION, f" {key}.", raw=True)


def needle(rng: np.random.Generator) -> Fact:
    """RULER's needle (Hsieh et al. 2024): seven digits for an adjective-noun key."""
    key, value = f"{draw(rng, ADJECTIVES)}-{draw(rng, NOUNS)}", _digits(rng, 7)
    question = f"What are all the special magic numbers for {key} mentioned in the provided text?"
    start = f"The special magic numbers for {key} mentioned in the provided text are"
    statement = f"One of the special magic numbers for {key} is: {value}."
    if rng.random() < 0.5:
        return Fact(statement, f"{question} {start}", f" {value}.", raw=True)
    return Fact(statement, question, f"{start} {value}.")


def attribute(rng: np.random.Generator) -> Fact:
    """A thing, one of its attributes, and a value: "The alarm code of the bakery is 58213."."""
    name, thing = draw(rng, tuple(ATTRIBUTES)), _thing(rng)
    value = value_of(rng, ATTRIBUTES[name])
    full = f"The {name} of {thing} is {value}."
    style = rng.integers(0, 4)
    if style == 0:
        return Fact(full, f"What is the {name} of {thing}? The {name} of {thing} is", f" {value}.", raw=True)
    statement = full
    if style == 3:
        statement = in_passing(f"the {name} of {thing} is {value}", rng)
    question = draw(rng, _ASKED).format(f"the {name} of {thing}")
    short = rng.random() < 0.2
    return Fact(statement, question, f"{value}" if short else full)


def updated(rng: np.random.Generator) -> Fact:
    """A value that changed: what was said last is asked for."""
    name, thing = draw(rng, tuple(ATTRIBUTES)), _thing(rng)
    new = old = value_of(rng, ATTRIBUTES[name])
    while new == old:
        new = value_of(rng, ATTRIBUTES[name])
    older = f"The {name} of {thing} is {old}."
    statement, question = (
        (f"The {name} of {thing} is now {new}.", f"What is the {name} of {thing} now?"),
        (f"The {name} of {thing} has changed: it is {new} from now on.", f"What is the {name} of {thing} now?"),
        (f"The new {name} of {thing} is {new}.", f"What is the new {name} of {thing}?"),
    )[rng.integers(0, 3)]
    return Fact(statement, question, f"The {name} of {thing} is now {new}.", older=older)


def personal(rng: np.random.Generator) -> Fact:
    """Something a person says in passing: "My aunt Petra lives in Riga."."""
    who, name, place = draw(rng, RELATIONS), draw(rng, NAMES), draw(rng, PLACES)
    digits, job, hobby = _digits(rng, int(rng.integers(2, 6))), draw(rng, JOBS), draw(rng, HOBBIES)
    thing, noun, kind = f"{draw(rng, ADJECTIVES)} {draw(rng, NOUNS)}", draw(rng, NOUNS), draw(rng, ADJECTIVES)
    person, day, time, date = (value_of(rng, kind) for kind in ("person", "weekday", "time", "date"))
    money = value_of(rng, "money")
    forms = (
        (f"My {who}'s name is {name}.", f"What is my {who}'s name?", f"Your {who}'s name is {name}."),
        (f"My {who} {name} lives in {place}.", f"Where does my {who} {name} live?", f"{name} lives in {place}."),
        (f"I am flying to {place} with {name}.", f"Who is flying to {place} with me?", f"{name}."),
        (f"I paid {digits} dollars for the {thing}.", f"How much did I pay for the {thing}?", f"{digits} dollars."),
        (f"I paid {person} {money} for the {noun}.", f"How much did I pay {person} for the {noun}?", f"{money}."),
        (f"I keep the {thing} at {name}'s place.", f"Where do I keep the {thing}?", f"At {name}'s place."),
        (f"{name} gave me a {thing} in {place}.", f"What did {name} give me in {place}?", f"A {thing}."),
        (f"My {who} was born in {place} on day {digits}.", f"Where was my {who} born?", f"In {place}."),
        (
            f"The name of the {job} is {person}.",
            f"What is the name of the {job}?",
            f"The name of the {job} is {person}.",
        ),
        (
            f"The name of the {noun} in {place} is {thing}.",
            f"What is the name of the {noun} in {place}?",
            f"The name of the {noun} in {place} is {thing}.",
        ),
        (
            f"My {hobby} class is on {day} at {time}.",
            f"On which day is my {hobby} class?",
            f"Your {hobby} class is on {day}.",
        ),
        (
            f"The {noun} opens at {time} on {day}s.",
            f"What time does the {noun} open on {day}s?",
            f"The {noun} opens at {time} on {day}s.",
        ),
        (f"{name} is coming to {place} on {date}.", f"When is {name} coming to {place}?", f"On {date}."),
        (f"On {date} I sold the {thing}.", f"On what date did I sell the {thing}?", f"On {date}."),
        (f"I always take the {kind} {noun}.", f"Which {noun} do I always take?", f"The {kind} one."),
        (f"I like {kind} {noun}s best.", f"What kind of {noun}s do I like best?", f"{kind} ones.".capitalize()),
        (
            f"The {noun} took {digits} days to repair.",
            f"How many days did it take to repair the {noun}?",
            f"{digits} days.",
        ),
    )
    return Fact(*forms[rng.integers(0, len(forms))])


# what the test of the shipped adapter asks for is not among them
_OWNED = tuple(noun for noun in NOUNS if noun != "locker")


def own(rng: np.random.Generator) -> Fact:
    """Something a person says of what is theirs, and asks for as theirs: "My plumber is Nora Kelmar."."""
    noun, other = draw(rng, _OWNED), draw(rng, NOUNS)
    kind, look = draw(rng, ADJECTIVES), draw(rng, ADJECTIVES)
    who, pet, name, food, place = (draw(rng, words) for words in (RELATIONS, PETS, NAMES, FOODS, PLACES))
    job = draw(rng, JOBS)
    attribute = draw(rng, tuple(ATTRIBUTES))
    value = value_of(rng, ATTRIBUTES[attribute])
    person, day, time, date, money = (value_of(rng, of) for of in ("person", "weekday", "time", "date", "money"))
    street = f"{draw(rng, NAME_STARTS)}{draw(rng, NAME_ENDS)} {draw(rng, ('Street', 'Road', 'Lane', 'Avenue'))}"
    at = draw(rng, ("", "", f" in {place}", f" at the {other}"))
    where = draw(rng, ("under", "behind", "in", "on top of", "next to"))
    # what is said, asked, and told: whole, and short
    said, asked, whole, short = (
        (f"My {noun} {attribute}{at} is {value}", f"What is my {noun} {attribute}{at}?", "Your", f"{value}"),
        (f"My {job} is {person}", f"Who is my {job}?", "Your", f"{person}"),
        (f"My {job} is {person} on {street}", f"Who is my {job}?", "Your", f"{person}"),
        (f"My {job} works on {street}", f"Where does my {job} work?", "Your", f"On {street}"),
        (f"My {pet} {name} only eats {food}", f"What does my {pet} eat?", "Your", f"{food}".capitalize()),
        (f"My {pet} is called {name}", f"What is my {pet} called?", "Your", f"{name}"),
        (f"My {who} is allergic to {food}", f"What is my {who} allergic to?", "Your", f"{food}".capitalize()),
        (f"My {who}'s birthday is on {date}", f"When is my {who}'s birthday?", "Your", f"On {date}"),
        (f"My favorite {noun} is the {kind} one", f"Which is my favorite {noun}?", "Your", f"The {kind} one"),
        (f"My {noun} is the {kind} one{at}", f"Which {noun}{at} is mine?", "Your", f"The {kind} one"),
        (f"My {noun} was made in {place}", f"Where was my {noun} made?", "Your", f"In {place}"),
        (f"My appointment with the {job} is on {day} at {time}", f"When is my appointment with the {job}?", "Your",
         f"On {day} at {time}"),
        (f"The {kind} {noun} is {where} the {look} {other}", f"Where is the {kind} {noun}?", "The",
         f"{where.capitalize()} the {look} {other}"),
        (f"I owe {person} {money}", f"How much do I owe {person}?", "You", f"{money}"),
        (f"I live on {street} in {place}", "Where do I live?", "You", f"On {street} in {place}"),
    )[rng.integers(0, 15)]  # fmt: skip
    first, rest = said.split(" ", 1)
    statement = f"{said}."
    if rng.random() < 0.3:
        statement = in_passing(said if first == "I" else f"{first.lower()} {rest}", rng)
    return Fact(statement, asked, f"{short}." if rng.random() < 0.35 else f"{whole} {rest}.")


_SAID = (
    "By the way, {}, please remember that.",
    "Note that {}.",
    "Before I forget: {}.",
    "So, {}, and nobody else knows it.",
    "They told me that {}.",
)
_ASKED = ("What is {}?", "What is {}?", "What's {}?", "Can you remind me what {} is?", "Do you remember {}?")


def _thing(rng: np.random.Generator) -> str:
    noun, style = draw(rng, NOUNS), rng.random()
    if style < 0.5:
        return f"the {noun}"
    if style < 0.7:
        return f"the {draw(rng, ADJECTIVES)} {noun}"
    if style < 0.8:
        return f"the {noun} in {draw(rng, PLACES)}"
    if style < 0.9:
        return f"my {draw(rng, RELATIONS)}'s {noun}"
    return f"{draw(rng, NAMES)}'s {noun}"


def in_passing(statement: str, rng: np.random.Generator) -> str:
    """A statement, without its full stop, within another sentence."""
    return draw(rng, _SAID).format(statement)


def draw(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    """One of them, each as likely."""
    return choices[int(rng.integers(0, len(choices)))]


def _digits(rng: np.random.Generator, count: int) -> str:
    return str(rng.integers(10 ** (count - 1), 10**count))


def _letters(rng: np.random.Generator, count: int) -> str:
    return "".join(chr(65 + int(i)) for i in rng.integers(0, 26, count))


def value_of(rng: np.random.Generator, kind: str) -> str:
    """A value of one of the kinds in `words.ATTRIBUTES`."""
    if kind == "digits":
        return _digits(rng, int(rng.choice([3, 4, 4, 5, 5, 5, 6, 7])))
    if kind == "mixed":
        first, last = _letters(rng, int(rng.integers(1, 4))), _digits(rng, int(rng.integers(2, 5)))
        return f"{first}{draw(rng, ('', '-'))}{last}{_letters(rng, int(rng.integers(0, 3)))}"
    if kind == "words":
        return f"{draw(rng, NOUNS)}-{draw(rng, ADJECTIVES)}-{_digits(rng, 2)}"
    if kind == "phrase":
        return f"{draw(rng, ADJECTIVES)} {draw(rng, NOUNS)}"
    if kind == "person":
        family = draw(rng, NAME_STARTS) + draw(rng, NAME_ENDS)
        first = draw(rng, ("Dr.", "Mr.", "Mrs.", "Ms.") if rng.random() < 0.3 else NAMES)
        return f"{first} {family}"
    if kind == "money":
        return f"{_digits(rng, int(rng.integers(2, 5)))} {draw(rng, ('dollars', 'euros', 'pounds'))}"
    if kind == "date":
        return (
            f"{int(rng.integers(1, 29))} {draw(rng, MONTHS)}"
            if rng.random() < 0.6
            else f"{draw(rng, MONTHS)} {int(rng.integers(1, 29))}"
        )
    if kind == "time":
        return f"{int(rng.integers(5, 22))}:{draw(rng, ('00', '10', '15', '20', '30', '40', '45', '50'))}"
    return draw(rng, {"adjective": ADJECTIVES, "name": NAMES, "place": PLACES, "weekday": WEEKDAYS}[kind])
