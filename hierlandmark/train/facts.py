"""Made-up facts: a statement to hide, the question that asks for it, and the answer."""

from dataclasses import dataclass

import numpy as np

from hierlandmark.train.words import ADJECTIVES, ATTRIBUTES, NAMES, NOUNS, PLACES, RELATIONS

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


def passkey(rng: np.random.Generator) -> Fact:
    """The paper's passkey line (`run_test.py` of Mohtashami & Jaggi 2023)."""
    key = int(rng.integers(1, 50_001))
    statement = f"The pass key is {key}. Remember it. {key} is the pass key."
    return Fact(statement, PASSKEY_QUESTION, f" {key}.", raw=True)


def needle(rng: np.random.Generator) -> Fact:
    """RULER's needle (Hsieh et al. 2024): seven digits for an adjective-noun key."""
    key, value = f"{_of(rng, ADJECTIVES)}-{_of(rng, NOUNS)}", _digits(rng, 7)
    question = f"What are all the special magic numbers for {key} mentioned in the provided text?"
    start = f"The special magic numbers for {key} mentioned in the provided text are"
    statement = f"One of the special magic numbers for {key} is: {value}."
    if rng.random() < 0.5:
        return Fact(statement, f"{question} {start}", f" {value}.", raw=True)
    return Fact(statement, question, f"{start} {value}.")


def attribute(rng: np.random.Generator) -> Fact:
    """A thing, one of its attributes, and a value: "The alarm code of the bakery is 58213."."""
    name = _of(rng, tuple(ATTRIBUTES))
    value = _value(rng, ATTRIBUTES[name])
    thing = _of(rng, NOUNS) if rng.random() < 0.7 else f"{_of(rng, ADJECTIVES)} {_of(rng, NOUNS)}"
    full = f"The {name} of the {thing} is {value}."
    style = rng.integers(0, 4)
    if style == 0:
        return Fact(full, f"What is the {name} of the {thing}? The {name} of the {thing} is", f" {value}.", raw=True)
    statement = full if style < 3 else f"By the way, the {name} of the {thing} is {value}, please remember that."
    short = rng.random() < 0.3
    return Fact(statement, f"What is the {name} of the {thing}?", f"{value}" if short else full)


def personal(rng: np.random.Generator) -> Fact:
    """Something a person says in passing: "My aunt Petra lives in Riga."."""
    who, name, place, digits = (
        _of(rng, RELATIONS),
        _of(rng, NAMES),
        _of(rng, PLACES),
        _digits(rng, int(rng.integers(2, 6))),
    )
    thing = f"{_of(rng, ADJECTIVES)} {_of(rng, NOUNS)}"
    forms = (
        (f"My {who}'s name is {name}.", f"What is my {who}'s name?", f"Your {who}'s name is {name}."),
        (f"My {who} {name} lives in {place}.", f"Where does my {who} {name} live?", f"{name} lives in {place}."),
        (f"I am flying to {place} with {name}.", f"Who is flying to {place} with me?", f"{name}."),
        (f"I paid {digits} dollars for the {thing}.", f"How much did I pay for the {thing}?", f"{digits} dollars."),
        (f"I keep the {thing} at {name}'s place.", f"Where do I keep the {thing}?", f"At {name}'s place."),
        (f"{name} gave me a {thing} in {place}.", f"What did {name} give me in {place}?", f"A {thing}."),
        (f"My {who} was born in {place} on day {digits}.", f"Where was my {who} born?", f"In {place}."),
    )
    return Fact(*forms[rng.integers(0, len(forms))])


def _of(rng: np.random.Generator, words: tuple[str, ...] | list[str]) -> str:
    return str(words[rng.integers(0, len(words))])


def _digits(rng: np.random.Generator, count: int) -> str:
    return str(rng.integers(10 ** (count - 1), 10**count))


def _value(rng: np.random.Generator, kind: str) -> str:
    if kind == "digits":
        return _digits(rng, int(rng.choice([4, 5, 5, 5, 6, 7])))
    if kind == "phrase":
        return f"{_of(rng, ADJECTIVES)} {_of(rng, NOUNS)}"
    return _of(rng, {"adjective": ADJECTIVES, "name": NAMES, "place": PLACES}[kind])
