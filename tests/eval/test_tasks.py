"""Trials of needle tasks: what is hidden is what is asked and scored."""

from random import Random

import pytest

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.tasks import TASKS, default_tasks, fillers_of, make_trial, needles_task, needles_text


@pytest.mark.parametrize("task", TASKS)
def test_a_right_answer_scores_one_and_half_of_it_half(task: str) -> None:
    trial = make_trial(task, Random(1))
    assert trial.statements == make_trial(task, Random(1)).statements
    assert len(trial.depths) == len(trial.statements) and sorted(trial.depths) == list(trial.depths)
    assert all(0 <= depth <= 1 for depth in trial.depths)
    assert trial.score(trial.reference) == 1
    assert trial.score("none") == 0
    assert trial.score(trial.answers[0]) == 1 / len(trial.answers)
    hidden = " ".join(trial.statements)
    assert all(answer in hidden and answer not in trial.prompt for answer in trial.answers)


def test_counts_are_rulers() -> None:
    counts = {task: (len(t.statements), len(t.answers)) for task in TASKS for t in [make_trial(task, Random(0))]}
    assert counts == {
        "passkey": (1, 1),
        "niah_single_1": (1, 1),
        "niah_single_2": (1, 1),
        "niah_single_3": (1, 1),
        "niah_multikey_1": (4, 1),
        "niah_multikey_2": (1, 1),
        "niah_multikey_3": (1, 1),
        "niah_multivalue": (4, 4),
        "niah_multiquery": (4, 4),
        "vt": (5, 5),
    }


def test_fillers() -> None:
    assert fillers_of("passkey", None) == fillers_of("niah_single_1", "b.txt") == ("grass",)
    assert fillers_of("passkey", "b.txt") == ("grass", "b.txt")
    assert fillers_of("niah_multiquery", "b.txt") == ("b.txt",)
    assert [needles_task(one) for one in fillers_of("niah_multikey_3", None)] == ["niah_multikey_3"]
    assert default_tasks(True) == list(TASKS)
    for task in default_tasks(False):
        fillers_of(task, None)
    with pytest.raises(InvalidArgument, match="give its file as text") as told:
        fillers_of("niah_single_2", None)
    assert "name a file with --filler" in told.value.on_command_line and "--" not in str(told.value)
    with pytest.raises(InvalidArgument, match=r"expected needle tasks of passkey, .*, got 'nothing'"):
        fillers_of("nothing", None)


def test_a_haystack_of_needles_does_not_hold_the_key() -> None:
    hay = needles_text("niah_multikey_2", "seed", 200_000)
    assert needles_text("niah_multikey_2", "seed", 1000) == hay[: len(needles_text("niah_multikey_2", "seed", 1000))]
    clash = 0
    for seed in range(100):
        (key,) = make_trial("niah_multikey_2", Random(seed), hay).taken
        assert f" for {key} is:" not in hay
        clash += any(f" for {key} is:" in hay for key in make_trial("niah_multikey_2", Random(seed)).taken)
    # without looking, some would have been asked about a key that stands there twice
    assert clash > 0
