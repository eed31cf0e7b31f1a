"""BEIR (Thakur et al. 2021, arXiv 2104.08663): a folder with `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hierlandmark.chats import Conversation, Question
from hierlandmark.errors import InvalidChatFile
from hierlandmark.eval.loaders.checked import conversation, fail, need
from hierlandmark.messages import Message

# the first that is there
SPLITS = ("test", "dev", "train")


def read_beir(path: Path) -> Iterator[Conversation]:
    """One conversation named like the folder: a message a document, a question a query that has judgements.

    Documents judged above 0 are evidence, all alike: figures of graded sets differ from BEIR's own nDCG.
    """
    split = next((name for name in SPLITS if (path / "qrels" / f"{name}.tsv").exists()), None)
    if split is None:
        raise InvalidChatFile(f"{path}: expected qrels/test.tsv, qrels/dev.tsv or qrels/train.tsv")
    messages = []
    for place, record in _lines(path / "corpus.jsonl"):
        name = str(need(path / "corpus.jsonl", place, record, "_id", (str, int)))
        title, text = record.get("title") or "", need(path / "corpus.jsonl", place, record, "text", str)
        messages.append(Message(id=name, role="document", content=f"{title}\n{text}".strip()))
    evidence: dict[str, list[str]] = {}
    for query, document, score in _judgements(path / "qrels" / f"{split}.tsv"):
        found = evidence.setdefault(query, [])
        if score > 0:
            found.append(document)
    questions = [
        Question(type=split, question=str(need(path / "queries.jsonl", place, record, "text", str)), evidence=ids)
        for place, record in _lines(path / "queries.jsonl")
        if (ids := [*evidence.get(str(record.get("_id")), ())]) or str(record.get("_id")) in evidence
    ]
    yield conversation(path, "corpus.jsonl", path.resolve().name, messages, questions)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        fail(path, f"line {number}", f"expected an object, got {type(record).__name__}")
                    yield f"line {number}", record
    except (OSError, ValueError) as error:
        raise InvalidChatFile(f"{path}: {error}") from error


def _judgements(path: Path) -> Iterator[tuple[str, str, float]]:
    """Query id, document id, score of each row behind the header."""
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if not row or (number == 1 and row[-1] == "score"):
                continue
            try:
                query, document, score = row
                yield query, document, float(score)
            except ValueError:
                fail(path, f"line {number}", f"expected query-id, corpus-id and score, got {row!r:.80}")
