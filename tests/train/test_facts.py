"""Made-up facts: the statement holds what the answer says, in the forms that training and evaluation share."""

import re
from dataclasses import replace

import numpy as np
import pytest

from hierlandmark.train import episodes, facts
from hierlandmark.train.doings import doing

makers = pytest.mark.parametrize(
    "make", [facts.passkey, facts.needle, facts.attribute, facts.updated, facts.personal, facts.own, doing]
)


@makers
def test_the_statement_holds_the_answer(make):
    for seed in range(200):
        fact = make(np.random.default_rng(seed))
        assert fact.statement and fact.question and fact.answer and "\n" not in fact.statement
        # what the question does not say already
        told = set(re.findall(r"\w+", fact.answer.lower())) - set(re.findall(r"\w+", fact.question.lower()))
        new = told - {"your", "the", "a", "at", "in", "is", "by", "place", "now", "ones", "one", "you", "on", "are"}
        assert new and new <= set(re.findall(r"\w+", fact.statement.lower()))
        assert fact.answer.startswith(" ") == fact.raw


@makers
def test_facts_depend_on_the_seed_only(make):
    assert make(np.random.default_rng(3)) == make(np.random.default_rng(3))
    assert len({make(np.random.default_rng(i)).statement for i in range(50)}) > 40


def test_the_passkey_is_the_one_that_is_evaluated():
    fact = facts.passkey(np.random.default_rng(0))
    assert re.fullmatch(r"The pass key is (\d+)\. Remember it\. \1 is the pass key\.", fact.statement)
    assert fact.question == "What is the pass key? The pass key is"
    assert fact.answer.strip(" .") in fact.statement


def test_an_update_replaces_another_value_of_the_same_thing():
    for seed in range(50):
        fact = facts.updated(np.random.default_rng(seed))
        thing, old = re.fullmatch(r"The (.+?) is (.+)\.", fact.older).groups()
        new = fact.answer.removeprefix(f"The {thing} is now ").removesuffix(".")
        assert thing in fact.statement and new in fact.statement and new != old


def test_questions_of_one_thing_are_about_the_same():
    """Of two places that one moves to, neither answers when."""
    for seed in range(3000):
        fact = doing(np.random.default_rng(seed))
        assert fact.about and "locker" not in fact.statement
        if re.search(r" moving( to \w.*)?\?$", fact.question):
            assert fact.about.startswith("moving ")
        if re.search(r" work( as)?\?$", fact.question):
            assert fact.about.startswith("work ")


def test_a_memory_tells_one_fact_about_a_thing(monkeypatch):
    monkeypatch.setattr(
        episodes, "doing", lambda rng: facts.Fact("I am moving to Cork.", f"{rng.random()}?", "Cork.", about="moving")
    )
    for seed in range(30):
        told = episodes._facts(np.random.default_rng(seed), 12)
        assert sum(fact.about == "moving" for fact in told) <= 1


def test_a_memory_answers_a_question_once(monkeypatch):
    made = [facts.Fact(f"My dog is called {name}.", "What is my dog called?", name) for name in ("Theo", "Vera")]
    monkeypatch.setattr(facts, "own", lambda rng: made[0])
    monkeypatch.setattr(episodes, "doing", lambda rng: replace(made[1], about="dog is"))
    for seed in range(60):
        asked = [fact.question for fact in episodes._facts(np.random.default_rng(seed), 30)]
        assert len(asked) == len(set(asked))
