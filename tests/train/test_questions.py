"""Questions that a model writes: which messages are drawn, which questions are kept, what the file holds."""

import json
import lzma
from collections import Counter

import numpy as np
import pytest

from hierlandmark.chats import read_chats
from hierlandmark.errors import InvalidArgument
from hierlandmark.train import questions
from hierlandmark.train.questions import add_questions, load_writer, main, read_records, save_records
from hierlandmark.train.wording import Draw, Found, draw_messages, keep

TOWNS = ("Lisbon", "Porto", "Faro", "Braga", "Evora", "Coimbra", "Sintra", "Tomar")
FIRST = {
    "type": "specific",
    "question": "Where was the fair?",
    "answer": "Faro",
    "evidence": ["m2"],
    "answerable": True,
}


def told(i):
    return f"Our ferry to {TOWNS[i]} leaves on 2024-03-1{i} from pier {i + 10}, so bring the passports and the tickets."


@pytest.fixture
def record():
    messages = [{"id": f"m{i}", "role": "user" if i % 2 else "Dana", "content": told(i)} for i in range(8)]
    messages += [
        {"id": "s", "role": "system", "content": told(0)},
        {"id": "ok", "role": "user", "content": "Fine, thanks!"},
    ]
    messages[0]["time"] = None
    return {"id": 7, "messages": messages, "questions": [FIRST], "links": [["m3", "m2"]], "plan": {"x": 1}}


def write(draws):
    """A model that asks well."""
    return [f"{draw.start} the ferry to {draw.shown.split()[3]}?" for draw in draws]


def test_what_stands_in_a_file_is_kept_and_questions_are_added(record, tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "new" / "out.jsonl.xz"
    source.write_text(json.dumps(record) + "\n\n" + json.dumps({**record, "id": 8, "questions": None}))
    records = read_records([source])
    seen = []
    assert add_questions(records, write, count=12, batch=5, progress=lambda *n: seen.append(n)) == 12
    assert seen[-1] == (12, 12) and len(seen) == 3
    save_records(records, out)
    assert [path.name for path in out.parent.iterdir()] == [out.name]

    lines = [json.loads(line) for line in lzma.decompress(out.read_bytes()).splitlines()]
    assert lines[0]["questions"][0] == FIRST
    for before, after in zip([record, {**record, "id": 8}], lines, strict=True):
        assert {**after, "questions": 0} == {**before, "questions": 0}
    texts = {m["id"]: m["content"] for m in record["messages"]}
    chats = list(read_chats(out))
    made = [q for chat in chats for q in chat.questions if q.type == "generated"]
    assert len(made) == 12
    for question in made:
        (evidence,) = question.evidence
        assert question.question.split()[-1].rstrip("?") in texts[evidence]
    # a second run asks for the messages that are left
    assert add_questions(records, write, count=100) == 4
    assert set(Counter(q["evidence"][0] for q in records[1]["questions"]).values()) == {1}


def test_a_run_is_its_seed_and_stops_in_time(record):
    def made(seed):
        records = [json.loads(json.dumps(record))]
        add_questions(records, write, count=4, seed=seed)
        return [question["question"] for question in records[0]["questions"]]

    assert made(3) == made(3) != made(4)
    assert add_questions([record], write, count=4, seconds=-1.0) == 0
    with pytest.raises(InvalidArgument, match="at least one"):
        add_questions([record], write, count=0)


def test_what_many_messages_say_is_not_asked_and_no_question_stands_twice():
    def made(count, seed):
        messages = [{"id": i, "role": "user", "content": told(1)} for i in range(count)]
        chat = {"id": 1, "messages": messages}
        add_questions([chat], lambda draws: [f"{d.start} the ferry to Porto?" for d in draws], count=count, seed=seed)
        return [question["question"] for question in chat.get("questions", ())]

    assert made(3, 0) == []
    runs = [made(2, seed) for seed in range(30)]
    assert all(len(set(run)) == len(run) for run in runs) and {len(run) for run in runs} == {1, 2}


def test_messages_that_say_nothing_are_not_drawn(record):
    drawn = list(draw_messages([record], 50, np.random.default_rng(0)))
    assert sorted(draw.message for draw in drawn) == [f"m{i}" for i in range(8)]
    assert all("Dana" in d.start or d.start in ("How do I", "What is") for d in drawn if d.role == "Dana")
    assert any(
        d.start.startswith("When") for s in range(9) for d in draw_messages([record], 8, np.random.default_rng(s))
    )

    formulas = r"\frac{a}{b} \alpha \beta \gamma many words that say something about formulas here"
    long = "\n".join(f"{told(i % 8)} It is line number {i}." for i in range(40))
    for content, count in [(formulas, 0), ("it is what it is and you know that it is", 0), (long, 1)]:
        chat = {"id": 1, "messages": [{"id": 1, "role": "assistant", "content": content}]}
        drawn = list(draw_messages([chat], 5, np.random.default_rng(1)))
        assert len(drawn) == count
        assert all(8 <= len(d.shown.split()) <= 90 and d.shown in long.replace("\n", " ") for d in drawn)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("What did I say about the ferry to Porto? And more", "What did I say about the ferry to Porto?"),
        ("What did I say about  bringing tickets to\nPorto?", "What did I say about bringing tickets to Porto?"),
        (
            "What did I say about your tickets to Porto, as I leave?",
            "What did I say about my tickets to Porto, as I leave?",
        ),
        ("What did I say about the ferry to Porto", None),
        ("Whatever, the ferry goes to Porto?", None),
        ("What did I say about it?", None),
        ("What did I say about the ferry?", None),
        ("What did I say about the message on Porto?", None),
        ("What did I say about the ferry to Porto in Madrid?", None),
        ("What did I say about the ferry to Porto in 2023?", None),
        ("What did I say about Porto and Porto and Porto?", None),
        (f"What did I say about the ferry to Porto {'and so on or ' * 8}?", None),
    ],
)
def test_rules(record, text, kept):
    draw = Draw(0, "m1", "user", told(1), "What did I say about")
    many = {**record, "messages": [record["messages"][i % 8] for i in range(8)]}
    assert keep(draw, text, Found(many)) == kept


