"""Passkey cases: the paper's five lines, the length asked for, the key where it should be."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval import passkey
from hierlandmark.eval.fillers import GRASS, Grass, Text, open_filler
from hierlandmark.results import Answer, Cost


def words(text: str) -> list[int]:
    """A tokenizer of pieces of four characters at most, so that tokens are not linear in characters."""
    return [0] * sum((len(word) + 3) // 4 for word in text.split(" "))


@settings(deadline=None)
@given(st.integers(120, 5000), st.integers())
@pytest.mark.parametrize("tokenize", [words, str.encode], ids=["words", "bytes"])
def test_length_lines_and_key(tokenize, length: int, seed: int) -> None:
    length += 300
    case = passkey.make_case(tokenize, Grass(), length, Random(seed))
    prompt = f"{case.document}\n{passkey.QUESTION}"
    assert length - passkey.SLACK <= len(tokenize(prompt)) <= length
    lines = prompt.split("\n")
    assert len(lines) == 5
    assert lines[0] == passkey.TASK
    assert lines[2] == f"The pass key is {case.key}. Remember it. {case.key} is the pass key."
    assert lines[1] in GRASS + (" " + GRASS) * 300
    assert 1 <= case.key <= passkey.LARGEST


def test_cases_differ_and_repeat() -> None:
    one, two, again = (passkey.make_case(words, Grass(), 500, Random(seed)) for seed in ("a", "b", "a"))
    assert one == again
    assert one.key != two.key
    assert one.document.index("\nThe pass key") != two.document.index("\nThe pass key")


def test_too_short_a_length() -> None:
    with pytest.raises(InvalidArgument, match=r"expected a length of at least \d+ tokens.*got 10"):
        passkey.make_case(words, Grass(), 10, Random(0))


@pytest.mark.parametrize(
    ("text", "number"),
    [(" 4711. Remember", 4711), ("key 12, 13", 12), ("", None), ("none", None), ("007", 7), ("9" * 5000, None)],
)
def test_first_number(text: str, number: int | None) -> None:
    assert passkey.first_number(text) == number


def test_results_and_their_shape() -> None:
    seen: list[str] = []

    def read(document: str, question: str) -> Answer:
        assert question == "What is the pass key? The pass key is"
        seen.append(document)
        key = document.split("The pass key is ")[1].split(".")[0]
        return Answer(text=f" {key if len(seen) % 2 else 0}", tokens=[], cost=Cost(blocks_read=len(seen)))

    rows = list(passkey.evaluate_passkey(read, words, Grass(), lengths=[500, 600], trials=4, mode="flat"))
    first, second = rows[3], rows[7]
    assert first == {
        "length": 500,
        "trials": 4,
        "accuracy": 0.5,
        "mode": "flat",
        "cost": {"gate_keys": 0, "landmark_keys": 0, "blocks_read": 2.5, "bytes_read": 0, "ms": 0},
    }
    assert second["length"] == 600
    assert len(rows) == len(set(seen)) == 8


@pytest.mark.parametrize(("lengths", "trials"), [([], 1), ([500], 0)])
def test_nothing_to_do(lengths: list[int], trials: int) -> None:
    with pytest.raises(InvalidArgument, match="at least one length and one trial"):
        list(passkey.evaluate_passkey(None, words, Grass(), lengths=lengths, trials=trials, mode="flat"))


def test_a_short_length_is_told_before_a_longer_one_is_read() -> None:
    told = "expected lengths of at least 47 tokens, got 46"
    # a tokenizer may make fewer tokens than words, and one more than bytes
    by_words = "expected lengths that hold the 47 words around the filler, got 23; 248 tokens do"
    for tokenize, least, said in ((str.split, 47, told), (None, 24, by_words)):
        passkey.check_lengths([500, least], tokenize)
        with pytest.raises(InvalidArgument, match=said):
            passkey.check_lengths([500, least - 1], tokenize)
    with pytest.raises(InvalidArgument, match=told):
        next(passkey.evaluate_passkey(None, str.split, Grass(), lengths=[500, 46], trials=1, mode="flat"))


def test_filler_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "books.jsonl"
    path.write_text("".join(json.dumps({"text": f"book {i}\nline"}) + "\n" for i in range(400)))
    filler = open_filler(str(path))
    case = passkey.make_case(words, filler, 500, Random(3))
    assert case.document.count("\n") == 3
    assert "book 1 line book 2" in filler.take(0, 2000)
    assert len(filler.take(filler.start(Random(1)), 1000)) == 1000


def test_a_filler_that_runs_out() -> None:
    with pytest.raises(InvalidArgument, match=r"filler short runs out: \d+ characters are needed, it has 4"):
        passkey.make_case(words, Text(["book"], "short"), 500, Random(0))


def test_grass() -> None:
    assert open_filler("grass").take(0, len(GRASS) + 4) == GRASS + " The"
