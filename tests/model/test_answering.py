"""An answer does not end where it has only repeated its question, and ends where it says the same over and over."""

import pytest
import torch

from hierlandmark import LandmarkModel, Memory
from hierlandmark.model.answering import AnswerDecoding, goes_round
from hierlandmark.testing import tiny_model

QUESTION = "What is my locker number at the gym?"
WORDS = ["</s>", ".", "\n\n", "!?", " is", " 4417", " Your", " locker", " number", " gym", ","]


class Spoken:
    """A model of few words; the first ends a text."""

    stop_tokens = frozenset({0})

    def decode(self, tokens):
        return "".join(WORDS[token] for token in tokens if token)


def tokens(*words):
    return [WORDS.index(word) for word in words]


def chosen(choose, said, *best):
    """The word chosen behind others where logits rank these words best, the first most."""
    logits = torch.zeros(len(WORDS))
    for rank, word in enumerate(best):
        logits[WORDS.index(word)] = 10.0 - rank
    return WORDS[choose(logits, tokens(*said))]


@pytest.mark.parametrize("end", [".", "\n\n", "!?", "</s>"])
@pytest.mark.parametrize("said", [(), (" Your",), (" Your", " locker", " number")])
def test_an_end_behind_the_questions_own_words_is_passed_over(end, said):
    assert chosen(AnswerDecoding(Spoken(), QUESTION), said, end, ".", "</s>", " is") == " is"


@pytest.mark.parametrize("said", [(" 4417",), (" Your", " locker", " number", " is", " 4417")])
def test_an_answer_that_says_something_ends_where_it_would(said):
    assert chosen(AnswerDecoding(Spoken(), QUESTION), said, ".", " is") == "."


def test_words_and_commas_are_left_alone():
    for word in (" locker", " gym", ","):
        assert chosen(AnswerDecoding(Spoken(), QUESTION), (" Your",), word, " is") == word


def test_ends_before_the_first_word_do_not_use_up_what_is_passed_over():
    choose = AnswerDecoding(Spoken(), QUESTION)
    assert chosen(choose, (), "\n\n", " Your") == " Your"
    assert chosen(choose, (" Your", " locker", " number"), ".", " is") == " is"


def test_few_ends_are_passed_over():
    choose = AnswerDecoding(Spoken(), QUESTION)
    for _ in range(3):
        assert chosen(choose, (" Your", " locker"), ".", " number") == " number"
    assert chosen(choose, (" Your", " locker"), ".", " number") == "."


class Said(Spoken):
    """What was said so far, whatever its tokens."""

    def __init__(self, text):
        self.text = text

    def decode(self, tokens):
        return self.text if len(tokens) > 1 else super().decode(tokens)


@pytest.mark.parametrize(("question", "said"), [
    ("What is Anna's phone number?", " Anna"), ("What is Anna’s phone number?", " Anna's"),
    ("Where did I park?", " You parked"), ("What does my cat eat?", " Your cat eats"),
    ("When will I see Anna?", " You will see Anna"),
])  # fmt: skip
def test_other_forms_of_the_questions_words_say_nothing_either(question, said):
    assert chosen(AnswerDecoding(Said(said), question), (" Your", " number"), ".", " is") == " is"


@pytest.mark.parametrize("question", [
    "Is my number at the gym or the locker?", "Which gym is my number for?", "What is it, gym or locker?",
    "Between gym and locker, what is mine?", "Is my locker at the gym?", "Do I go to the gym?",
    "My locker is at the gym, isn't it?",
])  # fmt: skip
def test_questions_that_may_hold_their_answer_may_be_repeated(question):
    assert chosen(AnswerDecoding(Spoken(), question), (" gym",), ".", " is") == "."


def test_where_nothing_else_is_to_be_said_an_answer_ends():
    choose = AnswerDecoding(Spoken(), QUESTION)
    logits = torch.full((4,), -1.0)
    assert choose(logits, []) == int(logits.argmax())


@pytest.mark.parametrize(("tokens", "round_"), [
    ([1] * 15, False), ([1] * 16, True), ([2, 3] * 8, True), ([9, *[2, 3] * 8], True), ([*[2, 3] * 8, 9], False),
    ([4, 5, 6, 7, 8, 9] * 2, False), ([4, 5, 6, 7, 8, 9] * 3, True), (list(range(32)) * 3, True),
    (list(range(33)) * 3, False), (list(range(60)), False), ([], False), ([1, 1, 2] * 5, False), ([1, 1, 2] * 6, True),
])  # fmt: skip
def test_what_goes_round(tokens, round_):
    assert goes_round(tokens) is round_


def test_an_answer_that_goes_round_ends():
    choose = AnswerDecoding(Spoken(), "Is it so?")
    assert chosen(choose, (" locker", ",") * 8, " locker") == "</s>"
    assert chosen(choose, (" locker", ",") * 7, " locker") == " locker"
    silent = Spoken()
    silent.stop_tokens = frozenset()
    assert chosen(AnswerDecoding(silent, "Is it so?"), (" locker", ",") * 8, " locker") == " locker"


def test_asking_passes_an_end_over_and_going_on_does_not(monkeypatch):
    model = tiny_model()
    with Memory.open(":memory:", model=model) as memory:
        memory.add([{"id": 1, "content": "a word"}])
        first = memory.ask("what is it?", max_new_tokens=1).tokens
        went_on = memory.complete("what is it?", max_new_tokens=1)
        assert first and went_on.tokens
        monkeypatch.setattr(LandmarkModel, "stop_tokens", {*first, *went_on.tokens})
        ended = memory.complete("what is it?", max_new_tokens=1)
        assert (ended.tokens, ended.finish_reason, went_on.finish_reason) == ([], "stop", "length")
        (other,) = memory.ask("what is it?", max_new_tokens=1).tokens
        assert other not in first
