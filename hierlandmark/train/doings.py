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

# done on purpose, or not: in the past, and the verb
_MEANT, _HAPPENED = (
    tuple((past, verb) for past, verb in (pair.split("/") for pair in pairs.split()))
    for pairs in (
        "repaired/repair painted/paint cleaned/clean delivered/deliver bought/buy sold/sell built/build "
        "borrowed/borrow locked/lock washed/wash tested/test moved/move opened/open rented/rent ordered/order "
        "returned/return measured/measure photographed/photograph inspected/inspect insured/insure covered/cover "
        "sketched/sketch replaced/replace checked/check stored/store hid/hide",
        "found/find lost/lose broke/break forgot/forget",
    )
)
_DONE = _MEANT + _HAPPENED
_PARTICIPLES = {"broke": "broken", "forgot": "forgotten", "hid": "hidden"}
_PLACED = ("in", "under", "behind", "on top of", "next to", "beside", "inside", "below")
_PARTS = ("evening", "morning", "night", "day", "week", "second day")
_UNITS = ("g", "mg", "ml", "cups", "drops", "spoons", "tablets", "slices")
_AGES = ("old", "first", "last", "new", "other")
_LABELS = ("size", "row", "seat", "floor", "gate", "number", "page", "shelf", "channel")
# sometimes before a noun
_KINDS = ("garden", "kitchen", "office", "school", "winter", "guest", "summer", "glass")
_HABITS = ("practice", "teach", "study", "play", "clean", "check", "visit")
# the test of the shipped adapter asks for a locker
_THINGS = tuple(noun for noun in NOUNS if noun != "locker")


@dataclass(frozen=True)
class _Who:
    """Somebody at the start of a statement, within a question, and at the start of an answer, and what they are."""

    said: str
    asked: str
    told: str
    be: str = "is"
    told_be: str = "is"


_I, _WE = _Who("I", "I", "You", "am", "are"), _Who("We", "we", "You", "are", "are")


def doing(rng: np.random.Generator) -> Fact:
    """Something done, had or planned, and one question of who, what, where, when or how much about it."""
    fact, short = _MAKERS[int(rng.integers(0, len(_MAKERS)))](rng)
    statement, answer = f"{fact.statement}.", f"{fact.answer}."
    if rng.random() < 0.25:
        first = statement.split()[0]
        kept = first == "I" or first in NAMES or first.endswith(".")
        statement = in_passing(fact.statement if kept else fact.statement[0].lower() + fact.statement[1:], rng)
    if rng.random() < 0.3:
        answer = f"{short[0].upper()}{short[1:]}."
    return Fact(statement, fact.question, answer, about=fact.about)


# a fact without full stops, and its short answer
_Made = tuple[Fact, str]


def _say(who: _Who, rest: str, question: str, short: str, about: str | None = None, said: str | None = None) -> _Made:
    """What somebody did, and the same told as an answer; `said` if it is said in other words."""
    return Fact(said or f"{who.said} {rest}", question, f"{who.told} {rest}", about=about), short


def _done(rng: np.random.Generator) -> _Made:
    """Somebody did something to a thing somewhere, some time, or paid for it."""
    past, verb = draw(rng, _DONE)
    thing, where = f"the {_noun(rng)}", _where(rng)
    when = f"on {value_of(rng, draw(rng, ('date', 'weekday')))}" if rng.random() < 0.7 else f"in {draw(rng, MONTHS)}"
    asks = draw(rng, ("Who", "Who", "Where", "When", "What", "How much"))
    if asks == "Who":
        who, behind = _person(rng), draw(rng, ("", f" {where}", f" {when}"))
        by = who.said if who.said == who.asked else who.said[0].lower() + who.said[1:]
        passive = f"{thing[0].upper()}{thing[1:]} was {_PARTICIPLES.get(past, past)} by {by}{behind}"
        said = passive if rng.random() < 0.3 else None
        return _say(who, f"{past} {thing}{behind}", f"Who {past} {thing}?", who.told, f"{verb} {thing}", said)
    who = draw(rng, (_I, _WE, _person(rng)))
    if asks == "How much":
        money = value_of(rng, "money")
        question = f"How much did {who.asked} pay for {thing}?"
        return _say(who, f"paid {money} for {thing}", question, money, f"pay {thing}")
    if asks == "What":
        thing, behind = _a(f"{draw(rng, ADJECTIVES)} {_noun(rng)}"), draw(rng, (where, when))
        question = f"What did {who.asked} {verb} {behind}?"
        return _say(who, f"{past} {thing} {behind}", question, thing, f"{verb} {behind}")
    behind = where if asks == "Where" else when
    return _say(who, f"{past} {thing} {behind}", f"{asks} did {who.asked} {verb} {thing}?", behind, f"{verb} {thing}")


