"""Needles: RULER's wording, and for each part of an answer the statement it stands in."""

from random import Random

import pytest

from hierlandmark import needles
from hierlandmark.errors import InvalidArgument
from hierlandmark.needles import SPECS, distractor, found_share, make_needles
from hierlandmark.train import words


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("seed", range(5))
def test_every_answer_stands_in_its_statement_only(name, seed):
    made = make_needles(name, Random(seed))
    assert len(made.sources) == len(made.answers) == len(made.parts)
    for i, (answer, source) in enumerate(zip(made.answers, made.sources, strict=True)):
        assert source in made.either(i) and made.parts[i].endswith(answer)
        if not made.spec.chained:
            assert [answer in said for said in made.statements].index(True) == source
            assert sum(answer in said for said in made.statements) == 1
    whole = "".join(made.parts)
    assert found_share(made, whole) == 1.0 and found_share(made, made.parts[0]) == 1 / len(made.answers)
    assert found_share(made, "nothing") == 0.0
    assert make_needles(name, Random(seed)) == made != make_needles(name, Random(seed + 100))


def test_counts_and_wording_are_rulers():
    one = make_needles("niah_single_2", Random(0))
    key = next(iter(one.taken))
    assert one.statements == (f"One of the special magic numbers for {key} is: {one.answers[0]}.",)
    assert one.prompt == (
        f"What is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is"
    )
    assert one.opening.startswith("A special magic number is hidden within the following text.")
    assert one.parts == (f" {one.answers[0]}",)
    four = make_needles("niah_multiquery", Random(0))
    assert len(four.statements) == len(four.answers) == 4 and ", and " in four.question
    assert "".join(four.parts) == " {}, {}, {}, and {}".format(*four.answers)
    assert four.prefix.endswith("mentioned in the provided text are")
    values = make_needles("niah_multivalue", Random(0))
    assert len(values.taken) == 1 and len(values.answers) == 4 and values.sources == (0, 1, 2, 3)
    assert [values.either(i) for i in range(4)] == [(0, 1, 2, 3), (1, 2, 3), (2, 3), (3,)]
    keys = make_needles("niah_multikey_1", Random(0), keys=40)
    assert len(keys.statements) == 40 and len(keys.answers) == 1 and keys.either(0) == keys.sources
    ids = make_needles("niah_multikey_3", Random(0))
    assert len(ids.answers[0]) == 36 and "magic uuid for" in ids.question and "magic uuids for" in ids.statements[0]


def test_a_chain_is_told_in_order_and_found_link_by_link():
    made = make_needles("vt", Random(1), keys=3)
    assert len(made.statements) == 15 and len(made.answers) == 5 and list(made.sources) == sorted(made.sources)
    value = made.question.split("value ")[1].split()[0]
    said = [made.statements[i] for i in made.sources]
    assert said[0] == f"VAR {made.answers[0]} = {value}"
    for before, after, told in zip(made.answers, made.answers[1:], said[1:], strict=False):
        assert told == f"VAR {after} = VAR {before}"
    assert made.prefix.endswith(f"5 variables are assgined the value {value}, they are:")
    assert "".join(made.parts) == " " + " ".join(made.answers)


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3", "vt"])
def test_distractors_are_about_other_keys(name):
    made, rng = make_needles(name, Random(0)), Random(1)
    others = [distractor(made, rng) for _ in range(300)]
    assert not any(key in other for key in made.taken for other in others) and len(set(others)) > 290
    assert made.statements[0][:8] == others[0][:8] or made.spec.chained


def test_no_key_that_is_evaluated_is_trained_on():
    assert not set(needles.ADJECTIVES) & set(words.ADJECTIVES)
    assert not set(needles.NOUNS) & set(words.NOUNS)


@pytest.mark.parametrize(("name", "given"), [("niah", {}), ("vt", {"values": 0}), ("niah_single_1", {"queries": 2})])
def test_what_cannot_be_made_is_refused(name, given):
    with pytest.raises(InvalidArgument):
        make_needles(name, Random(0), **given)


def test_a_distractor_takes_no_key_that_others_have():
    task = make_needles("niah_multikey_2", Random(0))
    words = (("red", "blue"), ("fox", "owl"))
    taken = {"red-fox", "blue-owl", "blue-fox"}
    for seed in range(20):
        assert " for red-owl is: " in distractor(task, Random(seed), words, taken=taken)