def test_a_question_that_the_message_asks_itself_is_dropped():
    draw = Draw(0, 1, "user", "Hello there. What is the ferry to Porto?", "What is")
    found = Found({"messages": [{"content": draw.shown}]})
    assert keep(draw, "What is the ferry to Porto?", found) is None
    assert keep(draw, "What is the Porto ferry?", found) == "What is the Porto ferry?"


def test_the_model_writes_alone_what_it_writes_in_a_batch(base_folder, record):
    writer = load_writer(base_folder, "cpu", dtype="float32")
    draws = [Draw(0, i, "user", told(i)[: 20 + 9 * i], f"What did {'I' * (i + 1)} say about") for i in range(4)]
    together = writer(draws)
    assert together == [writer([draw])[0] for draw in draws]
    assert all(text.startswith(draw.start) for text, draw in zip(together, draws, strict=True))
    # a special token in a message is only text
    assert writer([Draw(0, 1, "user", "</s>" * 3, "What")]) != writer([Draw(0, 1, "user", "", "What")])


def test_the_mark_of_a_question_is_put_where_a_line_ends():
    ask = questions._ask
    assert ask("What is a ferry\nIt is", True) == ask("What is a ferry?", True) == "What is a ferry?"
    assert ask("What is a ferry", False) == "What is a ferry"
    assert ask("How nice.", True) == "How nice."


def test_the_command_writes_a_whole_file(base_folder, record, tmp_path, monkeypatch, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl.xz"
    source.write_text(json.dumps(record))
    monkeypatch.setattr(questions, "default_base", lambda: base_folder)
    monkeypatch.setattr(questions, "_SAVE_SECONDS", 0.0)
    main(["--chats", str(source), "--out", str(out), "--count", "3", "--batch", "2"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["out"] == str(out) and "3 tried" in captured.err
    assert next(read_chats(out)).questions[0].question == FIRST["question"]
    with pytest.raises(InvalidArgument, match=r"\.jsonl"):
        main(["--chats", str(source), "--out", "x.txt", "--count", "3"])
    with pytest.raises(InvalidArgument, match="another file"):
        read_records([source, source])


def test_documents_are_asked_for_too(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(told(2))
    (document,) = read_records([page])
    assert add_questions([document], lambda draws: [f"{d.start} ferry to Faro?" for d in draws], count=1) == 1
    assert document["questions"][0]["evidence"] == [f"{page}:0001"]