def _habit(rng: np.random.Generator) -> _Made:
    """Something that is done every week, or taken every day."""
    who, every, on = draw(rng, (_I, _WE)), f"every {draw(rng, _PARTS)}", f"on {draw(rng, WEEKDAYS)}s"
    if rng.random() < 0.4:
        much, of = f"{int(rng.integers(2, 60))} {draw(rng, _UNITS)}", _brand(rng)
        if rng.random() < 0.5:
            return _say(who, f"take {much} of {of} {every}", f"How much {of} do {who.asked} take?", much, "take")
        much += f" of {draw(rng, (of, draw(rng, FOODS)))}"
        return _say(who, f"take {much} {every}", f"What do {who.asked} take {every}?", much, "take")
    verb = draw(rng, _HABITS)
    what = draw(rng, HOBBIES) if verb in ("practice", "teach", "study", "play") else f"the {_noun(rng)}"
    question, short = draw(
        rng, ((f"What do {who.asked} {verb} {on}?", what), (f"When do {who.asked} {verb} {what}?", on))
    )
    return _say(who, f"{verb} {what} {on}", question, short, f"habit {verb}")


def _being(rng: np.random.Generator) -> _Made:
    """What somebody is allergic to, does for a living, and where they move, or what something of theirs was."""
    relation, job, place, food = draw(rng, RELATIONS), _a(draw(rng, JOBS)), draw(rng, PLACES), draw(rng, FOODS)
    who = draw(rng, (_I, _WE, _Who(f"My {relation}", f"my {relation}", f"Your {relation}")))
    style = rng.integers(0, 5)
    if style == 0:
        old, kind = f"{draw(rng, _AGES)} {_noun(rng)}", _a(f"{draw(rng, ADJECTIVES)} {_noun(rng)}")
        be = draw(rng, ("is", "was"))
        return _say(_Who(f"My {old}", "", f"Your {old}"), f"{be} {kind}", f"What {be} my {old}?", kind, old)
    if style == 1:
        who = _I if who is _WE else who
        s, do = ("s", "does") if who.be == "is" else ("", "do")
        where = f"in {place}"
        question, short = draw(
            rng, ((f"What {do} {who.asked} work as?", job), (f"Where {do} {who.asked} work?", where))
        )
        return _say(who, f"work{s} as {job} {where}", question, short, f"work {who.told}")
    month = draw(rng, (*MONTHS, str(int(rng.integers(2026, 2060)))))
    rest, question, short, about = draw(
        rng,
        (
            (f"allergic to {food}", f"What {who.be} {who.asked} allergic to?", food, "allergic"),
            (f"moving to {place} in {month}", f"Where {who.be} {who.asked} moving?", f"to {place}", "moving"),
            (f"moving to {place} in {month}", f"When {who.be} {who.asked} moving to {place}?", f"in {month}", "moving"),
        ),
    )
    said = f"{who.said} {who.be} {rest}"
    return _say(who, f"{who.told_be} {rest}", question, short, f"{about} {who.told}", said)


