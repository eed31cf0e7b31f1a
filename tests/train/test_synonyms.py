"""Words for others of like meaning: read off hand-placed vectors, and put into a text at random."""

from itertools import product

import numpy as np
import pytest

from hierlandmark.train.synonyms import reworded, synonyms
from hierlandmark.train.words import COMMON, MONTHS, WEEKDAYS

TEXT = "the boat left Haven with a cargo of apples, and its crew sang about boat and apples. Boat it was"
KNOWN = {"boat": ("ship", "vessel"), "cargo": ("freight",), "apples": ("fruits",), "haven": ("port",)}


def found(**degrees):
    """Synonyms of words whose vectors lie on a circle: a cosine of 0.55 is 56 degrees apart."""

    def embed(words):
        angles = np.radians([degrees[word] for word in words])
        return np.stack((np.cos(angles), np.sin(angles)), axis=1)

    return synonyms(degrees, embed)


def drawn(text=TEXT, known=KNOWN, seeds=range(400)):
    return [reworded(text, known, np.random.default_rng(seed)) for seed in seeds]


def test_the_closest_stands_first():
    assert found(mend=0, fix=30, repair=-10, restore=-20)["mend"] == ("repair", "restore", "fix")


def test_what_is_no_closer_than_by_subject_is_none():
    assert found(boat=0, ship=56, harbor=-57, river=180) == {"boat": ("ship",), "ship": ("boat",)}


def test_only_the_closest_few_are_kept():
    words = {
        word: 5 * i for i, word in enumerate(("boat", "ship", "canoe", "raft", "ferry", "yacht", "kayak", "dinghy"))
    }
    near = found(**words)
    assert near["boat"] == tuple(words)[1:7] and all(len(each) == 6 for each in near.values())


@pytest.mark.parametrize(
    "forms",
    [
        ("paint", "painter"),
        ("paints", "painters", "paintings"),
        ("mend", "mender"),
        ("fix", "fixable"),
        ("boat", "boats"),
    ],
    ids=" ".join,
)
def test_another_form_of_the_same_word_is_none(forms):
    near = found(tin=0, tins=0, **dict.fromkeys(forms, 0))
    assert {*forms} <= set(near)
    assert all(not {*near[form]} & {*forms} for form in forms)


@pytest.mark.parametrize(
    "pair",
    [
        ("possible", "impossible"), ("agree", "disagree"), ("legally", "illegally"), ("happy", "unhappier"),
        ("able", "unable"), ("increase", "decrease"), ("increasing", "decreasing"), ("import", "export"),
        ("buys", "sells"), ("bought", "sold"), ("accepted", "rejected"), ("win", "lose"), ("open", "close"),
        ("cheap", "expensive"), ("cheaper", "expensive"), ("fast", "slow"), ("starting", "ending"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_opposites_are_none(pair):
    near = found(tin=0, tins=0, tinned=0, tinning=0, sadly=0, **dict.fromkeys(pair, 0))
    assert {*pair} <= set(near)
    assert all(not {*near[word]} & {*pair} for word in pair)


def test_each_is_among_the_closest_of_the_other():
    # what is close to a word with many closer ones only shares its subject
    near = found(place=0, town=40, **{f"{letter}arbor": -1 - i for i, letter in enumerate("abcdefghijk")})
    assert "town" not in near and all("town" not in each for each in near.values())
    assert "town" in found(place=0, town=40)["place"]


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("mend", "fix"),
        ("boats", "ships"),
        ("mending", "fixing"),
        ("mended", "fixed"),
        ("sadly", "badly"),
        ("mend", "dress"),
    ],
)
def test_endings_match(word, same):
    near = found(repair=0, vessels=0, restoring=0, restored=0, quickly=0, **{word: 0, same: 0})
    endings = {"repair": "mend", "vessels": "boats", "restoring": "mending", "restored": "mended", "quickly": "sadly"}
    like = {other for other, one in endings.items() if one == word}
    assert set(near[word]) == {same, *like}


@pytest.mark.parametrize(
    "words",
    [
        [word.lower() for word in MONTHS],
        [word.lower() for word in WEEKDAYS],
        ["two", "seven", "twelve", "hundred", "first", "third", "once", "tomorrow"],
        sorted(COMMON),
        ["feb", "oct", "mon", "hour", "minute", "daily", "weekly", "inch", "miles", "dollars", "euros"],
        ["brother", "sister", "north", "south", "red", "green", "eleven", "dozen", "french", "german"],
        ["adele", "madrid"],
        # halves of "couldn't" and the like
        ["couldn", "didn", "isn", "won", "haven", "ain", "shouldn", "cannot", "non", "nor"],
        # no lower-case words of three letters
        ["Boat", "ox", "x", "9th", "##ing", "don't", "çay", "old boat"],
    ],
    ids=["months", "weekdays", "numbers", "common", "units", "kinds", "names", "contractions", "others"],
)
def test_some_words_are_left_alone(words):
    near = found(boat=0, ship=0, **dict.fromkeys(words, 0))
    assert near == {"boat": ("ship",), "ship": ("boat",)}


def test_of_no_words_there_are_none():
    def never(words):
        raise AssertionError("nothing to embed")

    assert synonyms([], never) == synonyms(["May", "the", "two"], never) == {}


def test_many_words_are_compared_with_all(monkeypatch):
    words = {f"{a}{b}{c}zq": i for i, (a, b, c) in enumerate(product("abc", "defg", "hijkl"))}
    whole = found(**words)
    monkeypatch.setattr("hierlandmark.train.synonyms._AT_ONCE", 7)
    assert found(**words) == whole and len(whole) == len(words)


def test_about_four_in_ten_of_the_words_with_synonyms_are_replaced():
    texts = drawn("boat " * 50, seeds=range(40))
    words = [word for text in texts for word in text.split()]
    assert len(words) == 2000 and set(words) == {"boat", "ship", "vessel"}
    assert words.count("boat") == pytest.approx(1200, abs=100)
    # the closer twice as often
    assert words.count("ship") == pytest.approx(2 * words.count("vessel"), rel=0.25)


def test_names_and_unknown_words_stay():
    choices = {one: {one, *KNOWN.get(one.strip(",."), ())} for one in TEXT.split()}
    seen = set()
    for text in drawn():
        for was, now in zip(TEXT.split(), text.split(), strict=True):
            assert now.strip(",.") in {word.strip(",.") for word in choices[was]}
            # marks stay where they are
            assert now[-1:] in ",." or was[-1:] not in ",."
            seen.add(now)
    assert {"ship", "vessel", "freight", "fruits,", "fruits.", "boat", "cargo", "Haven", "Boat"} <= seen
    assert drawn(known={}) == [TEXT] * 400


def test_it_depends_on_the_seed_only():
    assert drawn() == drawn() and len(set(drawn())) > 10
