"""Facts of what somebody did, does, has or plans, as people say them in passing: "Ruth repaired the gate in June."."""

from dataclasses import dataclass

import numpy as np

from hierlandmark.train.facts import Fact, draw, in_passing, value_of
from hierlandmark.train.words import (
    ADJECTIVES,
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

# what was done, and its verb: not what the test of the shipped adapter asks for
_DONE = tuple(
    tuple(pair.split("/"))
    for pair in (
        "repaired/repair painted/paint cleaned/clean delivered/deliver found/find lost/lose bought/buy sold/sell "
        "built/build borrowed/borrow broke/break locked/lock washed/wash tested/test moved/move hid/hide opened/open "
        "rented/rent ordered/order returned/return measured/measure photographed/photograph inspected/inspect "
        "insured/insure covered/cover sketched/sketch replaced/replace forgot/forget checked/check stored/store"
    ).split()
)
_PLACED = ("in", "under", "behind", "on top of", "next to", "beside", "inside", "below")
_PARTS = ("evening", "morning", "night", "day", "week", "second day")
_UNITS = ("g", "mg", "ml", "cups", "drops", "spoons", "tablets", "slices")
_AGE = ("old", "first", "last", "new", "other")
# sometimes before a noun
_KINDS = ("garden", "kitchen", "office", "school", "spare", "winter", "guest", "summer", "small", "glass")
# what people do of a habit: said, and asked for
_HABITS = tuple(
    tuple(pair.split("/"))
    for pair in "practice/practice teach/teach study/study play/play clean/clean check/check visit/visit".split()
)


@dataclass(frozen=True)
class _Who:
    """Somebody at the start of a statement, within a question, and at the start of an answer."""

    said: str
    asked: str
    told: str
    own: bool = False


def doing(rng: np.random.Generator) -> Fact:
    """Something done, had or planned, and one question of who, what, where, when or how much about it."""
    make = _MAKERS[int(rng.integers(0, len(_MAKERS)))]
    said, question, told, short = make(rng)
    statement = f"{said}."
    if rng.random() < 0.25:
        own = said.startswith(("I ", "I'm "))
        statement = in_passing(said if own or said.split()[0] in _KEPT else said[0].lower() + said[1:], rng)
    short = short[0].upper() + short[1:]
    return Fact(statement, question, f"{short}." if rng.random() < 0.3 else f"{told}.")


# a statement, the question, and its answer, whole and short
_Made = tuple[str, str, str, str]
_KEPT = frozenset(NAMES) | {"Dr.", "Mr.", "Mrs.", "Ms."}


def _done(rng: np.random.Generator) -> _Made:
    """Somebody did something to a thing somewhere, some time, for some money."""
    past, verb = draw(rng, _DONE)
    thing, where = f"the {_noun(rng)}", _where(rng)
    when = f"on {value_of(rng, draw(rng, ('date', 'weekday')))}" if rng.random() < 0.7 else f"in {draw(rng, MONTHS)}"
    asks = draw(rng, ("who", "who", "where", "when", "what", "cost"))
    who = _person(rng) if asks == "who" else _anybody(rng)
    if asks == "who":
        behind = draw(rng, ("", f" {where}", f" {when}"))
        if rng.random() < 0.3:
            said = f"{thing[0].upper()}{thing[1:]} was {_participle(past)} by {who.said}{behind}"
            return said, f"Who {past} {thing}?", f"{who.told} {past} {thing}{behind}", who.told
        return (
            f"{who.said} {past} {thing}{behind}",
            f"Who {past} {thing}?",
            f"{who.told} {past} {thing}{behind}",
            who.told,
        )
    if asks == "where":
        return (
            f"{who.said} {past} {thing} {where}",
            f"Where did {who.asked} {verb} {thing}?",
            f"{who.told} {past} {thing} {where}",
            where,
        )
    if asks == "when":
        return (
            f"{who.said} {past} {thing} {when}",
            f"When did {who.asked} {verb} {thing}?",
            f"{who.told} {past} {thing} {when}",
            when,
        )
    if asks == "what":
        thing, behind = _a(f"{draw(rng, ADJECTIVES)} {_noun(rng)}"), draw(rng, (where, when))
        return (
            f"{who.said} {past} {thing} {behind}",
            f"What did {who.asked} {verb} {behind}?",
            f"{who.told} {past} {thing} {behind}",
            thing,
        )
    money = value_of(rng, "money")
    return (
        f"{who.said} paid {money} for {thing}",
        f"How much did {who.asked} pay for {thing}?",
        f"{who.told} paid {money} for {thing}",
        money,
    )


def _habit(rng: np.random.Generator) -> _Made:
    """Something that is done every week, or taken every day."""
    who = draw(rng, (_Who("I", "I", "You"), _Who("We", "we", "You")))
    day = f"on {draw(rng, WEEKDAYS)}s"
    if rng.random() < 0.4:
        much = f"{int(rng.integers(1, 60))} {draw(rng, _UNITS)}"
        of, every = draw(rng, (draw(rng, FOODS), _brand(rng))), f"every {draw(rng, _PARTS)}"
        if rng.random() < 0.5:
            return (
                f"{who.said} take {much} of {of} {every}",
                f"How much {of} do {who.asked} take?",
                (f"{who.told} take {much} of {of} {every}"),
                much,
            )
        return (
            f"{who.said} take {much} of {of} {every}",
            f"What do {who.asked} take {every}?",
            (f"{who.told} take {much} of {of} {every}"),
            f"{much} of {of}",
        )
    verb, asked = draw(rng, _HABITS)
    what = draw(rng, HOBBIES) if verb in ("practice", "teach", "study", "play") else f"the {_noun(rng)}"
    if rng.random() < 0.5:
        return (
            f"{who.said} {verb} {what} {day}",
            f"What do {who.asked} {asked} {day}?",
            (f"{who.told} {verb} {what} {day}"),
            what,
        )
    return (
        f"{who.said} {verb} {what} {day}",
        f"When do {who.asked} {asked} {what}?",
        (f"{who.told} {verb} {what} {day}"),
        day,
    )


def _being(rng: np.random.Generator) -> _Made:
    """What somebody is, was, or is afraid of."""
    relation, job = draw(rng, RELATIONS), draw(rng, JOBS)
    food, fear, place = draw(rng, FOODS), f"{_noun(rng)}s", draw(rng, PLACES)
    kind = _a(f"{draw(rng, ADJECTIVES)} {_noun(rng)}")
    old = f"{draw(rng, _AGE)} {_noun(rng)}"
    month = draw(rng, (*MONTHS, str(int(rng.integers(2026, 2060)))))
    me, a_job = int(rng.integers(0, 2)), _a(job)
    # oneself, or somebody who is one's own
    i, am, mine, told, are = (("I", "am", "I", "You", "are"), (f"My {relation}", "is", f"my {relation}",
                                                              f"Your {relation}", "is"))[me]  # fmt: skip
    works, does = ("work", "do") if not me else ("works", "does")
    return draw(
        rng,
        (
            (
                f"{i} {am} allergic to {food}",
                f"What {am} {mine} allergic to?",
                f"{told} {are} allergic to {food}",
                food,
            ),
            (f"{i} {am} afraid of {fear}", f"What {am} {mine} afraid of?", f"{told} {are} afraid of {fear}", fear),
            (
                f"{i} {works} as {a_job} in {place}",
                f"What {does} {mine} work as?",
                f"{told} {works} as {a_job} in {place}",
                a_job,
            ),
            (
                f"{i} {works} as {a_job} in {place}",
                f"Where {does} {mine} work?",
                f"{told} {works} as {a_job} in {place}",
                f"in {place}",
            ),
            (
                f"{i} {am} moving to {place} in {month}",
                f"Where {am} {mine} moving?",
                f"{told} {are} moving to {place} in {month}",
                f"to {place}",
            ),
            (
                f"{i} {am} moving to {place} in {month}",
                f"When {am} {mine} moving to {place}?",
                f"{told} {are} moving to {place} in {month}",
                f"in {month}",
            ),
            (f"My {old} was {kind}", f"What was my {old}?", f"Your {old} was {kind}", kind),
            (f"My {old} is {kind}", f"What is my {old}?", f"Your {old} is {kind}", kind),
        ),
    )


def _known(rng: np.random.Generator) -> _Made:
    """Who somebody is, what something is called, where it is."""
    job, pet, name, person = draw(rng, JOBS), draw(rng, PETS), draw(rng, NAMES), value_of(rng, "person")
    owner, mine, told = draw(rng, (("Our", "our", "Your"), ("My", "my", "Your"), ("The", "the", "The")))
    verb = draw(rng, _DONE)[0]
    noun, number = _noun(rng), str(int(rng.integers(1, 999)))
    where, kind = _where(rng), f"{draw(rng, ADJECTIVES)} {_noun(rng)}"
    we = draw(rng, ("we liked", "we met", f"who {verb} the {noun}", f"in {draw(rng, PLACES)}"))
    label, of = draw(rng, ("size", "row", "seat", "floor", "gate", "number", "page", "shelf", "channel")), _noun(rng)
    return draw(
        rng,
        (
            (f"{owner} {job} is {person}", f"Who is {mine} {job}?", f"{told} {job} is {person}", person),
            (f"{owner} {job} is called {person}", f"What is {mine} {job} called?", f"{told} {job} is called {person}",
             person),
            (f"{owner} {pet} is called {name}", f"What is {mine} {pet} called?", f"{told} {pet} is called {name}",
             name),
            (f"The {job} {we} is {person}", f"Who is the {job} {we}?", f"The {job} {we} is {person}", person),
            (f"{owner} {kind}s are {where}", f"Where are {mine} {kind}s?", f"{told} {kind}s are {where}", where),
            (f"{owner} {noun} is {where}", f"Where is {mine} {noun}?", f"{told} {noun} is {where}", where),
            (f"{owner} {of} {label} is {number}", f"What is {mine} {of} {label}?", f"{told} {of} {label} is {number}",
             number),
            (f"{owner} {of} leaves from {label} {number}", f"Which {label} does {mine} {of} leave from?",
             f"{told} {of} leaves from {label} {number}", f"{label} {number}"),
        ),
    )  # fmt: skip


def _planned(rng: np.random.Generator) -> _Made:
    """What somebody is going to do, and when or with whom."""
    who, verb = _anybody(rng), draw(rng, _DONE)[1]
    be, asks = {"I": ("am", "am"), "we": ("are", "are")}.get(who.asked, ("is", "is"))
    are = "are" if who.told == "You" else "is"
    thing, when = f"the {_noun(rng)}", f"in {draw(rng, (*MONTHS, str(int(rng.integers(2026, 2060)))))}"
    name = draw(rng, NAMES)
    said = f"{who.said} {be} going to {verb} {thing}"
    told = f"{who.told} {are} going to {verb} {thing}"
    if rng.random() < 0.5:
        return f"{said} {when}", f"When {asks} {who.asked} going to {verb} {thing}?", f"{told} {when}", when
    return (
        f"{said} with {name}",
        f"With whom {asks} {who.asked} going to {verb} {thing}?",
        f"{told} with {name}",
        f"with {name}",
    )


_MAKERS = (_done, _done, _done, _habit, _habit, _being, _being, _known, _known, _planned)


def _person(rng: np.random.Generator) -> _Who:
    """Somebody else: by a name, as one's own, or by what they do."""
    name, relation = draw(rng, NAMES), draw(rng, RELATIONS)
    person = value_of(rng, "person")
    return draw(
        rng,
        (
            _Who(name, name, name),
            _Who(person, person, person),
            _Who(f"My {relation} {name}", f"my {relation}", f"Your {relation} {name}"),
            _Who(f"My {relation}", f"my {relation}", f"Your {relation}"),
            _Who(f"The {relation}", f"the {relation}", f"The {relation}"),
        ),
    )


def _anybody(rng: np.random.Generator) -> _Who:
    return draw(rng, (_Who("I", "I", "You"), _Who("We", "we", "You"), _person(rng)))


def _noun(rng: np.random.Generator) -> str:
    """A thing that is no locker: the test of the shipped adapter asks for one."""
    noun = draw(rng, NOUNS)
    noun = "cabinet" if noun == "locker" else noun
    return f"{draw(rng, _KINDS)} {noun}" if rng.random() < 0.2 else noun


def _where(rng: np.random.Generator) -> str:
    place, name = draw(rng, PLACES), draw(rng, NAMES)
    look, noun = draw(rng, ADJECTIVES), _noun(rng)
    return draw(
        rng,
        (
            f"in {place}",
            f"at {name}'s house",
            f"at the {noun}",
            f"{draw(rng, _PLACED)} the {noun}",
            f"{draw(rng, _PLACED)} the {look} {noun}",
            f"{draw(rng, _PLACED)} the {look} {noun} of the {_noun(rng)}",
        ),
    )


def _brand(rng: np.random.Generator) -> str:
    """A name that no text holds, as of a medicine."""
    return f"{draw(rng, NAME_STARTS)}{draw(rng, NAME_ENDS)}{draw(rng, ('ol', 'ine', 'in', 'ium'))}".lower()


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def _participle(past: str) -> str:
    return {"broke": "broken", "forgot": "forgotten", "hid": "hidden"}.get(past, past)
