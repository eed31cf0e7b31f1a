"""Questions made of what messages say: none tells its answer, each is in the right person, and junk gives none."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlandmark.model.prompts import DOCUMENT_ROLE
from hierlandmark.train.asking import ask_of, typed
from hierlandmark.train.corpus import Talk
from hierlandmark.train.links import linked_memory
from tests.train.test_links import corpus_of, turn

AIM = "I'm trying to repaint the garden fence with linseed oil, but the old colour peels."
USER = (
    AIM,
    "Can you help me plan a birthday party for my grandmother in the old mill?",
    "I've finished 14 watercolour portraits for the spring exhibition.",
    "I have a deadline of April 9, 2023 for the lighthouse brochure.",
    "My commute to the observatory takes 35 minutes and my rent is $840.",
    "I'm using Django 4.1.7 with my cousin Beatrix to track our beehives.",
    "My favourite pastry is an almond croissant. I'm a carpenter. I work in Lisbon.",
    "The piano recital is on Friday and the oboe audition is on Tuesday.",
)
ANSWER = (
    "Here are some ideas.\n\n### Step 1: Sand the Fence Boards\n\n"
    "- **Drying time**: Allow the boards to dry two days.\n"
    "- Use a natural bristle brush for your railings.\n\nYou should wear gloves to protect your hands.\n"
)


def questions(text, role="user", seeds=range(150)):
    return [asked for seed in seeds if (asked := ask_of(text, role, np.random.default_rng(seed)))]


def texts(text, role="user"):
    return {asked.text for asked in questions(text, role)}


def starting(found, start):
    return [one for one in found if one.lower().startswith(start)]


@pytest.mark.parametrize(
    ("text", "start", "answer"),
    [
        ("I've finished 14 watercolour portraits for the spring exhibition.", "how many", "14"),
        ("My tuning accuracy improved from 61% to 88% last month.", "how much", "61|88"),
        ("The ferry costs money, I spent 45 minutes on packing my rucksack.", "how long", "45"),
        ("I have a deadline of April 9, 2023 for the lighthouse brochure.", "when is", "April|2023|9"),
        ("I want to repaint the greenhouse by next spring, or to sell the greenhouse on Friday.", "when do", "Friday"),
        ("I set aside $840 for the kitchen curtains.", "how much", "840"),
        ("I'm using Django 4.1.7 on my laptop.", "which version of django", r"4\.1"),
        ("My cousin Beatrix keeps bees.", "what is the name of my cousin", "Beatrix"),
    ],
)
def test_a_question_does_not_tell_its_answer(text, start, answer):
    found = starting(texts(text), start)
    assert found and not any(re.search(answer, one, re.IGNORECASE) for one in found)


def test_two_dated_things_are_asked_for_the_days_between():
    found = starting(texts(USER[-1]), "how many days are there between the")
    assert found and all("piano recital" in one and "oboe audition" in one for one in found)


def test_a_reply_is_asked_for_what_the_other_side_said():
    found = questions(AIM)
    replies = [asked.text for asked in found if asked.reply]
    assert 0.1 < len(replies) / len(found) < 0.6
    assert all(re.search(r"\b(you|the assistant)\b", one) for one in replies)
    assert not any(asked.reply for role in ("assistant", "Professor B") for asked in questions(AIM + ANSWER, role))


def test_phrases_are_in_the_person_of_who_asks():
    plans = "I'm trying to repaint my garden fence with linseed oil."
    mine = texts(plans)
    assert any("my garden fence" in one for one in mine)
    third = [one for one in mine if "the user" in one.lower()]
    assert third and all(" my " not in one and " I " not in one for one in third)
    for one in texts(plans, "Grad E"):
        assert not re.search(r"\b(I|i|my)\b", one)
    assert any("grad e" in one.lower() and "their garden fence" in one for one in texts(plans, "Grad E"))
    told = texts(ANSWER, "assistant")
    assert any("my railings" in one for one in told) and not any(re.search(r"\byour\b", one) for one in told)


def test_an_answer_is_asked_for_its_headings_terms_and_advice():
    told = " ".join(texts(ANSWER, "assistant")).lower()
    for words in ("sand the fence boards", "drying time", "bristle brush", "wear gloves"):
        assert words in told
    assert "step 1" not in told and "*" not in told and "#" not in told


def test_of_a_document_only_neutral_things_are_asked():
    found = texts("Linseed oil is pressed from flax.\n\n## Drying oils\n\nYou can thin it.", DOCUMENT_ROLE)
    assert found and not any(re.search(r"document|\b(I|you|me|user)\b", one) for one in found)


@pytest.mark.parametrize(
    "text",
    ["", "ok", "Yes, thanks!", "```python\nI want to use(numbers)\n```", r"\[ I want to \frac{a}{b} \]", "{x: [1, 2]}"],
)
def test_nothing_is_asked_of_what_says_nothing(text):
    assert not any(questions(text, role) for role in ("user", "assistant", "nick"))
    assert not questions("=== nick3 has joined the garden channel", "system")


@pytest.mark.parametrize("role", ["user", "assistant", "Professor B"])
def test_questions_read_like_those_of_people(role):
    rng = np.random.default_rng(0)
    found = [typed(asked.text, rng) for text in (*USER, ANSWER) for asked in questions(text, role)]
    assert len(found) > 300
    assert all(len(one.split()) <= 30 and not re.search(r"[\\*`#{}\n]|  ", one) for one in found)
    assert 0.85 < sum(one.endswith("?") for one in found) / len(found) < 0.95
    small = sum(one == one.lower() for one in found) / len(found)
    assert 0.1 < small < 0.3 and all(one[0].isupper() or one == one.lower() for one in found)
    starts = {" ".join(one.lower().split()[:2]) for one in found}
    assert len(starts) > 8


def test_a_seed_gives_its_question_again():
    for text in USER:
        assert questions(text, seeds=range(20)) == questions(text, seeds=range(20))


@given(st.text(max_size=300), st.sampled_from(["user", "assistant", "nick_7", DOCUMENT_ROLE, ""]), st.integers(0, 99))
def test_any_text_is_asked_well_or_not_at_all(text, role, seed):
    lead = ("", "I want to ", "You should use ", "My plan is ")[seed % 4]
    asked = ask_of(lead + text, role, np.random.default_rng(seed))
    if asked:
        assert asked.text == asked.text.strip() and 3 <= len(asked.text.split()) <= 30 and "\n" not in asked.text


def test_a_memory_holds_what_its_questions_ask_and_what_answers_them():
    aims = ("repaint my wooden greenhouse", "tune my grandfather's violin", "restore my broken typewriter")
    turns = []
    for n in range(30):
        turns += [turn("user", f"I'm trying to {aims[n % 3]} for neighbour {n}."), turn("assistant", f"Ask shop {n}.")]
    lone = both = 0
    for seed in range(12):
        made = linked_memory(corpus_of(Talk(turns)), [400] * 6, np.random.default_rng(seed), most=40)
        text = np.concatenate(made.segments)
        for query in made.queries:
            if query.kind == "asked":
                said = [bytes(text[slice(*made.bodies[i])].tolist()).decode() for i in query.where]
                lone += len(said) == 1
                if len(said) == 2:
                    both += 1
                    assert said[0].startswith(" I'm trying to") and said[1].startswith(" Ask shop")
                    assert query.where[1] == query.where[0] + 1
    assert lone > 20 and both > 5
