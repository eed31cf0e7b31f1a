"""Readers of public sets, on small sets made here in the published forms."""

import json
from pathlib import Path
from typing import Any

import pytest

from hierlandmark.errors import InvalidArgument, InvalidChatFile
from hierlandmark.eval.loaders import detect, load

LOCOMO = [
    {
        "sample_id": "conv-1",
        "conversation": {
            "speaker_a": "Ada",
            "speaker_b": "Ben",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ada", "dia_id": "D1:1", "text": "I bought a kiln."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "Nice!", "blip_caption": "a photo of a vase"},
            ],
            "session_2_date_time": "a Sunday",
            "session_2": [{"speaker": "Ben", "dia_id": "D2:01", "text": "My tent leaks."}],
            # the second session that was planned and never written
            "session_3_date_time": "1:00 am on 9 May, 2023",
            "session_10_date_time": "12:05 am on 1 June, 2023",
            "session_10": [{"speaker": "Ada", "dia_id": "D10:1", "text": "Bye."}],
        },
        "qa": [
            {"question": "What did Ada buy?", "answer": "a kiln", "evidence": ["D1:1"], "category": 4},
            {"question": "When?", "answer": 2023, "evidence": ["D1:1; D2:1", "D:1:2", "D9:9"], "category": 2},
            {"question": "Did Ben buy a kiln?", "evidence": [], "category": 5, "adversarial_answer": "yes"},
        ],
        "event_summary": {},
    }
]

LONGMEMEVAL = [
    {
        "question_id": "q1",
        "question_type": "single-session-user",
        "question": "Which tea do I like?",
        "answer": "oolong",
        "question_date": "2023/05/30 (Tue) 23:40",
        "haystack_session_ids": ["s1", "answer_1", "s1"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 10:00", "no date"],
        "haystack_sessions": [
            [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
            [
                {"role": "user", "content": "I like oolong.", "has_answer": True},
                {"role": "assistant", "content": "Good.", "has_answer": False},
            ],
            [{"role": "user", "content": "Hello again"}],
        ],
        "answer_session_ids": ["answer_1"],
    },
    {
        "question_id": "q2_abs",
        "question_type": "multi-session",
        "question": "Which coffee?",
        "answer": "You did not say.",
        "haystack_session_ids": ["s1"],
        "haystack_dates": ["2023/05/20 (Sat) 02:21"],
        "haystack_sessions": [[{"role": "user", "content": "Hello", "has_answer": True}]],
        "answer_session_ids": [],
    },
]


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [
        {"_id": "d1", "title": "Kilns", "text": "A kiln burns clay."},
        {"_id": "d2", "title": "", "text": "Tents are of cloth.", "metadata": {}},
        {"_id": "d3", "text": ""},
    ]
    queries = [{"_id": "1", "text": "what burns clay"}, {"_id": "2", "text": "unjudged"}, {"_id": "3", "text": "cloth"}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(one) + "\n" for one in queries))
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n3\td2\t1\n3\td3\t1\n3\tgone\t1\n"
    )
    return folder


def test_locomo(tmp_path: Path) -> None:
    path = written(tmp_path / "locomo10.json", LOCOMO)
    (chat,) = load(path)
    assert detect(path) == "locomo"
    assert chat.id == "conv-1"
    assert [one.id for one in chat.messages] == ["D1:1", "D1:2", "D2:1", "D10:1"]
    assert [one.role for one in chat.messages] == ["Ada", "Ben", "Ben", "Ada"]
    assert chat.messages[1].content == "Nice! [photo: a photo of a vase]"
    assert [one.time for one in chat.messages] == ["2023-05-08T13:56:00"] * 2 + [None, "2023-06-01T00:05:00"]
    assert [(one.type, one.evidence) for one in chat.questions] == [
        ("single-hop", ["D1:1"]),
        ("temporal", ["D1:1", "D2:1", "D1:2", "D9:9"]),
        ("adversarial", []),
    ]


@pytest.mark.parametrize(
    ("given", "found"), [("D1:1; D10:1", ["D1:1", "D10:1"]), ("D1:1", ["D1:1"]), (None, []), ([], []), ([3], [])]
)
def test_locomo_evidence_may_be_one_string(tmp_path: Path, given: object, found: list[str]) -> None:
    record = LOCOMO[0] | {"qa": [{"question": "What?", "evidence": given, "category": 4}]}
    (chat,) = load(written(tmp_path / "locomo10.json", [record]))
    assert chat.questions[0].evidence == found


