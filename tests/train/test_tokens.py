"""Token ids kept on disk: the same as made anew, and made anew where the file or the tokenizer is another."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hierlandmark.errors import InvalidArgument
from hierlandmark.testing import ByteTokenizer
from hierlandmark.train import tokens
from hierlandmark.train.tokens import read_tokens


def word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate(("?", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    text, chat = tmp_path / "book.txt", tmp_path / "chat.jsonl"
    text.write_text("the cat and the dog")
    messages = [
        {"id": i, "role": role, "content": said} for i, (role, said) in enumerate([("Ann", "cat"), ("é", "dog the")])
    ]
    chat.write_text("".join(json.dumps({"id": n, "messages": messages[: 2 - n]}) + "\n" for n in range(2)))
    return text, chat


def test_kept_ids_are_those_made_anew(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, chat = files
    tokenizer, keep = word_tokenizer("the", "cat", "dog"), tmp_path / "keep"
    fresh, talks = read_tokens(tokenizer, [text], [chat], keep=keep)
    assert fresh["texts"].tolist() == [1, 2, 0, 1, 3]
    assert [[(turn.role, turn.tokens.tolist()) for turn in talk] for talk in talks] == [
        [("Ann", [2]), ("é", [3, 1])],
        [("Ann", [2])],
    ]
    assert len(list(keep.iterdir())) == 2
    monkeypatch.setattr(tokens, "tokenize", None)
    again, same = read_tokens(tokenizer, [text], [chat], keep=keep)
    assert again["texts"].dtype == np.uint32 and again["texts"].tolist() == fresh["texts"].tolist()
    assert [[(t.role, t.tokens.tolist()) for t in talk] for talk in same] == [
        [(t.role, t.tokens.tolist()) for t in talk] for talk in talks
    ]


def test_another_text_or_tokenizer_is_read_anew(files: tuple[Path, Path], tmp_path: Path) -> None:
    text, _ = files
    keep = tmp_path / "keep"
    read_tokens(word_tokenizer("the"), [text], [], keep=keep)
    assert read_tokens(word_tokenizer("dog"), [text], [], keep=keep)[0]["texts"].tolist() == [0, 0, 0, 0, 1]
    text.write_text("the the")
    assert read_tokens(word_tokenizer("the"), [text], [], keep=keep)[0]["texts"].tolist() == [1, 1]


def test_a_tokenizer_without_a_name_keeps_nothing(files: tuple[Path, Path], tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    read_tokens(ByteTokenizer(), [files[0]], [], keep=keep)
    assert not keep.exists()


def test_files_without_a_token_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(InvalidArgument, match="hold none"):
        read_tokens(word_tokenizer("the"), [tmp_path / "empty.txt"], [], keep=tmp_path / "keep")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half", b"no zip at all"])
def test_a_damaged_file_is_made_again(files: tuple[Path, Path], tmp_path: Path, damage: bytes) -> None:
    tokenizer, keep = word_tokenizer("the", "cat", "dog"), tmp_path / "keep"
    fresh, _ = read_tokens(tokenizer, [files[0]], [], keep=keep)
    (kept,) = keep.iterdir()
    kept.write_bytes(damage)
    again, _ = read_tokens(tokenizer, [files[0]], [], keep=keep)
    assert again["texts"].tolist() == fresh["texts"].tolist()
    # whole again, and nothing beside it
    assert list(keep.iterdir()) == [kept] and kept.stat().st_size > len(damage)


def test_a_write_that_breaks_off_leaves_nothing(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **arrays: object) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    keep = tmp_path / "keep"
    assert read_tokens(word_tokenizer("the"), [files[0]], [], keep=keep)[0]["texts"].tolist() == [1, 0, 0, 1, 0]
    assert not list(keep.iterdir())
