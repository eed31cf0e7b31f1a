"""What is removed leaves no byte behind: not in rows, indexes, freed pages, gaps of pages, or the log."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hierlandmark.errors import StoreNotWritable
from hierlandmark.store import SQLiteStore
from hierlandmark.store.connection import open_database
from tests.store.builders import SEARCH, SPEC, content_of, message, segment


def secret(rng):
    return "zq" + "".join(rng.choices("bcdfghjklmnp", k=12))


def traces(path, word):
    """Whether the word, or a suffix of it as a prefix-compressed index keeps it, is in any file of the database."""
    return any(part.encode() in content_of(path) for part in (word, word[4:]))


def test_forget_one(path):
    rng = random.Random(0)
    words = [secret(rng) for _ in range(6)]
    content, id, role, time, key, value = words
    with SQLiteStore(path, SPEC) as store:
        kept = [message(i, f"kept {i}") for i in range(3)]
        gone = message(id, f"the word is {content}", role=role, time=time, metadata={key: value})
        (segment_id,) = store.append("n", [*kept, gone], [segment(0, 1, 2, id)])
        assert all(traces(path, word) for word in words)
        store.rewrite("n", [id], [(segment_id, segment(0, 1, 2, seed=1))])
        assert not any(traces(path, word) for word in words)
        assert store.messages("n") == kept
        assert len(store.search_text("n", "kept", 5)) == 3
        assert store.search_text("n", content, 5) == []
    assert not any(traces(path, word) for word in words)


def test_forget_a_whole_namespace(path):
    rng = random.Random(0)
    name, word = secret(rng), secret(rng)
    with SQLiteStore(path, SPEC) as store:
        store.append("other", [message(1)], [])
        (segment_id,) = store.append(name, [message("a", word * 5_000)], [segment("a")])
        store.rewrite(name, ["a"], [(segment_id, None)])
        assert not traces(path, name)
        assert not traces(path, word)


@pytest.mark.parametrize("seed", range(2))
def test_forget_many_among_many(path, seed):
    """Deletions that make SQLite merge pages, which leaves copies that secure_delete alone does not clear."""
    rng = random.Random(seed)
    live, gone = {}, {}
    with SQLiteStore(path, SPEC) as store:
        for _ in range(15):
            new = {secret(rng): f"{secret(rng)} filler text " * rng.choice([1, 1, 2, 5, 20, 80]) for _ in range(40)}
            segments = {id: segment(id, seed=rng.randrange(2**32), blocks=1) for id in new}
            ids = store.append("n", [message(id, text) for id, text in new.items()], segments.values())
            live |= {id: (new[id], at, segments[id]) for id, at in zip(new, ids, strict=True)}
            removed = rng.sample(sorted(live), rng.randrange(10, 35))
            gone |= {id: live.pop(id) for id in removed}
            store.rewrite("n", removed, [(gone[id][1], None) for id in removed])
        assert [m.id for m in store.messages("n")] == list(live)
        for _, at, held in live.values():
            np.testing.assert_array_equal(store.read_blocks(0, [at * 4])[0], held.kv[0, 0])
        data = content_of(path)
        # one pass over the file finds the words; every secret starts alike, and an index may keep its suffix only
        words = set(re.findall(rb"zq[b-p]{12}", data))
        assert {id.encode() for id in live} <= words
        assert not words & {word.encode() for id, (text, _, _) in gone.items() for word in (id, text.split()[0])}
        for _, (text, _, held) in rng.sample(sorted(gone.items(), key=lambda item: item[0]), 60):
            assert text.split()[0][4:].encode() not in data
            for array in (held.gate_key, held.landmark_keys, held.kv[0, 0]):
                assert array.tobytes()[32:64] not in data


def marked(id, blocks, spec):
    """A segment whose arrays say whose they are, in every eight bytes."""
    mark = np.frombuffer(b"zq%06d" % int(id), np.uint16)
    plain = segment(id, blocks=blocks, spec=spec)
    arrays = ("gate_key", "landmark_keys", "kv")
    return replace(plain, **{a: np.resize(mark, getattr(plain, a).shape) for a in arrays})


@pytest.mark.parametrize(("seed", "spec"), [(0, SPEC), (1, SPEC), (2, SPEC), (0, SEARCH), (1, SEARCH)])
def test_arrays_leave_no_copies_in_pages(path, seed, spec):
    """Rows of unequal size, removed and replaced among others: pages split and merge."""
    rng = random.Random(seed)
    live, last = {}, 0
    with SQLiteStore(path, spec) as store:
        for _ in range(6):
            new = [str(last + i) for i in range(60)]
            last += len(new)
            ids = store.append("n", [message(id) for id in new], (marked(id, rng.randrange(1, 5), spec) for id in new))
            live |= dict(zip(new, ids, strict=True))
            removed = rng.sample(sorted(live), rng.randrange(20, 50))
            rewritten = [(live.pop(id), None) for id in removed]
            # encoded again after an eviction, at another length
            rewritten += [(live[id], marked(id, rng.randrange(1, 5), spec)) for id in rng.sample(sorted(live), 9)]
            store.rewrite("n", removed, rewritten)
        found = set(re.findall(rb"zq(\d{6})", content_of(path)))
    assert {int(id) for id in found} == {int(id) for id in live}


def test_tokens_of_a_replaced_segment_are_gone(path):
    first, second = segment("a", "b", seed=1, blocks=4), segment("a", seed=2, blocks=4)
    with SQLiteStore(path, SPEC) as store:
        (segment_id,) = store.append("n", [message("a"), message("b")], [first])
        assert first.tokens.tobytes() in content_of(path)
        store.rewrite("n", ["b"], [(segment_id, second)])
        data = content_of(path)
        assert second.tokens.tobytes() in data
        assert first.tokens.tobytes()[8:24] not in data
        assert first.kv[0, 0].tobytes()[32:64] not in data


def test_evicted_keys_are_gone_once_text_is_forgotten(path):
    held = segment("a")
    with SQLiteStore(path, SPEC) as store:
        (segment_id,) = store.append("n", [message("a"), message("b")], [held])
        store.drop_kv("n", [segment_id])
        store.rewrite("n", ["a"], [(segment_id, None)])
        assert held.kv[0, 0].tobytes()[32:64] not in content_of(path)


@pytest.mark.parametrize("clears", ["rewrite", "close"])
def test_a_reader_that_never_ends_is_named(path, clears):
    """Its old pages cannot be cleared: the message is gone, the error says what remains and what clears it."""
    with SQLiteStore(path, SPEC, timeout=0.2) as store:
        store.append("n", [message("a", "zqsecret"), message("b")], [])
        other = open_database(path, read_only=True).conn
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM messages").fetchone()
        with pytest.raises(StoreNotWritable, match=r"log still has their bytes.*close"):
            store.rewrite("n", ["a"], [])
        assert not store.has_message("n", "a")
        assert traces(path, "zqsecret")
        other.execute("ROLLBACK")
        if clears == "rewrite":
            store.rewrite("n", [], [])
            assert not traces(path, "zqsecret")
        other.close()
    assert not traces(path, "zqsecret")


def test_a_vacuum_from_outside_makes_the_file_smaller_and_changes_nothing(path):
    """As README tells it to users: while a store is open on the file, too."""
    tool = Path(sys.executable).parent / "sqlite-utils"
    with SQLiteStore(path, SPEC) as store:
        new = [segment(i, seed=i) for i in range(60)]
        ids = store.append("n", [message(i, f"word{i}") for i in range(60)], new)
        store.rewrite("n", list(range(50)), [(one, None) for one in ids[:50]])
        full = path.stat().st_size
        subprocess.run([tool, "vacuum", path], check=True)
        assert [one.id for one in store.messages("n")] == list(range(50, 60))
        assert store.search_text("n", "word55", 5) and not store.search_text("n", "word5", 5)
        np.testing.assert_array_equal(store.read_blocks(0, [ids[55] * 4])[0], new[55].kv[0, 0])
        # what is forgotten later leaves no trace either
        store.append("n", [message("a", "zqsecret")], [])
        store.rewrite("n", ["a"], [])
        assert not traces(path, "zqsecret")
    assert path.stat().st_size < full / 3