def test_longmemeval(tmp_path: Path) -> None:
    path = written(tmp_path / "longmemeval_s.json", LONGMEMEVAL)
    first, second = load(path)
    assert detect(path) == "longmemeval"
    assert (first.id, second.id) == ("q1", "q2_abs")
    assert [one.id for one in first.messages] == ["s1:0", "s1:1", "answer_1:0", "answer_1:1", "s1#2:0"]
    assert first.messages[0].time == "2023-05-20T02:21:00" and first.messages[4].time is None
    assert [(one.type, one.evidence) for one in first.questions] == [("single-session-user", ["answer_1:0"])]
    assert [(one.type, one.evidence) for one in second.questions] == [("abstention", [])]


def test_beir(beir: Path) -> None:
    (corpus,) = load(beir)
    assert detect(beir) == "beir"
    assert corpus.id == "tiny"
    assert [(one.id, one.role, one.content) for one in corpus.messages] == [
        ("d1", "document", "Kilns\nA kiln burns clay."),
        ("d2", "document", "Tents are of cloth."),
        ("d3", "document", ""),
    ]
    assert [(one.question, one.evidence) for one in corpus.questions] == [
        ("what burns clay", ["d1"]),
        # an empty document and one that is not there can be judged; `evaluate_retrieval` leaves them out
        ("cloth", ["d2", "d3", "gone"]),
    ]


def test_a_chat_file_is_one() -> None:
    sample = Path(__file__).parents[2] / "examples" / "sample_chat.jsonl"
    assert detect(sample) == "chat"
    assert next(iter(load(sample))).id == "sample"


def test_the_format_may_be_forced(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", LOCOMO[0])
    assert [one.id for one in load(path, "locomo")] == ["conv-1"]
    with pytest.raises(InvalidChatFile, match="record 0: expected question_id as the published file has it, got None"):
        list(load(path, "longmemeval"))
    with pytest.raises(InvalidArgument, match="chat, locomo, longmemeval, beir, got 'csv'"):
        load(path, "csv")  # type: ignore[arg-type]


FAULTS = {
    "neither": ({"a": 1}, "neither LoCoMo's JSON"),
    "empty": ([], "neither LoCoMo's JSON"),
    "no dia_id": (
        [{"conversation": {"session_1": [{"speaker": "A", "text": "b"}]}, "qa": []}],
        "record 0, session 1: expected dia_id",
    ),
    "no turn": ([{"conversation": {}, "qa": []}], "record 0: List should have at least 1 item"),
    "a turn twice": (
        [{"conversation": {"session_1": [{"speaker": "A", "text": "b", "dia_id": "D1:1"}] * 2}, "qa": []}],
        "message id 'D1:1' stands twice",
    ),
    "dates short": ([LONGMEMEVAL[0] | {"haystack_dates": ["x"]}], "3 sessions, 3 of their ids and 1 of their dates"),
    "a question that is none": ([LOCOMO[0] | {"qa": ["x"]}], "record 0, question 0: expected an object, got str"),
    "a list as category": (
        [LOCOMO[0] | {"qa": [{"question": "x", "category": [1]}]}],
        r"record 0, question 0: expected category as the published file has it, got \[1\]",
    ),
    "evidence of numbers": (
        [LOCOMO[0] | {"qa": [{"question": "x", "evidence": 3}]}],
        "record 0, question 0: expected evidence as the published file has it, got 3",
    ),
    "ids that are no list": ([LONGMEMEVAL[0] | {"haystack_session_ids": 3}], "record 0: expected haystack_session_ids"),
    "dates that are no list": ([LONGMEMEVAL[0] | {"haystack_dates": "abc"}], "record 0: expected haystack_dates"),
    "a type that is no text": ([LONGMEMEVAL[0] | {"question_type": 3}], "record 0: expected question_type"),
    "no role": ([LONGMEMEVAL[0] | {"haystack_sessions": [[{}], [], []]}], "session 's1', turn 0: expected role"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_name_their_place(tmp_path: Path, name: str) -> None:
    value, message = FAULTS[name]
    with pytest.raises(InvalidChatFile, match=message):
        list(load(written(tmp_path / "x.json", value)))


def test_files_that_are_none(tmp_path: Path, beir: Path) -> None:
    with pytest.raises(InvalidArgument, match="no file or folder at"):
        load(tmp_path / "absent")
    with pytest.raises(InvalidArgument, match=r"a folder with corpus\.jsonl and queries\.jsonl"):
        load(tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(InvalidChatFile, match="not valid JSON"):
        load(tmp_path / "x.json")
    (beir / "qrels" / "test.tsv").write_text("1\td1\n")
    with pytest.raises(InvalidChatFile, match="line 1: expected query-id, corpus-id and score"):
        list(load(beir))
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(InvalidChatFile, match=r"expected qrels/test\.tsv"):
        list(load(beir))