def _known(rng: np.random.Generator) -> _Made:
    """Who somebody is, what something is called, where it is."""
    job, pet, person, noun = draw(rng, JOBS), draw(rng, PETS), value_of(rng, "person"), _noun(rng)
    owner, mine, told = draw(rng, (("Our", "our", "Your"), ("My", "my", "Your"), ("The", "the", "The")))
    met = draw(rng, ("we liked", "we met", f"who {draw(rng, _DONE)[0]} the {noun}", f"in {draw(rng, PLACES)}"))
    label, number = draw(rng, _LABELS), str(int(rng.integers(1, 999)))
    where, name = _where(rng), draw(rng, NAMES)
    of, rest, question, short = draw(
        rng,
        (
            (job, f"is called {person}", f"What is {mine} {job} called?", person),
            (pet, f"is called {name}", f"What is {mine} {pet} called?", name),
            (noun, f"is {where}", f"Where is {mine} {noun}?", where),
            (f"{noun} {label}", f"is {number}", f"What is {mine} {noun} {label}?", number),
            (
                noun,
                f"leaves from {label} {number}",
                f"Which {label} does {mine} {noun} leave from?",
                f"{label} {number}",
            ),
        ),
    )
    if rng.random() < 0.15:
        of = f"{job} {met}"
        owner, told, rest, question, short = "The", "The", f"is {person}", f"Who is the {of}?", person
    return _say(_Who(f"{owner} {of}", "", f"{told} {of}"), rest, question, short, f"{of} {rest.split()[0]}")


def _planned(rng: np.random.Generator) -> _Made:
    """What somebody is going to do, and when or with whom."""
    who, verb, thing = draw(rng, (_I, _WE, _person(rng))), draw(rng, _MEANT)[1], f"the {_noun(rng)}"
    going = f"going to {verb} {thing}"
    asks, behind = draw(
        rng,
        (
            ("When", f"in {draw(rng, (*MONTHS, str(int(rng.integers(2026, 2060)))))}"),
            ("With whom", f"with {draw(rng, NAMES)}"),
        ),
    )
    said, question = f"{who.said} {who.be} {going} {behind}", f"{asks} {who.be} {who.asked} {going}?"
    return _say(who, f"{who.told_be} {going} {behind}", question, behind, f"{verb} {thing}", said)


_MAKERS = (_done, _done, _done, _habit, _habit, _being, _being, _known, _known, _planned)


def _person(rng: np.random.Generator) -> _Who:
    """Somebody else: by a name, as one's own, or by what they do."""
    name, relation, job, person = draw(rng, NAMES), draw(rng, RELATIONS), draw(rng, JOBS), value_of(rng, "person")
    return draw(
        rng,
        (
            _Who(name, name, name),
            _Who(person, person, person),
            _Who(f"My {relation} {name}", f"my {relation}", f"Your {relation} {name}"),
            _Who(f"My {relation}", f"my {relation}", f"Your {relation}"),
            _Who(f"The {job}", f"the {job}", f"The {job}"),
        ),
    )


def _where(rng: np.random.Generator) -> str:
    noun, near = _noun(rng), draw(rng, _PLACED)
    return draw(
        rng,
        (
            f"in {draw(rng, PLACES)}",
            f"at {draw(rng, NAMES)}'s house",
            f"at the {noun}",
            f"{near} the {noun}",
            f"{near} the {draw(rng, ADJECTIVES)} {noun}",
            f"{near} the {draw(rng, ADJECTIVES)} {noun} of the {_noun(rng)}",
        ),
    )


def _noun(rng: np.random.Generator) -> str:
    noun = draw(rng, _THINGS)
    return f"{draw(rng, _KINDS)} {noun}" if rng.random() < 0.2 else noun


def _brand(rng: np.random.Generator) -> str:
    """A name that no text holds, as of a medicine."""
    return f"{draw(rng, NAME_STARTS)}{draw(rng, NAME_ENDS)}{draw(rng, ('ol', 'ine', 'in', 'ium'))}".lower()


def _a(what: str) -> str:
    return f"{'an' if what[0] in 'aeiou' or what.startswith('honest') else 'a'} {what}"
